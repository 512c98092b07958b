//! The answer to any bytes at all.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use latebind::admission::{Admission, Exemptions, GuardOptions, Hook, respond};
use latebind::binding::{ClusterView, Rules};
use latebind::facts::{Fact, Facts, Unlisted};
use latebind::policy::Mode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::timed;

/// The body of an AdmissionReview, asked of both hooks in every mode, in a small cluster.
pub fn review(data: &[u8]) {
    static CLUSTER: OnceLock<Facts> = OnceLock::new();
    for mode in Mode::ALL {
        let view = CLUSTER.get_or_init(|| cluster(Unlisted::Absent));
        review_in(view, data, mode);
    }
}

/// Either an error, or a whole answer: within the API server's limits, and with a patch that applies.
pub fn review_in(view: &dyn ClusterView, body: &[u8], mode: Mode) {
    let (rules, exemptions, guard) = (Rules::default(), Exemptions::default(), GuardOptions::default());
    let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    let admission = Admission {
        view,
        rules: &rules,
        provisioners: &[],
        mode,
        exemptions: &exemptions,
        details: true,
        guard: Some(&guard),
        now,
    };
    for hook in [Hook::Mutate, Hook::Validate] {
        let Ok(reply) = timed(hook.as_str(), || respond(hook, body, &admission)) else { continue };
        let answer: Value = serde_json::from_slice(&reply.json).unwrap_or_else(|error| panic!("no JSON: {error}"));
        let response = &answer["response"];
        assert_eq!(response["uid"].as_str(), Some(&*reply.uid));
        let by_policy = response["status"]["message"].as_str().is_some_and(|message| message.starts_with("LB40"));
        assert!(response["allowed"] == true || mode == Mode::Deny || by_policy, "{answer}");
        assert_eq!(response["allowed"] == true, response.get("status").is_none());
        assert_eq!(response.get("patch").is_some(), response.get("patchType").is_some());
        for warning in response["warnings"].as_array().into_iter().flatten() {
            let warning = warning.as_str().unwrap_or_else(|| panic!("a warning that is no text: {warning}"));
            assert!(warning.chars().count() <= 256 && !warning.chars().any(char::is_control), "{warning:?}");
        }
        for (key, value) in response["auditAnnotations"].as_object().into_iter().flatten() {
            let length = value.as_str().map(|value| value.chars().count());
            assert!(key.len() <= 63 && !key.contains('/') && length.is_some_and(|length| length <= 253), "{key}");
        }
        let Some(patch) = response["patch"].as_str() else { continue };
        assert!(mode == Mode::Rewrite && hook == Hook::Mutate);
        applies(body, patch);
    }
}

fn applies(body: &[u8], patch: &str) {
    let patch = STANDARD.decode(patch).unwrap_or_else(|error| panic!("no base64: {error}"));
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap_or_else(|error| panic!("no patch: {error}"));
    // Not from the whole body: what nobody reads in it may be broken.
    let raw: RawReview<'_> = serde_json::from_slice(body).unwrap_or_else(|error| panic!("no review: {error}"));
    let object = serde_json::from_str(raw.request.object.get());
    let mut object: Value = object.unwrap_or_else(|error| panic!("no object: {error}"));
    json_patch::patch(&mut object, &patch).unwrap_or_else(|error| panic!("the patch does not apply: {error}"));
}

#[derive(Deserialize)]
struct RawReview<'a> {
    #[serde(borrow)]
    request: RawRequest<'a>,
}

#[derive(Deserialize)]
struct RawRequest<'a> {
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The objects that the reviews of `tests/data/reviews` speak of.
#[must_use]
pub fn objects() -> Vec<Value> {
    let class = |name: &str, provisioner: &str| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
               "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})
    };
    let node = |name: &str, unschedulable: bool| {
        json!({"apiVersion": "v1", "kind": "Node",
               "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
               "spec": {"unschedulable": unschedulable},
               "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    };
    vec![
        class("local-path", "rancher.io/local-path"),
        class("static-disks", "kubernetes.io/no-provisioner"),
        node("k3d-test-server-0", false),
        node("cordoned-0", true),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
               "metadata": {"name": "shop-data", "namespace": "team-a", "uid": "5d5d5d5d-0000-4000-8000-000000000001"},
               "spec": {"storageClassName": "local-path", "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "10Gi"}}},
               "status": {"phase": "Pending"}}),
    ]
}

/// A cluster of these objects.
#[must_use]
pub fn cluster(unlisted: Unlisted) -> Facts {
    let mut facts = Facts::new(unlisted);
    for object in objects() {
        let (group, _) = object["apiVersion"].as_str().and_then(|it| it.rsplit_once('/')).unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        let fact = Fact::read(group, kind, &object).unwrap_or_else(|| panic!("{kind} is no fact"));
        facts.add(fact.unwrap_or_else(|error| panic!("{kind}: {error}")));
    }
    facts
}
