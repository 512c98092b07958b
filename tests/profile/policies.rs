//! PinPolicies under profile `policy`: the same of each Pod as the webhook makes of it.
//!
//! Policies and Pods are drawn at random, the same each time. The parameter is made from the policies by the code that the
//! controller runs, and the Pods are created as a dry run by whoever the policies may be about.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Patch, PatchParams};
use latebind::admission::mutate::mutate;
use latebind::admission::review::Request;
use latebind::admission::validate::validate;
use latebind::admission::{Admission, Exemptions};
use latebind::binding::Rules;
use latebind::controllers::parameter::listing::Listing;
use latebind::crd::{AdmissionParameterSpec, PinPolicy};
use latebind::facts::{Fact, Facts, Unlisted};
use latebind::model::{Labels, Text};
use latebind::policy::Mode;
use latebind_cluster::Scope;
use latebind_test_support::numbers::Numbers;
use latebind_test_support::policies::served;
use serde_json::{Value, json};

use crate::cases::{PROBE, probe, store};
use crate::installed::{install, uninstall, until};

/// Sets of policies, and Pods that are tried with each.
const SETS: usize = 14;
const PODS: usize = 6;
/// Fewer of an outcome would mean that the test shows little of it.
const LEAST: usize = 4;
const GROUP: &str = "latebind-test-developers";
/// A node that a policy's selector has not been compared with.
const UNKNOWN_NODE: &str = "n9";

/// What becomes of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    rewritten: bool,
    /// The code of the finding that it is refused for.
    refused: Option<String>,
    /// Whether somebody is told that a policy does not allow the node.
    warned: bool,
}

