//! What holds for every Pod and every cluster.

mod oracle;
mod unknown;
mod world;

use std::cell::Cell;

use latebind::admission::patch;
use latebind::binding::{MOST_CLAIMS, Pin, PodVerdict, Remedy, Rules, decide_claim, decide_pod, decide_workload};
use latebind::facts::{Facts, Unlisted};
use latebind::model::{Claim, Pod, Workload, WorkloadKind};
use oracle::{accepts, changes, rewrite_may, template_may};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult, TestRunner, contextualize_config};
use serde::Deserialize;
use serde_json::{Value, json};
use unknown::{OneUnknown, Question};
use world::{World, hostile, world};

// The least shares asked for below lie six standard deviations beneath what this many worlds give, and more beneath what
// more of them give: `PROPTEST_CASES` may ask for more.
const CASES: u32 = 600;

fn config() -> ProptestConfig {
    contextualize_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })
}

/// A world, and what came out of it.
struct Decided {
    facts: Facts,
    pod: Pod,
    verdict: PodVerdict,
    patched: Value,
}

fn decide(world: &World) -> Result<Decided, TestCaseError> {
    let facts = world.facts();
    let pod = Pod::deserialize(&world.pod).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let verdict = decide_pod(&pod, &facts, &Rules::default());
    let mut patched = world.pod.clone();
    json_patch::patch(&mut patched, &patch::operations(&pod, &verdict.remedy))
        .map_err(|error| TestCaseError::fail(format!("the patch does not apply: {error}")))?;
    Ok(Decided { facts, pod, verdict, patched })
}

