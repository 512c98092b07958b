//! What a drain of a node does to its Pods: which of them start on another node, which wait for this one, and what holds them.
//!
//! A drain evicts Pods. What made a Pod makes another in its place, and the scheduler places that one where the node affinity of
//! its volumes, its own selectors and the nodes' taints let it. A local volume lets it go nowhere. Everything here is pure. That
//! no other node will do is said only where all Nodes are known, and that one will do only where all of the Pod's claims and
//! volumes are.

mod budgets;
pub mod guard;
mod held;
pub mod lost;
pub mod policy;
mod replacement;
pub mod retire;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

pub use self::budgets::HeldBack;
use self::guard::Guard;
pub use self::held::{ClaimsOnNode, HeldClaim, claims_of, claims_on};
use crate::binding::{ClusterView, Lookup};
use crate::crd::DrainPolicy;
use crate::model::{Budget, Node, Pod, Volume};

/// What is known of a node that is to be drained.
pub struct DrainFacts<'a> {
    /// Claims and volumes.
    pub view: &'a dyn ClusterView,
    /// The node.
    pub node: &'a Node,
    /// The other Nodes that are known.
    pub others: Vec<&'a Node>,
    /// There are no others.
    pub are_all: bool,
    /// The Pods of the node.
    pub pods: Vec<&'a Pod>,
    /// All PodDisruptionBudgets; nothing where they are not known.
    pub budgets: Option<Vec<&'a Budget>>,
    /// The moment, by which approvals expire.
    pub now: Timestamp,
}

/// What becomes of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Outcome {
    /// What is made in its place starts nowhere, not even on this node.
    StartsNowhere,
    /// What is made in its place stays Pending until this node takes Pods again.
    WaitsForThisNode,
    /// What is made in its place stays Pending until one of some other nodes takes Pods, or this one again.
    WaitsForOtherNodes,
    /// Nothing makes it again.
    NotMadeAgain,
    /// Something that decides is not known.
    NotKnown,
    /// What is made in its place can start on another node.
    StartsElsewhere,
    /// The drain leaves it where it is.
    Stays,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StartsNowhere => "StartsNowhere",
            Self::WaitsForThisNode => "WaitsForThisNode",
            Self::WaitsForOtherNodes => "WaitsForOtherNodes",
            Self::NotMadeAgain => "NotMadeAgain",
            Self::NotKnown => "NotKnown",
            Self::StartsElsewhere => "StartsElsewhere",
            Self::Stays => "Stays",
        }
    }

    /// True where the drain takes away what runs, and nothing runs in its place.
    #[must_use]
    pub const fn is_outage(self) -> bool {
        matches!(self, Self::StartsNowhere | Self::WaitsForThisNode | Self::WaitsForOtherNodes | Self::NotMadeAgain)
    }
}

/// What becomes of one Pod, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPlan {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// `kind/name` of what made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Why, in words.
    pub why: String,
    /// Its claims that are on this node alone.
    pub held: Vec<HeldClaim>,
    /// Claims that are deleted once it is gone, with their data: those of its generic ephemeral volumes, and those that are
    /// being deleted already.
    pub deleted_claims: Vec<String>,
}

/// A Pod whose eviction a drain policy holds up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardedPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// The claim whose policy it is.
    pub claim: String,
    /// The policy, `Wait` or `Deny`.
    pub policy: DrainPolicy,
    /// What says so, such as `class fast`.
    pub of: String,
    /// Who has approved, so that it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
}

/// What a drain of a node does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainPlan {
    /// Name of the node.
    pub node: String,
    /// It takes no Pods already.
    pub cordoned: bool,
    /// Which of its conditions about drains and maintenance are true.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<String>,
    /// What becomes of each of its Pods that still run, by namespace and name.
    pub pods: Vec<PodPlan>,
    /// What PodDisruptionBudgets keep from being evicted at once.
    pub held_back: Vec<HeldBack>,
    /// What drain policies hold up, where the webhook keeps to them.
    pub guarded: Vec<GuardedPod>,
    /// What may be missing, in words.
    pub not_known: Vec<String>,
    /// What is not looked at, and may make a Pod wait all the same, or the drain.
    pub not_looked_at: Vec<&'static str>,
}

