//! Runs a case: decides, compares, patches and decides again.

use std::collections::{BTreeMap, BTreeSet};

use latebind::admission::patch;
use latebind::binding::{
    AssumedStorage, Assumption, Assumptions, ClaimRemedy, ClaimVerdict, ClusterView, DeviceVerdict, Finding, Kind, Pin,
    PodVerdict, Remedy, Rules, decide_claim, decide_pod, decide_workload,
};
use latebind::facts::{Fact, Facts, Unlisted};
use latebind::model::{Claim, ORIGINAL_NODE_NAME, Pod, Workload, WorkloadKind};
use serde::Deserialize;
use serde_json::Value;

use latebind_test_support::cases::{Case, Expect, View, Word, group_and_kind};

/// Differences between what was expected and what came out, one a line; empty when there is none.
pub struct Differences(Vec<String>);

impl Differences {
    fn check(&mut self, what: &str, expected: &str, actual: &str) {
        if expected != actual {
            self.0.push(format!("{what}: expected {expected}, got {actual}"));
        }
    }

    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

/// Runs a case; the error holds every difference.
pub fn run(case: &Case) -> Result<(), String> {
    let view = facts(case)?;
    let rules = rules(case)?;
    let mut differences = Differences(Vec::new());
    if let Some(object) = &case.pod {
        run_pod(object, &case.expect, &view, &rules, &mut differences)?;
    } else if let Some(object) = &case.workload {
        run_workload(object, &case.expect, &view, &rules, &mut differences)?;
    } else if let Some(name) = &case.claim {
        run_claim(name, case, &view, &rules, &mut differences)?;
    }
    if differences.0.is_empty() { Ok(()) } else { Err(differences.0.join("\n")) }
}

/// The facts that the objects make.
fn facts(case: &Case) -> Result<Facts, String> {
    let mut facts = Facts::new(match case.view {
        View::Cluster => Unlisted::Absent,
        View::Manifests => Unlisted::Unknown,
    });
    for kind in &case.complete {
        facts.complete(match kind.as_str() {
            "nodes" => Kind::Nodes,
            "volumes" => Kind::Volumes,
            "classes" => Kind::Classes,
            "drivers" => Kind::Drivers,
            "csiNodes" => Kind::DriverNodes,
            "capacities" => Kind::Capacities,
            "pods" => Kind::AntiAffinityPods,
            other => return Err(format!("complete: {other:?} is not a kind")),
        });
    }
    for (place, object) in case.objects.iter().enumerate() {
        let (group, kind) = group_and_kind(object);
        match Fact::read(group, kind, object) {
            Some(Ok(fact)) => facts.add(fact),
            Some(Err(error)) => return Err(format!("objects[{place}] ({kind}): {error}")),
            None => return Err(format!("objects[{place}]: {group:?} {kind:?} is not a kind that decisions read")),
        }
    }
    Ok(facts)
}

/// What is assumed.
fn assumptions(case: &Case) -> Result<Assumptions, String> {
    let Some(assume) = &case.assume else { return Ok(Assumptions::default()) };
    Ok(Assumptions {
        binding: assume.binding.parse()?,
        node: assume.node.parse()?,
        storage: assume.storage.as_ref().map_or(Ok(AssumedStorage::Unknown), |storage| storage.parse())?,
        cluster: assume.cluster.as_ref().map(|cluster| cluster.parse()).transpose()?,
    })
}

/// The administrator's choices.
fn rules(case: &Case) -> Result<Rules, String> {
    let pin = case.pin().parse().map_err(|error| format!("rules.pin: {error}"))?;
    let rules = Rules { pin, assume: assumptions(case)?, ..Rules::default() };
    Ok(Rules { schedulers: case.schedulers().unwrap_or(rules.schedulers.clone()), ..rules })
}

fn run_pod(
    object: &Value,
    expect: &Expect,
    view: &dyn ClusterView,
    rules: &Rules,
    differences: &mut Differences,
) -> Result<(), String> {
    let pod = Pod::deserialize(object).map_err(|error| format!("pod: {error}"))?;
    let verdict = decide_pod(&pod, view, rules);
    compare(&verdict, expect, differences)?;
    paths_exist(&verdict.findings, object, differences);
    let operations = patch::operations(&pod, &verdict.remedy);
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &operations).map_err(|error| format!("the patch does not apply: {error}"))?;
    let written = patched.pointer("/metadata/annotations").and_then(|all| all.get(ORIGINAL_NODE_NAME));
    match verdict.remedy {
        Remedy::Rewrite { .. } => {
            let original = object.pointer("/spec/nodeName");
            differences.require(original.is_some() && written == original, || {
                format!("annotation {ORIGINAL_NODE_NAME}: expected {original:?}, got {written:?}")
            });
        }
        Remedy::SelectInTemplate { .. } => differences.require(!operations.is_empty(), || "no patch".to_owned()),
        Remedy::Leave | Remedy::Rescue | Remedy::Hopeless { .. } => {
            differences.require(operations.is_empty(), || format!("a patch, but nothing to do: {operations:?}"));
        }
    }
    for (field, expected) in expect.after.iter().flatten() {
        let actual = patched.pointer("/spec").and_then(|spec| spec.get(field)).unwrap_or(&Value::Null);
        differences.check(&format!("after.{field}"), &expected.to_string(), &actual.to_string());
    }
    decide_again(&patched, &verdict.remedy, view, rules, differences)
}

