//! Rewrites `nodeName` in the text of a manifest, and touches nothing else.
//!
//! Edits are made in the text as it is written, so comments, order, quoting and line ends stay. Whatever was edited is
//! then read again, and must mean what was meant; else the text is left as it was.

mod check;
mod edit;
mod shape;
mod tree;
mod write;

use std::ops::Range;

pub use write::{WriteError, replace_file};

use crate::binding::{FieldPath, Pin};
use tree::Tree;

/// One Pod spec whose node name is to become a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The document in its text, empty documents counted, from 0.
    pub document: usize,
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
    let before = match Tree::read(text) {
        Ok(tree) => tree,
        Err(error) => {
            let refusal = Refusal::Syntax(error.to_string());
            return Fixed { text: text.to_owned(), targets: vec![Err(refusal); targets.len()] };
        }
    };
    let values = before.values();
    let tried = targets.iter().map(|target| {
        let edits = edit::edits(text, &before, target.document, &target.spec, &target.pin)?;
        check::check(&values, &apply(text, &edits).ok_or(Refusal::Check)?, &[target])?;
        Ok(edits)
    });
    let mut tried: Vec<_> = tried.collect();
    let accepted: Vec<&Target> =
        targets.iter().zip(&tried).filter(|(_, edits)| edits.is_ok()).map(|(t, _)| t).collect();
    let all: Vec<Edit> = tried.iter().flatten().flatten().cloned().collect();
    // Each alone is right; together they must be right too, since two targets may name one place.
    let together = apply(text, &all).filter(|after| check::check(&values, after, &accepted).is_ok());
    let text = together.unwrap_or_else(|| {
        tried.iter_mut().filter(|edits| edits.is_ok()).for_each(|edits| *edits = Err(Refusal::Check));
        text.to_owned()
    });
    Fixed { text, targets: tried }
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
