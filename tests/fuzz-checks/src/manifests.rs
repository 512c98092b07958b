//! Manifests as `lint` and `simulate` read them.

use latebind::binding::{FieldPath, Pin, Rules, decide_claim, decide_pod, decide_workload};
use latebind::facts::Fact;
use latebind::facts::files::{Manifests, Object, Source, Subject};
use latebind::yaml::fix::{Target, fix};
use serde_json::Value;

use crate::timed;

/// Text of a manifest.
///
/// Whatever it is, every object in it gets a verdict and a place, and the rewrite of its `nodeName` is refused or gives a
/// text that reads as before but for that Pod.
pub fn manifests(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = read(text);
    let rules = Rules::default();
    for object in &read.objects {
        let _place = object.origin.place(&FieldPath::new(&["spec", "nodeName"])).to_string();
        match &object.subject {
            Subject::Workload(workload) => {
                drop(timed("decide_workload", || decide_workload(workload, read.facts(), &rules)));
            }
            Subject::Fact(fact) => match fact.as_ref() {
                Fact::Pod(pod) => drop(timed("decide_pod", || decide_pod(pod, read.facts(), &rules))),
                Fact::Claim(claim) => drop(timed("decide_claim", || decide_claim(claim, read.facts(), &rules))),
                _ => {}
            },
            Subject::Other(embedded) => {
                for embedded in embedded {
                    drop(decide_pod(&embedded.pod, read.facts(), &rules));
                }
            }
        }
        rewrites(text, &read, object);
    }
}

fn read(text: &str) -> Manifests {
    timed("Manifests::of", || {
        Manifests::of(Source { name: "<bytes>".to_owned(), path: None, text: text.to_owned(), found: false })
    })
}

/// Steps from an object to the specs of Pods in it.
fn specs(object: &Object) -> Vec<FieldPath> {
    match &object.subject {
        Subject::Workload(workload) => vec![FieldPath::new(&["spec"]).beneath(workload.kind.template_path())],
        Subject::Fact(fact) if matches!(fact.as_ref(), Fact::Pod(_)) => vec![FieldPath::new(&["spec"])],
        Subject::Other(embedded) => {
            embedded.iter().filter(|it| !it.is_text).map(|embedded| embedded.path.clone()).collect()
        }
        Subject::Fact(_) => Vec::new(),
    }
}

fn rewrites(text: &str, before: &Manifests, object: &Object) {
    let document = object.origin.document();
    let range = document.start.byte..document.start.byte + document.text().len();
    for spec in specs(object) {
        let spec = spec.beneath(&object.origin.prefix.0);
        for pin in [Pin::Hostname("n".to_owned()), Pin::Name("n".to_owned())] {
            let target = [Target { document: range.clone(), spec: spec.clone(), pin }];
            let fixed = timed("fix", || fix(text, &target));
            if !fixed.changed() {
                assert_eq!(fixed.text, text, "it was refused and is another text");
                continue;
            }
            let after = read(&fixed.text);
            assert_eq!(after.objects.len(), before.objects.len(), "an object came or went:\n{}", fixed.text);
            assert_eq!(after.problems.len(), before.problems.len(), "a document broke:\n{}", fixed.text);
            let same = |after: &Object, before: &Object| {
                after.origin.document_index() == object.origin.document_index() || after.value == before.value
            };
            assert!(after.objects.iter().zip(&before.objects).all(|(after, before)| same(after, before)));
            let place = |step: &String| format!("/{}", step.replace('~', "~0").replace('/', "~1"));
            let pointer: String = spec.0.iter().skip(object.origin.prefix.0.len()).map(place).collect();
            let place = before.objects.iter().position(|other| std::ptr::eq(other, object));
            let rewritten = place.and_then(|place| after.objects[place].value.pointer(&pointer));
            let node = rewritten.and_then(|spec| spec.get("nodeName")).filter(|node| !node.is_null());
            assert_eq!(node, None::<&Value>, "the node name is still there:\n{}", fixed.text);
        }
    }
}
