//! Every case of `tests/cases` on a real API server: what the policy makes of its Pod, and what the webhook would.
//!
//! The parameter is made from the objects of the case by the code that the controller runs. The Pod is created as a dry run,
//! so that neither its node nor its claims need to be there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Api;
use kube::api::{Patch, PatchParams};
use latebind::admission::patch::operations;
use latebind::binding::{
    ClusterView, Lookup, Pin, PinStyle, Remedy, Rules, binds_anywhere, decide_pod, keeps_away_from,
};
use latebind::binding::{open_node, waits_anywhere};
use latebind::controllers::parameter::listing::Listing;
use latebind::crd::{AdmissionParameter, AdmissionParameterSpec, PARAMETER};
use latebind::facts::{Fact, Facts, Unlisted};
use latebind::model::{NAMESPACE_NODE_SELECTOR, Pod, PodOnNode};
use latebind_cluster::{Scope, project_root};
use latebind_test_support::cases::{Case, View, group_and_kind, read_all};
use latebind_test_support::policies::served;
use serde_json::{Value, json};

use crate::installed::{admitted, install, install_with, uninstall, until};

/// A claim and a node that every parameter lists, so that a Pod which asks for them shows when it is followed.
pub const PROBE: &str = "latebind-probe";
/// The page that says which cases are left to the rescue loop.
const PAGE: &str = "docs/policy-profile.md";
const MARKS: (&str, &str) = ("<!-- cases: begin -->\n", "<!-- cases: end -->\n");
/// Fewer would mean that the cases are not what they were.
const LEAST: (usize, usize) = (200, 30);

/// What a case comes down to.
struct Built {
    namespace: String,
    parameter: AdmissionParameterSpec,
    pod: Value,
    /// The Pod after the webhook, where it would rewrite it.
    rewritten: Option<Value>,
    remedy: Remedy,
}

/// Reads the objects of a case, as the watches of the controller would.
fn build(case: &Case) -> Result<Built, &'static str> {
    let mut pod = case.pod.clone().ok_or("decides about a workload or a claim")?;
    if matches!(case.view, View::Manifests) || case.assume.is_some() {
        return Err("is about what manifests leave open");
    }
    let mut facts = Facts::new(Unlisted::Absent);
    let mut read = Vec::new();
    for object in &case.objects {
        let (group, kind) = group_and_kind(object);
        if kind == "Namespace" {
            return Err("is about a namespace's annotation, which has a test of its own");
        }
        let fact = Fact::read(group, kind, object).ok_or("has an unknown kind")?.map_err(|_| "does not read")?;
        read.push(fact.clone());
        facts.add(fact);
    }
    let rules = Rules { pin: case.pin().parse().map_err(|_| "pins in an unknown way")?, ..Rules::default() };
    if rules.pin == PinStyle::Name {
        return Err("pins by name, which this profile does not");
    }
    let rules = Rules { schedulers: case.schedulers().unwrap_or(rules.schedulers.clone()), ..rules };
    admissible(&mut pod);
    let created: Pod = serde_json::from_value(pod.clone()).map_err(|_| "has a Pod that does not read")?;
    let verdict = decide_pod(&created, &facts, &rules);
    let mut rewritten = pod.clone();
    let by_webhook = matches!(verdict.remedy, Remedy::Rewrite { .. })
        && json_patch::patch(&mut rewritten, &operations(&created, &verdict.remedy)).is_ok();
    Ok(Built {
        namespace: created.namespace().to_owned(),
        parameter: parameter(&read, &facts, &rules),
        pod,
        rewritten: by_webhook.then_some(rewritten),
        remedy: verdict.remedy,
    })
}

