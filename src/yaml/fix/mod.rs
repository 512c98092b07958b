//! Rewrites `nodeName` in the text of a manifest, and touches nothing else.
//!
//! Edits are made in the text as it is written, so comments, order, quoting and line ends stay. Whatever was edited is
//! then read again, and must mean what was meant; else the text is left as it was.

mod check;
mod edit;
mod lines;
mod shape;
mod tree;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::binding::{FieldPath, Pin};
use tree::Tree;

/// One Pod spec whose node name is to become a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The bytes of the document in its file.
    pub document: Range<usize>,
    /// Steps from the top of the document to the Pod spec.
    pub spec: FieldPath,
    /// The pin.
    pub pin: Pin,
}

/// One replacement in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The bytes that go; empty for an insertion.
    pub range: Range<usize>,
    /// What comes instead.
    pub text: String,
}

impl Edit {
    fn shifted(self, by: usize) -> Self {
        Self { range: self.range.start + by..self.range.end + by, text: self.text }
    }
}

/// Why a text is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The text has no such Pod spec or node name.
    #[error("nodeName does not stand in the text where it was read")]
    NotFound,
    /// The text cannot be read.
    #[error("the text cannot be read: {0}")]
    Syntax(String),
    /// Other places of the document would change too.
    #[error("an anchor or alias shares this part with other places of the document; edit it by hand")]
    Shared,
    /// A merge key hides what the mapping holds.
    #[error("a merge key (<<) brings in fields from elsewhere; edit it by hand")]
    Merge,
    /// A key stands twice.
    #[error("the key {0:?} stands twice in one mapping; remove one")]
    Twice(String),
    /// The selector asks for another host.
    #[error("nodeSelector asks for another host already; correct one of the two")]
    Contradicts,
    /// Required node affinity has no term that a node could match.
    #[error("no term of the required node affinity can match a node; correct the affinity")]
    NoTerm,
    /// A layout that cannot be edited without touching more.
    #[error("the text is laid out in a way that cannot be edited safely; edit it by hand")]
    Layout,
    /// The edited text would not mean what was meant.
    #[error("the edited text would not mean what was meant; edit it by hand")]
    Check,
}

/// What became of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// The text after all edits that were possible.
    pub text: String,
    /// For each target, in order, its edits in the old text, or why there are none.
    pub targets: Vec<Result<Vec<Edit>, Refusal>>,
}

impl Fixed {
    /// True when at least one target was rewritten.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.targets.iter().any(Result::is_ok)
    }
}

/// Rewrites the node names of a text, each for itself: one that is refused keeps no other from being rewritten.
#[must_use]
pub fn fix(text: &str, targets: &[Target]) -> Fixed {
    let mut done: Vec<Result<Vec<Edit>, Refusal>> = vec![Err(Refusal::NotFound); targets.len()];
    let mut of_document: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (place, target) in targets.iter().enumerate() {
        of_document.entry((target.document.start, target.document.end)).or_default().push(place);
    }
    for ((start, end), places) in of_document {
        let Some(document) = text.get(start..end) else { continue };
        let targets: Vec<&Target> = places.iter().map(|place| &targets[*place]).collect();
        for (place, edits) in places.into_iter().zip(fix_document(document, &targets)) {
            done[place] = edits.map(|edits| edits.into_iter().map(|edit| edit.shifted(start)).collect());
        }
    }
    let all: Vec<Edit> = done.iter().flatten().flatten().cloned().collect();
    let Some(text) = apply(text, &all) else {
        // Documents that overlap are not documents.
        return Fixed { text: text.to_owned(), targets: vec![Err(Refusal::Check); targets.len()] };
    };
    Fixed { text, targets: done }
}

fn fix_document(text: &str, targets: &[&Target]) -> Vec<Result<Vec<Edit>, Refusal>> {
    let before = match Tree::read(text) {
        Ok(tree) => tree,
        Err(error) => return vec![Err(Refusal::Syntax(error.to_string())); targets.len()],
    };
    let value = before.value();
    let tried = targets.iter().map(|target| {
        let edits = edit::edits(text, &before, &target.spec, &target.pin)?;
        check::check(&value, &apply(text, &edits).ok_or(Refusal::Check)?, &[target])?;
        Ok(edits)
    });
    let tried: Vec<_> = tried.collect();
    let accepted: Vec<&Target> =
        targets.iter().zip(&tried).filter(|(_, edits)| edits.is_ok()).map(|(target, _)| *target).collect();
    let all: Vec<Edit> = tried.iter().flatten().flatten().cloned().collect();
    // Each alone is right; together they must be right too, since two targets may name one place.
    let together = apply(text, &all).is_some_and(|after| check::check(&value, &after, &accepted).is_ok());
    if together { tried } else { tried.into_iter().map(|edits| edits.and(Err(Refusal::Check))).collect() }
}

/// The text after the edits; `None` if two overlap.
#[must_use]
pub fn apply(text: &str, edits: &[Edit]) -> Option<String> {
    let mut edits: Vec<&Edit> = edits.iter().collect();
    edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
    let mut after = String::with_capacity(text.len() + 64 * edits.len());
    let mut done = 0;
    for edit in edits {
        after.push_str(text.get(done..edit.range.start)?);
        after.push_str(&edit.text);
        done = edit.range.end;
    }
    after.push_str(text.get(done..)?);
    Some(after)
}
