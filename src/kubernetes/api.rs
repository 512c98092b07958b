//! Calls to the API server, each with a deadline, and what a failure means for whoever made the call.

use std::fmt::Debug;
use std::sync::OnceLock;
use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

/// How long a call may take where nothing else says so.
pub const DEADLINE: Duration = Duration::from_secs(15);

static DEADLINE_OF_PROCESS: OnceLock<Duration> = OnceLock::new();

/// How long a call may take in this process: [`DEADLINE`], unless a command that looks and ends was told otherwise.
#[must_use]
pub fn deadline() -> Duration {
    DEADLINE_OF_PROCESS.get().copied().unwrap_or(DEADLINE)
}

/// Sets the deadline of every call that has none of its own. The first to say so counts.
pub fn set_deadline(limit: Duration) {
    DEADLINE_OF_PROCESS.get_or_init(|| limit);
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server said no, or could not be reached.
    #[error(transparent)]
    Kube(Box<kube::Error>),
    /// No answer in time.
    #[error("the API server did not answer in time")]
    Late,
    /// What was decided on has changed meanwhile, as a live look says.
    #[error("what was decided on has changed")]
    Stale,
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

/// What a failed call means for whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Something that was decided on has changed: decide again.
    Conflict,
    /// The object does not exist.
    NotFound,
    /// The API server refuses: rights are missing, the object is invalid, or its namespace is ending.
    Refused,
    /// The API server is away, overloaded, or cannot answer.
    Unavailable,
}

impl ApiError {
    /// What the failure means.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::Late => Failure::Unavailable,
            Self::Stale => Failure::Conflict,
            Self::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) => match status.code {
                    404 => Failure::NotFound,
                    // 422 is the answer to a UID that is not the object's.
                    409 | 422 => Failure::Conflict,
                    429 | 500.. => Failure::Unavailable,
                    _ => Failure::Refused,
                },
                kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) => Failure::Refused,
                _ => Failure::Unavailable,
            },
        }
    }

    /// True when the server as a whole does not answer, rather than this call's object being in trouble: everybody should
    /// ask less for a while.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self.code() {
            Some(code) => matches!(code, 429 | 502..=504),
            None => self.failure() == Failure::Unavailable,
        }
    }

    /// The HTTP status, if the server answered.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Late | Self::Stale => None,
        }
    }

    /// No such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object exists, or has changed since it was read.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Stale) || self.code() == Some(409)
    }
}

/// Awaits a call until a moment.
pub(crate) async fn before<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout_at(deadline, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ApiError::Late),
    }
}

/// Awaits a call, for no longer than a time of its own.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    before(Instant::now() + limit, call).await
}

/// Awaits a call, for no longer than [`deadline`].
pub(crate) async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ApiError> {
    within(deadline(), call).await
}

/// What the API server sends at once of a list.
const PAGE: u32 = 500;

/// Every object of a kind, in pages, so that nobody holds an answer of any size in memory as text. The pages of one list
/// are all of one moment, that of the first: without `resourceVersion`, what the store has then.
pub(crate) async fn list_all<K>(api: &Api<K>) -> Result<Vec<K>, ApiError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = in_time(api.list(&page)).await?;
        found.extend(listed.items);
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// Whether the API server has the kind, as its discovery says; `None` where it does not answer.
pub(crate) async fn is_served<K: Resource<DynamicType = ()>>(client: &Client) -> Option<bool> {
    is_plural_served(client, &K::api_version(&()), &K::plural(&())).await
}

/// The same for a kind of a group with a version, by its plural.
pub(crate) async fn is_plural_served(client: &Client, api_version: &str, plural: &str) -> Option<bool> {
    match in_time(client.list_api_group_resources(api_version)).await {
        Ok(found) => Some(found.resources.iter().any(|resource| resource.name == plural)),
        Err(error) if error.is_not_found() => Some(false),
        Err(_) => None,
    }
}

/// A call about something that may not be there.
pub(crate) async fn if_found<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<Option<T>, ApiError> {
    match in_time(call).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(code: u16) -> ApiError {
        let status: kube::core::Status = serde_json::from_value(json!({"code": code, "status": "Failure"})).unwrap();
        kube::Error::Api(Box::new(status)).into()
    }

    #[test]
    fn failures_are_told_apart() {
        let of = |code| answer(code).failure();
        assert_eq!([of(404), of(409), of(422)], [Failure::NotFound, Failure::Conflict, Failure::Conflict]);
        assert_eq!([of(403), of(400)], [Failure::Refused, Failure::Refused]);
        assert_eq!([of(429), of(500), of(503)], [Failure::Unavailable; 3]);
        assert_eq!([ApiError::Late.failure(), ApiError::Stale.failure()], [Failure::Unavailable, Failure::Conflict]);
    }

    #[test]
    fn trouble_with_one_object_is_not_the_server_s() {
        // A webhook that fails for one object is answered with 500.
        assert!(!answer(500).is_unavailable() && !answer(409).is_unavailable() && !ApiError::Stale.is_unavailable());
        assert!(answer(503).is_unavailable() && answer(429).is_unavailable() && ApiError::Late.is_unavailable());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_at_its_deadline() {
        let never = std::future::pending::<Result<(), kube::Error>>;
        let began = Instant::now();
        assert!(matches!(in_time(never()).await, Err(ApiError::Late)));
        assert_eq!(began.elapsed(), DEADLINE);
        assert!(matches!(before(began, never()).await, Err(ApiError::Late)));
    }
}
