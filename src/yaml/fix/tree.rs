//! YAML and JSON as written: nodes with their place in the text and their style.
//!
//! JSON is read as the flow style of YAML, so one tree serves both.

use std::collections::HashSet;
use std::ops::Range;

use serde_json::{Map, Value, json};
use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput, StructureStyle};

/// One document.
pub(super) struct Tree {
    /// What it holds; nothing when it is empty.
    pub(super) root: Option<Node>,
    /// Anchors to which at least one alias refers.
    pub(super) used_anchors: HashSet<usize>,
}

/// One node.
pub(super) struct Node {
    /// Its bytes: brackets and quotes included, anchor, tag and comments excluded. A block collection ends with its last
    /// child.
    pub(super) span: Range<usize>,
    /// Number of its anchor; 0 without one.
    pub(super) anchor: usize,
    /// It carries a tag.
    pub(super) tagged: bool,
    /// What it holds.
    pub(super) body: Body,
}

/// What a node holds.
pub(super) enum Body {
    /// A scalar, decoded.
    Scalar {
        /// The text it stands for.
        value: String,
        /// How it is written.
        style: ScalarStyle,
    },
    /// A reference to an anchor.
    Alias(usize),
    /// A mapping.
    Mapping {
        /// Written in braces.
        flow: bool,
        /// Its entries, as written.
        entries: Vec<Entry>,
    },
    /// A sequence.
    Sequence {
        /// Written in brackets.
        flow: bool,
        /// Its items.
        items: Vec<Node>,
    },
}

/// One entry of a mapping.
pub(super) struct Entry {
    /// The key.
    pub(super) key: Node,
    /// The value.
    pub(super) value: Node,
}

/// Why a text has no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TreeError {
    /// It is not YAML.
    #[error("{0}")]
    Syntax(String),
    /// The parser said something that a text cannot mean.
    #[error("the text ends in the middle of a value")]
    Broken,
    /// It holds more than one document.
    #[error("the text holds more than one document")]
    Several,
}

impl Tree {
    /// Reads a text that holds one document.
    pub(super) fn read(text: &str) -> Result<Self, TreeError> {
        // Whether comments are events depends on what other crates ask of the parser, unless it is said here.
        let mut options = Options::default();
        options.set_emit_comments(false);
        let parser = Parser::new_from_str_with_options(text, options);
        let mut reader = Reader { parser, used_anchors: HashSet::new() };
        let mut root = None;
        loop {
            match reader.next()?.0 {
                Event::StreamEnd => break,
                Event::DocumentStart(..) => {
                    let (event, span) = reader.next()?;
                    let node = reader.node(event, span)?;
                    if root.replace(node).is_some() {
                        return Err(TreeError::Several);
                    }
                }
                _ => {}
            }
        }
        Ok(Self { root, used_anchors: reader.used_anchors })
    }