fn parameter(read: &[Fact], facts: &Facts, rules: &Rules) -> AdmissionParameterSpec {
    let mut listing = Listing::default();
    // Cases have no PinPolicies.
    listing.policies(Some(std::iter::empty()));
    for fact in read {
        let (_, namespace, name) = fact.key();
        let key = (namespace.into(), name.into());
        match fact {
            Fact::Claim(claim) => {
                let class = claim.class_name().filter(|_| claim.volume_name().is_none()).map(Into::into);
                listing.claim(&key, class, waits_anywhere(&Arc::new(claim.clone()), facts));
            }
            Fact::Class(class) => listing.class(&key.1, binds_anywhere(class, facts)),
            Fact::Node(node) => listing.node(&key.1, open_node(&Arc::new(node.clone()), facts)),
            Fact::Pod(pod) => listing.pod(&key, keeps_away_from(&PodOnNode::from(pod))),
            _ => {}
        }
    }
    if let Lookup::Found(class) = facts.default_class() {
        listing.default_class(class.metadata.name.clone());
    }
    listing.content("rewrite", &rules.schedulers).0
}

/// What an API server adds or asks for and a case leaves out.
fn admissible(pod: &mut Value) {
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        for key in ["uid", "creationTimestamp", "deletionTimestamp", "ownerReferences"] {
            metadata.remove(key);
        }
    }
    if let Some(fields) = pod.as_object_mut() {
        fields.remove("status");
    }
    pod["spec"]["automountServiceAccountToken"] = json!(false);
    for list in ["containers", "initContainers"] {
        for (place, container) in pod["spec"][list].as_array_mut().into_iter().flatten().enumerate() {
            container["image"] = json!("registry.invalid/none");
            if container["name"].is_null() {
                container["name"] = json!(format!("c{place}"));
            }
        }
    }
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.remove("ephemeralContainers");
        spec.retain(|_, value| !value.is_null());
    }
}