impl DrainPlan {
    /// How many Pods come to this.
    #[must_use]
    pub fn count(&self, is: impl Fn(Outcome) -> bool) -> usize {
        self.pods.iter().filter(|pod| is(pod.outcome)).count()
    }

    /// True where a drain takes down what runs, or does not end by itself as budgets stand now.
    #[must_use]
    pub fn is_harmful(&self) -> bool {
        self.count(Outcome::is_outage) > 0
            || self.held_back.iter().any(|held| held.ends_by_itself == Some(false))
            || self.needs_approval()
    }

    /// True where a Pod is not evicted before somebody approves.
    #[must_use]
    pub fn needs_approval(&self) -> bool {
        self.guarded.iter().any(|pod| pod.policy == DrainPolicy::Deny && pod.approved_by.is_none())
    }
}

/// What a drain does. Pods that have ended or are being deleted are left out. `not_known` is what the caller could not read.
#[must_use]
pub fn plan(facts: &DrainFacts<'_>, not_known: Vec<String>) -> DrainPlan {
    let live = facts.pods.iter().filter(|pod| pod.is_live());
    let mut pods: Vec<PodPlan> = live.map(|pod| plan_pod(pod, facts)).collect();
    pods.sort_by(|one, other| (&one.namespace, &one.pod).cmp(&(&other.namespace, &other.pod)));
    let held_back = budgets::held_back(facts, &pods);
    let guarded = pods.iter().filter_map(|pod| guarded(pod, facts)).collect();
    let mut not_looked_at = vec!["room for CPU and memory", "affinity between Pods", "topology spread"];
    if facts.budgets.is_none() {
        not_looked_at.push("PodDisruptionBudgets, which are not known");
    }
    DrainPlan {
        node: facts.node.name().to_owned(),
        cordoned: facts.node.spec.unschedulable,
        conditions: maintenance(facts.node),
        pods,
        held_back,
        guarded,
        not_known,
        not_looked_at,
    }
}

fn plan_pod(pod: &Pod, facts: &DrainFacts<'_>) -> PodPlan {
    let storage = Storage::of(pod, facts.view);
    let owner = pod.metadata.controller();
    let (outcome, why) = match owner.map(|owner| owner.kind.as_str()) {
        _ if pod.is_mirror() => (Outcome::Stays, "its node's kubelet runs it from a file".to_owned()),
        Some("DaemonSet") => (Outcome::Stays, "it is of a DaemonSet".to_owned()),
        None => (Outcome::NotMadeAgain, "no controller makes another in its place".to_owned()),
        Some(_) => replacement::outcome(pod, &storage, facts),
    };
    let is_held = |it: &&BoundClaim| replacement::is_on_this_node_alone(&it.volume, facts);
    PodPlan {
        namespace: pod.namespace().to_owned(),
        pod: pod.display_name().to_owned(),
        controller: owner.map(|owner| format!("{}/{}", owner.kind.to_lowercase(), owner.name)),
        outcome,
        why,
        held: storage.bound.iter().filter(is_held).map(BoundClaim::held).collect(),
        deleted_claims: storage.deleted,
    }
}

/// Conditions by which whoever drains or maintains a node says so.
/// Source: `k8s.io/api/core/v1/types.go` of Kubernetes 1.37, `NodeConditionType`.
const MAINTENANCE: [&str; 5] =
    ["DrainInProgress", "Drained", "MaintenancePlanned", "MaintenanceInProgress", "GracefulNodeShutdownInProgress"];

fn maintenance(node: &Node) -> Vec<String> {
    let told = node.status.conditions.iter().filter(|condition| condition.status == "True");
    told.filter(|condition| MAINTENANCE.contains(&condition.type_.as_str())).map(|it| it.type_.to_string()).collect()
}

