//! What one policy says of the Pods that wait. Pure.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::binding::{ClusterView, Lookup, Rules, decide_pod};
use crate::crd::{
    EXCEPTIONS_EXPIRED, LISTED_VIOLATIONS, PinPolicy, PinPolicyStatus, PolicyMode, READY, Violation, set_condition,
};
use crate::model::{Pod, WEBHOOK_LABEL};
use crate::policy::{Exemptions, Mode, PinRequest, evaluate_one, is_expired};

/// How Pods are looked at.
pub(super) struct Looking<'a> {
    pub view: &'a dyn ClusterView,
    pub rules: &'a Rules,
    /// The mode that holds where no policy has a say.
    pub mode: Mode,
    pub exemptions: &'a Exemptions,
    /// The moment, by which exceptions expire.
    pub now: Timestamp,
}

/// The status of a policy by these Pods, and whether it differs from the one that the policy has.
pub(super) fn status(policy: &PinPolicy, pods: &[Arc<Pod>], looking: &Looking<'_>) -> (PinPolicyStatus, bool) {
    let before = policy.status.clone().unwrap_or_default();
    let mut next = PinPolicyStatus {
        observed_generation: policy.metadata.generation,
        conditions: before.conditions.clone(),
        ..PinPolicyStatus::default()
    };
    let mut violations: Vec<Violation> = Vec::new();
    for pod in pods.iter().filter(|pod| looking.waits(pod)) {
        let request = PinRequest { pod, requester: None, mode: looking.mode, now: looking.now };
        let decision = evaluate_one(policy, &request, looking.view);
        next.matched_pods += i64::from(!decision.covering.is_empty());
        next.unknown_pods += i64::from(!decision.not_known.is_empty());
        let reason = match (decision.not_allowed.is_empty(), decision.covering.is_empty()) {
            (false, _) => "NodeNotAllowed",
            (true, false) if policy.spec.mode == PolicyMode::Deny => "WaitsForever",
            (true, _) => continue,
        };
        next.total_violations += 1;
        violations.push(Violation {
            namespace: pod.namespace().to_owned(),
            name: pod.display_name().to_owned(),
            node: pod.pinned_node().unwrap_or_default().to_owned(),
            reason: reason.to_owned(),
        });
    }
    violations.sort_unstable();
    violations.truncate(LISTED_VIOLATIONS);
    next.violations = violations;
    set_conditions(policy, &mut next, looking.now);
    let changed = next != before;
    (next, changed)
}

fn set_conditions(policy: &PinPolicy, status: &mut PinPolicyStatus, now: Timestamp) {
    let generation = policy.metadata.generation;
    let off = policy.spec.mode == PolicyMode::Off;
    let ready = if off { ("Off", "the Pods that it covers are left alone") } else { ("InForce", "it is in force") };
    set_condition(&mut status.conditions, (READY, true, ready.0, ready.1), generation, now);
    let exceptions = &policy.spec.exceptions;
    let expired = exceptions.iter().filter(|exception| is_expired(exception, now)).count();
    let message = format!("{expired} of {} exceptions are past their time", exceptions.len());
    let reason = if expired > 0 { "PastExpiry" } else { "NoneExpired" };
    set_condition(&mut status.conditions, (EXCEPTIONS_EXPIRED, expired > 0, reason, &message), generation, now);
}

