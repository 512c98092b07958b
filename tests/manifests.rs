//! Manifests as people and tools write them: what is read, where it stands, and what is refused.
#![allow(clippy::unwrap_used)]

use latebind::binding::FieldPath;
use latebind::cluster::located::{AliasBudget, Content, Document, Located, documents};
use serde_json::{Value, json};

fn values(text: &str) -> Vec<Result<Value, String>> {
    let mut budget = AliasBudget::default();
    let read = |document: Document<'_>| document.value(&mut budget).map_err(|error| error.to_string());
    documents(text).into_iter().map(read).collect()
}

fn located(text: &str) -> Located {
    documents(text)[0].located(&mut AliasBudget::default()).unwrap().unwrap()
}

fn path(text: &str) -> FieldPath {
    FieldPath::new(&text.split('.').collect::<Vec<_>>())
}

const POD: &str = "\
# a Pod
apiVersion: v1
kind: Pod
metadata: {name: \"web\", labels: {app: web}}
spec:
  nodeName: k3d-test-server-0 # pinned
  containers:
    - name: a
      args: [\"-c\", |-
        x]
    - name: 'ü'
  volumes:
  - name: data
    persistentVolumeClaim:
      claimName: data
";

#[test]
fn every_key_and_value_knows_its_place() {
    let text = POD.replace("      args: [\"-c\", |-\n        x]\n", "");
    let tree = located(&text);
    let at = |steps: &str| {
        let spot = tree.find(&path(steps)).unwrap();
        let key = spot.entry.map(|entry| (entry.key_span.start.line, entry.key_span.start.column));
        (key, spot.value.span.of(&text).to_owned(), spot.span().of(&text).to_owned())
    };
    let node_name = "nodeName: k3d-test-server-0".to_owned();
    assert_eq!(at("spec.nodeName"), (Some((6, 3)), "k3d-test-server-0".to_owned(), node_name));
    assert_eq!(at("metadata.name").1, "\"web\"");
    assert_eq!(at("metadata.labels"), (Some((4, 25)), "{app: web}".to_owned(), "labels: {app: web}".to_owned()));
    assert_eq!(at("spec.containers.1.name"), (Some((9, 7)), "'ü'".to_owned(), "name: 'ü'".to_owned()));
    assert_eq!(at("spec.volumes.0.persistentVolumeClaim").2, "persistentVolumeClaim:\n      claimName: data");
    assert!(at("spec.volumes").2.starts_with("volumes:\n  - name: data"));
    assert!(at("spec").2.ends_with("claimName: data"));
    assert_eq!(tree.find(&path("spec.nodeName.x")), None);
    assert_eq!(tree.nearest(&path("spec.affinity.nodeAffinity")).span().of(&text), at("spec").2);
    assert_eq!(tree.to_value(), values(&text)[0].clone().unwrap());
}
