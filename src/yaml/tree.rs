//! Events of the YAML parser to a tree, with or without positions.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{ErrorKind, Event, Marker, Options, Parser, ScalarStyle, StructureStyle, Tag};

use super::scalar::{Meaning, meaning};
use super::{Content, Entry, Located, Position, Span, SyntaxError};

/// Deepest nesting that is read. Kubernetes objects nest some 20 levels, schemas in CRDs some 60; trees are walked by
/// recursion, and this many frames fit any stack.
const DEEPEST: usize = 200;
const TOO_DEEP: &str = "nested deeper than any Kubernetes object is";

/// How much aliases may add to what a file says, over all its documents.
#[derive(Clone, Debug)]
pub struct AliasBudget {
    left: usize,
}

impl Default for AliasBudget {
    fn default() -> Self {
        // 16 MiB of text or, at 16 a value, a million values: far above any hand-written manifest, and harmless.
        Self { left: 16 << 20 }
    }
}

impl AliasBudget {
    fn spend(&mut self, weight: usize) -> bool {
        let enough = weight <= self.left;
        self.left = self.left.saturating_sub(weight);
        enough
    }
}

/// What the events of a document are built into.
pub(super) trait Tree: Clone {
    /// A mapping in the making.
    type Mapping: Default;

    fn scalar(value: Value, style: ScalarStyle, span: Span) -> Self;
    fn sequence(items: Vec<Self>, flow: bool, span: Span) -> Self;
    fn mapping(entries: Self::Mapping, flow: bool, span: Span) -> Self;
    /// Adds an entry; false when the key is there already.
    fn insert(entries: &mut Self::Mapping, key: Cow<'_, str>, key_span: Span, value: Self) -> bool;
    /// Adds the entries of another mapping whose keys are not there yet; false when it is none.
    fn merge(entries: &mut Self::Mapping, from: &Self) -> bool;
    /// Items of a sequence.
    fn items(&self) -> Option<&[Self]>;
    /// The same value where an alias stands for it.
    fn aliased(&self) -> Self;
    /// Bytes of text plus 16 a value, and the depth.
    fn weigh(&self) -> (usize, usize);
}

impl Tree for Value {
    type Mapping = Map<String, Self>;

    fn scalar(value: Value, _: ScalarStyle, _: Span) -> Self {
        value
    }

    fn sequence(items: Vec<Self>, _: bool, _: Span) -> Self {
        Self::Array(items)
    }

    fn mapping(entries: Self::Mapping, _: bool, _: Span) -> Self {
        Self::Object(entries)
    }

    fn insert(entries: &mut Self::Mapping, key: Cow<'_, str>, _: Span, value: Self) -> bool {
        entries.insert(key.into_owned(), value).is_none()
    }

    fn merge(entries: &mut Self::Mapping, from: &Self) -> bool {
        let Self::Object(from) = from else { return false };
        for (key, value) in from {
            if !entries.contains_key(key) {
                entries.insert(key.clone(), value.clone());
            }
        }
        true
    }

    fn items(&self) -> Option<&[Self]> {
        self.as_array().map(Vec::as_slice)
    }

    fn aliased(&self) -> Self {
        self.clone()
    }

    fn weigh(&self) -> (usize, usize) {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => (16, 0),
            Self::String(text) => (16 + text.len(), 0),
            Self::Array(items) => heaviest(items.iter().map(|item| (0, item))),
            Self::Object(entries) => heaviest(entries.iter().map(|(key, value)| (key.len(), value))),
        }
    }
}

/// Entries in the order of the text.
#[derive(Default)]
pub(super) struct Entries {
    list: Vec<Entry>,
    /// Keys of the list, from the first merge on.
    keys: Option<HashSet<String>>,
}

impl Tree for Located {
    type Mapping = Entries;

    fn scalar(value: Value, style: ScalarStyle, span: Span) -> Self {
        Self { span, aliased: false, content: Content::Scalar { value, style } }
    }

    fn sequence(items: Vec<Self>, flow: bool, span: Span) -> Self {
        Self { span, aliased: false, content: Content::Sequence { items, flow } }
    }

    fn mapping(entries: Self::Mapping, flow: bool, span: Span) -> Self {
        Self { span, aliased: false, content: Content::Mapping { entries: entries.list, flow } }
    }

    /// Duplicates are not looked for: a document is read for its value first, which finds them.
    fn insert(entries: &mut Self::Mapping, key: Cow<'_, str>, key_span: Span, value: Self) -> bool {
        entries.list.push(Entry { key: key.into_owned(), key_span, value });
        true
    }

    fn merge(entries: &mut Self::Mapping, from: &Self) -> bool {
        let Content::Mapping { entries: from, .. } = &from.content else { return false };
        let list = &mut entries.list;
        let keys = entries.keys.get_or_insert_with(|| list.iter().map(|entry| entry.key.clone()).collect());
        for entry in from {
            if keys.insert(entry.key.clone()) {
                list.push(Entry { value: entry.value.aliased(), ..entry.clone() });
            }
        }
        true
    }

