//! The answer to one review, by the webhook that was asked.

use super::review::{Answer, Request, ReviewError};
use super::subject::Admission;
use super::{mutate, validate};

/// The two webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// May change a Pod.
    Mutate,
    /// May refuse an object.
    Validate,
}

impl Hook {
    /// The word for it, which is also its path.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mutate => "mutate",
            Self::Validate => "validate",
        }
    }
}

/// The answer to one review.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The bytes that the API server gets.
    pub json: Vec<u8>,
    /// What they say.
    pub answer: Answer,
    /// UID of the request.
    pub uid: String,
    /// True when nothing will be stored.
    pub dry_run: bool,
}

/// Answers the bytes of one review.
///
/// # Errors
/// When the bytes are no review that can be answered. An object that cannot be read is no error: it is allowed as it is.
pub fn respond(hook: Hook, body: &[u8], admission: &Admission<'_>) -> Result<Reply, ReviewError> {
    respond_to(hook, &Request::parse(body)?, admission)
}

/// Answers one review that has been parsed.
///
/// # Errors
/// When the answer cannot be written.
pub fn respond_to(hook: Hook, request: &Request<'_>, admission: &Admission<'_>) -> Result<Reply, ReviewError> {
    let answer = match hook {
        Hook::Mutate => mutate::mutate(request, admission),
        Hook::Validate => validate::validate(request, admission),
    };
    let json = answer.to_json(&request.uid)?;
    Ok(Reply { json, answer, uid: request.uid.to_string(), dry_run: request.is_dry_run() })
}
