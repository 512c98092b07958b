//! For any layout, fix refuses or gives exactly the value that is meant, and every other line stays as it is.

use std::collections::BTreeSet;

use latebind::admission::patch;
use latebind::binding::{FieldPath, Pin, Remedy};
use latebind::model::{ORIGINAL_NODE_NAME, Pod};
use latebind::yaml::fix::{Target, fix};
use latebind::yaml::{AliasBudget, documents};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

/// How a manifest is laid out.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // Each is a choice of its own.
struct Layout {
    indent: usize,
    dash: usize,
    newline: &'static str,
    end: bool,
    /// 0 plain, 1 single, 2 double quotes.
    quote: usize,
    comments: Vec<Option<String>>,
    blank: bool,
    /// Order of the spec's fields.
    order: Vec<usize>,
    selector: Selector,
    affinity: Affinity,
    flow_spec: bool,
    template: bool,
    in_list: bool,
    bom: bool,
    pin: Pin,
    node: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Selector {
    None,
    Null,
    Empty,
    Flow,
    TallFlow,
    Block,
    BlockWithText,
    Anchored,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Affinity {
    None,
    Null,
    PodOnly,
    Preferred,
    BlockTerms,
    FlowTerms,
    EmptyTerm,
}

fn layout() -> impl Strategy<Value = Layout> {
    let selector = prop_oneof![
        3 => Just(Selector::None), 1 => Just(Selector::Null), 1 => Just(Selector::Empty), 2 => Just(Selector::Flow),
        1 => Just(Selector::TallFlow), 3 => Just(Selector::Block), 1 => Just(Selector::BlockWithText),
        1 => Just(Selector::Anchored),
    ];
    let affinity = prop_oneof![
        3 => Just(Affinity::None), 1 => Just(Affinity::Null), 1 => Just(Affinity::PodOnly),
        1 => Just(Affinity::Preferred), 2 => Just(Affinity::BlockTerms), 2 => Just(Affinity::FlowTerms),
        1 => Just(Affinity::EmptyTerm),
    ];
    let comment = proptest::option::of("[a-zé#: '\"{}-]{0,12}");
    let name = prop_oneof![4 => "[a-z][a-z0-9-]{0,8}[a-z0-9]", 1 => "[0-9]{1,3}(\\.[0-9]{1,3}){0,3}", 1 => Just("on".to_owned())];
    let style = (1_usize..6, any::<bool>(), prop_oneof![Just("\n"), Just("\r\n")], any::<bool>(), 0_usize..3);
    let shape = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let order = Just(vec![0, 1, 2, 3, 4]).prop_shuffle();
    (style, proptest::collection::vec(comment, 24), order, selector, affinity, shape, name.clone(), name, any::<bool>())
        .prop_map(|(style, comments, order, selector, affinity, shape, node, label, by_name)| Layout {
            indent: style.0,
            dash: if style.1 { style.0 } else { 0 },
            newline: style.2,
            end: style.3,
            quote: style.4,
            comments,
            blank: shape.0,
            order,
            selector,
            affinity,
            flow_spec: shape.1 && shape.2,
            template: shape.3,
            in_list: shape.4,
            bom: shape.0 && shape.2,
            pin: if by_name { Pin::Name(node.clone()) } else { Pin::Hostname(label) },
            node,
        })
}

/// A text in the making: lines with their indentation.
struct Writer<'l> {
    layout: &'l Layout,
    lines: Vec<String>,
    comments: std::iter::Cycle<std::slice::Iter<'l, Option<String>>>,
}

impl Writer<'_> {
    fn line(&mut self, depth: usize, extra: usize, text: &str) {
        let mut comment = || self.comments.next().unwrap().clone();
        let column = depth * self.layout.indent + extra;
        if let Some(comment) = comment().filter(|_| depth > 0) {
            self.lines.push(format!("{:column$}# above {comment}", ""));
        }
        let behind =
            comment().filter(|_| !text.ends_with('|')).map_or(String::new(), |comment| format!("  # behind {comment}"));
        self.lines.push(format!("{:column$}{text}{behind}", ""));
        if self.layout.blank && comment().is_some() {
            self.lines.push(String::new());
        }
    }