/// What a drain policy does to the eviction of a Pod; nothing where it does nothing, or the Pod is left where it is.
fn guarded(pod: &PodPlan, facts: &DrainFacts<'_>) -> Option<GuardedPod> {
    let held = pod.held.iter().filter(|_| pod.outcome != Outcome::Stays);
    let claims = held.map(|held| (pod.namespace.as_str(), held.claim.as_str()));
    let guard = Guard::of(claims, facts.node, facts.now, facts.view)?;
    let approved_by = guard.approved_by().map(str::to_owned);
    if approved_by.is_none() && !guard.asks_for_pod(facts.node) {
        return None;
    }
    Some(GuardedPod {
        namespace: pod.namespace.clone(),
        pod: pod.pod.clone(),
        claim: guard.claim,
        policy: guard.chosen.policy,
        of: guard.chosen.by.unwrap_or_default(),
        approved_by,
    })
}

/// A claim of a Pod that has a volume.
struct BoundClaim {
    name: String,
    volume: Arc<Volume>,
    /// Its StatefulSet makes it again.
    is_made_anew: bool,
}

impl BoundClaim {
    fn held(&self) -> HeldClaim {
        HeldClaim {
            claim: self.name.clone(),
            volume: self.volume.name().to_owned(),
            path: self.volume.path().map(str::to_owned),
            deleted_with_claim: self.volume.loses_data_on_release(),
            made_anew: self.is_made_anew,
        }
    }
}

/// What a Pod has of volumes that outlive it.
#[derive(Default)]
struct Storage {
    bound: Vec<BoundClaim>,
    /// Claims whose volume is gone.
    lost: Vec<String>,
    /// What is not known, in words.
    not_known: Vec<String>,
    /// Claims that go with the Pod.
    deleted: Vec<String>,
}

impl Storage {
    fn of(pod: &Pod, view: &dyn ClusterView) -> Self {
        let mut storage = Self::default();
        for volume in &pod.spec.volumes {
            let Some(name) = pod.claim_name(volume).map(|name| name.to_string()) else { continue };
            if volume.ephemeral.is_some() {
                storage.deleted.push(name);
                continue;
            }
            let is_made_anew = is_of_template(pod, &volume.name, &name);
            let claim = match view.claim(pod.namespace(), &name) {
                Lookup::Found(claim) => claim,
                Lookup::Absent if is_made_anew => continue,
                Lookup::Absent => {
                    storage.lost.push(format!("claim {name} does not exist"));
                    continue;
                }
                Lookup::Unknown => {
                    storage.not_known.push(format!("claim {name}"));
                    continue;
                }
            };
            if claim.metadata.deletion_timestamp.is_some() {
                if !is_made_anew {
                    storage.lost.push(format!("claim {name} is being deleted"));
                }
                storage.deleted.push(name);
                continue;
            }
            // One that is not bound is bound to a volume wherever the scheduler places what is made in the Pod's place.
            let Some(volume) = claim.volume_name().filter(|_| claim.is_bound() || claim.status.phase == "Lost") else {
                continue;
            };
            match view.volume(volume) {
                Lookup::Found(volume) => storage.bound.push(BoundClaim { name, volume, is_made_anew }),
                Lookup::Absent => storage.lost.push(format!("claim {name} has lost its volume {volume}")),
                Lookup::Unknown => storage.not_known.push(format!("volume {volume} of claim {name}")),
            }
        }
        storage
    }
}

/// True for a claim that the Pod's StatefulSet has made from a template, and makes again where it is gone.
/// Source: `pkg/controller/statefulset/stateful_set_utils.go`, `getPersistentVolumeClaimName`.
fn is_of_template(pod: &Pod, volume: &str, claim: &str) -> bool {
    let of_set = pod.metadata.controller().is_some_and(|owner| owner.kind == "StatefulSet");
    of_set && claim.strip_prefix(volume).and_then(|rest| rest.strip_prefix('-')) == Some(pod.display_name())
}
