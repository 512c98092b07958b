//! The edits that turn a node name into a pin, in the text as it stands.

use std::collections::HashSet;
use std::ops::Range;

use serde_saphyr::granit_parser::ScalarStyle;

use super::lines::{
    column, dash, dash_before, indentation, last_line_end, lead, line_break, newline, node_line_end, rest_of_line,
};
use super::shape::{Shape, Style, quoted};
use super::tree::{Body, Entry, Node, Tree};
use super::{Edit, Refusal};
use crate::binding::{FieldPath, Pin};
use crate::model::HOSTNAME_LABEL;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// The edits for one Pod spec.
pub(super) fn edits(text: &str, tree: &Tree, spec: &FieldPath, pin: &Pin) -> Result<Vec<Edit>, Refusal> {
    let root = tree.root.as_ref().ok_or(Refusal::NotFound)?;
    let (owner, spec) = find(root, spec, &tree.used_anchors)?;
    let point = EditPoint::new(text, &tree.used_anchors, owner, spec)?;
    let mut script = EditScript { point: &point, edits: Vec::new() };
    match pin {
        Pin::Hostname(value) => script.select_hostname(value)?,
        Pin::Name(name) => script.require_name(name)?,
    }
    Ok(script.edits)
}

/// Walks to the Pod spec; gives the key that holds it too.
fn find<'n>(
    root: &'n Node,
    path: &FieldPath,
    used_anchors: &HashSet<usize>,
) -> Result<(Option<&'n Entry>, &'n Node), Refusal> {
    let (mut owner, mut node) = (None, root);
    own(node, used_anchors)?;
    for step in &path.0 {
        node = match &node.body {
            Body::Sequence { items, .. } => {
                owner = None;
                step.parse::<usize>().ok().and_then(|place| items.get(place)).ok_or(Refusal::NotFound)?
            }
            Body::Mapping { .. } => {
                owner = Some(entry(node, step)?.ok_or(Refusal::NotFound)?);
                &owner.ok_or(Refusal::NotFound)?.value
            }
            Body::Scalar { .. } | Body::Alias(_) => return Err(Refusal::NotFound),
        };
        own(node, used_anchors)?;
    }
    Ok((owner, node))
}

/// The only entry with a key in a mapping that merges nothing.
fn entry<'n>(mapping: &'n Node, key: &str) -> Result<Option<&'n Entry>, Refusal> {
    if mapping.entry("<<").is_some() {
        return Err(Refusal::Merge);
    }
    let mut found = mapping.entries().iter().filter(|entry| entry.key.scalar() == Some(key));
    let first = found.next();
    if found.next().is_some() {
        return Err(Refusal::Twice(key.to_owned()));
    }
    Ok(first)
}

/// Refuses a node that other places of the document share.
fn own(node: &Node, used_anchors: &HashSet<usize>) -> Result<(), Refusal> {
    match node.body {
        Body::Alias(_) => Err(Refusal::Shared),
        _ if node.anchor != 0 && used_anchors.contains(&node.anchor) => Err(Refusal::Shared),
        _ => Ok(()),
    }
}

/// The place that is edited: a Pod spec with its `nodeName`.
struct EditPoint<'t> {
    text: &'t str,
    used_anchors: &'t HashSet<usize>,
    spec: &'t Node,
    flow: bool,
    place: usize,
    pinned: &'t Entry,
    style: Style,
}

