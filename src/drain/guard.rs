//! Whether a Pod with a volume on its node alone may be evicted, and whether such a node may be deleted.
//!
//! What is not known lets it go: a guard is never why a drain does not end.

use k8s_openapi::jiff::Timestamp;

use super::held::tied_to;
use super::policy::{Approval, ChosenPolicy, approval, policy_of};
use crate::binding::ClusterView;
use crate::crd::DrainPolicy;
use crate::model::{Claim, DRAIN_INTENT, EvictedPod, Node, OtherReplicas, Volume};

/// What a node is drained for when it goes for good.
pub const RETIRE: &str = "retire";

/// The strictest policy among claims, and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Name of the claim; of several the first.
    pub claim: String,
    /// Its policy.
    pub chosen: ChosenPolicy<DrainPolicy>,
    /// Whether somebody has approved of its eviction, on the claim or on the node.
    pub approval: Approval,
}

impl Guard {
    /// The strictest of these claims, by namespace and name, of which each has a volume on the node alone; nothing where none is known.
    #[must_use]
    pub fn of<'a>(
        claims: impl IntoIterator<Item = (&'a str, &'a str)>,
        node: &Node,
        now: Timestamp,
        view: &dyn ClusterView,
    ) -> Option<Self> {
        let mut strictest: Option<Self> = None;
        for (namespace, name) in claims {
            let Some(claim) = view.claim(namespace, name).found().filter(|claim| claim.is_bound()) else { continue };
            let Some(volume) = claim.volume_name().and_then(|name| view.volume(name).found()) else { continue };
            let guard = Self::of_claim(&claim, &volume, node, now, view);
            if strictest.as_ref().is_none_or(|other| guard.strictness() > other.strictness()) {
                strictest = Some(guard);
            }
        }
        strictest
    }

    fn of_claim(claim: &Claim, volume: &Volume, node: &Node, now: Timestamp, view: &dyn ClusterView) -> Self {
        // Whichever of both approves; otherwise what is wrong with the claim's is told first.
        let approval = match (approval(&node.metadata, now), approval(&claim.metadata, now)) {
            (by @ Approval::By(_), _) => by,
            (of_node, Approval::None) => of_node,
            (_, of_claim) => of_claim,
        };
        Self { claim: claim.name().to_owned(), chosen: policy_of(claim, volume, view), approval }
    }

    /// True where nothing is to be said.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.chosen.policy == DrainPolicy::Allow && self.chosen.unread.is_empty()
    }

    /// Who has approved of what the policy would hold up.
    #[must_use]
    pub fn approved_by(&self) -> Option<&str> {
        match (&self.approval, self.chosen.policy) {
            (Approval::By(by), DrainPolicy::Deny | DrainPolicy::Wait) => Some(by),
            _ => None,
        }
    }

    /// What is approved of is let go as if it were warned of.
    fn strictness(&self) -> DrainPolicy {
        if self.approved_by().is_some() { DrainPolicy::Warn } else { self.chosen.policy }
    }

    /// True where it hangs on the Pod whether it goes.
    #[must_use]
    pub fn asks_for_pod(&self, node: &Node) -> bool {
        self.strictness() >= DrainPolicy::Wait && node.says_that_it_is_ready()
    }
}

/// What becomes of an eviction, or of the deletion of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardVerdict {
    /// It goes.
    Allowed,
    /// It goes, since somebody has approved.
    Approved(String),
    /// It goes, since what would keep it is not known.
    NotKnown,
    /// Not now. It goes by itself.
    Later(Later),
    /// Not before somebody approves.
    Denied,
}

/// What an eviction waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Later {
    /// Other replicas of the StatefulSet.
    Replicas {
        /// Name of the StatefulSet.
        set: String,
        /// Others that it asks for.
        wanted: usize,
        /// The Pods that are not ready.
        awaited: Vec<String>,
    },
    /// This one of the same StatefulSet, which goes from the node first.
    Turn(String),
    /// A look at the Pod, since too many others are looked at.
    Look,
}