/// What was patched must need no second patch, and a rewritten Pod is the scheduler's.
fn decide_again(
    patched: &Value,
    first: &Remedy,
    view: &dyn ClusterView,
    rules: &Rules,
    differences: &mut Differences,
) -> Result<(), String> {
    let pod = Pod::deserialize(patched).map_err(|error| format!("the patched Pod cannot be read: {error}"))?;
    let again = decide_pod(&pod, view, rules);
    match first {
        Remedy::Rewrite { .. } => differences.check("remedy after the patch", "leave", &remedy_text(&again.remedy)),
        Remedy::SelectInTemplate { .. } => {
            let operations = patch::operations(&pod, &again.remedy);
            differences.require(operations.is_empty(), || format!("a second patch: {operations:?}"));
        }
        Remedy::Leave | Remedy::Rescue | Remedy::Hopeless { .. } => {}
    }
    Ok(())
}

fn run_workload(
    object: &Value,
    expect: &Expect,
    view: &dyn ClusterView,
    rules: &Rules,
    differences: &mut Differences,
) -> Result<(), String> {
    let (group, kind) = group_and_kind(object);
    let kind = WorkloadKind::of(group, kind).ok_or_else(|| format!("{group:?} {kind:?} is not a workload"))?;
    let workload = Workload::read(kind, object).map_err(|error| format!("workload: {error}"))?;
    let verdict = decide_workload(&workload, view, rules);
    let expected = expect.pods.as_deref().unwrap_or(std::slice::from_ref(expect));
    differences.check("number of Pods", &expected.len().to_string(), &verdict.pods.len().to_string());
    for (expect, (_, verdict)) in expected.iter().zip(&verdict.pods) {
        compare(verdict, expect, differences)?;
        paths_exist(&verdict.findings, object, differences);
    }
    Ok(())
}

fn run_claim(
    name: &str,
    case: &Case,
    view: &dyn ClusterView,
    rules: &Rules,
    differences: &mut Differences,
) -> Result<(), String> {
    let named = |object: &&Value| {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        group_and_kind(object) == ("", "PersistentVolumeClaim")
            && format!("{}/{}", text("/metadata/namespace"), text("/metadata/name")) == name
    };
    let object = case.objects.iter().find(named).ok_or_else(|| format!("claim {name} is not among the objects"))?;
    let claim = Claim::deserialize(object).map_err(|error| format!("claim: {error}"))?;
    let verdict: ClaimVerdict = decide_claim(&claim, view, rules);
    let expected = case.expect.remedy.as_ref().ok_or("expect.remedy is missing")?;
    check_claim_remedy("remedy", expected, &verdict.remedy, differences);
    check_findings(&verdict.findings, &case.expect, differences)
}