impl<'t> EditPoint<'t> {
    fn new(
        text: &'t str,
        used_anchors: &'t HashSet<usize>,
        owner: Option<&'t Entry>,
        spec: &'t Node,
    ) -> Result<Self, Refusal> {
        let Body::Mapping { flow, .. } = spec.body else { return Err(Refusal::NotFound) };
        let pinned = entry(spec, "nodeName")?.ok_or(Refusal::NotFound)?;
        let place = spec.entries().iter().position(|entry| std::ptr::eq(entry, pinned)).ok_or(Refusal::NotFound)?;
        let (key, value) = (&pinned.key, &pinned.value);
        if key.anchor != 0 || value.anchor != 0 || matches!(value.body, Body::Alias(_)) {
            return Err(Refusal::Shared);
        }
        let between = text.get(key.span.end..value.span.start).ok_or(Refusal::Layout)?;
        let written = text.get(value.span.clone()).ok_or(Refusal::Layout)?;
        let one_line = !between.contains(['\n', '\r', '#']) && !written.contains(['\n', '\r']);
        if key.tagged || value.tagged || value.scalar().is_none() || between.trim() != ":" || !one_line {
            return Err(Refusal::Layout);
        }
        let compact = flow && between == ":";
        let inner = column(text, key.span.start);
        let outer = owner.map_or(0, |owner| column(text, owner.key.span.start));
        let style = Style {
            quote: key.style().unwrap_or(ScalarStyle::Plain),
            colon: if compact { ":" } else { ": " },
            comma: if compact { "," } else { ", " },
            newline: newline(text, key.span.start),
            step: Some(inner.saturating_sub(outer)).filter(|step| (1..=8).contains(step)).unwrap_or(2),
            dash: dash(text, spec),
        };
        Ok(Self { text, used_anchors, spec, flow, place, pinned, style })
    }

    /// The value of the pin, written as the node name is where it is the same.
    fn word(&self, value: &str) -> Shape {
        let written = &self.text[self.pinned.value.span.clone()];
        let style = self.pinned.value.style().unwrap_or(ScalarStyle::Plain);
        let keep = self.pinned.value.scalar() == Some(value) && style != ScalarStyle::Plain;
        Shape::Text(if keep { written.to_owned() } else { quoted(value, style) })
    }

    /// What follows the node name on its line: nothing, or white space and a comment.
    fn trailer(&self) -> Result<&'t str, Refusal> {
        rest_of_line(self.text, self.pinned.value.span.end).ok_or(Refusal::Layout)
    }
}

/// Edits in the making.
struct EditScript<'s, 't> {
    point: &'s EditPoint<'t>,
    edits: Vec<Edit>,
}

impl EditScript<'_, '_> {
    fn select_hostname(&mut self, value: &str) -> Result<(), Refusal> {
        let Some(selector) = entry(self.point.spec, "nodeSelector")? else {
            let shape = Shape::Map(vec![(HOSTNAME_LABEL, self.point.word(value))]);
            return self.replace_pinned("nodeSelector", &shape);
        };
        own(&selector.value, self.point.used_anchors)?;
        if let Some(present) = entry(&selector.value, HOSTNAME_LABEL)? {
            if present.value.scalar() != Some(value) {
                return Err(Refusal::Contradicts);
            }
            return self.remove_pinned(true);
        }
        if selector.value.is_null() {
            self.fill(selector, &Shape::Map(vec![(HOSTNAME_LABEL, self.point.word(value))]));
            return self.remove_pinned(true);
        }
        // A comment behind the node name belongs to the name, and goes with it where it can.
        let trailer = if self.point.flow { "" } else { self.point.trailer()? };
        let moves = self.add_entry(&selector.value, HOSTNAME_LABEL, &self.point.word(value), trailer)?;
        self.remove_pinned(!moves)
    }

