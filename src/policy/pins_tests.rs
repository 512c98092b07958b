use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::binding::{PinStyle, Rules, Severity};
use crate::facts::{Fact, Facts, Unlisted};

const NOW: &str = "2027-01-01T00:00:00Z";

/// A namespace `a` of team x, a strict one, nodes `n1` (rack 1) and `n2`, and a claim of class `fast` in each namespace.
fn cluster(policies: &[(&str, Value)]) -> Facts {
    let mut facts = Facts::new(Unlisted::Absent);
    add(&mut facts, "", "Namespace", &json!({ "metadata": { "name": "a", "labels": { "team": "x" } } }));
    let strict = json!({ "metadata": { "name": "strict", "labels": { "team": "x", "latebind.dev/mode": "deny" } } });
    add(&mut facts, "", "Namespace", &strict);
    for (name, rack) in [("n1", "1"), ("n2", "2")] {
        let labels = json!({ "rack": rack, "kubernetes.io/hostname": name });
        add(&mut facts, "", "Node", &json!({ "metadata": { "name": name, "labels": labels } }));
    }
    let class =
        json!({ "metadata": { "name": "fast" }, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer" });
    add(&mut facts, "storage.k8s.io", "StorageClass", &class);
    for namespace in ["a", "strict"] {
        let claim =
            json!({ "metadata": { "name": "data", "namespace": namespace }, "spec": { "storageClassName": "fast" } });
        add(&mut facts, "", "PersistentVolumeClaim", &claim);
    }
    for (name, spec) in policies {
        add(&mut facts, "latebind.dev", "PinPolicy", &json!({ "metadata": { "name": name }, "spec": spec }));
    }
    facts
}

fn add(facts: &mut Facts, group: &str, kind: &str, object: &Value) {
    facts.add(Fact::read(group, kind, object).unwrap().unwrap());
}

fn pod_with(namespace: &str, node: &str, metadata: &Value) -> Pod {
    let mut pod = json!({ "metadata": { "name": "p", "namespace": namespace }, "spec": { "nodeName": node,
        "containers": [{ "volumeMounts": [{ "name": "v" }] }],
        "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }] } });
    for (key, value) in metadata.as_object().unwrap() {
        pod["metadata"][key] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

fn pod(namespace: &str, node: &str) -> Pod {
    pod_with(namespace, node, &json!({}))
}

fn jane() -> Requester {
    Requester { user: "jane".to_owned(), groups: vec!["devs".to_owned()] }
}

fn ask(facts: &Facts, pod: &Pod, requester: Option<&Requester>, now: &str) -> Decision {
    evaluate(&PinRequest { pod, requester, mode: Mode::Rewrite, now: now.parse().unwrap() }, facts)
}

fn decide(policies: &[(&str, Value)], pod: &Pod) -> Decision {
    ask(&cluster(policies), pod, Some(&jane()), NOW)
}

#[test]
fn without_a_policy_the_flag_and_the_label_decide() {
    let decision = decide(&[], &pod("a", "n1"));
    assert_eq!((decision.mode, &decision.decided_by), (Some(Mode::Rewrite), &DecidedBy::Flag));
    assert!(!decision.is_of_policies() && !decision.withheld);
    let decision = decide(&[], &pod("strict", "n1"));
    assert_eq!((decision.mode, &decision.decided_by), (Some(Mode::Deny), &DecidedBy::NamespaceLabel));
    let elsewhere = json!({ "mode": "Deny", "namespaces": { "names": ["b"] } });
    assert_eq!(decide(&[("p", elsewhere)], &pod("a", "n1")).decided_by, DecidedBy::Flag);
}

#[test]
fn the_strictest_of_all_that_cover_the_pod_wins_in_place_of_the_flag() {
    let of = |modes: &[&str], namespace: &str| {
        let policies: Vec<(String, Value)> =
            modes.iter().map(|mode| (mode.to_lowercase(), json!({ "mode": mode }))).collect();
        let policies: Vec<(&str, Value)> = policies.iter().map(|(name, spec)| (name.as_str(), spec.clone())).collect();
        let decision = decide(&policies, &pod(namespace, "n1"));
        (decision.mode, decision.decided_by)
    };
    let by = |name: &str| DecidedBy::Policy(name.to_owned());
    assert_eq!(of(&["Off"], "a"), (None, by("off")));
    assert_eq!(of(&["Audit", "Off"], "a"), (Some(Mode::Audit), by("audit")));
    assert_eq!(of(&["Audit", "Warn"], "a"), (Some(Mode::Warn), by("warn")));
    assert_eq!(of(&["Deny", "Warn", "Rewrite"], "a"), (Some(Mode::Deny), by("deny")));
    // The label of a namespace makes it stricter, never laxer.
    assert_eq!(of(&["Off"], "strict"), (Some(Mode::Deny), DecidedBy::NamespaceLabel));
    assert_eq!(of(&["Deny"], "strict"), (Some(Mode::Deny), by("deny")));
}

#[test]
fn a_policy_covers_what_all_of_its_selectors_match() {
    let covered = |spec: Value, pod: &Pod| {
        let mut whole = json!({ "mode": "Deny" });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        !decide(&[("p", whole)], pod).covering.is_empty()
    };
    let plain = pod("a", "n1");
    let labelled = pod_with("a", "n1", &json!({ "labels": { "app": "web" } }));
    for (spec, expected) in [
        (json!({}), true),
        (json!({ "namespaces": { "names": ["b", "a"] } }), true),
        (json!({ "namespaces": { "names": ["b"] } }), false),
        (json!({ "namespaces": { "selector": { "matchLabels": { "team": "x" } } } }), true),
        (json!({ "namespaces": { "names": ["b"], "selector": { "matchLabels": { "team": "x" } } } }), true),
        (json!({ "namespaces": { "selector": { "matchLabels": { "team": "y" } } } }), false),
        (json!({ "namespaces": { "selector": {} } }), true),
        (json!({ "objectSelector": { "matchLabels": { "app": "web" } } }), false),
        (json!({ "objectSelector": { "matchExpressions": [{ "key": "app", "operator": "DoesNotExist" }] } }), true),
        (json!({ "storageClasses": ["slow", "fast"] }), true),
        (json!({ "storageClasses": ["slow"] }), false),
        (json!({ "requesters": { "users": ["jane"] } }), true),
        (json!({ "requesters": { "users": ["joe"], "groups": ["devs"] } }), true),
        (json!({ "requesters": { "groups": ["ops"] } }), false),
        (json!({ "requesters": { "serviceAccounts": ["a/jane"] } }), false),
        (json!({ "namespaces": { "names": ["a"] }, "storageClasses": ["slow"] }), false),
    ] {
        assert_eq!(covered(spec.clone(), &plain), expected, "{spec}");
    }
    for (operator, values, expected) in [
        ("In", json!(["web"]), true),
        ("In", json!(["db"]), false),
        ("NotIn", json!(["web"]), false),
        ("NotIn", json!(["db"]), true),
    ] {
        let wanted = json!({ "key": "app", "operator": operator, "values": values });
        let spec = json!({ "objectSelector": { "matchExpressions": [wanted] } });
        assert_eq!(covered(spec, &labelled), expected, "{operator} {values}");
    }
    let account = Requester { user: "system:serviceaccount:a:deployer".to_owned(), groups: Vec::new() };
    let of_account = json!({ "mode": "Deny", "requesters": { "serviceAccounts": ["a/deployer"] } });
    let decision = ask(&cluster(&[("p", of_account)]), &plain, Some(&account), NOW);
    assert_eq!(decision.mode, Some(Mode::Deny));
}

#[test]
fn each_policy_acts_on_its_own_nodes_in_its_own_mode() {
    let only = |mode: &str, node: &str| json!({ "mode": mode, "allowedNodes": { "names": [node] } });
    let decision = decide(&[("deny", only("Deny", "n1")), ("audit", only("Audit", "n2"))], &pod("a", "n1"));
    assert_eq!(decision.not_allowed, [NotAllowed { policy: "audit".to_owned(), mode: Mode::Audit }]);
    assert_eq!((decision.mode, decision.withheld), (Some(Mode::Deny), false), "what is audited only withholds nothing");
    let decision = decide(&[("deny", only("Deny", "n1")), ("audit", only("Audit", "n2"))], &pod("a", "n2"));
    assert_eq!(decision.not_allowed[0].policy, "deny");
    assert!(decision.withheld);
    for (nodes, expected) in [
        (json!({ "names": [] }), false),
        (json!({ "names": ["n2"] }), false),
        (json!({ "selector": { "matchLabels": { "rack": "1" } } }), true),
        (json!({ "selector": { "matchLabels": { "rack": "2" } } }), false),
        (json!({ "names": ["n1"], "selector": { "matchLabels": { "rack": "2" } } }), true),
        (json!({ "selector": {} }), true),
    ] {
        let decision = decide(&[("p", json!({ "mode": "Deny", "allowedNodes": nodes }))], &pod("a", "n1"));
        assert_eq!(decision.not_allowed.is_empty(), expected, "{nodes}");
    }
    // Off says nothing about nodes, until the namespace's label makes it stricter.
    assert!(decide(&[("off", only("Off", "n2"))], &pod("a", "n1")).not_allowed.is_empty());
    assert_eq!(decide(&[("off", only("Off", "n2"))], &pod("strict", "n1")).not_allowed[0].mode, Mode::Deny);
    // A Node that does not exist has no labels.
    let of_rack = json!({ "mode": "Deny", "allowedNodes": { "selector": {} } });
    assert_eq!(decide(&[("p", of_rack)], &pod("a", "gone")).not_allowed.len(), 1);
}

#[test]
fn a_pod_that_names_no_node_is_nobody_s_business() {
    let nobody = json!({ "mode": "Deny", "allowedNodes": { "names": [] } });
    let mut pod = pod("a", "n1");
    pod.spec.node_name = None;
    let decision = decide(&[("p", nobody)], &pod);
    assert!(decision.covering.is_empty() && decision.not_allowed.is_empty());
}

#[test]
fn an_exception_subtracts_until_the_second_that_it_names() {
    let exception = |more: Value| {
        let mut exception = json!({ "reason": "moving", "expiresAt": "2027-01-01T00:00:10Z" });
        exception.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        exception
    };
    let facts = cluster(&[
        ("deny", json!({ "mode": "Deny", "exceptions": [exception(json!({ "namespaces": ["a"] }))] })),
        ("warn", json!({ "mode": "Warn" })),
    ]);
    for (now, mode, excepted) in [
        ("2027-01-01T00:00:09Z", Mode::Warn, 1),
        ("2027-01-01T00:00:09.999Z", Mode::Warn, 1),
        ("2027-01-01T00:00:10Z", Mode::Deny, 0),
        ("2027-01-01T00:00:11Z", Mode::Deny, 0),
    ] {
        let decision = ask(&facts, &pod("a", "n1"), Some(&jane()), now);
        assert_eq!((decision.mode, decision.excepted.len()), (Some(mode), excepted), "{now}");
        assert_eq!(ask(&facts, &pod("strict", "n1"), Some(&jane()), now).mode, Some(Mode::Deny), "another namespace");
    }
    // All that an exception names must hold.
    let both = exception(json!({ "namespaces": ["a"], "requesters": { "users": ["joe"] } }));
    let decision = decide(&[("deny", json!({ "mode": "Deny", "exceptions": [both] }))], &pod("a", "n1"));
    assert_eq!((decision.mode, decision.excepted.len()), (Some(Mode::Deny), 0));
}

#[test]
fn what_is_not_known_refuses_nothing_and_permits_nothing() {
    let by_user = |mode: &str| ("p", json!({ "mode": mode, "requesters": { "users": ["jane"] } }));
    let unknown = |policies: &[(&str, Value)]| ask(&cluster(policies), &pod("a", "n1"), None, NOW);
    let decision = unknown(&[by_user("Deny")]);
    assert_eq!(
        (decision.mode, decision.least),
        (Some(Mode::Warn), Some(Mode::Rewrite)),
        "neither refused nor rewritten"
    );
    assert_eq!(decision.decided_by, DecidedBy::NotKnown);
    let decision = unknown(&[by_user("Off")]);
    assert_eq!((decision.mode, decision.least), (None, None));
    // Where the answer is the same either way, there is one.
    let decision = unknown(&[by_user("Rewrite")]);
    assert_eq!((decision.mode, &decision.decided_by), (Some(Mode::Rewrite), &DecidedBy::Flag));
    let decision = unknown(&[by_user("Audit"), ("known", json!({ "mode": "Deny" }))]);
    assert_eq!((decision.mode, decision.policy()), (Some(Mode::Deny), Some("known")));
    // An exception of which it is not known whether it holds.
    let exception = json!({ "reason": "r", "expiresAt": "2028-01-01T00:00:00Z", "requesters": { "users": ["jane"] } });
    let decision = unknown(&[("p", json!({ "mode": "Deny", "exceptions": [exception] }))]);
    assert_eq!(decision.mode, Some(Mode::Warn));
    // A claim that is not there yet: nobody knows of which class it will be.
    let mut unborn = pod("a", "n1");
    unborn.spec.volumes[0].persistent_volume_claim.as_mut().unwrap().claim_name = "later".into();
    let of_class = json!({ "mode": "Deny", "storageClasses": ["fast"], "allowedNodes": { "names": [] } });
    let decision = decide(&[("p", of_class)], &unborn);
    assert_eq!((decision.mode, decision.not_allowed.len(), decision.withheld), (Some(Mode::Warn), 0, true));
}

#[test]
fn labels_of_nodes_and_namespaces_that_are_not_known() {
    let mut facts = Facts::new(Unlisted::Unknown);
    let rack = json!({ "mode": "Deny", "allowedNodes": { "selector": { "matchLabels": { "rack": "1" } } } });
    let team = json!({ "mode": "Deny", "namespaces": { "selector": { "matchLabels": { "team": "x" } } } });
    add(&mut facts, "latebind.dev", "PinPolicy", &json!({ "metadata": { "name": "rack" }, "spec": rack }));
    let decision = ask(&facts, &pod("a", "n1"), Some(&jane()), NOW);
    assert!(decision.not_allowed.is_empty() && decision.withheld);
    let verdict = judge(&pod("a", "n1"), &facts, &Rules::default(), &decision);
    assert!(verdict.findings.iter().any(|it| it.code == Code::PolicyNotKnown && it.severity == Severity::Warning));
    let mut facts = Facts::new(Unlisted::Unknown);
    add(&mut facts, "latebind.dev", "PinPolicy", &json!({ "metadata": { "name": "team" }, "spec": team }));
    let decision = ask(&facts, &pod("a", "n1"), Some(&jane()), NOW);
    assert_eq!((decision.mode, decision.not_known.len()), (Some(Mode::Warn), 1));
}

#[test]
fn policies_that_are_not_known_cap_the_mode() {
    let mut facts = cluster(&[]);
    facts.add(Fact::PoliciesNotTold);
    let decision = ask(&facts, &pod("a", "n1"), Some(&jane()), NOW);
    assert_eq!((decision.mode, decision.withheld), (Some(Mode::Warn), true));
    assert_eq!(RescuePolicy::default().reach_for(&pod("a", "n1"), &facts, NOW.parse().unwrap()), None);
    let request = PinRequest { pod: &pod("a", "n1"), requester: None, mode: Mode::Audit, now: NOW.parse().unwrap() };
    assert_eq!(evaluate(&request, &facts).mode, Some(Mode::Audit));
}

#[test]
fn a_pin_is_that_of_the_first_policy_that_has_one() {
    let pin = |pin: &str| json!({ "mode": "Rewrite", "pin": pin });
    assert_eq!(decide(&[("b", pin("Name")), ("a", pin("Hostname"))], &pod("a", "n1")).pin, Some(PinStyle::Hostname));
    assert_eq!(decide(&[("a", json!({ "mode": "Rewrite" }))], &pod("a", "n1")).pin, None);
}

#[test]
fn the_ignore_annotation_counts_only_where_every_policy_allows_it() {
    let annotated = pod_with("a", "n1", &json!({ "annotations": { "latebind.dev/ignore": "LB001: bound by hand" } }));
    let codes = |policies: &[(&str, Value)]| -> Vec<&str> {
        let facts = cluster(policies);
        let decision = ask(&facts, &annotated, Some(&jane()), NOW);
        let verdict = judge(&annotated, &facts, &Rules::default(), &decision);
        verdict.findings.iter().map(|finding| finding.code.as_str()).collect()
    };
    let allows = json!({ "mode": "Rewrite", "allowIgnore": true });
    assert_eq!(codes(&[]), ["LB001"], "without a policy admission does not read it");
    assert_eq!(codes(&[("a", json!({ "mode": "Rewrite" }))]), ["LB001", "LB303"]);
    assert!(codes(&[("a", allows.clone())]).is_empty());
    assert_eq!(codes(&[("a", allows.clone()), ("b", json!({ "mode": "Audit" }))]), ["LB001", "LB303"]);
    // Nobody accepts on behalf of others that a policy is violated.
    let nodes = json!({ "mode": "Deny", "allowIgnore": true, "allowedNodes": { "names": [] } });
    let forged = pod_with("a", "n1", &json!({ "annotations": { "latebind.dev/ignore": "LB302: no; LB001: no" } }));
    let facts = cluster(&[("a", nodes)]);
    let verdict = judge(&forged, &facts, &Rules::default(), &ask(&facts, &forged, Some(&jane()), NOW));
    assert_eq!(verdict.findings.iter().map(|it| it.code.as_str()).collect::<Vec<_>>(), ["LB302"]);
}

#[test]
fn the_rescue_loop_goes_as_far_as_the_policies_let_it() {
    let reach = |policies: &[(&str, Value)], pod: &Pod| {
        let now: Timestamp = NOW.parse().unwrap();
        RescuePolicy::default().reach_for(pod, &cluster(policies), now).map(|(reach, _)| reach)
    };
    let plain = pod("a", "n1");
    for (mode, expected) in [
        ("Off", Reach::Leave),
        ("Audit", Reach::Count),
        ("Warn", Reach::Tell),
        ("Rewrite", Reach::Write),
        ("Deny", Reach::Write),
    ] {
        assert_eq!(reach(&[("p", json!({ "mode": mode }))], &plain), Some(expected), "{mode}");
        // Who created the Pod is not known: what only the flag says is as far as it goes at most.
        let by_user = json!({ "mode": mode, "requesters": { "users": ["jane"] } });
        assert_eq!(reach(&[("p", by_user)], &plain), Some(expected), "{mode} by requester");
    }
    let only_n2 = |mode: &str| [("p", json!({ "mode": mode, "allowedNodes": { "names": ["n2"] } }))];
    assert_eq!(reach(&only_n2("Rewrite"), &plain), Some(Reach::Tell));
    assert_eq!(reach(&only_n2("Deny"), &plain), Some(Reach::Tell));
    assert_eq!(reach(&only_n2("Deny"), &pod("a", "n2")), Some(Reach::Write));
    let annotated = pod_with("a", "n1", &json!({ "annotations": { "latebind.dev/ignore": "LB001: by hand" } }));
    assert_eq!(reach(&[("p", json!({ "mode": "Rewrite", "allowIgnore": true }))], &annotated), Some(Reach::Leave));
    assert_eq!(reach(&[("p", json!({ "mode": "Rewrite" }))], &annotated), Some(Reach::Write));
}

#[test]
fn what_decides_is_told() {
    let exception = json!({ "reason": "moving", "expiresAt": "2027-02-01T00:00:00Z", "namespaces": ["a"] });
    let policies = [
        ("deny", json!({ "mode": "Deny", "exceptions": [exception] })),
        ("nodes", json!({ "mode": "Rewrite", "allowedNodes": { "names": ["n2"] } })),
        ("audit", json!({ "mode": "Audit" })),
    ];
    let lines = decide(&policies, &pod("a", "n1")).lines();
    assert_eq!(
        lines,
        [
            "mode rewrite, by PinPolicy \"nodes\", the strictest of 2 that cover the Pod",
            "PinPolicy \"audit\" covers it too, mode audit",
            "PinPolicy \"nodes\" (mode rewrite) does not allow the node that it names",
            "PinPolicy \"deny\" does not cover it until 2027-02-01T00:00:00Z: moving",
            "latebind ties nothing to that node",
        ]
    );
}

#[test]
fn a_violation_is_a_finding_that_names_the_policy() {
    for (mode, severity) in [
        ("Audit", Severity::Info),
        ("Warn", Severity::Warning),
        ("Rewrite", Severity::Warning),
        ("Deny", Severity::Error),
    ] {
        let facts = cluster(&[("racks", json!({ "mode": mode, "allowedNodes": { "names": ["n2"] } }))]);
        let decision = ask(&facts, &pod("a", "n1"), Some(&jane()), NOW);
        let verdict = judge(&pod("a", "n1"), &facts, &Rules::default(), &decision);
        let found = verdict.findings.iter().find(|finding| finding.code == Code::NodeNotAllowed).unwrap();
        assert_eq!((found.severity, found.path.to_string().as_str()), (severity, "spec.nodeName"), "{mode}");
        assert_eq!(found.message, "PinPolicy \"racks\" does not allow Pods to name node \"n1\"");
        let is_rewritten = matches!(verdict.remedy, crate::binding::Remedy::Rewrite { .. });
        assert_eq!(is_rewritten, matches!(mode, "Audit" | "Warn"), "{mode}: latebind ties nothing to such a node");
    }
}
