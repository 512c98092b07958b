//! What becomes of each key, script, class, label and path of an input.

use std::collections::BTreeSet;
use std::fmt;

/// What is lost, in the words that `--accept-lost` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// A script, command or helper Pod template that is not the stock one.
    Scripts,
    /// A parameter of a class that cannot be kept.
    Parameters,
    /// A class, a ConfigMap or an entry of one that is not imported.
    Entries,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Scripts, Self::Parameters, Self::Entries];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Scripts => "scripts",
            Self::Parameters => "parameters",
            Self::Entries => "entries",
        }
    }
}

/// What becomes of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It is served as before.
    Kept,
    /// It is there, and means something else now; or it means nothing any more, and somebody may miss it.
    Changed,
    /// It meant nothing before either, or what it was for is no longer needed.
    NotNeeded,
    /// It is not of a provisioner that is imported.
    LeftAlone,
    /// It is not kept.
    Lost(Loss),
}

impl Outcome {
    /// One word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Changed => "changed",
            Self::NotNeeded => "not needed",
            Self::LeftAlone => "left alone",
            Self::Lost(_) => "lost",
        }
    }
}

/// One thing of the input, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// Where it stands: object, key and entry.
    pub place: String,
    /// What becomes of it.
    pub outcome: Outcome,
    /// What it becomes, or why it is lost and what to use instead. May be empty for what is kept as it is.
    pub note: String,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.outcome, self.note.as_str()) {
            (Outcome::Kept, "") => f.write_str(&self.place),
            (Outcome::Lost(_), note) => write!(f, "{} is not kept: {note}", self.place),
            (_, note) => write!(f, "{}: {note}", self.place),
        }
    }
}

/// Everything that is lost, but for what was accepted.
pub fn lost<'a>(accounts: &'a [Account], accepted: &'a BTreeSet<Loss>) -> impl Iterator<Item = &'a Account> {
    accounts.iter().filter(|it| matches!(it.outcome, Outcome::Lost(loss) if !accepted.contains(&loss)))
}

/// Every account of one import, in the order in which things were met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    given: Vec<Account>,
    known: BTreeSet<Account>,
}

impl Accounts {
    fn add(&mut self, place: impl Into<String>, outcome: Outcome, note: impl Into<String>) {
        let account = Account { place: place.into(), outcome, note: note.into() };
        // Two classes that use one entry each account for it.
        if self.known.insert(account.clone()) {
            self.given.push(account);
        }
    }

    pub fn into_vec(self) -> Vec<Account> {
        self.given
    }

    pub fn kept(&mut self, place: impl Into<String>, note: impl Into<String>) {
        self.add(place, Outcome::Kept, note);
    }

    pub fn changed(&mut self, place: impl Into<String>, note: impl Into<String>) {
        self.add(place, Outcome::Changed, note);
    }

    pub fn not_needed(&mut self, place: impl Into<String>, note: impl Into<String>) {
        self.add(place, Outcome::NotNeeded, note);
    }

    pub fn left_alone(&mut self, place: impl Into<String>, note: impl Into<String>) {
        self.add(place, Outcome::LeftAlone, note);
    }

    pub fn lost(&mut self, loss: Loss, place: impl Into<String>, note: impl Into<String>) {
        self.add(place, Outcome::Lost(loss), note);
    }
}