/// The probe's Pod: of the node and claim that stand for the number.
pub fn probe(number: usize) -> Value {
    json!({
        "metadata": { "name": PROBE },
        "spec": {
            "nodeName": PROBE,
            "containers": [{
                "name": "main", "image": "registry.invalid/none",
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
            }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": format!("{PROBE}-{number}") } }],
        },
    })
}

/// Stores the parameter, with a claim and a node more, and waits until the policies follow it.
async fn follow(scope: &Scope, namespace: &str, number: usize, mut spec: AdmissionParameterSpec) -> Result<()> {
    spec.nodes.insert(PROBE.to_owned(), String::new());
    spec.schedulers.push("default-scheduler".to_owned());
    spec.claims.entry(namespace.to_owned()).or_default().insert(format!("{PROBE}-{number}"), true);
    // A probe must not be kept away by what keeps the case's Pod away.
    let everywhere = spec.repelled.get(namespace).is_some_and(|nodes| nodes.contains_key("*"));
    let asked = if everywhere { "other" } else { namespace };
    if everywhere {
        spec.claims.entry(asked.to_owned()).or_default().insert(format!("{PROBE}-{number}"), true);
    }
    store(scope, spec).await?;
    until("the policies to follow the parameter", async || {
        let seen = admitted(scope, asked, probe(number)).await?;
        let seen = seen.map_err(|status| anyhow::anyhow!("{}", status.message))?;
        Ok(seen["spec"]["nodeName"].is_null().then_some(()))
    })
    .await
}

pub async fn store(scope: &Scope, spec: AdmissionParameterSpec) -> Result<()> {
    let object = AdmissionParameter::new(PARAMETER, spec);
    let apply = PatchParams::apply("test").force();
    scope.all::<AdmissionParameter>().patch(PARAMETER, &apply, &Patch::Apply(&object)).await?;
    Ok(())
}

async fn namespaces(scope: &Scope, names: &BTreeSet<String>) -> Result<()> {
    for name in names {
        let all: Api<Namespace> = scope.all();
        if all.get_opt(name).await?.is_none() {
            scope.create::<Namespace>(json!({ "metadata": { "name": name } })).await?;
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(scope.client(), name);
        until("the namespace's service account", async || Ok(accounts.get_opt("default").await?.map(drop))).await?;
    }
    Ok(())
}

/// What decides where a Pod goes, of a Pod.
fn pinned_by(pod: &Value) -> Value {
    let spec = &pod["spec"];
    json!({
        "nodeName": spec["nodeName"].as_str().filter(|name| !name.is_empty()),
        "nodeSelector": spec["nodeSelector"],
        "nodeAffinity": spec["affinity"]["nodeAffinity"],
        "original": pod["metadata"]["annotations"]["latebind.dev/original-node-name"],
    })
}

pub async fn policy_and_webhook_make_the_same_of_every_case(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let cases = read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")).map_err(anyhow::Error::msg)?;
    let mut left_out: BTreeMap<&str, usize> = BTreeMap::new();
    let mut built = Vec::new();
    for (file, case) in &cases {
        match build(case) {
            Ok(of_case) => built.push((file, case, of_case)),
            Err(reason) => *left_out.entry(reason).or_default() += 1,
        }
    }
    let mut needed: BTreeSet<String> = built.iter().map(|(_, _, of_case)| of_case.namespace.clone()).collect();
    needed.insert("other".to_owned());
    namespaces(scope, &needed).await?;
    install(scope.cluster()?).await?;
    let compared = compare(scope, &built).await;
    uninstall(scope.cluster()?).await?;
    let Compared { same, refused, left, wrong } = compared?;
    eprintln!("{} rewritten alike, {} left to rescue; refused: {refused:?}; left out: {left_out:?}", same, left.len());
    ensure!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
    ensure!(built.len() >= LEAST.0 && same >= LEAST.1, "only {} cases, {same} of them rewritten", built.len());
    is_current(&left)
}

struct Compared {
    /// Rewritten, by both alike.
    same: usize,
    refused: BTreeMap<String, usize>,
    /// Rewritten by the webhook alone.
    left: Vec<(String, String)>,
    wrong: Vec<String>,
}

async fn compare(scope: &Scope, built: &[(&String, &Case, Built)]) -> Result<Compared> {
    let mut compared = Compared { same: 0, refused: BTreeMap::new(), left: Vec::new(), wrong: Vec::new() };
    for (number, (file, case, of_case)) in built.iter().enumerate() {
        follow(scope, &of_case.namespace, number, of_case.parameter.clone()).await?;
        let seen = match admitted(scope, &of_case.namespace, of_case.pod.clone()).await? {
            Ok(seen) => seen,
            Err(status) => {
                *compared.refused.entry(status.message.chars().take(60).collect()).or_default() += 1;
                continue;
            }
        };
        let file = (*file).clone();
        let (seen, before) = (pinned_by(&seen), pinned_by(&of_case.pod));
        match of_case.rewritten.as_ref().map(pinned_by) {
            Some(expected) if seen == expected => compared.same += 1,
            Some(_) if seen == before => {
                let by = if matches!(of_case.remedy, Remedy::Rewrite { pin: Pin::Name(_) }) { "name" } else { "label" };
                compared.left.push((format!("{} ({by})", case.name), file));
            }
            None if seen == before => {}
            expected => compared.wrong.push(format!("{file}: {seen} and not {expected:?}, before {before}")),
        }
    }
    Ok(compared)
}

/// The page lists the cases that are left to the rescue loop.
fn is_current(left: &[(String, String)]) -> Result<()> {
    let mut names: Vec<&str> = left.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let list = names.iter().fold(String::new(), |list, name| list + "- " + name + "\n");
    let path = project_root().join(PAGE);
    let page = std::fs::read_to_string(&path)?;
    let (head, rest) = page.split_once(MARKS.0).context("no list of cases")?;
    let (_, tail) = rest.split_once(MARKS.1).context("the list of cases does not end")?;
    let expected = format!("{head}{}{list}{}{tail}", MARKS.0, MARKS.1);
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        std::fs::write(&path, &expected)?;
    } else if page != expected {
        bail!("{PAGE} does not list the cases that are left to the rescue loop; they are:\n{list}");
    }
    Ok(())
}

/// Warnings and refusals, by the mode for all and that of the namespace.
pub async fn modes_go_as_far_as_the_stricter_of_cluster_and_namespace(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    install(scope.cluster()?).await?;
    let outcome = modes(scope).await;
    uninstall(scope.cluster()?).await?;
    outcome
}

async fn modes(scope: &Scope) -> Result<()> {
    let namespace = scope.namespace();
    let spec = |number: usize, mode: &str| {
        let claims = BTreeMap::from([(format!("{PROBE}-{number}"), true), ("listed".to_owned(), true)]);
        AdmissionParameterSpec {
            mode: mode.to_owned(),
            schedulers: vec!["default-scheduler".to_owned()],
            claims: BTreeMap::from([(namespace.to_owned(), claims)]),
            nodes: BTreeMap::from([(PROBE.to_owned(), String::new())]),
            ..AdmissionParameterSpec::default()
        }
    };
    let mut number = 0;
    for (for_all, label, expected) in [
        ("audit", None, "nothing"),
        ("warn", None, "left as it is"),
        ("rewrite", None, "rewritten to a nodeSelector"),
        ("audit", Some("Warn"), "left as it is"),
        ("warn", Some("rewrite"), "rewritten to a nodeSelector"),
        ("rewrite", Some("audit"), "rewritten to a nodeSelector"),
        ("rewrite", Some("dEnY"), "refused"),
        ("rewrite", Some("nonsense"), "rewritten to a nodeSelector"),
        ("deny", None, "refused"),
    ] {
        number += 1;
        if for_all == "deny" {
            // Who refuses everywhere looks everywhere.
            install_with(scope.cluster()?, &["--set=mode=deny"]).await?;
        }
        let labels = Patch::Merge(json!({ "metadata": { "labels": { "latebind.dev/mode": label } } }));
        scope.all::<Namespace>().patch(namespace, &PatchParams::default(), &labels).await?;
        store(scope, spec(number, for_all)).await?;
        let mut last = String::new();
        let followed = until("the policies to do what the mode says", async || {
            last = told(scope, number).await?;
            Ok((last == expected).then_some(()))
        });
        followed.await.with_context(|| format!("mode {for_all}, label {label:?}: {last}"))?;
    }
    store(scope, spec(number, "rewrite")).await?;
    // A selector of the namespace may contradict the hostname, and the API server would refuse the rewritten Pod.
    let selector = Patch::Merge(json!({ "metadata": { "annotations": { NAMESPACE_NODE_SELECTOR: "a=b" } } }));
    scope.all::<Namespace>().patch(namespace, &PatchParams::default(), &selector).await?;
    until("a Pod of a namespace with a node selector to be left alone", async || {
        Ok((told(scope, number).await? == "left to latebind's rescue loop").then_some(()))
    })
    .await
}

/// What whoever creates a pinned Pod is told, in short.
async fn told(scope: &Scope, number: usize) -> Result<String> {
    let mut pod = probe(number);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    let arguments = ["--namespace", scope.namespace(), "create", "--dry-run=server", "-o", "json", "-f", "-"];
    let output = scope.cluster()?.kubectl_with_input(&arguments, &pod.to_string()).await?;
    let message = &output.stderr;
    if output.code != Some(0) {
        let refused =
            message.contains("LB001") && message.contains(&format!("claim \"{PROBE}-{number}\" would never bind"));
        return Ok(if refused { "refused".to_owned() } else { message.clone() });
    }
    let stored: Value = serde_json::from_str(&output.stdout)?;
    let rewritten = stored["spec"]["nodeName"].is_null();
    for words in ["left as it is", "left to latebind's rescue loop", "rewritten to a nodeSelector"] {
        if message.contains(&format!("claim \"{PROBE}-{number}\" would never bind: {words}")) {
            return Ok(if rewritten == words.starts_with("rewritten") {
                words.to_owned()
            } else {
                "unlike".to_owned()
            });
        }
    }
    Ok(if message.is_empty() && !rewritten { "nothing".to_owned() } else { message.clone() })
}
