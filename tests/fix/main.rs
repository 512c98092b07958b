//! `nodeName` is rewritten in the text, and nothing else is touched.
#![allow(clippy::unwrap_used)]

mod any_layout;
mod layouts;
mod refusals;

/// The bytes of a text's document, comments before it included.
fn document(text: &str, place: usize) -> std::ops::Range<usize> {
    let (mut start, mut found) = (0, Vec::new());
    for (at, line) in text.split_inclusive('\n').scan(0, |at, line| {
        *at += line.len();
        Some((*at - line.len(), line))
    }) {
        if line.starts_with("---") || line.starts_with("...") {
            found.push(start..at);
            start = at + if line.starts_with("...") { line.len() } else { 0 };
        }
    }
    found.push(start..text.len());
    found.retain(|range| text[range.clone()].contains("spec"));
    found.swap_remove(place)
}
