//! One case a layout: the text before and after.

use latebind::binding::{FieldPath, Pin};
use latebind::yaml::fix::{Target, fix};

fn target(text: &str, document: usize, path: &str, pin: Pin) -> Target {
    let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
    Target { document: super::document(text, document), spec: FieldPath::new(&steps), pin }
}

fn hostname(value: &str) -> Pin {
    Pin::Hostname(value.to_owned())
}

fn name(value: &str) -> Pin {
    Pin::Name(value.to_owned())
}

#[track_caller]
fn turns(before: &str, pin: Pin, after: &str) {
    turns_at("spec", before, pin, after);
}

#[track_caller]
fn turns_at(path: &str, before: &str, pin: Pin, after: &str) {
    let fixed = fix(before, &[target(before, 0, path, pin)]);
    assert!(fixed.targets[0].is_ok(), "refused: {:?}", fixed.targets[0]);
    assert_eq!(fixed.text, after, "\n--- got\n{}\n--- wanted\n{after}", fixed.text);
}

#[test]
fn a_selector_takes_the_place_of_the_node_name() {
    turns(
        "kind: Pod\nspec:\n  # why\n  nodeName: n1\n  volumes: []\n",
        hostname("n1"),
        "kind: Pod\nspec:\n  # why\n  nodeSelector:\n    kubernetes.io/hostname: n1\n  volumes: []\n",
    );
}

#[test]
fn indentation_follows_the_document() {
    turns(
        "spec:\n    nodeName: n1\n",
        hostname("n1"),
        "spec:\n    nodeSelector:\n        kubernetes.io/hostname: n1\n",
    );
    turns("spec:\n nodeName: n1\n", hostname("n1"), "spec:\n nodeSelector:\n  kubernetes.io/hostname: n1\n");
}

#[test]
fn quotes_and_the_comment_behind_the_name_stay() {
    turns(
        "spec:\n  nodeName: 'n1'  # the big one\n  a: b\n",
        hostname("n1"),
        "spec:\n  nodeSelector:\n    kubernetes.io/hostname: 'n1'  # the big one\n  a: b\n",
    );
    turns(
        "spec:\n  nodeName: \"n1\"\n",
        hostname("n-2"),
        "spec:\n  nodeSelector:\n    kubernetes.io/hostname: \"n-2\"\n",
    );
}

#[test]
fn a_value_that_is_not_plainly_text_is_quoted() {
    for value in ["1", "on", "10.0.0.1", "1e3", "null", "0x1f", ""] {
        turns(
            "spec:\n  nodeName: n1\n",
            hostname(value),
            &format!("spec:\n  nodeSelector:\n    kubernetes.io/hostname: \"{value}\"\n"),
        );
    }
}

#[test]
fn an_existing_selector_gets_one_more_key() {
    turns(
        "spec:\n  nodeName: n1 # big\n  nodeSelector:\n    disk: ssd # fast\n    # next\n  a: b\n",
        hostname("n1"),
        "spec:\n  nodeSelector:\n    disk: ssd # fast\n    kubernetes.io/hostname: n1 # big\n    # next\n  a: b\n",
    );
    turns(
        "spec:\n  nodeSelector:\n    disk: ssd\n  nodeName: n1\n",
        hostname("n1"),
        "spec:\n  nodeSelector:\n    disk: ssd\n    kubernetes.io/hostname: n1\n",
    );
    turns(
        "spec:\n  nodeSelector:\n    disk: ssd\n  nodeName: n1",
        hostname("n1"),
        "spec:\n  nodeSelector:\n    disk: ssd\n    kubernetes.io/hostname: n1",
    );
    turns(
        "spec:\n  nodeName: n1\n  nodeSelector:\n    disk: ssd",
        hostname("n1"),
        "spec:\n  nodeSelector:\n    disk: ssd\n    kubernetes.io/hostname: n1",
    );
}

#[test]
fn an_existing_selector_in_braces_stays_in_braces() {
    turns(
        "spec:\n  nodeSelector: {disk: ssd}\n  nodeName: n1 # big\n",
        hostname("n1"),
        "spec:\n  nodeSelector: {disk: ssd, kubernetes.io/hostname: n1}\n  # big\n",
    );
    turns(
        "spec:\n  nodeSelector: { \"disk\": \"ssd\" } # c\n  nodeName: n1\n",
        hostname("n1"),
        "spec:\n  nodeSelector: { \"disk\": \"ssd\", \"kubernetes.io/hostname\": n1 } # c\n",
    );
    turns(
        "spec:\n  nodeSelector: {\n    disk: ssd, # c\n  }\n  nodeName: n1\n",
        hostname("n1"),
        "spec:\n  nodeSelector: {\n    kubernetes.io/hostname: n1,\n    disk: ssd, # c\n  }\n",
    );
    for empty in ["{}", "{ }", "", "null", "~"] {
        let before = format!("spec:\n  nodeSelector: {empty}\n  nodeName: n1\n");
        let fixed = fix(&before, &[target(&before, 0, "spec", hostname("n1"))]);
        assert!(fixed.targets[0].is_ok(), "{empty:?}: {:?}", fixed.targets[0]);
        assert!(fixed.text.contains("{kubernetes.io/hostname: n1"), "{}", fixed.text);
    }
    turns(
        "spec:\n  nodeSelector: # none\n  nodeName: n1\n",
        hostname("n1"),
        "spec:\n  nodeSelector: {kubernetes.io/hostname: n1} # none\n",
    );
}