    fn require_name(&mut self, name: &str) -> Result<(), Refusal> {
        let word = self.point.word(name);
        let field = vec![("key", self.word("metadata.name")), ("operator", self.word("In"))];
        let field = field.into_iter().chain([("values", Shape::List(vec![word]))]).collect();
        let term = Shape::Map(vec![("matchFields", Shape::List(vec![Shape::Map(field)]))]);
        let terms = Shape::Map(vec![("nodeSelectorTerms", Shape::List(vec![term]))]);
        let mut missing = vec![("affinity", Shape::Map(vec![("nodeAffinity", Shape::Map(vec![(REQUIRED, terms)]))]))];
        let (mut mapping, mut outermost) = (self.point.spec, true);
        while let Some((key, shape)) = missing.pop() {
            let Some(found) = entry(mapping, key)? else {
                if outermost {
                    return self.replace_pinned(key, &shape);
                }
                self.add_entry(mapping, key, &shape, "")?;
                return self.remove_pinned(true);
            };
            own(&found.value, self.point.used_anchors)?;
            if found.value.is_null() {
                self.fill(found, &shape);
                return self.remove_pinned(true);
            }
            mapping = &found.value;
            outermost = false;
            match shape {
                Shape::Map(inner) if key != REQUIRED => missing.extend(inner),
                Shape::Map(inner) => self.extend_terms(mapping, inner)?,
                Shape::Text(_) | Shape::List(_) => return Err(Refusal::Layout),
            }
        }
        self.remove_pinned(true)
    }

