//! A `FindingList` as YAML.

use std::io::{self, Write};

use super::json::FindingList;
use super::{Report, harmless_json};
use crate::report::style::clean_lines;

/// Writes it. A text that would have to hold characters which steer terminals is written as JSON, which is YAML too and
/// escapes them.
pub(super) fn render(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let list = FindingList::of(report);
    let text = serde_saphyr::to_string(&list).map_err(io::Error::other)?;
    let harmless = matches!(clean_lines(&text), std::borrow::Cow::Borrowed(_));
    let text = if harmless { text } else { harmless_json(&list)? };
    out.write_all(text.as_bytes())
}