#[test]
fn a_selector_that_names_the_host_already_is_enough() {
    turns(
        "spec:\n  nodeSelector:\n    kubernetes.io/hostname: n1\n  nodeName: n1 # c\n",
        hostname("n1"),
        "spec:\n  nodeSelector:\n    kubernetes.io/hostname: n1\n  # c\n",
    );
}

#[test]
fn json_stays_json() {
    turns(
        r#"{"kind":"Pod","spec":{"nodeName":"n1","volumes":[]}}"#,
        hostname("n1"),
        r#"{"kind":"Pod","spec":{"nodeSelector":{"kubernetes.io/hostname":"n1"},"volumes":[]}}"#,
    );
    turns(
        "{\n  \"spec\": {\n    \"nodeName\": \"n1\",\n    \"volumes\": []\n  }\n}\n",
        hostname("n1"),
        "{\n  \"spec\": {\n    \"nodeSelector\": {\n      \"kubernetes.io/hostname\": \"n1\"\n    },\n    \"volumes\": []\n  }\n}\n",
    );
    turns(
        "{\n\t\"spec\": {\n\t\t\"nodeName\": \"n1\",\n\t\t\"nodeSelector\": {\n\t\t\t\"a\": \"b\"\n\t\t}\n\t}\n}\n",
        hostname("n1"),
        "{\n\t\"spec\": {\n\t\t\"nodeSelector\": {\n\t\t\t\"a\": \"b\",\n\t\t\t\"kubernetes.io/hostname\": \"n1\"\n\t\t}\n\t}\n}\n",
    );
    turns(
        r#"{"spec":{"a":1,"nodeSelector":{"a":"b"},"nodeName":"n1"}}"#,
        hostname("n1"),
        r#"{"spec":{"a":1,"nodeSelector":{"a":"b","kubernetes.io/hostname":"n1"}}}"#,
    );
    turns(
        r#"{"spec":{"nodeSelector":null,"nodeName":"n1"}}"#,
        hostname("n1"),
        r#"{"spec":{"nodeSelector":{"kubernetes.io/hostname":"n1"}}}"#,
    );
}

#[test]
fn specs_in_braces() {
    turns(
        "spec: {nodeName: n1, volumes: []} # c\n",
        hostname("n1"),
        "spec: {nodeSelector: {kubernetes.io/hostname: n1}, volumes: []} # c\n",
    );
    turns(
        "spec: {volumes: [], nodeSelector: {a: b}, nodeName: n1}\n",
        hostname("n1"),
        "spec: {volumes: [], nodeSelector: {a: b, kubernetes.io/hostname: n1}}\n",
    );
    turns("spec: {nodeName: n1}\n", hostname("n1"), "spec: {nodeSelector: {kubernetes.io/hostname: n1}}\n");
}

#[test]
fn line_ends_of_windows_stay() {
    turns(
        "spec:\r\n  nodeName: n1\r\n  nodeSelector:\r\n    a: b\r\n",
        hostname("n1"),
        "spec:\r\n  nodeSelector:\r\n    a: b\r\n    kubernetes.io/hostname: n1\r\n",
    );
    turns(
        "spec:\r\n  nodeName: n1 # c\r\n  a: b\r\n",
        hostname("n1"),
        "spec:\r\n  nodeSelector:\r\n    kubernetes.io/hostname: n1 # c\r\n  a: b\r\n",
    );
    turns(
        "spec:\r\n  nodeSelector: {a: b}\r\n  nodeName: n1",
        hostname("n1"),
        "spec:\r\n  nodeSelector: {a: b, kubernetes.io/hostname: n1}",
    );
}