/// Decides on the eviction of a Pod of a namespace. `pod` is nothing where it was not looked at because it does not count.
#[must_use]
pub fn eviction(
    guard: &Guard,
    namespace: &str,
    node: &Node,
    pod: Option<&EvictedPod>,
    view: &dyn ClusterView,
) -> GuardVerdict {
    if let Some(by) = guard.approved_by() {
        return GuardVerdict::Approved(by.to_owned());
    }
    // Of a node that is down no eviction takes anything away.
    if !guard.asks_for_pod(node) {
        return GuardVerdict::Allowed;
    }
    match (guard.chosen.policy, pod) {
        (_, Some(EvictedPod::Idle)) => GuardVerdict::Allowed,
        (_, Some(EvictedPod::NotLookedAt)) => GuardVerdict::Later(Later::Look),
        (_, None) => GuardVerdict::NotKnown,
        (DrainPolicy::Deny, Some(EvictedPod::Serves(_))) => GuardVerdict::Denied,
        (_, Some(EvictedPod::Serves(others))) => beside(others, namespace, node, view),
    }
}

/// Whether a Pod goes whose policy is `Wait`.
///
/// Replicas with a volume on the same node start again only with it: to wait for them would be to wait for the end of the drain. Only
/// where the node is retired they start elsewhere, one after another.
fn beside(others: &OtherReplicas, namespace: &str, node: &Node, view: &dyn ClusterView) -> GuardVerdict {
    let is_retired = node.metadata.annotation(DRAIN_INTENT) == Some(RETIRE);
    match others {
        OtherReplicas::Ready { ahead: Some(ahead) } if is_retired => GuardVerdict::Later(Later::Turn(ahead.clone())),
        OtherReplicas::NoSet | OtherReplicas::Ready { .. } => GuardVerdict::Allowed,
        OtherReplicas::NotKnown => GuardVerdict::NotKnown,
        OtherReplicas::Awaited { set, wanted, awaited, templates } => {
            let tied = if is_retired { Vec::new() } else { tied_to(awaited, templates, namespace, node, view) };
            let awaited: Vec<String> = awaited.iter().filter(|pod| !tied.contains(&pod.as_str())).cloned().collect();
            if awaited.is_empty() {
                return GuardVerdict::Allowed;
            }
            GuardVerdict::Later(Later::Replicas { set: set.clone(), wanted: *wanted, awaited })
        }
    }
}

