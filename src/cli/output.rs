//! `-o FORMAT[=FILE]`, repeatable: the grammar of every subcommand that prints results.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::report::style::{Style, clean_json, clean_lines};

/// One result to print: in which format, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output<F> {
    /// The format.
    pub format: F,
    /// The file; absent for standard output.
    pub file: Option<PathBuf>,
}

/// A text that is no `FORMAT[=FILE]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseOutputError {
    /// The format is not one of this subcommand's.
    #[error("{given:?} is not one of {known}")]
    Format {
        /// What was given.
        given: String,
        /// What there is.
        known: String,
    },
    /// The file is missing after `=`.
    #[error("a file is missing after `=`")]
    File,
}

impl<F: ValueEnum> FromStr for Output<F> {
    type Err = ParseOutputError;

    /// Reads `FORMAT`, `FORMAT=FILE`, or `FORMAT=-` for standard output.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (format, file) = match text.split_once('=') {
            Some((_, "")) => return Err(ParseOutputError::File),
            Some((format, "-")) => (format, None),
            Some((format, file)) => (format, Some(PathBuf::from(file))),
            None => (text, None),
        };
        let format = F::from_str(format, true).map_err(|_| ParseOutputError::Format {
            given: format.chars().take(64).collect(),
            known: formats::<F>(),
        })?;
        Ok(Self { format, file })
    }
}

impl<F: ValueEnum> fmt::Display for Output<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = self.format.to_possible_value();
        f.write_str(format.as_ref().map_or("", |format| format.get_name()))?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, "={}", file.display()))
    }
}

/// The names of all formats, for messages and help.
#[must_use]
pub fn formats<F: ValueEnum>() -> String {
    let names = F::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    names.map(|name| name.get_name().to_owned()).collect::<Vec<_>>().join(", ")
}

/// Prints each result where it belongs. Files hold no colours; they are written whole, after rendering went well.
///
/// # Errors
/// When two results are to go to standard output, when rendering fails, or when a file cannot be written.
pub fn print<F: Copy>(
    outputs: &[Output<F>],
    mut render: impl FnMut(F, Style, &mut Vec<u8>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if outputs.iter().filter(|output| output.file.is_none()).count() > 1 {
        bail!("only one -o can go to standard output; give the others a file: -o FORMAT=FILE");
    }
    for output in outputs {
        let mut text = Vec::new();
        if let Some(file) = &output.file {
            render(output.format, Style::PLAIN, &mut text)?;
            std::fs::write(file, text).with_context(|| file.display().to_string())?;
        } else {
            render(output.format, Style::of_stdout(), &mut text)?;
            // Colours were decided on above, so the bytes go out as they are.
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&text).and_then(|()| stdout.flush())?;
        }
    }
    Ok(())
}

/// An object as JSON that is safe in a terminal.
///
/// # Errors
/// When it cannot be written as JSON, which is not known to happen.
pub fn as_json(object: &Value) -> anyhow::Result<String> {
    Ok(clean_json(&serde_json::to_string_pretty(object)?).into_owned() + "\n")
}

/// The same as YAML; as JSON, which is YAML too and has escapes, where the text holds what steers a terminal.
///
/// # Errors
/// As [`as_json`].
pub fn as_yaml(object: &Value) -> anyhow::Result<String> {
    let text = serde_saphyr::to_string(object)?;
    let is_clean = matches!(clean_lines(&text), Cow::Borrowed(_));
    if is_clean { Ok(text) } else { as_json(object) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
    enum Format {
        Table,
        Sarif,
    }

    fn parse(text: &str) -> Result<Output<Format>, String> {
        text.parse().map_err(|error: ParseOutputError| error.to_string())
    }

    #[test]
    fn a_format_may_carry_a_file() {
        assert_eq!(parse("table"), Ok(Output { format: Format::Table, file: None }));
        assert_eq!(parse("table=-"), Ok(Output { format: Format::Table, file: None }));
        let file = Some(PathBuf::from("a=b.sarif"));
        assert_eq!(parse("sarif=a=b.sarif"), Ok(Output { format: Format::Sarif, file }));
        assert_eq!(parse("sarif=x").map(|output| output.to_string()), Ok("sarif=x".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(parse("xml"), Err("\"xml\" is not one of table, sarif".to_owned()));
        assert_eq!(parse("sarif="), Err("a file is missing after `=`".to_owned()));
    }

    #[test]
    fn two_results_cannot_share_standard_output() {
        let outputs = [parse("table").unwrap(), parse("sarif").unwrap()];
        let error = print(&outputs, |_, _, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("only one -o"), "{error}");
    }
}