    fn items(&self) -> Option<&[Self]> {
        match &self.content {
            Content::Sequence { items, .. } => Some(items),
            Content::Scalar { .. } | Content::Mapping { .. } => None,
        }
    }

    fn aliased(&self) -> Self {
        let content = match &self.content {
            Content::Scalar { .. } => self.content.clone(),
            Content::Sequence { items, flow } => {
                Content::Sequence { items: items.iter().map(Tree::aliased).collect(), flow: *flow }
            }
            Content::Mapping { entries, flow } => {
                let entries =
                    entries.iter().map(|entry| Entry { value: entry.value.aliased(), ..entry.clone() }).collect();
                Content::Mapping { entries, flow: *flow }
            }
        };
        Self { span: self.span, aliased: true, content }
    }

    fn weigh(&self) -> (usize, usize) {
        match &self.content {
            Content::Scalar { value, .. } => value.weigh(),
            Content::Sequence { items, .. } => heaviest(items.iter().map(|item| (0, item))),
            Content::Mapping { entries, .. } => heaviest(entries.iter().map(|entry| (entry.key.len(), &entry.value))),
        }
    }
}

fn heaviest<'tree, T: Tree + 'tree>(children: impl Iterator<Item = (usize, &'tree T)>) -> (usize, usize) {
    children.fold((16, 1), |(weight, depth), (key, child)| {
        let (child_weight, child_depth) = child.weigh();
        (weight + key + child_weight, depth.max(child_depth + 1))
    })
}

/// Reads the one document of a text that starts at a place of a file.
pub(super) fn read<T: Tree>(text: &str, start: Position, budget: &mut AliasBudget) -> Result<Option<T>, SyntaxError> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    if text.starts_with('{') {
        // JSON has no limit on the length of keys.
        options.simple_key_max_lookahead = text.len();
    }
    let mut builder = Builder { start, stack: Vec::new(), anchors: HashMap::new(), budget, root: None };
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| SyntaxError {
            position: builder.position(*error.marker()),
            message: match error.kind() {
                ErrorKind::RecursionLimitExceeded => TOO_DEEP.to_owned(),
                _ => error.info(),
            },
        })?;
        builder.take(event, Span { start: builder.position(span.start), end: builder.position(span.end) })?;
    }
    Ok(builder.root)
}

enum Frame<'text, T: Tree> {
    Sequence { items: Vec<T>, flow: bool, anchor: usize, span: Span },
    Mapping { entries: T::Mapping, key: Option<Key<'text>>, merges: Vec<T>, flow: bool, anchor: usize, span: Span },
}

struct Key<'text> {
    text: Cow<'text, str>,
    span: Span,
    merges: bool,
}

struct Anchor<T> {
    value: T,
    weight: usize,
    depth: usize,
}

struct Builder<'budget, 'text, T: Tree> {
    start: Position,
    stack: Vec<Frame<'text, T>>,
    anchors: HashMap<usize, Anchor<T>>,
    budget: &'budget mut AliasBudget,
    root: Option<T>,
}

