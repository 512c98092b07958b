//! Texts that are left as they are, each with the reason.

use latebind::binding::{FieldPath, Pin};
use latebind::yaml::fix::{Refusal, Target, fix};

#[track_caller]
fn refuses(text: &str, refusal: &Refusal) {
    let target =
        Target { document: 0..text.len(), spec: FieldPath::new(&["spec"]), pin: Pin::Hostname("n1".to_owned()) };
    let fixed = fix(text, &[target]);
    assert_eq!(fixed.targets[0].as_ref().err(), Some(refusal), "{}", fixed.text);
    assert_eq!(fixed.text, text);
}

#[test]
fn anchors_that_are_used_elsewhere() {
    refuses("spec: &s\n  nodeName: n1\nother: *s\n", &Refusal::Shared);
    refuses("base: &s\n  nodeName: n1\nspec: *s\n", &Refusal::Shared);
    refuses("spec:\n  nodeSelector: &x {a: b}\n  nodeName: n1\nother: *x\n", &Refusal::Shared);
    refuses("node: &n n1\nspec:\n  nodeName: *n\n", &Refusal::Shared);
    refuses("spec:\n  nodeName: &n n1\nother: *n\n", &Refusal::Shared);
}

#[test]
fn merge_keys() {
    refuses("base: &b {nodeName: n1}\nspec:\n  <<: *b\n  a: b\n", &Refusal::Merge);
    refuses("base: &b {a: b}\nspec:\n  <<: *b\n  nodeName: n1\n", &Refusal::Merge);
    refuses("base: &b {a: b}\nspec:\n  nodeSelector:\n    <<: *b\n  nodeName: n1\n", &Refusal::Merge);
}

#[test]
fn names_over_several_lines_and_keys_written_out() {
    refuses("spec:\n  nodeName: >-\n    n1\n", &Refusal::Layout);
    refuses("spec:\n  nodeName:\n    n1\n", &Refusal::Layout);
    refuses("spec:\n  nodeName: # c\n    n1\n", &Refusal::Layout);
    refuses("spec:\n  ? nodeName\n  : n1\n", &Refusal::Layout);
    refuses("spec: {nodeName: n1, # c\n  nodeSelector: {a: b}}\n", &Refusal::Layout);
    refuses("spec:\n  !!str nodeName: n1\n", &Refusal::Layout);
}

#[test]
fn contradictions_and_what_is_not_there() {
    refuses("spec:\n  nodeName: n1\n  nodeSelector: {kubernetes.io/hostname: n2}\n", &Refusal::Contradicts);
    refuses("spec:\n  a: b\n", &Refusal::NotFound);
    refuses("spec: []\n", &Refusal::NotFound);
    refuses("", &Refusal::NotFound);
    refuses("spec:\n  nodeName: n1\n  nodeName: n1\n", &Refusal::Twice("nodeName".to_owned()));
    assert!(matches!(
        fix("spec: {", &[Target { document: 0..7, spec: FieldPath::new(&["spec"]), pin: Pin::Name("n".to_owned()) }])
            .targets[0],
        Err(Refusal::Syntax(_))
    ));
}

#[test]
fn an_affinity_that_no_node_can_meet() {
    for terms in ["[]", "[{}]", "", "[{matchFields: []}]"] {
        let text = format!(
            "spec:\n  nodeName: n1\n  affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: {terms}}}}}}}\n"
        );
        let target =
            Target { document: 0..text.len(), spec: FieldPath::new(&["spec"]), pin: Pin::Name("n1".to_owned()) };
        let fixed = fix(&text, &[target]);
        assert!(fixed.targets[0].is_err(), "{terms:?}: {}", fixed.text);
        assert_eq!(fixed.text, text);
    }
}

#[test]
fn one_target_that_is_refused_keeps_no_other_from_being_rewritten() {
    let text = "spec:\n  ? nodeName\n  : n1\n---\nspec:\n  nodeName: n2\n";
    let target = |place| Target {
        document: super::document(text, place),
        spec: FieldPath::new(&["spec"]),
        pin: Pin::Hostname(format!("n{}", place + 1)),
    };
    let fixed = fix(text, &[target(0), target(1)]);
    assert!(fixed.targets[0].is_err() && fixed.targets[1].is_ok());
    assert_eq!(
        fixed.text,
        "spec:\n  ? nodeName\n  : n1\n---\nspec:\n  nodeSelector:\n    kubernetes.io/hostname: n2\n"
    );
}

#[test]
fn one_place_named_twice_is_not_edited_twice() {
    let text = "spec:\n  nodeName: n1\n";
    let target =
        Target { document: 0..text.len(), spec: FieldPath::new(&["spec"]), pin: Pin::Hostname("n1".to_owned()) };
    let fixed = fix(text, &[target.clone(), target]);
    assert!(fixed.targets.iter().all(Result::is_err));
    assert_eq!(fixed.text, text);
}
