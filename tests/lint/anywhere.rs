//! Pod templates in kinds that nobody told latebind of, and what names a node without being judged.

use super::{FACTS, findings, lint, names};

const SPEC: &str = "{nodeName: worker-1, containers: [{name: a, volumeMounts: [{name: data, mountPath: /d}]}], \
                    volumes: [{name: data, persistentVolumeClaim: {claimName: scratch}}]}";

fn with(object: &str) -> String {
    format!("{FACTS}---\n{}", object.replace("SPEC", SPEC))
}

fn stuck(object: &str) -> Vec<(String, String)> {
    let found = findings(&["-f", "-"], &with(object));
    assert!(names(&found).iter().all(|name| name.starts_with("LB001 ")), "{object}: {:?}", names(&found));
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    found.iter().map(|found| (text(&found["path"]), text(&found["fix"]["description"]))).collect()
}

#[test]
fn a_mapping_with_containers_and_volumes_is_a_pod() {
    for (object, path) in [
        (
            "{apiVersion: apps.kruise.io/v1alpha1, kind: CloneSet, metadata: {name: x}, spec: {template: {spec: SPEC}}}",
            "spec.template.spec",
        ),
        (
            "{apiVersion: argoproj.io/v1alpha1, kind: Rollout, metadata: {name: x}, spec: {template: {spec: SPEC}}}",
            "spec.template.spec",
        ),
        (
            "{apiVersion: ray.io/v1, kind: RayCluster, metadata: {name: x}, spec: {workerGroupSpecs: [{template: {spec: SPEC}}]}}",
            "spec.workerGroupSpecs[0].template.spec",
        ),
        (
            "{apiVersion: kubeflow.org/v1, kind: PyTorchJob, metadata: {name: x}, spec: {pytorchReplicaSpecs: {Master: {template: {spec: SPEC}}}}}",
            "spec.pytorchReplicaSpecs.Master.template.spec",
        ),
        (
            "{apiVersion: sparkoperator.k8s.io/v1beta2, kind: SparkApplication, metadata: {name: x}, spec: {driver: {template: {spec: SPEC}}}}",
            "spec.driver.template.spec",
        ),
        (
            "{apiVersion: apps.openshift.io/v1, kind: DeploymentConfig, metadata: {name: x}, spec: {template: {spec: SPEC}}}",
            "spec.template.spec",
        ),
        ("{apiVersion: v1, kind: PodTemplate, metadata: {name: x}, spec: SPEC}", "spec"),
    ] {
        let found = stuck(object);
        assert_eq!(found.len(), 1, "{object}");
        assert_eq!(found[0].0, format!("{path}.nodeName"), "{object}");
        assert!(found[0].1.contains("nodeSelector"), "{object}: {found:?}");
    }
}

#[test]
fn the_objects_of_an_openshift_template_are_objects() {
    let template = "apiVersion: template.openshift.io/v1
kind: Template
metadata: {name: t}
parameters: [{name: REPLICAS}]
objects:
- {apiVersion: apps/v1, kind: StatefulSet, metadata: {name: x}, spec: {replicas: '${{REPLICAS}}', template: {spec: SPEC}}}
- {apiVersion: v1, kind: Pod, metadata: {name: y}, spec: SPEC}
";
    let run = lint(&["-f", "-"], &with(template));
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert_eq!(stuck(template).len(), 2);
}

#[test]
fn yaml_in_a_config_map_is_judged_and_left_as_it_is() {
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: hooks}}\ndata:\n  pod.yaml: |\n    kind: PodTemplate\n    spec: {SPEC}\n"
    );
    let found = stuck(&map);
    assert_eq!(found, [("data.pod.yaml".to_owned(), String::new())]);
    let run = lint(&["-f", "-", "--fix", "--diff"], &with(&map));
    assert!(run.stderr.contains("change nodeName there by hand"), "{}", run.stderr);
}

#[test]
fn a_patch_of_argo_is_merged_into_its_pods() {
    let workflow = r#"{apiVersion: argoproj.io/v1alpha1, kind: Workflow, metadata: {name: x}, spec: {
  podSpecPatch: '{"nodeName": "worker-1"}', volumes: [{name: data, persistentVolumeClaim: {claimName: scratch}}],
  templates: [{name: t, container: {image: i, volumeMounts: [{name: data, mountPath: /d}]}}]}}"#;
    assert_eq!(stuck(workflow), [("spec.podSpecPatch".to_owned(), String::new())]);
}

#[test]
fn a_data_volume_is_the_claim_of_its_name() {
    let input = with("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: SPEC}")
        .replace("claimName: scratch", "claimName: disk")
        + "\n---\n{apiVersion: cdi.kubevirt.io/v1beta1, kind: DataVolume, metadata: {name: disk}, spec: {pvc: {storageClassName: local-path, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}\n";
    assert_eq!(names(&findings(&["-f", "-"], &input)), ["LB001 Pod/x"]);
}

#[test]
fn what_names_a_node_and_is_not_judged_is_counted() {
    let input = "apiVersion: example.org/v1\nkind: Tool\nmetadata: {name: x}\nspec: {nodeName: worker-1}\n---\n\
                 apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {a: 'nodeName: worker-1'}\n";
    let run = lint(&["-f", "-"], input);
    assert_eq!(run.code, 0);
    assert!(run.stdout.contains("2 objects hold a nodeName and were not judged"), "{}", run.stdout);
    assert!(!run.stdout.contains("nothing to complain of"), "{}", run.stdout);
    // What names nodes for other reasons holds no Pod.
    let other = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x}\nendpoints: [{nodeName: worker-1}]\n---\n\
                 apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {a: 'env: {fieldPath: spec.nodeName}'}\n";
    assert!(lint(&["-f", "-"], other).stdout.contains("nothing to complain of"));
}