fn compare(verdict: &PodVerdict, expect: &Expect, differences: &mut Differences) -> Result<(), String> {
    let expected: Vec<String> = expect.assumed.iter().map(Word::text).collect();
    let used: Vec<String> = verdict.assumptions.iter().map(assumption_text).collect();
    differences.check("assumed", &expected.join(", "), &used.join(", "));
    // What a verdict rests on is named by a finding, and nothing else is.
    let named = verdict.findings.iter().flat_map(|finding| &finding.assumptions);
    differences.check(
        "assumed by findings",
        &expected.join(", "),
        &named.collect::<BTreeSet<_>>().into_iter().map(assumption_text).collect::<Vec<_>>().join(", "),
    );
    let expected = expected_remedy(expect)?;
    differences.check("remedy", &expected, &remedy_text(&verdict.remedy));
    differences.check("stuck", &expect.stuck.to_string(), &verdict.is_stuck().to_string());
    check_findings(&verdict.findings, expect, differences)?;
    if let Some(rows) = &expect.rows {
        let actual: BTreeMap<_, _> =
            verdict.volumes.iter().map(|volume| (volume.volume.clone(), volume.row.number())).collect();
        differences.check("rows", &format!("{rows:?}"), &format!("{actual:?}"));
    }
    if let Some(devices) = &expect.devices {
        let word = |device: &DeviceVerdict| match (device.stuck, device.undecided) {
            (true, _) => "stuck".to_owned(),
            (false, true) => "undecided".to_owned(),
            (false, false) => "ok".to_owned(),
        };
        let actual: BTreeMap<_, _> = verdict.devices.iter().map(|it| (it.name.clone(), word(it))).collect();
        differences.check("devices", &format!("{devices:?}"), &format!("{actual:?}"));
    }
    for (volume, word) in expect.claims.iter().flatten() {
        match verdict.volumes.iter().find(|decided| decided.volume == *volume) {
            Some(decided) => check_claim_remedy(&format!("claims.{volume}"), word, &decided.remedy, differences),
            None => differences.0.push(format!("claims.{volume}: no such volume in the verdict")),
        }
    }
    Ok(())
}

fn check_claim_remedy(what: &str, expected: &Word, actual: &ClaimRemedy, differences: &mut Differences) {
    let writes = matches!(actual, ClaimRemedy::SelectNode { .. } | ClaimRemedy::Prebind { .. } | ClaimRemedy::Unselect);
    let (expected, actual) = (expected.text(), claim_remedy_text(actual));
    if expected != "nothing" || writes {
        differences.check(what, &expected, &actual);
    }
}

fn check_findings(findings: &[Finding], expect: &Expect, differences: &mut Differences) -> Result<(), String> {
    let mut expected: Vec<&str> =
        expect.findings.as_ref().ok_or("expect.findings is missing")?.iter().map(String::as_str).collect();
    expected.sort_unstable();
    let mut actual: Vec<&str> = findings.iter().map(|finding| finding.code.as_str()).collect();
    actual.sort_unstable();
    differences.check("findings", &expected.join(" "), &actual.join(" "));
    differences.require(findings.is_sorted_by_key(|finding| std::cmp::Reverse(finding.severity)), || {
        "findings are not in the order of their severity".to_owned()
    });
    for (code, texts) in expect.says.iter().flatten() {
        let messages = || findings.iter().filter(|finding| finding.code.as_str() == code).map(|it| &*it.message);
        for text in texts {
            differences.require(messages().any(|message| message.contains(text)), || {
                format!("says.{code}: no message holds {text:?}, they are {:?}", messages().collect::<Vec<_>>())
            });
        }
    }
    Ok(())
}

/// Reports point at a line: the field that a finding is about must be there.
fn paths_exist(findings: &[Finding], object: &Value, differences: &mut Differences) {
    for finding in findings {
        let found = finding.path.0.iter().try_fold(object, |value, step| match value {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => value.get(step),
        });
        differences.require(found.is_some(), || format!("{}: the object has no {}", finding.code, finding.path));
    }
}