#[test]
fn templates_items_and_documents() {
    turns_at(
        "items.1.spec.template.spec",
        "kind: List\nitems:\n- kind: A\n- spec:\n    template:\n      spec:\n        nodeName: n1\n",
        hostname("n1"),
        "kind: List\nitems:\n- kind: A\n- spec:\n    template:\n      spec:\n        nodeSelector:\n          kubernetes.io/hostname: n1\n",
    );
    let before = "# one\nspec:\n  nodeName: n1\n---\n---\n# two\nspec: {nodeName: n2}\n...\n---\nspec:\n  nodeName: n3";
    let fixed = fix(
        before,
        &[
            target(before, 0, "spec", hostname("n1")),
            target(before, 1, "spec", hostname("n2")),
            target(before, 2, "spec", name("n3")),
        ],
    );
    assert!(fixed.targets.iter().all(Result::is_ok), "{:?}", fixed.targets);
    assert_eq!(
        fixed.text,
        "# one\nspec:\n  nodeSelector:\n    kubernetes.io/hostname: n1\n---\n---\n# two\nspec: {nodeSelector: {kubernetes.io/hostname: n2}}\n...\n---\nspec:\n  affinity:\n    nodeAffinity:\n      requiredDuringSchedulingIgnoredDuringExecution:\n        nodeSelectorTerms:\n        - matchFields:\n          - key: metadata.name\n            operator: In\n            values: [n3]"
    );
}

#[test]
fn a_byte_order_mark_and_letters_beyond_ascii_move_nothing() {
    turns(
        "\u{feff}# é 😀\nspec:\n  x: \"ü\"\n  nodeName: n1 # ö\n",
        hostname("n1"),
        "\u{feff}# é 😀\nspec:\n  x: \"ü\"\n  nodeSelector:\n    kubernetes.io/hostname: n1 # ö\n",
    );
    turns("\u{feff}spec: {nodeName: n1}", hostname("n1"), "\u{feff}spec: {nodeSelector: {kubernetes.io/hostname: n1}}");
}

#[test]
fn a_pin_by_name_joins_every_term_that_is_not_empty() {
    turns(
        "spec:\n  nodeName: n1 # c\n  affinity:\n    nodeAffinity:\n      requiredDuringSchedulingIgnoredDuringExecution:\n        nodeSelectorTerms:\n          # first\n          - matchExpressions:\n              - {key: a, operator: Exists} # x\n          - {}\n          - matchFields:\n              - key: metadata.name\n                operator: In\n                values: [n1]\n          - {matchExpressions: [{key: b, operator: Exists}]}\n  z: 1\n",
        name("n1"),
        "spec:\n  # c\n  affinity:\n    nodeAffinity:\n      requiredDuringSchedulingIgnoredDuringExecution:\n        nodeSelectorTerms:\n          # first\n          - matchExpressions:\n              - {key: a, operator: Exists} # x\n            matchFields:\n            - key: metadata.name\n              operator: In\n              values: [n1]\n          - {}\n          - matchFields:\n              - key: metadata.name\n                operator: In\n                values: [n1]\n              - key: metadata.name\n                operator: In\n                values: [n1]\n          - {matchExpressions: [{key: b, operator: Exists}], matchFields: [{key: metadata.name, operator: In, values: [n1]}]}\n  z: 1\n",
    );
}

#[test]
fn a_pin_by_name_goes_into_affinity_that_is_there() {
    turns(
        "spec:\n  affinity:\n    # spread\n    podAntiAffinity:\n      x: [1]\n  nodeName: n1\n  containers:\n    - name: a\n",
        name("n1"),
        "spec:\n  affinity:\n    # spread\n    podAntiAffinity:\n      x: [1]\n    nodeAffinity:\n      requiredDuringSchedulingIgnoredDuringExecution:\n        nodeSelectorTerms:\n          - matchFields:\n              - key: metadata.name\n                operator: In\n                values: [n1]\n  containers:\n    - name: a\n",
    );
    turns(
        "spec: {affinity: {nodeAffinity: {}}, nodeName: n1}\n",
        name("n1"),
        "spec: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [n1]}]}]}}}}\n",
    );
    turns(
        r#"{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"NotIn","values":["n2"]}]}]}}},"nodeName":"n1"}}"#,
        name("n1"),
        r#"{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"NotIn","values":["n2"]},{"key":"metadata.name","operator":"In","values":["n1"]}]}]}}}}}"#,
    );
    turns(
        "spec:\n  affinity:\n  nodeName: n1\n",
        name("n1"),
        "spec:\n  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [n1]}]}]}}}\n",
    );
}

#[test]
fn a_last_value_of_many_lines_gets_the_new_key_before_it() {
    turns(
        "spec:\n  nodeSelector:\n    disk: |\n      ssd\n\n  nodeName: n1\n",
        hostname("n1"),
        "spec:\n  nodeSelector:\n    kubernetes.io/hostname: n1\n    disk: |\n      ssd\n\n",
    );
}
