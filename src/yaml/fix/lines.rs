//! What stands around a place on its line.

use serde_saphyr::granit_parser::ScalarStyle;

use super::tree::{Body, Entry, Node};

/// The end of the last line of a mapping's last entry, its comment included; `None` where that is not certain.
pub(super) fn last_line_end(text: &str, last: &Entry) -> Option<usize> {
    if last.value.span.is_empty() && last.value.is_null() {
        let at = last.key.span.end;
        let rest = text.get(at..)?.strip_prefix(':')?;
        let at = text.len() - rest.len();
        return Some(at + rest_of_line(text, at)?.len());
    }
    node_line_end(text, &last.value)
}

/// The end of the last line of a node, its comment included; `None` where that is not certain.
pub(super) fn node_line_end(text: &str, node: &Node) -> Option<usize> {
    match &node.body {
        Body::Scalar { style: ScalarStyle::Literal | ScalarStyle::Folded, .. } => return None,
        Body::Mapping { flow: false, entries } => return last_line_end(text, entries.last()?),
        Body::Sequence { flow: false, items } => return node_line_end(text, items.last()?),
        _ => {}
    }
    if node.span.is_empty() {
        return None;
    }
    Some(node.span.end + rest_of_line(text, node.span.end)?.len())
}

/// What stands between a place and the end of its line, if it is nothing but white space and a comment.
pub(super) fn rest_of_line(text: &str, at: usize) -> Option<&str> {
    let rest = text.get(at..)?;
    let line = &rest[..rest.find(['\n', '\r']).unwrap_or(rest.len())];
    let blank = line.trim_start_matches([' ', '\t']);
    (blank.is_empty() || (blank.starts_with('#') && blank.len() < line.len())).then_some(line)
}

/// The white space before a place, if there is nothing else on its line.
pub(super) fn lead(text: &str, at: usize) -> Option<&str> {
    let line = &text[text[..at].rfind('\n').map_or(0, |newline| newline + 1)..at];
    line.bytes().all(|byte| byte == b' ' || byte == b'\t').then_some(line)
}

/// The white space with which the line of a place begins.
pub(super) fn indentation(text: &str, at: usize) -> &str {
    let line = &text[text[..at].rfind('\n').map_or(0, |newline| newline + 1)..at];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// Columns before a place on its line.
pub(super) fn column(text: &str, at: usize) -> usize {
    let line = &text[text[..at].rfind('\n').map_or(0, |newline| newline + 1)..at];
    line.trim_start_matches('\u{feff}').chars().count()
}

/// Length of the line break at a place.
pub(super) fn line_break(text: &str, at: usize) -> usize {
    match text.get(at..) {
        Some(rest) if rest.starts_with("\r\n") => 2,
        Some(rest) if rest.starts_with('\n') => 1,
        _ => 0,
    }
}

/// The line end that is used at a place, or else where the text begins.
pub(super) fn newline(text: &str, at: usize) -> &'static str {
    let near = text[at..].find('\n').map(|found| at + found).or_else(|| text.find('\n'));
    if near.is_some_and(|found| text[..found].ends_with('\r')) { "\r\n" } else { "\n" }
}

/// The dash of a block item that begins at a place.
pub(super) fn dash_before(text: &str, at: usize) -> Option<usize> {
    text[..at].trim_end_matches(' ').strip_suffix('-').map(str::len)
}

/// Columns by which the dashes of the spec's sequences are deeper than their keys.
pub(super) fn dash(text: &str, spec: &Node) -> usize {
    let block = spec.entries().iter().find_map(|entry| match &entry.value.body {
        Body::Sequence { flow: false, items } => Some((entry, items.first()?)),
        _ => None,
    });
    let deeper = block.and_then(|(entry, item)| {
        let dash = dash_before(text, item.span.start)?;
        column(text, dash).checked_sub(column(text, entry.key.span.start))
    });
    deeper.unwrap_or(0)
}
