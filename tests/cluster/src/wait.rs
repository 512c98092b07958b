//! Waiting for a condition, with a deadline.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const PAUSE: Duration = Duration::from_millis(100);

/// Asks again and again until `probe` answers `Some`, for at most `patience`.
///
/// An error of the probe does not end the waiting (an API server may be restarting); the last one is told when time is up.
pub async fn eventually<T>(
    what: &str,
    patience: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    let mut last = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left.max(PAUSE), probe()).await {
            Ok(Ok(Some(found))) => return Ok(found),
            Ok(Ok(None)) => last = None,
            Ok(Err(error)) => last = Some(error),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            let waited = format!("waited {} s in vain for {what}", patience.as_secs());
            return match last {
                Some(error) => Err(error).context(waited),
                None => bail!(waited),
            };
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Checks that `probe` gives an equal answer for all of `period`: how a test shows that something does *not* happen.
pub async fn holds_for<T: PartialEq + Debug>(
    what: &str,
    period: Duration,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + period;
    let first = probe().await.with_context(|| what.to_owned())?;
    while Instant::now() < deadline {
        tokio::time::sleep(PAUSE).await;
        let now = probe().await.with_context(|| what.to_owned())?;
        anyhow::ensure!(now == first, "{what} did not hold: {first:?} became {now:?}");
    }
    Ok(first)
}
