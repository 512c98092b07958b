//! Findings about classes, volumes and pools, with their places.

use super::findings;

const STORAGE: &str = "\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local}
provisioner: kubernetes.io/no-provisioner
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: one}
spec:
  storageClassName: local
  local: {path: /mnt/disks/a}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n1, n2]}]}]}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: two}
spec:
  storageClassName: local
  local:
    path: /opt/data
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchFields: [{key: metadata.name, operator: In, values: [n1]}]
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: inside}
spec:
  storageClassName: local
  local: {path: /mnt/disks/a/b}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n2]}]}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: local-path-config, namespace: kube-system}
data:
  config.json: |
    {\"nodePathMap\": [{\"node\": \"DEFAULT_PATH_FOR_NON_LISTED_NODES\", \"paths\": [\"/opt/local-path-provisioner\"]}]}
";

#[test]
fn each_has_its_place() {
    let found = findings(&["-f", "-"], STORAGE);
    let told: Vec<String> = found
        .iter()
        .map(|found| {
            let text = |key: &str| found[key].as_str().unwrap().to_owned();
            let line = &found["start"]["line"];
            format!(
                "{} {} {} {line} {}",
                text("code"),
                text("severity"),
                found["object"]["name"].as_str().unwrap(),
                text("path")
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "LB201 warning local 4 provisioner",
            "LB202 warning one 12 spec.nodeAffinity",
            "LB204 warning two 24 spec.nodeAffinity.required.nodeSelectorTerms[0].matchFields",
            "LB203 warning two 20 spec.local.path",
            "LB203 warning inside 31 spec.local.path",
            "LB203 info local-path-config 38 data.config.json",
        ]
    );
}

#[test]
fn facts_are_not_looked_at() {
    let directory = super::directory(&[("facts.yaml", STORAGE)]);
    let facts = directory.path().join("facts.yaml");
    assert!(
        findings(&["-f", "tests/lint/mixed/good.yaml", "--objects", facts.to_str().unwrap()], "")
            .iter()
            .all(|found| !found["code"].as_str().unwrap().starts_with("LB2"))
    );
}