/// Runs a property over worlds and fails when fewer than this share of them were of interest: a property that hardly
/// ever sees a rewrite would prove nothing.
fn over_worlds(least_share: f64, property: impl Fn(&World) -> Result<bool, TestCaseError>) {
    let seen = Cell::new(0_u32);
    let ran = Cell::new(0_u32);
    let mut runner = TestRunner::new(config());
    let outcome = runner.run(&world(), |world| {
        ran.set(ran.get() + 1);
        seen.set(seen.get() + u32::from(property(&world)?));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let share = f64::from(seen.get()) / f64::from(ran.get().max(1));
    assert!(share >= least_share, "only {share:.3} of the worlds were of interest, less than {least_share}");
}

#[test]
fn a_rewritten_pod_goes_to_its_node_and_nowhere_it_could_not_go_before() {
    over_worlds(0.15, |world| {
        let decided = decide(world)?;
        let Remedy::Rewrite { pin } = &decided.verdict.remedy else { return Ok(false) };
        let node_name = decided.pod.pinned_node().unwrap_or_default();
        prop_assert!(decided.verdict.is_stuck(), "a Pod that waits for nothing was rewritten");
        for node in world.nodes() {
            let (before, after) = (accepts(&world.pod, node), accepts(&decided.patched, node));
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            prop_assert!(before || !after, "{name} did not match before and does after {pin:?}");
            prop_assert_eq!(after, name == node_name, "{} after {:?}", name, pin);
        }
        Ok(true)
    });
}

#[test]
fn a_rewritten_pod_is_left_alone() {
    over_worlds(0.15, |world| {
        let decided = decide(world)?;
        let Remedy::Rewrite { .. } = decided.verdict.remedy else { return Ok(false) };
        let again = Pod::deserialize(&decided.patched).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(decide_pod(&again, &decided.facts, &Rules::default()), PodVerdict::not_pinned());
        Ok(true)
    });
}

#[test]
fn nothing_but_the_documented_fields_changes() {
    over_worlds(0.15, |world| {
        let decided = decide(world)?;
        let node_name = decided.pod.pinned_node().unwrap_or_default();
        let changed = changes(&world.pod, &decided.patched);
        match decided.verdict.remedy {
            Remedy::Rewrite { .. } => {
                prop_assert!(changed.iter().any(|change| change.pointer == "/spec/nodeName"));
                for change in &changed {
                    prop_assert!(rewrite_may(change, node_name), "{change:?}");
                }
                Ok(true)
            }
            Remedy::SelectInTemplate { volumes } => {
                prop_assert_eq!(changed.len(), volumes.len(), "{:?}", changed);
                for change in &changed {
                    prop_assert!(template_may(change, node_name), "{change:?}");
                }
                Ok(true)
            }
            Remedy::Leave | Remedy::Rescue | Remedy::Hopeless { .. } => {
                prop_assert!(changed.is_empty(), "{changed:?}");
                Ok(false)
            }
        }
    });
}

#[test]
fn templates_are_written_often_enough_to_be_tested() {
    over_worlds(0.005, |world| Ok(matches!(decide(world)?.verdict.remedy, Remedy::SelectInTemplate { .. })));
}

#[test]
fn a_pod_that_names_no_node_is_not_touched() {
    over_worlds(0.95, |world| {
        let mut world = world.clone();
        world.pod["spec"]["nodeName"] = Value::Null;
        let decided = decide(&world)?;
        prop_assert_eq!(decided.verdict, PodVerdict::not_pinned());
        prop_assert_eq!(&decided.patched, &world.pod);
        Ok(true)
    });
}

#[test]
fn a_hopeless_pod_gets_nothing_written() {
    over_worlds(0.05, |world| {
        let verdict = decide(world)?.verdict;
        if !matches!(verdict.remedy, Remedy::Hopeless { .. }) {
            return Ok(false);
        }
        prop_assert_eq!(verdict.rescue().count(), 0);
        prop_assert!(verdict.is_stuck());
        Ok(true)
    });
}

#[test]
fn what_is_not_known_is_never_a_rewrite() {
    let mattered = Cell::new(0_u32);
    over_worlds(0.15, |world| {
        let facts = world.facts();
        let pod = Pod::deserialize(&world.pod).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let rewritten = matches!(decide_pod(&pod, &facts, &Rules::default()).remedy, Remedy::Rewrite { .. });
        for question in Question::ALL {
            let view = OneUnknown { facts: &facts, question: *question, asked: Cell::new(false) };
            let verdict = decide_pod(&pod, &view, &Rules::default());
            let Remedy::Rewrite { pin } = &verdict.remedy else {
                mattered.set(mattered.get() + u32::from(rewritten));
                continue;
            };
            match question {
                // The name leads to the node whatever its label and its namespace say.
                Question::NodesWithHostname | Question::Namespace => {
                    prop_assert!(!view.asked.get() || matches!(pin, Pin::Name(_)), "{question:?}: {pin:?}");
                }
                // Who else uses a claim keeps the scheduler from placing the Pod only if one Pod alone may use it.
                Question::Consumers => {
                    let exclusive = verdict.volumes.iter().filter_map(|volume| volume.claim.as_deref()).any(|name| {
                        let modes = world.objects.iter().filter(|object| object["metadata"]["name"] == *name);
                        modes.into_iter().any(|claim| claim["spec"]["accessModes"] == json!(["ReadWriteOncePod"]))
                    });
                    prop_assert!(!exclusive, "{question:?}: rewritten though another Pod may use an exclusive claim");
                }
                _ => prop_assert!(!view.asked.get(), "{question:?} was asked, not answered, and the Pod rewritten"),
            }
        }
        Ok(rewritten)
    });
    assert!(mattered.get() > CASES / 2, "hardly any unknown answer made a difference");
}

/// Puts a value at the place that the numbers lead to: each chooses among the children, the last one replaces.
fn disturb(value: &mut Value, choices: &[usize], with: Value) {
    let [choice, rest @ ..] = choices else {
        *value = with;
        return;
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            let place = choice % map.len();
            if let Some(child) = map.values_mut().nth(place) {
                disturb(child, rest, with);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let place = choice % items.len();
            disturb(&mut items[place], rest, with);
        }
        _ => *value = with,
    }
}

fn decide_everything(world: &World) -> TestCaseResult {
    let facts = world.facts();
    let rules = Rules::default();
    if let Ok(pod) = Pod::deserialize(&world.pod) {
        let verdict = decide_pod(&pod, &facts, &rules);
        let mut patched = world.pod.clone();
        let operations = patch::operations(&pod, &verdict.remedy);
        let applied = json_patch::patch(&mut patched, &operations);
        prop_assert!(applied.is_ok(), "{applied:?}: {operations:?}");
        for warning in patch::warnings(&verdict) {
            prop_assert!(!warning.chars().any(char::is_control), "{warning:?}");
        }
    }
    for object in &world.objects {
        if let Ok(claim) = Claim::deserialize(object) {
            let _verdict = decide_claim(&claim, &facts, &rules);
        }
    }
    for kind in WorkloadKind::ALL {
        let mut workload = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3,
            "volumeClaimTemplates": [{"metadata": {"name": "v0"}, "spec": world.objects[6]["spec"]}]}});
        let path = kind.template_path();
        let place = path.iter().fold(&mut workload, |value, step| &mut value[*step]);
        *place = json!({"metadata": world.pod["metadata"], "spec": world.pod["spec"]});
        let text = Workload::parse(kind, &workload.to_string());
        if let Ok(workload) = Workload::read(kind, &workload) {
            if let Ok(text) = text {
                prop_assert_eq!(format!("{text:?}"), format!("{workload:?}"));
            }
            let _verdict = decide_workload(&workload, &facts, &rules);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_value_makes_a_decision_panic_or_a_patch_fail(
        mut world in world(),
        in_pod in prop::collection::vec((prop::collection::vec(any::<usize>(), 1..8), hostile()), 0..3),
        in_objects in prop::collection::vec((prop::collection::vec(any::<usize>(), 2..8), hostile()), 0..3),
    ) {
        for (choices, with) in in_pod {
            disturb(&mut world.pod, &choices, with);
        }
        for (choices, with) in in_objects {
            let mut objects = Value::Array(world.objects);
            disturb(&mut objects, &choices, with);
            world.objects = if let Value::Array(objects) = objects { objects } else { Vec::new() };
        }
        decide_everything(&world)?;
    }

    #[test]
    fn no_value_at_all_makes_a_decision_panic(pod in hostile()) {
        let world = World { objects: vec![Value::Null; 7], pod, manifests: false };
        decide_everything(&world)?;
    }
}

#[test]
fn a_list_is_not_read_as_an_object() {
    for spec in [
        json!([]),
        json!({"affinity": []}),
        json!({"affinity": {"nodeAffinity": []}}),
        json!({"volumes": [["data"]]}),
        json!({"volumes": [{"name": "a", "ephemeral": []}]}),
        json!({"volumes": [{"name": "a", "ephemeral": {"volumeClaimTemplate": []}}]}),
        json!({"volumes": [{"name": "a", "ephemeral": {"volumeClaimTemplate": {"metadata": []}}}]}),
    ] {
        assert!(Pod::deserialize(json!({"metadata": {"name": "web"}, "spec": spec})).is_err(), "{spec}");
    }
}

#[test]
fn of_a_statefulset_with_too_many_claims_none_is_looked_at() {
    let templates: Vec<Value> =
        (0..MOST_CLAIMS).map(|number| json!({"metadata": {"name": format!("t{number}")}})).collect();
    let spec = json!({"nodeName": "n", "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
    let set = json!({"metadata": {"name": "s"}, "spec": {"replicas": 5, "template": {"spec": spec},
        "volumeClaimTemplates": templates}});
    let set = Workload::read(WorkloadKind::StatefulSet, &set).unwrap();
    let verdict = decide_workload(&set, &Facts::new(Unlisted::Unknown), &Rules::default());
    let [(pod, verdict)] = verdict.pods.as_slice() else { panic!("{} Pods", verdict.pods.len()) };
    let [finding] = verdict.findings.as_slice() else { panic!("{:?}", verdict.findings) };
    assert_eq!((finding.code.as_str(), &*finding.path.to_string()), ("LB022", "spec.template.spec.volumes"));
    assert!(finding.message.contains("declares 257 claims"), "{}", finding.message);
    assert_eq!(pod.spec.volumes.len(), MOST_CLAIMS + 1, "as it would be made");
}