/// Who creates a Pod: a user and a group.
type Requester = (String, &'static str);

pub async fn policy_and_webhook_say_the_same_of_pin_policies(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let namespace = scope.namespace().to_owned();
    let labels = json!({ "metadata": { "labels": { "team": "x" } } });
    scope.all::<Namespace>().patch(&namespace, &PatchParams::default(), &Patch::Merge(labels)).await?;
    scope.create::<Namespace>(json!({ "metadata": { "name": scope.unique("other") } })).await?;
    let subjects = json!([{ "kind": "Group", "name": GROUP, "apiGroup": "rbac.authorization.k8s.io" }]);
    let role = json!({ "kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io" });
    let binding = json!({ "metadata": { "name": scope.unique("developers") }, "subjects": subjects, "roleRef": role });
    scope.create::<ClusterRoleBinding>(binding).await?;
    install(scope.cluster()?).await?;
    let compared = compare(scope, &namespace).await;
    let known = only_what_is_known_refuses(scope, &namespace).await;
    uninstall(scope.cluster()?).await?;
    let seen = compared?;
    known?;
    eprintln!("{seen:?}");
    let refused_for = |code: &str| {
        let of = seen.iter().filter(|(outcome, _)| outcome.refused.as_deref() == Some(code));
        of.map(|(_, count)| count).sum::<usize>()
    };
    let told = seen.iter().filter(|(outcome, _)| outcome.warned).map(|(_, count)| count).sum::<usize>();
    let rewritten = seen.iter().filter(|(outcome, _)| outcome.rewritten).map(|(_, count)| count).sum::<usize>();
    let least = [refused_for("LB001"), refused_for("LB302"), told, rewritten];
    ensure!(least.iter().all(|count| *count >= LEAST), "LB001, LB302, warned, rewritten: {least:?}");
    Ok(())
}

/// How often each outcome was seen, on both sides.
async fn compare(scope: &Scope, namespace: &str) -> Result<BTreeMap<Outcome, usize>> {
    // Others than those that everybody tries: LATEBIND_POLICIES_SEED=2 and so on.
    let chosen = std::env::var("LATEBIND_POLICIES_SEED").ok().and_then(|number| number.parse().ok());
    let mut random = Numbers(chosen.unwrap_or(1));
    let (mut seen, mut wrong) = (BTreeMap::new(), Vec::new());
    for set in 0..SETS {
        let policies: Vec<PinPolicy> = (0..=random.below(3))
            .map(|number| {
                let spec = serde_json::from_value(policy(&mut random, namespace))?;
                Ok(PinPolicy::new(&format!("p{number}"), spec))
            })
            .collect::<Result<_>>()?;
        follow(scope, namespace, set, &policies).await?;
        let facts = facts(namespace, &policies)?;
        for _ in 0..PODS {
            let (pod, requester) = (pod(&mut random), requester(&mut random, namespace));
            let by_policy = created(scope, namespace, &pod, &requester).await?;
            let by_webhook = reviewed(&facts, namespace, &pod, &requester)?;
            if agree(&by_policy, &by_webhook, &policies) {
                *seen.entry(by_policy).or_default() += 1;
            } else {
                let policies: Vec<_> = policies.iter().map(|policy| &policy.spec).collect();
                let policies = serde_json::to_string(&policies)?;
                wrong.push(format!("{policies}\n{pod} by {requester:?}: {by_policy:?} and not {by_webhook:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
    Ok(seen)
}

/// The policy may leave a Pod to the rescue loop that the webhook rewrites. What it does not see, the classes of claims, it
/// does not refuse or warn for.
fn agree(by_policy: &Outcome, by_webhook: &Outcome, policies: &[PinPolicy]) -> bool {
    let sees_all = policies.iter().all(|policy| policy.spec.storage_classes.is_none());
    let told_alike = (&by_policy.refused, by_policy.warned) == (&by_webhook.refused, by_webhook.warned);
    let says_less = by_policy.refused.is_none() && !by_policy.warned;
    (!by_policy.rewritten || by_webhook.rewritten) && (told_alike || (!sees_all && says_less))
}

fn policy(random: &mut Numbers, namespace: &str) -> Value {
    let modes = ["Off", "Audit", "Warn", "Rewrite", "Rewrite", "Deny", "Deny", "Deny"];
    let mode = random.one_of(&modes.map(Value::from));
    let rewrites = mode == "Rewrite";
    // Never the namespace of the probe.
    let namespaces = random.one_of(&[
        json!({ "names": [namespace] }),
        json!({ "names": ["elsewhere", namespace] }),
        json!({ "selector": { "matchLabels": { "team": "x" } } }),
        json!({ "selector": { "matchExpressions": [{ "key": "team", "operator": "In", "values": ["x", "y"] }] } }),
        json!({ "names": ["elsewhere"], "selector": { "matchExpressions": [{ "key": "team", "operator": "Exists" }] } }),
        json!({ "selector": { "matchLabels": { "team": "y" } } }),
    ]);
    let mut policy = json!({ "mode": mode, "namespaces": namespaces, "allowIgnore": random.below(3) == 0 });
    let mut maybe = |field: &str, choices: &[Value]| {
        let found = random.one_of(choices);
        if !found.is_null() {
            policy[field] = found;
        }
    };
    maybe(
        "objectSelector",
        &[
            Value::Null,
            Value::Null,
            json!({ "matchLabels": { "app": "web" } }),
            json!({ "matchExpressions": [{ "key": "app", "operator": "NotIn", "values": ["web"] }] }),
            json!({ "matchExpressions": [{ "key": "app", "operator": "DoesNotExist" }] }),
        ],
    );
    maybe(
        "requesters",
        &[
            Value::Null,
            Value::Null,
            json!({ "users": ["jane"] }),
            json!({ "groups": [GROUP] }),
            json!({ "serviceAccounts": [format!("{namespace}/ci")] }),
        ],
    );
    maybe(
        "allowedNodes",
        &[
            Value::Null,
            json!({ "names": ["n1"] }),
            json!({ "names": [] }),
            json!({ "selector": { "matchLabels": { "rack": "1" } } }),
            json!({ "names": ["n2"], "selector": { "matchExpressions": [{ "key": "rack", "operator": "NotIn", "values": ["1", "2"] }] } }),
        ],
    );
    let until = |until: &str, whom: Value| {
        let mut exception = json!({ "reason": "r", "expiresAt": until });
        exception
            .as_object_mut()
            .into_iter()
            .for_each(|fields| fields.extend(whom.as_object().cloned().unwrap_or_default()));
        json!([exception])
    };
    maybe(
        "exceptions",
        &[
            Value::Null,
            Value::Null,
            until("2099-01-01T00:00:00Z", json!({ "requesters": { "users": ["jane"] } })),
            until("2099-01-01T00:00:00Z", json!({ "namespaces": [namespace], "requesters": { "users": ["john"] } })),
            until("2020-01-01T00:00:00Z", json!({ "namespaces": [namespace] })),
            until("2099-01-01T00:00:00Z", json!({ "namespaces": ["elsewhere"] })),
        ],
    );
    if rewrites {
        maybe("pin", &[Value::Null, Value::Null, json!("Hostname"), json!("Name")]);
    }
    if random.below(6) == 0 {
        policy["storageClasses"] = json!([if random.below(2) == 0 { "fast" } else { "slow" }]);
    }
    policy
}

fn pod(random: &mut Numbers) -> Value {
    let mut pod = json!({
        "metadata": { "name": "pod", "labels": random.one_of(&[json!({}), json!({ "app": "web" }), json!({ "app": "db" })]) },
        "spec": {
            "nodeName": random.one_of(&[json!("n1"), json!("n2")]),
            "containers": [{ "name": "main", "image": "registry.invalid/none" }],
        },
    });
    if random.below(4) > 0 {
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
        pod["spec"]["volumes"] = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }]);
    }
    if random.below(4) == 0 {
        pod["metadata"]["annotations"] = json!({ "latebind.dev/ignore": "LB001: it is bound by hand" });
    }
    pod
}

fn requester(random: &mut Numbers, namespace: &str) -> Requester {
    let account = format!("system:serviceaccount:{namespace}:ci");
    (random.one_of(&[account, "jane".to_owned(), "john".to_owned()]), GROUP)
}

/// What a policy and a webhook have to go by: nodes of two racks, a namespace of team x, and a claim that waits.
fn facts(namespace: &str, policies: &[PinPolicy]) -> Result<Facts> {
    let mut facts = Facts::new(Unlisted::Absent);
    let mut add = |group: &str, kind: &str, object: &Value| -> Result<()> {
        facts.add(Fact::read(group, kind, object).context("a kind that is known")??);
        Ok(())
    };
    add("", "Namespace", &json!({ "metadata": { "name": namespace, "labels": { "team": "x" } } }))?;
    for node in NODES {
        let labels = json!({ "rack": node.1, "kubernetes.io/hostname": node.0 });
        let status = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
        add("", "Node", &json!({ "metadata": { "name": node.0, "labels": labels }, "status": status }))?;
    }
    let class = json!({
        "metadata": { "name": "fast" }, "provisioner": "example.org/fast", "volumeBindingMode": "WaitForFirstConsumer",
    });
    add("storage.k8s.io", "StorageClass", &class)?;
    let claim =
        json!({ "metadata": { "name": "data", "namespace": namespace }, "spec": { "storageClassName": "fast" } });
    add("", "PersistentVolumeClaim", &claim)?;
    for policy in policies {
        add("latebind.dev", "PinPolicy", &serde_json::to_value(policy)?)?;
    }
    Ok(facts)
}

const NODES: [(&str, &str); 2] = [("n1", "1"), ("n2", "2")];

/// The parameter that holds the same.
fn parameter(namespace: &str, policies: &[PinPolicy]) -> AdmissionParameterSpec {
    let mut listing = Listing::default();
    listing.policies(Some(policies.iter()));
    for (node, rack) in NODES {
        let labels = [("rack", rack), ("kubernetes.io/hostname", node)];
        let labels: Labels = labels.into_iter().map(|(key, value)| (Text::from(key), Text::from(value))).collect();
        listing.labels(&node.into(), Some(&labels));
        listing.node(&node.into(), Some(node.to_owned()));
    }
    listing.claim(&(namespace.into(), "data".into()), Some("fast".into()), true);
    listing.content("rewrite", &["default-scheduler".to_owned()]).0
}

/// Stores the parameter, and waits until a Pod of a namespace that no policy is about shows that it is followed.
async fn follow(scope: &Scope, namespace: &str, set: usize, policies: &[PinPolicy]) -> Result<()> {
    let mut spec = parameter(namespace, policies);
    let (other, claim) = (scope.unique("other"), format!("{PROBE}-{set}"));
    spec.nodes.insert(PROBE.to_owned(), String::new());
    spec.claims.insert(other.clone(), BTreeMap::from([(claim.clone(), true)]));
    store(scope, spec).await?;
    // The policy that mutates and those that validate hear of a parameter each on their own.
    let words = format!("claim \"{claim}\" would never bind: rewritten to a nodeSelector");
    until("the policies to follow the parameter", async || {
        let (code, _, told) = kubectl_create(scope, &other, &probe(set), &("jane".to_owned(), GROUP)).await?;
        Ok((code == Some(0) && told.contains(&words)).then_some(()))
    })
    .await
}

/// Exit code, what would be stored, and what is told.
async fn kubectl_create(
    scope: &Scope,
    namespace: &str,
    pod: &Value,
    (user, group): &Requester,
) -> Result<(Option<i32>, String, String)> {
    let mut pod = pod.clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    let arguments = ["--namespace", namespace, "--as", user, "--as-group", group];
    let arguments = [&arguments[..], &["create", "--dry-run=server", "-o", "json", "-f", "-"]].concat();
    let output = scope.cluster()?.kubectl_with_input(&arguments, &pod.to_string()).await?;
    Ok((output.code, output.stdout, output.stderr))
}

async fn created(scope: &Scope, namespace: &str, pod: &Value, requester: &Requester) -> Result<Outcome> {
    let (code, stored, told) = kubectl_create(scope, namespace, pod, requester).await?;
    if code != Some(0) {
        let refused = ["LB001", "LB302"].into_iter().find(|code| told.contains(&format!("{code}: ")));
        let refused = refused.with_context(|| format!("refused for something else: {told}"))?;
        return Ok(Outcome { refused: Some(refused.to_owned()), ..Outcome::default() });
    }
    let stored: Value = serde_json::from_str(&stored)?;
    let rewritten = stored["spec"]["nodeName"].is_null();
    Ok(Outcome { rewritten, refused: None, warned: told.contains("LB302: ") })
}

/// What the webhook makes of the same.
fn reviewed(facts: &Facts, namespace: &str, pod: &Value, (user, group): &Requester) -> Result<Outcome> {
    let rules = Rules::default();
    let admission = Admission {
        view: facts,
        rules: &rules,
        provisioners: &[],
        mode: Mode::Rewrite,
        exemptions: &Exemptions::default(),
        details: true,
        guard: None,
        now: k8s_openapi::jiff::Timestamp::now(),
    };
    let review = |pod: &Value| {
        let mut pod = pod.clone();
        pod["metadata"]["namespace"] = json!(namespace);
        json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "1", "kind": { "group": "", "version": "v1", "kind": "Pod" }, "namespace": namespace, "name": "pod",
            "operation": "CREATE", "userInfo": { "username": user, "groups": [group] }, "object": pod,
        }})
        .to_string()
    };
    let body = review(pod);
    let patch = mutate(&Request::parse(body.as_bytes())?, &admission).patch;
    let mut stored = pod.clone();
    json_patch::patch(&mut stored, &patch)?;
    let body = review(&stored);
    let answer = validate(&Request::parse(body.as_bytes())?, &admission);
    let refused = answer.denial.map(|denial| denial.message.chars().take(5).collect());
    let warned = refused.is_none() && answer.warnings.iter().any(|warning| warning.starts_with("LB302"));
    Ok(Outcome { rewritten: stored["spec"]["nodeName"].is_null(), refused, warned })
}