    /// Adds the field to every term that is not empty: terms are alternatives, and an empty one matches no node.
    fn extend_terms(&mut self, required: &Node, wanted: Vec<(&'static str, Shape)>) -> Result<(), Refusal> {
        let terms = entry(required, "nodeSelectorTerms")?.ok_or(Refusal::NoTerm)?;
        own(&terms.value, self.point.used_anchors)?;
        let field = wanted.into_iter().find_map(|(_, shape)| match shape {
            Shape::List(mut terms) => match terms.pop() {
                Some(Shape::Map(mut term)) => term.pop().map(|(_, fields)| fields),
                _ => None,
            },
            _ => None,
        });
        let Some(Shape::List(fields)) = field else { return Err(Refusal::Layout) };
        let full = |term: &Node, key: &str| term.entry(key).is_some_and(|entry| !entry.value.items().is_empty());
        let mut extended = 0;
        for term in terms.value.items() {
            own(term, self.point.used_anchors)?;
            // What a term's lists hold decides whether it is empty, so they must stand here.
            for key in ["matchExpressions", "matchFields"] {
                if let Some(list) = entry(term, key)? {
                    own(&list.value, self.point.used_anchors)?;
                }
            }
            if !full(term, "matchExpressions") && !full(term, "matchFields") {
                continue;
            }
            extended += 1;
            match entry(term, "matchFields")? {
                None => {
                    self.add_entry(term, "matchFields", &Shape::List(fields.clone()), "")?;
                }
                Some(present) if present.value.is_null() => self.fill(present, &Shape::List(fields.clone())),
                Some(present) => fields.iter().try_for_each(|field| self.add_item(&present.value, field))?,
            }
        }
        if extended == 0 { Err(Refusal::NoTerm) } else { Ok(()) }
    }

    fn word(&self, text: &str) -> Shape {
        Shape::Text(quoted(text, self.point.style.quote))
    }

    fn edit(&mut self, range: Range<usize>, text: String) {
        self.edits.push(Edit { range, text });
    }

    /// Writes another entry where the node name stands.
    fn replace_pinned(&mut self, key: &'static str, shape: &Shape) -> Result<(), Refusal> {
        let point = self.point;
        let start = point.pinned.key.span.start;
        let text = if point.flow {
            match lead(point.text, start) {
                Some(prefix)
                    if point.spec.entries().len() > 1 || point.text[point.spec.span.clone()].contains('\n') =>
                {
                    let outer = indentation(point.text, point.spec.span.start);
                    let unit = prefix.strip_prefix(outer).filter(|unit| !unit.is_empty()).unwrap_or("  ");
                    point.style.tall_entry(key, shape, prefix, unit)
                }
                _ => point.style.flow_entry(key, shape),
            }
        } else {
            point.trailer()?;
            self.plain_lead(&point.pinned.key)?;
            point.style.block_entry(key, shape, column(point.text, start))
        };
        self.edit(start..point.pinned.value.span.end, text);
        Ok(())
    }

    /// Removes the node name; a comment behind it stays, on a line of its own, unless it has moved.
    fn remove_pinned(&mut self, keep_comment: bool) -> Result<(), Refusal> {
        let point = self.point;
        let (text, key, value) = (point.text, &point.pinned.key, &point.pinned.value);
        if point.flow {
            return self.remove_flow_pinned();
        }
        let trailer = point.trailer()?;
        let prefix = lead(text, key.span.start).ok_or(Refusal::Layout)?;
        if keep_comment && !trailer.trim().is_empty() {
            let comment = trailer.len() - trailer.trim_start().len();
            self.edit(key.span.start..value.span.end + comment, String::new());
            return Ok(());
        }
        let line = key.span.start - prefix.len();
        let end = value.span.end + trailer.len();
        let range = match (line_break(text, end), text[..line].strip_suffix('\n')) {
            (0, Some(before)) => before.strip_suffix('\r').unwrap_or(before).len()..end,
            (broken, _) => line..end + broken,
        };
        self.edit(range, String::new());
        Ok(())
    }

    fn remove_flow_pinned(&mut self) -> Result<(), Refusal> {
        let point = self.point;
        let (entries, key, value) = (point.spec.entries(), &point.pinned.key, &point.pinned.value);
        let (range, gap) = if let Some(next) = entries.get(point.place + 1) {
            plain_start(&next.key)?;
            (key.span.start..next.key.span.start, value.span.end..next.key.span.start)
        } else if let Some(before) = point.place.checked_sub(1).and_then(|place| entries.get(place)) {
            let end = before.value.span.end.max(before.key.span.end);
            (end..value.span.end, end..key.span.start)
        } else {
            (key.span.start..value.span.end, 0..0)
        };
        // Only commas and white space may go with the entry.
        if point.text[gap].chars().any(|between| !between.is_whitespace() && between != ',') {
            return Err(Refusal::Layout);
        }
        self.edit(range, String::new());
        Ok(())
    }

    /// Adds an entry to a mapping. True when the trailer was written behind it.
    fn add_entry(&mut self, mapping: &Node, key: &str, shape: &Shape, trailer: &str) -> Result<bool, Refusal> {
        own(mapping, self.point.used_anchors)?;
        if mapping.entry("<<").is_some() {
            return Err(Refusal::Merge);
        }
        match mapping.body {
            Body::Mapping { flow: true, .. } => self.add_flow_entry(mapping, key, shape).map(|()| false),
            Body::Mapping { flow: false, .. } => self.add_block_entry(mapping, key, shape, trailer),
            _ => Err(Refusal::Layout),
        }
    }

    fn add_block_entry(&mut self, mapping: &Node, key: &str, shape: &Shape, trailer: &str) -> Result<bool, Refusal> {
        let point = self.point;
        let (Some(first), Some(last)) = (mapping.entries().first(), mapping.entries().last()) else {
            return Err(Refusal::Layout);
        };
        let style = Style { quote: first.key.style().unwrap_or(ScalarStyle::Plain), ..point.style.clone() };
        let column = column(point.text, first.key.span.start);
        let entry = style.block_entry(key, shape, column);
        if let Some(end) = last_line_end(point.text, last) {
            self.edit(end..end, format!("{}{:column$}{entry}{trailer}", style.newline, ""));
        } else {
            self.plain_lead(&first.key)?;
            let start = first.key.span.start;
            self.edit(start..start, format!("{entry}{trailer}{}{:column$}", style.newline, ""));
        }
        Ok(true)
    }

    fn add_flow_entry(&mut self, mapping: &Node, key: &str, shape: &Shape) -> Result<(), Refusal> {
        let point = self.point;
        let (Some(first), Some(last)) = (mapping.entries().first(), mapping.entries().last()) else {
            let style = point.style.clone();
            let open = mapping.span.start + 1;
            self.edit(open..open, style.flow_entry(key, shape));
            return Ok(());
        };
        let compact = point.text[first.key.span.end..].starts_with(':')
            && first.value.span.start == first.key.span.end + 1
            && first.key.style() != Some(ScalarStyle::Plain);
        let style = Style {
            quote: first.key.style().unwrap_or(ScalarStyle::Plain),
            colon: if compact { ":" } else { ": " },
            comma: if compact { "," } else { ", " },
            ..point.style.clone()
        };
        let end = last.value.span.end.max(last.key.span.end);
        let closing = &point.text[end..mapping.span.end - 1];
        // An entry without a colon, such as in `{a, b}`, or with an empty value.
        if last.value.span.is_empty() {
            return Err(Refusal::Layout);
        }
        let prefix = lead(point.text, last.key.span.start);
        if closing.contains('#') {
            plain_start(&first.key)?;
            let start = first.key.span.start;
            let between = lead(point.text, start).map_or(" ".to_owned(), |prefix| format!("{}{prefix}", style.newline));
            self.edit(start..start, format!("{},{between}", style.flow_entry(key, shape)));
        } else if let Some(prefix) = prefix {
            let outer = indentation(point.text, mapping.span.start);
            let unit = prefix.strip_prefix(outer).filter(|unit| !unit.is_empty()).unwrap_or("  ");
            let entry = style.tall_entry(key, shape, prefix, unit);
            self.edit(end..end, format!(",{}{prefix}{entry}", style.newline));
        } else {
            self.edit(end..end, format!("{}{}", style.comma, style.flow_entry(key, shape)));
        }
        Ok(())
    }

    fn add_item(&mut self, sequence: &Node, item: &Shape) -> Result<(), Refusal> {
        let point = self.point;
        let Body::Sequence { flow, items } = &sequence.body else { return Err(Refusal::Layout) };
        let Some(last) = items.last() else {
            let open = sequence.span.start + 1;
            self.edit(open..open, point.style.flow(item));
            return Ok(());
        };
        if *flow {
            if point.text[last.span.end..sequence.span.end - 1].contains('#') || last.span.is_empty() {
                return Err(Refusal::Layout);
            }
            let (end, prefix) = (last.span.end, lead(point.text, last.span.start));
            let text = match prefix {
                Some(prefix) => {
                    let outer = indentation(point.text, sequence.span.start);
                    let unit = prefix.strip_prefix(outer).filter(|unit| !unit.is_empty()).unwrap_or("  ");
                    format!(",{}{prefix}{}", point.style.newline, point.style.to_block(item, prefix, unit))
                }
                None => format!("{}{}", point.style.comma, point.style.flow(item)),
            };
            self.edit(end..end, text);
            return Ok(());
        }
        let dash = dash_before(point.text, last.span.start).ok_or(Refusal::Layout)?;
        let column = column(point.text, dash);
        let end = node_line_end(point.text, last).ok_or(Refusal::Layout)?;
        let text = point.style.block_item(item, column);
        self.edit(end..end, format!("{}{:column$}{text}", point.style.newline, ""));
        Ok(())
    }

    /// Writes a value where a key has none, or `null`.
    fn fill(&mut self, entry: &Entry, shape: &Shape) {
        let point = self.point;
        let text = point.style.flow(shape);
        if !entry.value.span.is_empty() {
            self.edit(entry.value.span.clone(), text);
            return;
        }
        let after_key = &point.text[entry.key.span.end..];
        let colon = after_key.find(':').map_or(entry.key.span.end, |at| entry.key.span.end + at + 1);
        self.edit(colon..colon, format!(" {text}"));
    }

    /// Refuses a key before which something else than white space, or the dash of an item, stands on the line.
    fn plain_lead(&self, key: &Node) -> Result<(), Refusal> {
        plain_start(key)?;
        let text = &self.point.text[..key.span.start];
        let line = &text[text.rfind('\n').map_or(0, |at| at + 1)..];
        let blank = line.chars().all(|before| before == ' ' || before == '-' || before == '\u{feff}');
        if blank { Ok(()) } else { Err(Refusal::Layout) }
    }
}

fn plain_start(key: &Node) -> Result<(), Refusal> {
    if key.anchor != 0 || key.tagged { Err(Refusal::Layout) } else { Ok(()) }
}
