//! Times on the command line.

use std::time::Duration;

use jiff::SignedDuration;

/// A time as a person writes it: `5s`, `1m 30s`, `500ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let advice = || "write a time such as 5s or 1m30s".to_owned();
    let parsed: SignedDuration = text.parse().map_err(|_| advice())?;
    Duration::try_from(parsed).map_err(|_| advice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_a_person_writes_them() {
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for refused in ["", "5", "-5s", "soon"] {
            assert_eq!(duration(refused), Err("write a time such as 5s or 1m30s".to_owned()), "{refused:?}");
        }
    }
}