/// A node that the controller has yet to compare with a selector may have the labels or not: nothing is refused for it. What is
/// known refuses, however much whoever creates the Pod puts into it.
async fn only_what_is_known_refuses(scope: &Scope, namespace: &str) -> Result<()> {
    let rack = json!({ "mode": "Deny", "namespaces": { "names": [namespace] },
        "allowedNodes": { "selector": { "matchLabels": { "rack": "1" } } } });
    let policies = [PinPolicy::new("racks", serde_json::from_value(rack)?)];
    follow(scope, namespace, SETS, &policies).await?;
    let mut pod = json!({ "metadata": { "name": "pod" }, "spec": {
        "containers": [{ "name": "main", "image": "registry.invalid/none" }],
    }});
    for (node, refused) in [("n1", None), ("n2", Some("LB302")), (UNKNOWN_NODE, None)] {
        pod["spec"]["nodeName"] = json!(node);
        let outcome = created(scope, namespace, &pod, &("jane".to_owned(), GROUP)).await?;
        ensure!(outcome.refused.as_deref() == refused, "{node}: {outcome:?}");
    }
    // What costs more than an expression may cost fails, and is ignored: it must not take the other refusal with it.
    let names: Vec<String> = (0..1500).map(|number| format!("volume-{number}")).collect();
    pod["spec"]["nodeName"] = json!("n2");
    pod["spec"]["volumes"] =
        names.iter().map(|name| json!({ "name": name, "persistentVolumeClaim": { "claimName": "data" } })).collect();
    pod["spec"]["containers"][0]["volumeMounts"] =
        names.iter().map(|name| json!({ "name": name, "mountPath": format!("/{name}") })).collect();
    pod["metadata"]["annotations"] = json!({ "latebind.dev/ignore": "LB001: x".repeat(20_000) });
    let outcome = created(scope, namespace, &pod, &("jane".to_owned(), GROUP)).await?;
    ensure!(outcome.refused.as_deref() == Some("LB302"), "a Pod with {} volumes: {outcome:?}", names.len());
    Ok(())
}