    fn raw(&mut self, depth: usize, text: &str) {
        self.lines.push(format!("{:width$}{text}", "", width = depth * self.layout.indent));
    }

    fn quoted(&self, text: &str) -> String {
        let plain = text.starts_with(|first: char| first.is_ascii_alphabetic()) && text != "on";
        match self.layout.quote {
            0 if plain => text.to_owned(),
            1 => format!("'{text}'"),
            _ => format!("\"{text}\""),
        }
    }

    fn spec(&mut self, depth: usize) {
        let dash = self.layout.dash;
        for field in self.layout.order.clone() {
            match field {
                0 => {
                    let name = self.quoted(&self.layout.node);
                    self.line(depth, 0, &format!("nodeName: {name}"));
                }
                1 => self.selector(depth),
                2 => self.affinity(depth),
                3 => {
                    self.line(depth, 0, "containers:");
                    self.line(depth, dash, "- name: app");
                    self.line(depth, dash + 2, "args: [a, 'b']");
                }
                _ => {
                    self.line(depth, 0, "note: |");
                    self.raw(depth + 1, "nodeName: in a text");
                    self.raw(depth + 1, "# no comment");
                }
            }
        }
    }

    fn selector(&mut self, depth: usize) {
        match self.layout.selector {
            Selector::None => {}
            Selector::Null => self.line(depth, 0, "nodeSelector:"),
            Selector::Empty => self.line(depth, 0, "nodeSelector: {}"),
            Selector::Flow => self.line(depth, 0, "nodeSelector: { disk: ssd, \"zone\": 'a' }"),
            Selector::TallFlow => {
                self.line(depth, 0, "nodeSelector: {");
                self.line(depth + 1, 0, "disk: ssd,");
                self.line(depth + 1, 0, "zone: a");
                self.raw(depth, "}");
            }
            Selector::Block => {
                self.line(depth, 0, "nodeSelector:");
                self.line(depth + 1, 0, "disk: ssd");
                self.line(depth + 1, 0, "\"zone\": a");
            }
            Selector::BlockWithText => {
                self.line(depth, 0, "nodeSelector:");
                self.line(depth + 1, 0, "disk: |");
                self.raw(depth + 2, "ssd");
            }
            Selector::Anchored => {
                self.line(depth, 0, "nodeSelector: &selector");
                self.line(depth + 1, 0, "disk: ssd");
            }
        }
    }

    fn affinity(&mut self, depth: usize) {
        let dash = self.layout.dash;
        match self.layout.affinity {
            Affinity::None => return,
            Affinity::Null => return self.line(depth, 0, "affinity:"),
            _ => self.line(depth, 0, "affinity:"),
        }
        if self.layout.affinity == Affinity::PodOnly {
            self.line(depth + 1, 0, "podAntiAffinity:");
            return self.line(depth + 2, 0, "preferredDuringSchedulingIgnoredDuringExecution: []");
        }
        self.line(depth + 1, 0, "nodeAffinity:");
        let required = "requiredDuringSchedulingIgnoredDuringExecution:";
        match self.layout.affinity {
            Affinity::Preferred => self.line(depth + 2, 0, "preferredDuringSchedulingIgnoredDuringExecution: []"),
            Affinity::FlowTerms => self.line(
                depth + 2,
                0,
                &format!(
                    "{required} {{nodeSelectorTerms: [{{matchExpressions: [{{key: a, operator: Exists}}]}}, {{}}]}}"
                ),
            ),
            Affinity::EmptyTerm => self.line(depth + 2, 0, &format!("{required} {{nodeSelectorTerms: [{{}}]}}")),
            _ => {
                self.line(depth + 2, 0, required);
                self.line(depth + 3, 0, "nodeSelectorTerms:");
                self.line(depth + 3, dash, "- matchExpressions:");
                self.line(depth + 3, dash + 2 + dash, "- key: a");
                self.line(depth + 3, dash + 2 + dash + 2, "operator: Exists");
                self.line(depth + 3, dash, "- matchFields:");
                self.line(depth + 3, dash + 2 + dash, "- {key: metadata.name, operator: In, values: [x]}");
            }
        }
    }
}

