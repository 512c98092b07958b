//! Calls to the API server, each with a deadline.

use std::time::Duration;

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server said no, or could not be reached.
    #[error(transparent)]
    Kube(Box<kube::Error>),
    /// No answer in time.
    #[error("the API server did not answer within {} seconds", DEADLINE.as_secs())]
    Late,
}

impl ApiError {
    /// The HTTP status, if the server answered.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Late => None,
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
        self.code() == Some(409)
    }
}

/// Awaits a call, for no longer than the deadline.
pub(crate) async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ApiError> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(answer) => answer.map_err(|error| ApiError::Kube(Box::new(error))),
        Err(_) => Err(ApiError::Late),
    }
}

/// The same for something that may not be there.
pub(crate) async fn if_found<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<Option<T>, ApiError> {
    match in_time(call).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