impl Looking<'_> {
    /// True for a Pod that names its node and waits for a claim, which only one that came with its node does.
    fn waits(&self, pod: &Pod) -> bool {
        if pod.pinned_node().is_none() || !pod.is_live() || self.exemptions.namespaces.contains(pod.namespace()) {
            return false;
        }
        // Most Pods that start just now have all their claims, and cost no more than this.
        let unbound = pod.claim_names().any(|name| match self.view.claim(pod.namespace(), &name) {
            Lookup::Found(claim) => !claim.is_bound(),
            Lookup::Absent | Lookup::Unknown => false,
        });
        let is_left = || match self.view.namespace(pod.namespace()) {
            Lookup::Found(namespace) => namespace.metadata.label(WEBHOOK_LABEL) == Some("disabled"),
            Lookup::Absent | Lookup::Unknown => true,
        };
        unbound && !is_left() && decide_pod(pod, self.view, self.rules).is_stuck()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::crd::condition;
    use crate::facts::{Fact, Facts, Unlisted};

    fn facts(pods: usize) -> Facts {
        let mut facts = Facts::new(Unlisted::Absent);
        let mut add = |group: &str, kind: &str, object: Value| {
            facts.add(Fact::read(group, kind, &object).unwrap().unwrap());
        };
        add("", "Namespace", json!({ "metadata": { "name": "a" } }));
        add("", "Namespace", json!({ "metadata": { "name": "left", "labels": { WEBHOOK_LABEL: "disabled" } } }));
        let class =
            json!({ "metadata": { "name": "local" }, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer" });
        add("storage.k8s.io", "StorageClass", class);
        add("", "Node", json!({ "metadata": { "name": "n", "labels": { "kubernetes.io/hostname": "n" } } }));
        for namespace in ["a", "left"] {
            for number in 0..pods {
                let metadata = json!({ "name": format!("c{number}"), "namespace": namespace });
                add(
                    "",
                    "PersistentVolumeClaim",
                    json!({ "metadata": metadata, "spec": { "storageClassName": "local" } }),
                );
            }
        }
        facts
    }

    fn pods(namespace: &str, count: usize) -> Vec<Arc<Pod>> {
        let pod = |number: usize| {
            Arc::new(
                serde_json::from_value(json!({ "metadata": { "name": format!("p{number:03}"), "namespace": namespace, "uid": "u" },
                    "spec": { "nodeName": "n", "containers": [{ "volumeMounts": [{ "name": "v" }] }],
                        "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": format!("c{number}") } }] } }))
                .unwrap(),
            )
        };
        (0..count).map(pod).collect()
    }

    fn policy(spec: Value) -> PinPolicy {
        let mut policy = PinPolicy::new("p", serde_json::from_value(spec).unwrap());
        policy.metadata.generation = Some(3);
        policy
    }

    #[test]
    fn violations_are_counted_and_the_first_twenty_named() {
        let (facts, rules, exemptions) = (facts(25), Rules::default(), Exemptions::default());
        let now: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let looking = Looking { view: &facts, rules: &rules, mode: Mode::Rewrite, exemptions: &exemptions, now };
        let all: Vec<Arc<Pod>> = pods("a", 25).into_iter().chain(pods("left", 5)).rev().collect();
        let mut refusing = policy(json!({ "mode": "Audit", "allowedNodes": { "names": ["other"] } }));
        let (status, changed) = super::status(&refusing, &all, &looking);
        assert!(changed);
        assert_eq!((status.matched_pods, status.total_violations, status.violations.len()), (25, 25, 20));
        assert_eq!(status.observed_generation, Some(3));
        assert_eq!(
            (status.violations[0].name.as_str(), status.violations[0].reason.as_str()),
            ("p000", "NodeNotAllowed")
        );
        refusing.status = Some(status);
        assert!(!super::status(&refusing, &all, &looking).1, "what is the same is not written again");
        let (status, _) = super::status(&policy(json!({ "mode": "Deny" })), &all, &looking);
        assert_eq!((status.total_violations, status.violations[0].reason.as_str()), (25, "WaitsForever"));
        let (status, _) =
            super::status(&policy(json!({ "mode": "Rewrite", "allowedNodes": { "names": ["n"] } })), &all, &looking);
        assert_eq!((status.matched_pods, status.total_violations), (25, 0));
        let by_user = policy(json!({ "mode": "Deny", "requesters": { "users": ["jane"] } }));
        let (status, _) = super::status(&by_user, &all, &looking);
        assert_eq!((status.matched_pods, status.unknown_pods, status.total_violations), (0, 25, 0));
    }

    #[test]
    fn an_exception_that_has_expired_is_told() {
        let (facts, rules, exemptions) = (facts(1), Rules::default(), Exemptions::default());
        let exception = json!({ "reason": "r", "expiresAt": "2027-01-01T00:00:00Z", "namespaces": ["a"] });
        let policy = policy(json!({ "mode": "Deny", "exceptions": [exception] }));
        for (now, expired, violations) in [("2026-12-31T23:59:59Z", "False", 0), ("2027-01-01T00:00:00Z", "True", 1)] {
            let now = now.parse().unwrap();
            let looking = Looking { view: &facts, rules: &rules, mode: Mode::Rewrite, exemptions: &exemptions, now };
            let (status, _) = super::status(&policy, &pods("a", 1), &looking);
            assert_eq!(condition(&status.conditions, EXCEPTIONS_EXPIRED).unwrap().status, expired);
            assert_eq!(status.total_violations, violations);
        }
    }
}