/// The text, and the path of its Pod spec.
fn text(layout: &Layout) -> (String, FieldPath) {
    let mut writer = Writer { layout, lines: Vec::new(), comments: layout.comments.iter().cycle() };
    let mut path = Vec::new();
    let mut depth = 0;
    if layout.in_list {
        writer.line(0, 0, "items:");
        writer.raw(0, "- kind: Other");
        writer.raw(0, "- kind: Pod");
        path.extend(["items", "1"]);
        // The fields of an item stand two columns deep.
        depth = usize::from(layout.indent == 2);
        if layout.indent != 2 {
            writer.lines.truncate(1);
            writer.lines.push(format!("-{:width$}kind: Pod", "", width = layout.indent.max(2) - 1));
            path[1] = "0";
            depth = 1;
            if layout.indent == 1 {
                // A dash and a space need two columns.
                writer.lines.clear();
                path.clear();
                depth = 0;
            }
        }
    }
    writer.line(depth, 0, "metadata: {name: a}");
    let holders = if layout.template { &["spec", "template"][..] } else { &[] };
    for holder in holders {
        writer.line(depth, 0, &format!("{holder}:"));
        depth += 1;
    }
    path.extend(holders);
    path.push("spec");
    if layout.flow_spec {
        let name = writer.quoted(&layout.node);
        let selector = if layout.selector == Selector::None { "" } else { "nodeSelector: {disk: ssd}, " };
        let fields = if layout.blank {
            format!("{selector}containers: [{{name: app}}], nodeName: {name}")
        } else {
            format!("nodeName: {name}, {selector}containers: [{{name: app}}]")
        };
        writer.line(depth, 0, &format!("spec: {{{fields}}}"));
    } else {
        writer.line(depth, 0, "spec:");
        writer.spec(depth + 1);
    }
    if layout.selector == Selector::Anchored && !layout.flow_spec {
        writer.lines.push(format!(
            "{:width$}other: *selector",
            "",
            width = if layout.in_list && layout.indent > 1 { layout.indent } else { 0 }
        ));
    }
    let mut text = writer.lines.join(layout.newline);
    if layout.end {
        text += layout.newline;
    }
    if layout.bom {
        text.insert(0, '\u{feff}');
    }
    (text, FieldPath::new(&path))
}