/// Decides on the deletion of a Node object. While its kubelet reports, its claims are in use, and `Deny` keeps it.
#[must_use]
pub fn deletion(guard: &Guard, node: &Node) -> GuardVerdict {
    match (&guard.approval, guard.chosen.policy) {
        (Approval::By(by), DrainPolicy::Deny) => GuardVerdict::Approved(by.clone()),
        (_, DrainPolicy::Deny) if node.says_that_it_is_ready() => GuardVerdict::Denied,
        _ => GuardVerdict::Allowed,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::facts::{Fact, Facts, Unlisted};
    use crate::model::{DRAIN_APPROVED_BY, DRAIN_APPROVED_UNTIL, DRAIN_POLICY};

    const NOW: &str = "2026-06-01T12:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn policy(word: Option<&str>) -> Value {
        json!({ "annotations": word.map(|word| json!({ DRAIN_POLICY: word })) })
    }

    /// A claim of class `fast` in namespace `db` with its volume, each with the policy that is given.
    fn chosen(
        class: Option<&str>,
        volume: Option<&str>,
        namespace: Option<&str>,
        claim: Option<&str>,
    ) -> ChosenPolicy<DrainPolicy> {
        let mut facts = Facts::new(Unlisted::Absent);
        let mut add = |group: &str, kind: &str, name: &str, word: Option<&str>, more: &Value| {
            let mut object = json!({ "metadata": { "name": name } });
            json_patch::merge(&mut object["metadata"], &policy(word));
            json_patch::merge(&mut object, more);
            facts.add(Fact::read(group, kind, &object).unwrap().unwrap());
            object
        };
        add("storage.k8s.io", "StorageClass", "fast", class, &json!({ "provisioner": "p" }));
        add("", "Namespace", "db", namespace, &json!({}));
        let spec = json!({ "spec": { "storageClassName": "fast" } });
        let volume: Volume = serde_json::from_value(add("", "PersistentVolume", "pv", volume, &spec)).unwrap();
        let in_db = json!({ "metadata": { "namespace": "db" } });
        let claim: Claim = serde_json::from_value(add("", "PersistentVolumeClaim", "data", claim, &in_db)).unwrap();
        policy_of(&claim, &volume, &facts)
    }

    #[test]
    fn the_claim_comes_first_and_counts_only_where_an_administrator_says_something() {
        use DrainPolicy::{Allow, Deny, Wait, Warn};
        for (class, volume, namespace, claim, policy, by) in [
            (None, None, None, None, Warn, None),
            (None, None, Some("Deny"), Some("Deny"), Warn, None),
            (Some("Wait"), None, None, None, Wait, Some("class fast")),
            (Some("Wait"), Some("Deny"), None, None, Deny, Some("volume pv")),
            (Some("Deny"), Some("Allow"), None, None, Allow, Some("volume pv")),
            (Some("Deny"), None, Some("Warn"), None, Warn, Some("namespace db")),
            (Some("Warn"), None, None, Some("Deny"), Deny, Some("claim data")),
            (Some("Warn"), None, Some("Deny"), Some("Allow"), Allow, Some("claim data")),
            (Some("wait"), None, None, Some(" DENY "), Deny, Some("claim data")),
        ] {
            let chosen = chosen(class, volume, namespace, claim);
            assert_eq!(
                (chosen.policy, chosen.by.as_deref()),
                (policy, by),
                "{class:?} {volume:?} {namespace:?} {claim:?}"
            );
            assert!(chosen.unread.is_empty());
        }
    }

    #[test]
    fn a_word_that_is_no_policy_counts_for_nothing_and_is_told() {
        let of_class = chosen(Some("Never"), None, None, Some("Deny"));
        assert_eq!((of_class.policy, of_class.by), (DrainPolicy::Warn, None));
        assert_eq!(of_class.unread, ["latebind.dev/drain-policy of class fast is none of Allow, Warn, Wait, Deny"]);
        let of_claim = chosen(Some("Wait"), None, Some("Deny"), Some(""));
        assert_eq!((of_claim.policy, of_claim.by.as_deref()), (DrainPolicy::Deny, Some("namespace db")));
        assert_eq!(of_claim.unread.len(), 1);
    }

    fn node(ready: Option<&str>) -> Node {
        let conditions = ready.map(|ready| json!([{ "type": "Ready", "status": ready }]));
        serde_json::from_value(json!({ "metadata": { "name": "n" }, "status": { "conditions": conditions } })).unwrap()
    }

    fn guard(policy: DrainPolicy, approval: Approval) -> Guard {
        let chosen = ChosenPolicy { policy, by: Some("class fast".to_owned()), unread: Vec::new() };
        Guard { claim: "data".to_owned(), chosen, approval }
    }

    fn awaited() -> EvictedPod {
        let (awaited, templates) = (vec!["pg-0".to_owned()], vec!["data".to_owned()]);
        EvictedPod::Serves(OtherReplicas::Awaited { set: "pg".to_owned(), wanted: 2, awaited, templates })
    }

    /// Whatever is known: nothing is held up but by a policy that is there, of a node whose kubelet reports, without an approval, and
    /// for a Pod that was seen to serve.
    #[test]
    fn an_eviction_is_held_up_by_what_is_known_alone() {
        let pods = [
            None,
            Some(EvictedPod::Idle),
            Some(EvictedPod::NotLookedAt),
            Some(awaited()),
            Some(EvictedPod::Serves(OtherReplicas::NoSet)),
            Some(EvictedPod::Serves(OtherReplicas::NotKnown)),
            Some(EvictedPod::Serves(OtherReplicas::Ready { ahead: None })),
        ];
        let approvals = [
            Approval::None,
            Approval::By("anna".to_owned()),
            Approval::Expired("anna".to_owned()),
            Approval::Unreadable,
        ];
        let facts = nodes(&["n", "m"]);
        let mut held = 0;
        for policy in DrainPolicy::ALL {
            for approval in &approvals {
                for ready in [None, Some("True"), Some("False"), Some("Unknown")] {
                    for pod in &pods {
                        let guard = guard(policy, approval.clone());
                        let verdict = eviction(&guard, "db", &node(ready), pod.as_ref(), &facts);
                        let may_be_held = policy >= DrainPolicy::Wait
                            && ready == Some("True")
                            && !matches!(approval, Approval::By(_));
                        let case = format!("{policy} {approval:?} {ready:?} {pod:?}: {verdict:?}");
                        match verdict {
                            GuardVerdict::Denied => {
                                assert!(may_be_held && policy == DrainPolicy::Deny, "{case}");
                                assert!(matches!(pod, Some(EvictedPod::Serves(_))), "{case}");
                            }
                            GuardVerdict::Later(Later::Look) => {
                                assert!(may_be_held && *pod == Some(EvictedPod::NotLookedAt), "{case}");
                            }
                            GuardVerdict::Later(Later::Replicas { .. }) => {
                                assert!(
                                    may_be_held && policy == DrainPolicy::Wait && *pod == Some(awaited()),
                                    "{case}"
                                );
                            }
                            GuardVerdict::Later(Later::Turn(_)) => panic!("nobody is ahead: {case}"),
                            GuardVerdict::NotKnown => assert!(may_be_held, "{case}"),
                            GuardVerdict::Approved(ref by) => {
                                assert!(by == "anna" && policy >= DrainPolicy::Wait, "{case}");
                            }
                            GuardVerdict::Allowed => {
                                let idle = *pod == Some(EvictedPod::Idle);
                                let alone =
                                    policy == DrainPolicy::Wait && !matches!(pod, None | Some(EvictedPod::NotLookedAt));
                                assert!(!may_be_held || idle || alone, "{case}");
                            }
                        }
                        held += usize::from(matches!(verdict, GuardVerdict::Denied | GuardVerdict::Later(_)));
                    }
                }
            }
        }
        // Three approvals that do not hold: Deny holds up four kinds of Pods that serve, Wait one; both those that nobody looks at.
        assert_eq!(held, 3 * (4 + 1 + 2));
    }

    /// All that there are.
    fn nodes(names: &[&str]) -> Facts {
        let mut facts = Facts::new(Unlisted::Absent);
        for name in names {
            let node = json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } } });
            facts.add(Fact::read("", "Node", &node).unwrap().unwrap());
        }
        facts
    }

    /// The claim of `pg-0`, with its volume on a node alone.
    fn on(node: &str, facts: &mut Facts) {
        let terms =
            json!([{ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [node] }] }]);
        let volume = json!({ "metadata": { "name": "pv" }, "spec": { "local": { "path": "/d" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": terms } } } });
        let claim = json!({ "metadata": { "name": "data-pg-0", "namespace": "db" }, "spec": { "volumeName": "pv" },
            "status": { "phase": "Bound" } });
        facts.add(Fact::read("", "PersistentVolume", &volume).unwrap().unwrap());
        facts.add(Fact::read("", "PersistentVolumeClaim", &claim).unwrap().unwrap());
    }

    fn on_its_node(facts: &Facts, intent: Option<&str>, pod: &EvictedPod) -> GuardVerdict {
        let annotations = intent.map(|intent| json!({ DRAIN_INTENT: intent }));
        let this = json!({ "metadata": { "name": "n", "labels": { "kubernetes.io/hostname": "n" },
            "annotations": annotations }, "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        let this: Node = serde_json::from_value(this).unwrap();
        eviction(&guard(DrainPolicy::Wait, Approval::None), "db", &this, Some(pod), facts)
    }

    #[test]
    fn what_waits_for_the_same_node_is_not_waited_for_unless_that_is_retired() {
        let waits =
            GuardVerdict::Later(Later::Replicas { set: "pg".to_owned(), wanted: 2, awaited: vec!["pg-0".to_owned()] });
        for (of, intent, expected) in [
            ("n", None, &GuardVerdict::Allowed),
            ("n", Some("reboot"), &GuardVerdict::Allowed),
            ("n", Some("retire"), &waits),
            ("m", None, &waits),
            ("m", Some("retire"), &waits),
        ] {
            let mut facts = nodes(&["n", "m"]);
            on(of, &mut facts);
            assert_eq!(on_its_node(&facts, intent, &awaited()), *expected, "{of} {intent:?}");
        }
        assert_eq!(on_its_node(&nodes(&["n", "m"]), None, &awaited()), waits, "its claim was let go");
        // Where a claim is, or which Nodes there are, is not known.
        let mut unknown = Facts::new(Unlisted::Unknown);
        assert_eq!(on_its_node(&unknown, None, &awaited()), GuardVerdict::Allowed);
        on("m", &mut unknown);
        assert_eq!(on_its_node(&unknown, None, &awaited()), GuardVerdict::Allowed);
    }

    #[test]
    fn of_a_node_that_is_retired_one_pod_goes_after_another() {
        let serves = |ahead: Option<&str>| EvictedPod::Serves(OtherReplicas::Ready { ahead: ahead.map(str::to_owned) });
        let facts = nodes(&["n", "m"]);
        for intent in [None, Some("reboot"), Some("retire")] {
            let turn = GuardVerdict::Later(Later::Turn("pg-2".to_owned()));
            let expected = if intent == Some("retire") { turn } else { GuardVerdict::Allowed };
            assert_eq!(on_its_node(&facts, intent, &serves(Some("pg-2"))), expected, "{intent:?}");
            assert_eq!(on_its_node(&facts, intent, &serves(None)), GuardVerdict::Allowed);
        }
    }

    #[test]
    fn an_approval_has_an_author_and_ends() {
        let of = |by: Option<&str>, until: Option<&str>| {
            let annotations = json!({ DRAIN_APPROVED_BY: by, DRAIN_APPROVED_UNTIL: until });
            let mut object = json!({ "metadata": { "name": "n" } });
            json_patch::merge(&mut object["metadata"], &json!({ "annotations": annotations }));
            let node: Node = serde_json::from_value(object).unwrap();
            approval(&node.metadata, now())
        };
        assert_eq!(of(None, None), Approval::None);
        assert_eq!(of(Some("anna"), Some("2026-06-01T12:00:01Z")), Approval::By("anna".to_owned()));
        assert_eq!(of(Some("anna"), Some("2026-06-01T14:30:00+02:00")), Approval::By("anna".to_owned()));
        for over in [NOW, "2026-06-01T11:59:59Z", "1970-01-01T00:00:00Z"] {
            assert_eq!(of(Some("anna"), Some(over)), Approval::Expired("anna".to_owned()), "{over}");
        }
        for (by, until) in [
            (Some("anna"), None),
            (None, Some("2027-01-01T00:00:00Z")),
            (Some("  "), Some("2027-01-01T00:00:00Z")),
            (Some("anna"), Some("tomorrow")),
            (Some("anna"), Some("")),
        ] {
            assert_eq!(of(by, until), Approval::Unreadable, "{by:?} {until:?}");
        }
    }

    #[test]
    fn of_several_claims_the_strictest_counts_and_what_is_approved_holds_nothing_up() {
        let approved = json!({ DRAIN_APPROVED_BY: "anna", DRAIN_APPROVED_UNTIL: "2026-06-01T13:00:00Z" });
        let object =
            |name: &str, annotations: Value| json!({ "metadata": { "name": name, "annotations": annotations } });
        let mut facts = nodes(&["n"]);
        let volume = object("pv", json!({ DRAIN_POLICY: "Warn" }));
        facts.add(Fact::read("", "PersistentVolume", &volume).unwrap().unwrap());
        for (name, word, more) in [("a", "Wait", json!({})), ("b", "Deny", approved.clone()), ("c", "Deny", json!({}))]
        {
            let mut claim = object(name, json!({ DRAIN_POLICY: word }));
            json_patch::merge(&mut claim["metadata"]["annotations"], &more);
            let bound = json!({ "metadata": { "namespace": "db" }, "spec": { "volumeName": "pv" }, "status": { "phase": "Bound" } });
            json_patch::merge(&mut claim, &bound);
            facts.add(Fact::read("", "PersistentVolumeClaim", &claim).unwrap().unwrap());
        }
        let strictest = |claims: &[&str], node: &Node| {
            let guard = Guard::of(claims.iter().map(|name| ("db", *name)), node, now(), &facts).unwrap();
            (guard.claim.clone(), eviction(&guard, "db", node, Some(&awaited()), &facts))
        };
        let up = node(Some("True"));
        assert_eq!(strictest(&["a", "b", "c"], &up), ("c".to_owned(), GuardVerdict::Denied));
        assert!(matches!(strictest(&["b", "a"], &up), (name, GuardVerdict::Later(_)) if name == "a"));
        assert_eq!(strictest(&["b"], &up).1, GuardVerdict::Approved("anna".to_owned()));
        let mut on_node =
            serde_json::to_value(json!({ "metadata": { "name": "n", "annotations": approved } })).unwrap();
        on_node["status"] = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
        let on_node: Node = serde_json::from_value(on_node).unwrap();
        assert_eq!(strictest(&["a", "c"], &on_node).1, GuardVerdict::Approved("anna".to_owned()));
    }

    #[test]
    fn a_node_that_is_up_is_not_deleted_before_somebody_approves() {
        use DrainPolicy::{Allow, Deny, Wait, Warn};
        for (policy, ready, expected) in [
            (Deny, Some("True"), GuardVerdict::Denied),
            (Deny, Some("Unknown"), GuardVerdict::Allowed),
            (Deny, None, GuardVerdict::Allowed),
            (Wait, Some("True"), GuardVerdict::Allowed),
            (Warn, Some("True"), GuardVerdict::Allowed),
            (Allow, Some("True"), GuardVerdict::Allowed),
        ] {
            assert_eq!(deletion(&guard(policy, Approval::None), &node(ready)), expected, "{policy} {ready:?}");
        }
        let approved = guard(Deny, Approval::By("anna".to_owned()));
        assert_eq!(deletion(&approved, &node(Some("True"))), GuardVerdict::Approved("anna".to_owned()));
    }
}
