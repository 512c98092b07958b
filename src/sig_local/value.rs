//! A value of the configuration, with the place by which messages name it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::problem::Problem;

/// One value. What is wrong with it is added to a list, so that a person is told of everything at once.
pub(super) struct Placed<'a> {
    pub place: String,
    pub value: &'a Value,
}

impl<'a> Placed<'a> {
    /// A scalar as text: a number or a boolean where a text is wanted counts as its text. `None` where there is none.
    pub fn text(&self, problems: &mut Vec<Problem>) -> Option<String> {
        match self.value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Number(_) => Some(self.value.to_string()),
            Value::Array(_) | Value::Object(_) => self.nothing("a text", problems),
        }
    }

    /// A boolean, in any spelling of YAML 1.1, quoted or not.
    pub fn boolean(&self, problems: &mut Vec<Problem>) -> Option<bool> {
        match self.value {
            Value::Null => None,
            Value::Bool(value) => Some(*value),
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "y" | "on" => Some(true),
                "false" | "no" | "n" | "off" => Some(false),
                _ => self.nothing("true or false", problems),
            },
            _ => self.nothing("true or false", problems),
        }
    }

    /// The items of a list.
    pub fn items(&self, problems: &mut Vec<Problem>) -> Vec<Placed<'a>> {
        match self.value {
            Value::Null => Vec::new(),
            Value::Array(items) => {
                let placed = |(at, value)| Placed { place: format!("{}[{at}]", self.place), value };
                items.iter().enumerate().map(placed).collect()
            }
            _ => self.nothing("a list", problems).unwrap_or_default(),
        }
    }

    /// A list of texts.
    pub fn texts(&self, problems: &mut Vec<Problem>) -> Vec<String> {
        self.items(problems).iter().filter_map(|item| item.text(problems)).collect()
    }

    /// The entries of a mapping.
    pub fn entries(&self, problems: &mut Vec<Problem>) -> Vec<(&'a str, Placed<'a>)> {
        match self.value {
            Value::Null => Vec::new(),
            Value::Object(entries) => {
                let placed = |key: &str, value| Placed { place: format!("{}: {key}", self.place), value };
                entries.iter().map(|(key, value)| (key.as_str(), placed(key, value))).collect()
            }
            _ => self.nothing("a mapping", problems).unwrap_or_default(),
        }
    }

    /// A mapping of texts.
    pub fn text_map(&self, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
        let entries = self.entries(problems);
        entries.iter().map(|(key, value)| ((*key).to_owned(), value.text(problems).unwrap_or_default())).collect()
    }

    /// Names what is wrong.
    pub fn refuse(&self, expected: &'static str, problems: &mut Vec<Problem>) {
        let shown = self.value.as_str().map_or_else(|| self.value.to_string(), str::to_owned);
        problems.push(Problem::value(&self.place, &shown, expected));
    }

    fn nothing<T>(&self, expected: &'static str, problems: &mut Vec<Problem>) -> Option<T> {
        self.refuse(expected, problems);
        None
    }
}