fn expected_remedy(expect: &Expect) -> Result<String, String> {
    let word = expect.remedy.as_ref().ok_or("expect.remedy is missing")?.text();
    let object = match word.as_str() {
        "leave" | "rescue" => None,
        "rewrite" => {
            let pin = expect.pin.as_ref().ok_or("expect.pin is missing")?;
            Some(pin.iter().map(|(by, value)| format!("{by} {value}")).collect::<Vec<_>>().join(", "))
        }
        "selectInTemplate" => Some(expect.volumes.as_ref().ok_or("expect.volumes is missing")?.join(", ")),
        "hopeless" => Some(expect.reason.clone().ok_or("expect.reason is missing")?),
        other => return Err(format!("expect.remedy: {other:?} is not a remedy")),
    };
    Ok(object.map_or(word.clone(), |object| format!("{word} {object}")))
}

/// A remedy in the words of the cases.
pub fn remedy_text(remedy: &Remedy) -> String {
    match remedy {
        Remedy::Leave => "leave".to_owned(),
        Remedy::Rewrite { pin: Pin::Hostname(value) } => format!("rewrite hostname {value}"),
        Remedy::Rewrite { pin: Pin::Name(name) } => format!("rewrite name {name}"),
        Remedy::SelectInTemplate { volumes } => format!("selectInTemplate {}", volumes.join(", ")),
        Remedy::Rescue => "rescue".to_owned(),
        Remedy::Hopeless { reason } => format!("hopeless {reason}"),
    }
}

fn assumption_text(assumption: &Assumption) -> String {
    match assumption {
        Assumption::DelayedClass(name) => format!("delayedClass {name}"),
        Assumption::ImmediateClass(name) => format!("immediateClass {name}"),
        Assumption::DelayedDefaultClass => "delayedDefaultClass".to_owned(),
        Assumption::ImmediateDefaultClass => "immediateDefaultClass".to_owned(),
        Assumption::ShippedClass { cluster, class } => format!("shippedClass {class} of {cluster}"),
        Assumption::SchedulableNode { name, hostname, labels, resources } => {
            let hostname = hostname.iter().filter(|hostname| *hostname != name).map(|it| format!("hostname={it}"));
            let asked: Vec<String> = hostname.chain(labels.iter().cloned()).chain(resources.iter().cloned()).collect();
            ["schedulableNode", name].into_iter().map(str::to_owned).chain(asked).collect::<Vec<_>>().join(" ")
        }
        Assumption::NodeStatus { name, resources } => {
            ["nodeStatus", name].into_iter().chain(resources.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
        }
        Assumption::OnlyHostname { node, hostname } => format!("onlyHostname {node} {hostname}"),
        Assumption::FittingVolume { class } => format!("fittingVolume {class}"),
        Assumption::ReachableVolume { volume } => format!("reachableVolume {volume}"),
        Assumption::Room { class, driver } => format!("room {class} {driver}"),
        Assumption::DriverOnNode { driver, node } => format!("driverOnNode {driver} {node}"),
        Assumption::NoRepellingPod { node } => format!("noRepellingPod {node}"),
        Assumption::ResourceClaimTemplate { template } => format!("resourceClaimTemplate {template}"),
        Assumption::BoundByThen { claim } => format!("boundByThen {claim}"),
    }
}

fn claim_remedy_text(remedy: &ClaimRemedy) -> String {
    match remedy {
        ClaimRemedy::Leave => "leave".to_owned(),
        ClaimRemedy::Wait => "wait".to_owned(),
        ClaimRemedy::Unselect => "unselect".to_owned(),
        ClaimRemedy::SelectNode { node } => format!("selectNode {node}"),
        ClaimRemedy::Prebind { volume } => format!("prebind {volume}"),
        ClaimRemedy::Hopeless { reason } => format!("hopeless {reason}"),
    }
}
