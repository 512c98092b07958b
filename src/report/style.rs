//! Colours for terminals, and text that cannot harm them.

use std::borrow::Cow;
use std::fmt::Write;

use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Style as Look};

use crate::binding::Severity;

/// How text is set off: by colours on a terminal, not at all elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// No colours.
    pub const PLAIN: Self = Self { colours: false };
    /// Colours.
    pub const COLOURED: Self = Self { colours: true };

    /// For standard output: as `--color`, `NO_COLOR` and the terminal say.
    #[must_use]
    pub fn of_stdout() -> Self {
        Self { colours: AutoStream::choice(&std::io::stdout()) != ColorChoice::Never }
    }

    /// For standard error.
    #[must_use]
    pub fn of_stderr() -> Self {
        Self { colours: AutoStream::choice(&std::io::stderr()) != ColorChoice::Never }
    }

    /// An error, or what is wrong.
    #[must_use]
    pub fn error(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default().bold(), text)
    }

    /// A warning.
    #[must_use]
    pub fn warning(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default().bold(), text)
    }

    /// Something worth knowing.
    #[must_use]
    pub fn info(self, text: &str) -> String {
        self.paint(AnsiColor::Cyan.on_default(), text)
    }

    /// Something good.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default().bold(), text)
    }

    /// A headline or a name that matters.
    #[must_use]
    pub fn strong(self, text: &str) -> String {
        self.paint(Look::new().bold(), text)
    }

    /// Something secondary.
    #[must_use]
    pub fn faint(self, text: &str) -> String {
        self.paint(Look::new().dimmed(), text)
    }

    /// Text in the colour of a severity.
    #[must_use]
    pub fn severity(self, severity: Severity, text: &str) -> String {
        match severity {
            Severity::Error => self.error(text),
            Severity::Warning => self.warning(text),
            Severity::Info => self.info(text),
        }
    }

    /// One line of a unified diff, without its line break.
    #[must_use]
    pub fn diff_line(self, line: &str) -> String {
        match line.as_bytes() {
            [b'+', ..] => self.paint(AnsiColor::Green.on_default(), line),
            [b'-', ..] => self.paint(AnsiColor::Red.on_default(), line),
            [b'@', b'@', ..] => self.paint(AnsiColor::Cyan.on_default(), line),
            _ => line.to_owned(),
        }
    }

    fn paint(self, look: Look, text: &str) -> String {
        if self.colours { format!("{look}{text}{look:#}") } else { text.to_owned() }
    }
}

/// Text on one line, with everything that could steer a terminal or mislead a reader written out: control characters
/// (line breaks, C1 included), bidirectional overrides, and characters that show as nothing.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    cleaned(text, |_| false)
}

/// As [`clean`], but lines and tabs stay: for diffs and whole objects.
#[must_use]
pub fn clean_lines(text: &str) -> Cow<'_, str> {
    cleaned(text, |character| matches!(character, '\n' | '\t'))
}

/// JSON with the same characters as escapes, which is the same JSON.
#[must_use]
pub fn clean_json(json: &str) -> Cow<'_, str> {
    let harms = |character: char| is_harmful(character) && !character.is_ascii();
    // Below U+0080 JSON has been escaped by its writer, but for the line breaks of its layout and DEL.
    if !json.contains(|character| harms(character) || character == '\u{7f}') {
        return Cow::Borrowed(json);
    }
    let mut clean = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if harms(character) || character == '\u{7f}' {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _infallible = write!(clean, "\\u{unit:04x}");
            }
        } else {
            clean.push(character);
        }
    }
    Cow::Owned(clean)
}

/// True when the text holds nothing that could steer a terminal or mislead a reader, lines and tabs apart.
#[must_use]
pub fn is_clean(text: &str) -> bool {
    matches!(clean_lines(text), Cow::Borrowed(_))
}

fn cleaned(text: &str, keeps: impl Fn(char) -> bool) -> Cow<'_, str> {
    let harms = |character: char| is_harmful(character) && !keeps(character);
    if !text.contains(harms) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if harms(character) {
            // Writing to a String cannot fail.
            let _infallible = write!(clean, "\\u{{{:x}}}", u32::from(character));
        } else {
            clean.push(character);
        }
    }
    Cow::Owned(clean)
}

fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Text in lines of at most so many characters, broken at spaces.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split_whitespace() {
        let word_length = word.chars().count();
        if length > 0 && length + 1 + word_length > width {
            lines.push(String::new());
            length = 0;
        }
        if let Some(line) = lines.last_mut() {
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            line.push_str(word);
            length += word_length;
        }
    }
    lines
}

/// Cells in aligned columns, two spaces apart, the last one not filled up. Cells must not hold colours: paint whole
/// columns by the function, which gets the filled-up cell and its column.
#[must_use]
pub fn columns(rows: &[Vec<String>], paint: impl Fn(usize, usize, &str) -> String) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..count)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |(row_index, row): (usize, &Vec<String>)| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let painted = paint(row_index, column, cell);
            let last = column + 1 == row.len();
            let fill = if last { 0 } else { widths[column] - cell.chars().count() + 2 };
            painted + &" ".repeat(fill)
        });
        cells.collect::<String>()
    };
    rows.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        assert_eq!(clean("plain – text ü"), "plain – text ü");
        assert_eq!(clean("\u{1b}[31mred\u{7}"), "\\u{1b}[31mred\\u{7}");
        assert_eq!(clean("a\nb\tc\r\u{9b}2J\u{7f}"), "a\\u{a}b\\u{9}c\\u{d}\\u{9b}2J\\u{7f}");
        assert_eq!(clean("gnp\u{202e}exe\u{2066}\u{200b}"), "gnp\\u{202e}exe\\u{2066}\\u{200b}");
        assert_eq!(clean_lines("a\n\tb\u{1b}"), "a\n\tb\\u{1b}");
        assert!(is_clean("a\n\tb") && !is_clean("\u{9b}"));
        assert_eq!(clean_json("{\n \"ü\": \"\u{9b}\u{7f}\u{e0041}\"}"), "{\n \"ü\": \"\\u009b\\u007f\\udb40\\udc41\"}");
    }

    #[test]
    fn colours_appear_only_where_they_are_wanted() {
        assert_eq!(Style::PLAIN.error("x"), "x");
        assert_eq!(Style::COLOURED.error("x"), "\u{1b}[1m\u{1b}[31mx\u{1b}[0m");
        assert_eq!(Style::PLAIN.diff_line("+a"), "+a");
    }

    #[test]
    fn lines_break_at_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("extraordinary", 5), ["extraordinary"]);
        assert_eq!(wrap("", 5), [""]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "bc".to_owned()], vec!["long".to_owned(), "d".to_owned()]];
        assert_eq!(columns(&rows, |_, _, cell| cell.to_owned()), ["a     bc", "long  d"]);
    }
}
