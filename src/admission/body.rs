//! Request bodies, bounded in size, in time, and in how much all of them hold together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What bounds request bodies.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Largest body, in bytes.
    pub bytes: usize,
    /// Longest pause between two parts of a body.
    pub stall: Duration,
    /// Bytes of bodies that are held at one time.
    pub held: usize,
}

impl BodyLimits {
    /// For reviews.
    ///
    /// - 7 MiB: two objects of 3 MiB, which is what the API server accepts, and 1 MiB for what is around them.
    /// - 10 s: as long as an API server waits for a webhook unless told otherwise.
    /// - 64 MiB held: nine reviews of the largest size, or a thousand of 64 KiB, which is more than there are
    ///   connections.
    #[must_use]
    pub const fn reviews() -> Self {
        Self { bytes: 7 << 20, stall: Duration::from_secs(10), held: 64 << 20 }
    }
}

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive in time")]
    Stalled,
    #[error("the body ended early")]
    Broken,
    #[error("too many large requests at one time")]
    Busy,
}

impl BodyError {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Stalled => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// All bodies that are held at one time.
#[derive(Clone, Debug)]
pub(super) struct BodyBudget {
    limits: BodyLimits,
    // One permit a KiB, since a semaphore counts no further than 2^29 on every platform.
    room: Arc<Semaphore>,
}

/// A body, and its share of the room.
pub(super) struct BufferedBody {
    pub bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl BodyBudget {
    pub(super) fn new(limits: BodyLimits) -> Self {
        Self { limits, room: Arc::new(Semaphore::new(limits.held >> 10)) }
    }

    /// Reads a body. Nobody waits for room: whoever finds none is told so at once, and the API server goes on by its
    /// failure policy.
    pub(super) async fn read(&self, request: Request<Body>) -> Result<BufferedBody, BodyError> {
        let (head, mut body) = request.into_parts();
        let too_large = BodyError::TooLarge(self.limits.bytes);
        if announced(&head.headers).is_some_and(|length| length > self.limits.bytes as u64) {
            if !head.headers.contains_key(EXPECT) {
                self.discard(&mut body).await;
            }
            return Err(too_large);
        }
        let mut room = self.acquire(0)?;
        let mut parts: Vec<Bytes> = Vec::new();
        let mut length = 0;
        while let Some(part) = self.next(&mut body).await? {
            length += part.len();
            if length > self.limits.bytes {
                parts.clear();
                self.discard(&mut body).await;
                return Err(too_large);
            }
            room.merge(self.acquire(part.len())?);
            parts.push(part);
        }
        let bytes = if parts.len() == 1 { parts.swap_remove(0) } else { parts.concat().into() };
        Ok(BufferedBody { bytes, _room: room })
    }

    fn acquire(&self, bytes: usize) -> Result<OwnedSemaphorePermit, BodyError> {
        // A part is no larger than the body limit, and so fits into 32 bits of KiB.
        let permits = u32::try_from(bytes.div_ceil(1 << 10)).map_err(|_| BodyError::Busy)?;
        Arc::clone(&self.room).try_acquire_many_owned(permits).map_err(|_| BodyError::Busy)
    }

    async fn next(&self, body: &mut Body) -> Result<Option<Bytes>, BodyError> {
        loop {
            let frame = timeout(self.limits.stall, body.frame()).await.map_err(|_| BodyError::Stalled)?;
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(BodyError::Broken),
                // What is not data is a trailer, which says nothing here.
                Some(Ok(frame)) => {
                    if let Ok(part) = frame.into_data() {
                        return Ok(Some(part));
                    }
                }
            }
        }
    }

    /// Reads on for as much again as a body may be, so that a client that is a little over the limit reads the answer
    /// instead of finding its connection reset.
    async fn discard(&self, body: &mut Body) {
        let mut left = self.limits.bytes;
        while let Ok(Some(part)) = self.next(body).await {
            match left.checked_sub(part.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