fn read(text: &str) -> Value {
    let documents = documents(text);
    assert_eq!(documents.len(), 1, "{text}");
    documents[0].value(&mut AliasBudget::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn pointer(path: &FieldPath) -> String {
    format!("/{}", path.0.join("/"))
}

/// What admission would make of the spec, without the mark that it leaves.
fn rewritten(spec: &Value, pin: &Pin) -> Value {
    let mut object = serde_json::json!({ "metadata": {}, "spec": spec });
    let pod = Pod::deserialize(&object).unwrap();
    let mut operations = patch::operations(&pod, &Remedy::Rewrite { pin: pin.clone() });
    operations.0.retain(|operation| !operation.path().to_string().starts_with("/metadata"));
    assert!(operations.0.iter().all(|operation| !format!("{operation:?}").contains(ORIGINAL_NODE_NAME)));
    json_patch::patch(&mut object, &operations).unwrap();
    object["spec"].take()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fix_refuses_or_does_exactly_what_is_meant(layout in layout()) {
        let (before, path) = text(&layout);
        let value = read(&before);
        let document = documents(&before)[0];
        let range = document.start.byte..document.start.byte + document.text().len();
        let spec = value.pointer(&pointer(&path)).unwrap_or_else(|| panic!("{path}\n{before}"));
        prop_assert_eq!(spec["nodeName"].as_str(), Some(layout.node.as_str()));
        let fixed = fix(&before, &[Target { document: range, spec: path.clone(), pin: layout.pin.clone() }]);

        let by_name = matches!(layout.pin, Pin::Name(_));
        let must_refuse = !layout.flow_spec
            && ((layout.selector == Selector::Anchored && !by_name) || (layout.affinity == Affinity::EmptyTerm && by_name));
        prop_assert_eq!(fixed.targets[0].is_err(), must_refuse, "{:?}\n{}", fixed.targets[0], before);
        if must_refuse {
            prop_assert_eq!(&fixed.text, &before);
            return Ok(());
        }

        let mut expected = value.clone();
        let wanted = rewritten(spec, &layout.pin);
        *expected.pointer_mut(&pointer(&path)).unwrap() = wanted;
        prop_assert_eq!(read(&fixed.text), expected, "{}\n----\n{}", before, fixed.text);

        // Every line that the edits do not touch is there, byte for byte and in order.
        let edits = fixed.targets[0].as_ref().unwrap();
        let mut at = 0;
        let touched: BTreeSet<usize> = before
            .split_inclusive('\n')
            .enumerate()
            .filter_map(|(number, line)| {
                let lines = at..at + line.len();
                at = lines.end;
                // A line before whose end something is inserted is whole, and so is the one after.
                let touches = |range: &std::ops::Range<usize>| range.start < lines.end && range.end > lines.start;
                let last = !line.ends_with('\n');
                let inside = |range: &std::ops::Range<usize>| {
                    range.is_empty() && range.start > lines.start && (range.start < lines.end || last)
                };
                edits.iter().any(|edit| touches(&edit.range) || inside(&edit.range)).then_some(number)
            })
            .collect();
        prop_assert!(touched.len() <= 4, "{touched:?}\n{before}");
        let mut after = fixed.text.split_inclusive('\n');
        for (_, line) in before.split_inclusive('\n').enumerate().filter(|(number, _)| !touched.contains(number)) {
            let line = line.trim_end_matches(['\n', '\r']);
            prop_assert!(after.any(|other| other.trim_end_matches(['\n', '\r']) == line), "lost {line:?}\n{before}\n----\n{}", fixed.text);
        }
        // Every comment is there.
        for word in ["# above", "# behind", "# no comment"] {
            prop_assert_eq!(before.matches(word).count(), fixed.text.matches(word).count(), "{}\n----\n{}", before, fixed.text);
        }
        let bare = fixed.text.matches('\n').count() - fixed.text.matches("\r\n").count();
        prop_assert_eq!(bare > 0, layout.newline == "\n" && fixed.text.contains('\n'), "line ends\n{}", fixed.text);
        // Where the last line goes and an empty one stands before it, the text ends with that.
        if !layout.blank {
            prop_assert_eq!(fixed.text.ends_with('\n'), before.ends_with('\n'));
        }
        prop_assert_eq!(fixed.text.starts_with('\u{feff}'), layout.bom);
    }

    /// Texts that are nearly manifests: no panic, and what is rewritten all the same means what is meant.
    #[test]
    fn damaged_texts_are_refused_or_rewritten_rightly(
        layout in layout(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), "[-:{}\\[\\],&*#!|>'\"%@?~<a é\t\r\n]{0,2}"), 1..4),
    ) {
        let (mut before, path) = text(&layout);
        for (place, insert) in damage {
            let places: Vec<usize> = before.char_indices().map(|(at, _)| at).collect();
            let at = places[place.index(places.len())];
            if insert.is_empty() {
                before.remove(at);
            } else {
                before.insert_str(at, &insert);
            }
        }
        let cut: Vec<_> = documents(&before).iter().map(|found| (found.start.byte, found.text().len())).collect();
        for (start, length) in cut {
            let target = Target { document: start..start + length, spec: path.clone(), pin: layout.pin.clone() };
            let fixed = fix(&before, &[target]);
            let part = |text: &str, at: usize| documents(text).get(at).map(|found| found.value(&mut AliasBudget::default()));
            let at = documents(&before).iter().position(|found| found.start.byte == start).unwrap();
            if fixed.targets[0].is_err() {
                prop_assert_eq!(&fixed.text, &before);
                continue;
            }
            // What the strict reader refuses is never linted, and so never rewritten.
            let Some(Ok(value)) = part(&before, at) else { continue };
            let Some(spec) = value.pointer(&pointer(&path)) else { continue };
            if Pod::deserialize(serde_json::json!({ "metadata": {}, "spec": spec })).is_err() {
                continue;
            }
            if spec["nodeName"].as_str().is_none_or(str::is_empty) {
                continue;
            }
            let mut expected = value.clone();
            let wanted = rewritten(spec, &layout.pin);
            *expected.pointer_mut(&pointer(&path)).unwrap() = wanted;
            let after = part(&fixed.text, at).unwrap().unwrap();
            prop_assert_eq!(after, expected, "{}\n----\n{}", before, fixed.text);
        }
    }
}
