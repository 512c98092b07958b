//! YAML in which nothing steers a terminal.

use std::io::{self, Write};

use serde::Serialize;

use super::json::FindingList;
use super::{Report, harmless_json};
use crate::report::style::clean_lines;

/// Writes a `FindingList`.
pub(super) fn render(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    write(&FindingList::of(report), out)
}

/// Writes a value. A text that would have to hold characters which steer terminals is written as JSON, which is YAML too and
/// escapes them.
pub(super) fn write(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    let text = serde_saphyr::to_string(value).map_err(io::Error::other)?;
    let harmless = matches!(clean_lines(&text), std::borrow::Cow::Borrowed(_));
    let text = if harmless { text } else { harmless_json(value)? };
    out.write_all(text.as_bytes())
}
