//! Logs: to standard error, as text for a person or one JSON object a line for a machine.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    #[default]
    Text,
    /// For a machine.
    Json,
}

/// A text that names no log format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of text, json")]
pub struct ParseLogFormatError(String);

impl FromStr for LogFormat {
    type Err = ParseLogFormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(ParseLogFormatError(text.chars().take(64).collect())),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is malformed.
    #[error("the log filter {filter:?} cannot be read: {source}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
}

/// Sends logs to standard error. `filter` is a level or a list of `target=level`, such as `info,latebind=debug`.
///
/// Panics are logged too, since a panic of one request does not end the process. A second call changes nothing.
///
/// # Errors
/// When the filter is malformed.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let malformed = |source| LogError::Filter { filter: filter.to_owned(), source };
    let filter = EnvFilter::builder().parse(filter).map_err(malformed)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let installed = match format {
        LogFormat::Text => lines.with_target(false).with_ansi(colours).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if installed.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let payload = panic.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            tracing::error!(place, "panic: {}", text.unwrap_or("not a text"));
        }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_filter_is_named() {
        let refused = init(LogFormat::Text, "latebind=loud").expect_err("no such level");
        assert!(refused.to_string().contains("latebind=loud"), "{refused}");
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
