//! What is to be written, and how it looks in the style of its surroundings.

use serde_saphyr::granit_parser::ScalarStyle;

use super::tree::is_plainly_text;

/// A value that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A scalar, in the words of the text: quotes included.
    Text(String),
    /// A mapping.
    Map(Vec<(&'static str, Shape)>),
    /// A sequence.
    List(Vec<Shape>),
}

/// How entries look around the place that is edited.
#[derive(Clone, Debug)]
pub(super) struct Style {
    /// How keys are quoted.
    pub(super) quote: ScalarStyle,
    /// Between key and value in flow style: `: ` or `:`.
    pub(super) colon: &'static str,
    /// Between entries in flow style: `, ` or `,`.
    pub(super) comma: &'static str,
    /// The end of a line.
    pub(super) newline: &'static str,
    /// Columns by which a block is deeper than its parent.
    pub(super) step: usize,
    /// Columns by which the dash of a block sequence is deeper than its key.
    pub(super) dash: usize,
}

impl Style {
    /// A key as the surroundings write it.
    pub(super) fn key(&self, key: &str) -> String {
        quoted(key, self.quote)
    }

    /// `key: value` in block style, from the given column on; without the indentation of the first line.
    pub(super) fn block_entry(&self, key: &str, shape: &Shape, column: usize) -> String {
        let key = self.key(key);
        match shape {
            Shape::Text(text) => format!("{key}: {text}"),
            // A list of scalars stays on its line.
            Shape::List(items) if items.iter().all(|item| matches!(item, Shape::Text(_))) => {
                format!("{key}: {}", self.flow(shape))
            }
            Shape::Map(entries) => {
                let deeper = column + self.step;
                let lines = entries.iter().map(|(key, shape)| {
                    format!("{}{:deeper$}{}", self.newline, "", self.block_entry(key, shape, deeper))
                });
                format!("{key}:{}", lines.collect::<String>())
            }
            Shape::List(items) => {
                let deeper = column + self.dash;
                let lines =
                    items.iter().map(|item| format!("{}{:deeper$}{}", self.newline, "", self.block_item(item, deeper)));
                format!("{key}:{}", lines.collect::<String>())
            }
        }
    }

    /// `- item` in block style, the dash at the given column; without the indentation of the first line.
    pub(super) fn block_item(&self, item: &Shape, column: usize) -> String {
        let Shape::Map(entries) = item else { return format!("- {}", self.flow(item)) };
        let deeper = column + 2;
        let lines = entries.iter().map(|(key, shape)| self.block_entry(key, shape, deeper));
        format!("- {}", lines.collect::<Vec<_>>().join(&format!("{}{:deeper$}", self.newline, "")))
    }

    /// A value in flow style on one line.
    pub(super) fn flow(&self, shape: &Shape) -> String {
        match shape {
            Shape::Text(text) => text.clone(),
            Shape::Map(entries) => {
                let entries = entries.iter().map(|(key, shape)| self.flow_entry(key, shape));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(self.comma))
            }
            Shape::List(items) => {
                format!("[{}]", items.iter().map(|item| self.flow(item)).collect::<Vec<_>>().join(self.comma))
            }
        }
    }

    /// `key: value` in flow style on one line.
    pub(super) fn flow_entry(&self, key: &str, shape: &Shape) -> String {
        format!("{}{}{}", self.key(key), self.colon, self.flow(shape))
    }

    /// `key: value` in flow style over several lines, as formatters of JSON write it. `prefix` is the white space before
    /// the key, `unit` what each deeper level adds to it.
    pub(super) fn tall_entry(&self, key: &str, shape: &Shape, prefix: &str, unit: &str) -> String {
        format!("{}{}{}", self.key(key), self.colon, self.to_block(shape, prefix, unit))
    }

    /// A value in flow style over several lines.
    pub(super) fn to_block(&self, shape: &Shape, prefix: &str, unit: &str) -> String {
        let (open, close, lines) = match shape {
            Shape::Text(text) => return text.clone(),
            Shape::Map(entries) => {
                let deeper = format!("{prefix}{unit}");
                let lines = entries.iter().map(|(key, shape)| self.tall_entry(key, shape, &deeper, unit));
                ('{', '}', lines.collect::<Vec<_>>())
            }
            Shape::List(items) => {
                let deeper = format!("{prefix}{unit}");
                ('[', ']', items.iter().map(|item| self.to_block(item, &deeper, unit)).collect())
            }
        };
        let newline = self.newline;
        let lines = lines.join(&format!(",{newline}{prefix}{unit}"));
        format!("{open}{newline}{prefix}{unit}{lines}{newline}{prefix}{close}")
    }
}

/// A scalar in the given quotes; in double quotes where it could be read as something else without.
pub(super) fn quoted(text: &str, style: ScalarStyle) -> String {
    match style {
        ScalarStyle::Plain if is_plainly_text(text) => text.to_owned(),
        ScalarStyle::SingleQuoted if !text.chars().any(char::is_control) => format!("'{}'", text.replace('\'', "''")),
        // The escapes of JSON mean the same in YAML.
        _ => serde_json::Value::from(text).to_string(),
    }
}