impl<'text, T: Tree> Builder<'_, 'text, T> {
    fn position(&self, marker: Marker) -> Position {
        let line = marker.line().max(1);
        let indent = if line == 1 { self.start.column - 1 } else { 0 };
        Position {
            line: self.start.line + line - 1,
            column: indent + marker.col() + 1,
            byte: self.start.byte + marker.byte_offset().unwrap_or_default(),
        }
    }

    fn take(&mut self, event: Event<'text>, span: Span) -> Result<(), SyntaxError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag.as_deref(), span),
            Event::SequenceStart(style, anchor, _) => {
                self.expect_no_key(span, "a sequence")?;
                self.open(Frame::Sequence { items: Vec::new(), flow: style == StructureStyle::Flow, anchor, span })
            }
            Event::MappingStart(style, anchor, _) => {
                self.expect_no_key(span, "a mapping")?;
                let flow = style == StructureStyle::Flow;
                let entries = T::Mapping::default();
                self.open(Frame::Mapping { entries, key: None, merges: Vec::new(), flow, anchor, span })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(error(span, "a second document starts without a `---` line before it"))
            }
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'text, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        span: Span,
    ) -> Result<(), SyntaxError> {
        if let Some(Frame::Mapping { key: key @ None, .. }) = self.stack.last_mut() {
            let merges = style == ScalarStyle::Plain && text == "<<";
            *key = Some(Key { text: key_text(text, style, tag, span)?, span, merges });
            return Ok(());
        }
        let value = scalar_value(text, style, tag, span)?;
        self.finish(T::scalar(value, style, span), anchor, span)
    }

    /// Refuses a collection where a key is due.
    fn expect_no_key(&self, span: Span, what: &str) -> Result<(), SyntaxError> {
        match self.stack.last() {
            Some(Frame::Mapping { key: None, .. }) => Err(error(
                span,
                format!("{what} stands where a key is due; templates such as {{{{ ... }}}} must be rendered first"),
            )),
            _ => Ok(()),
        }
    }

    fn open(&mut self, frame: Frame<'text, T>) -> Result<(), SyntaxError> {
        if self.stack.len() >= DEEPEST {
            let (Frame::Sequence { span, .. } | Frame::Mapping { span, .. }) = frame;
            return Err(error(span, TOO_DEEP));
        }
        self.stack.push(frame);
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), SyntaxError> {
        match self.stack.pop() {
            Some(Frame::Sequence { items, flow, anchor, span }) => {
                let span = if flow { Span { end: end.end, ..span } } else { span };
                self.finish(T::sequence(items, flow, span), anchor, span)
            }
            Some(Frame::Mapping { mut entries, merges, flow, anchor, span, .. }) => {
                for merge in &merges {
                    let merged = match merge.items() {
                        Some(items) => items.iter().all(|item| T::merge(&mut entries, item)),
                        None => T::merge(&mut entries, merge),
                    };
                    if !merged {
                        return Err(error(span, "a merge key `<<` takes a mapping or a sequence of mappings"));
                    }
                }
                let span = if flow { Span { end: end.end, ..span } } else { span };
                self.finish(T::mapping(entries, flow, span), anchor, span)
            }
            // The parser closes only what it opened.
            None => Err(error(end, "the document ends where nothing was begun")),
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), SyntaxError> {
        let Some(target) = self.anchors.get(&anchor) else {
            return Err(error(span, "an alias stands within the value that it refers to"));
        };
        if self.stack.len() + target.depth > DEEPEST {
            return Err(error(span, "aliases nest deeper than any Kubernetes object does"));
        }
        if !self.budget.spend(target.weight) {
            return Err(error(span, "aliases make the document too large"));
        }
        if matches!(self.stack.last(), Some(Frame::Mapping { key: None, .. })) {
            return Err(error(span, "an alias stands where a key is due; write the key itself"));
        }
        let value = target.value.aliased();
        self.attach(value, span)
    }

    fn finish(&mut self, value: T, anchor: usize, span: Span) -> Result<(), SyntaxError> {
        if anchor != 0 {
            let (weight, depth) = value.weigh();
            // The copy that is kept costs as much as one alias.
            if !self.budget.spend(weight) {
                return Err(error(span, "anchors make the document too large"));
            }
            self.anchors.insert(anchor, Anchor { value: value.clone(), weight, depth });
        }
        self.attach(value, span)
    }

    fn attach(&mut self, value: T, child: Span) -> Result<(), SyntaxError> {
        match self.stack.last_mut() {
            None => self.root = Some(value),
            Some(Frame::Sequence { items, span, .. }) => {
                span.end = span.end.max(child.end);
                items.push(value);
            }
            Some(Frame::Mapping { entries, key, merges, span, .. }) => {
                span.end = span.end.max(child.end);
                // The parser gives keys and values in turn, and what is not a scalar was refused as a key.
                let Some(key) = key.take() else { return Err(error(child, "a value without a key")) };
                if key.merges {
                    merges.push(value);
                } else {
                    let name = key.text.clone();
                    if !T::insert(entries, key.text, key.span, value) {
                        return Err(error(key.span, format!("the key {name:?} is given twice")));
                    }
                }
            }
        }
        Ok(())
    }
}

/// A key as JSON has it: what YAML takes for a boolean or number is written out.
fn key_text<'text>(
    text: Cow<'text, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
    span: Span,
) -> Result<Cow<'text, str>, SyntaxError> {
    if style != ScalarStyle::Plain || tag.is_some() {
        return Ok(text);
    }
    match meaning(&text) {
        Meaning::Text => Ok(text),
        Meaning::Value(Value::Bool(truth)) => Ok(Cow::Borrowed(if truth { "true" } else { "false" })),
        Meaning::Value(Value::Number(number)) => Ok(Cow::Owned(number.to_string())),
        _ => Err(error(span, "a key is missing, or is null; put it in quotes if it is meant as text")),
    }
}

fn scalar_value(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Value, SyntaxError> {
    let resolves = match tag {
        None => style == ScalarStyle::Plain,
        Some(tag) => tag.handle() == "tag:yaml.org,2002:" && matches!(tag.suffix(), "bool" | "int" | "float" | "null"),
    };
    match if resolves { meaning(&text) } else { Meaning::Text } {
        Meaning::Text => Ok(Value::String(text.into_owned())),
        Meaning::Value(value) => Ok(value),
        Meaning::NotFinite => Err(error(span, "JSON, and so Kubernetes, has no infinite numbers and no NaN")),
    }
}

fn error(span: Span, message: impl Into<String>) -> SyntaxError {
    SyntaxError { position: span.start, message: message.into() }
}