    /// The document as a value in which nothing that a parser could read differently is lost: plain scalars that are
    /// not plainly strings, anchors, aliases and tags are marked.
    pub(super) fn value(&self) -> Value {
        self.root.as_ref().map_or(Value::Null, Node::value)
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    used_anchors: HashSet<usize>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), TreeError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(TreeError::Syntax(error.to_string())),
            None => Err(TreeError::Broken),
        }
    }

    // The parser bounds the depth to 255 collections of each style, and so does this recursion.
    fn node(&mut self, event: Event<'t>, at: Span) -> Result<Node, TreeError> {
        let mut span = at.byte_range().ok_or(TreeError::Broken)?;
        let (anchor, tagged, body) = match event {
            Event::Scalar(value, style, anchor, tag) => {
                (anchor, tag.is_some(), Body::Scalar { value: value.into_owned(), style })
            }
            Event::Alias(anchor) => {
                self.used_anchors.insert(anchor);
                (0, false, Body::Alias(anchor))
            }
            Event::MappingStart(style, anchor, tag) => {
                let flow = style == StructureStyle::Flow;
                let entries = self.entries(flow, &mut span)?;
                (anchor, tag.is_some(), Body::Mapping { flow, entries })
            }
            Event::SequenceStart(style, anchor, tag) => {
                let flow = style == StructureStyle::Flow;
                let items = self.items(flow, &mut span)?;
                (anchor, tag.is_some(), Body::Sequence { flow, items })
            }
            _ => return Err(TreeError::Broken),
        };
        Ok(Node { span, anchor, tagged, body })
    }

    fn entries(&mut self, flow: bool, span: &mut Range<usize>) -> Result<Vec<Entry>, TreeError> {
        let mut entries = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                if flow {
                    span.end = at.byte_range().ok_or(TreeError::Broken)?.end;
                }
                return Ok(entries);
            }
            let key = self.node(event, at)?;
            let (event, at) = self.next()?;
            let value = self.node(event, at)?;
            span.end = span.end.max(key.span.end).max(value.span.end);
            entries.push(Entry { key, value });
        }
    }

    fn items(&mut self, flow: bool, span: &mut Range<usize>) -> Result<Vec<Node>, TreeError> {
        let mut items = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::SequenceEnd {
                if flow {
                    span.end = at.byte_range().ok_or(TreeError::Broken)?.end;
                }
                return Ok(items);
            }
            let item = self.node(event, at)?;
            span.end = span.end.max(item.span.end);
            items.push(item);
        }
    }
}

impl Node {
    /// The decoded scalar.
    pub(super) fn scalar(&self) -> Option<&str> {
        match &self.body {
            Body::Scalar { value, .. } => Some(value),
            _ => None,
        }
    }

    /// How the scalar is written.
    pub(super) fn style(&self) -> Option<ScalarStyle> {
        match &self.body {
            Body::Scalar { style, .. } => Some(*style),
            _ => None,
        }
    }

    /// Nothing at all, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.body, Body::Scalar { value, style: ScalarStyle::Plain }
            if matches!(value.as_str(), "" | "~" | "null" | "Null" | "NULL"))
            && !self.tagged
    }

    /// The entries of a mapping.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.body {
            Body::Mapping { entries, .. } => entries,
            _ => &[],
        }
    }

    /// The items of a sequence.
    pub(super) fn items(&self) -> &[Node] {
        match &self.body {
            Body::Sequence { items, .. } => items,
            _ => &[],
        }
    }

    /// The first entry with a key.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key.scalar() == Some(key))
    }

    fn value(&self) -> Value {
        let bare = match &self.body {
            Body::Scalar { .. } if self.is_null() => Value::Null,
            Body::Scalar { value, style: ScalarStyle::Plain } if !is_plainly_text(value) => json!({ "plain": value }),
            Body::Scalar { value, .. } => Value::String(value.clone()),
            Body::Alias(anchor) => json!({ "alias": anchor }),
            Body::Mapping { entries, .. } => mapping_value(entries),
            Body::Sequence { items, .. } => Value::Array(items.iter().map(Self::value).collect()),
        };
        match (self.anchor, self.tagged) {
            (0, false) => bare,
            (anchor, tagged) => json!({ "anchor": anchor, "tagged": tagged, "node": bare }),
        }
    }
}

fn mapping_value(entries: &[Entry]) -> Value {
    let mut map = Map::new();
    for (place, entry) in entries.iter().enumerate() {
        let key = match entry.key.scalar() {
            Some(key) if !map.contains_key(key) => key.to_owned(),
            // A key that is no scalar, or stands there twice: kept apart, so that no two texts look the same.
            _ => format!("{place}: {}", entry.key.value()),
        };
        map.insert(key, entry.value.value());
    }
    Value::Object(map)
}

/// True for a text that every YAML parser reads as a string when it stands without quotes, in block and flow style.
pub(super) fn is_plainly_text(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'/'))
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}
