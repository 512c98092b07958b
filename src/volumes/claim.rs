//! What is to be done about a claim that has no volume.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::parameters::ClassParameters;
use super::persistent_volume::{VolumeOrder, persistent_volume, volume_name};
use super::placement::{NodeObstacle, affinity_value};
use super::request::{bytes, refusal, waits_for_populator};
use super::same_claim::is_superseded;
use super::storage_view::{Search, StorageView};
use crate::binding::Lookup;
use crate::crd::{Kept, LocalPool, LocalVolume, READY, condition};
use crate::model::{Claim, Class, Node};
use k8s_openapi::api::core::v1::PersistentVolume;

/// A claim without a volume, and what it is served by.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The claim.
    pub claim: &'a Claim,
    /// Its class, which is one of ours.
    pub class: &'a Class,
    /// What the class says, or what is wrong with it.
    pub parameters: Result<&'a ClassParameters, &'a str>,
}

/// What this process has done for the claim that the facts do not show yet, and since when it waits.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Its volume was made a moment ago.
    pub created: bool,
    /// LocalVolumes that were ordered a moment ago.
    pub reserved: BTreeSet<String>,
    /// Nodes whose agent has been silent for longer than an agent may be away.
    pub silent: BTreeSet<String>,
}

/// For how long a claim is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Until the caches show what was done.
    Caches,
    /// A moment: something is under way.
    Moment,
    /// The agent of this node has not answered.
    Agent(String),
    /// Something that only a person or time can change.
    Person,
}

/// A warning about a claim that gets no volume for now, or ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the event says.
    pub why: String,
    /// It is tried again although nothing that is watched changed.
    pub again: bool,
}

/// What is to be done about a claim.
#[derive(Debug)]
pub enum ClaimStep {
    /// Nothing: it is served, or others have to act, whose doing is watched.
    Nothing,
    /// It is looked at again later.
    Wait(Patience),
    /// A person has to hear of it.
    Refuse(Refused),
    /// A directory is ordered. The order counts from the moment of this decision, so that no other one takes its room.
    Reserve(Box<LocalVolume>),
    /// The volume is made, if the API server still says of the claim what [`Publication::still_holds`] asks for.
    Publish(Box<Publication>),
    /// The node will not do: the annotation is removed and the scheduler chooses again.
    GiveBack {
        /// The node.
        node: String,
        /// Why.
        why: String,
    },
    /// The node that was selected is not known here: it has to be asked for.
    AskForNode(String),
}

/// A volume that may be made, for a claim as it was decided on.
#[derive(Debug)]
pub struct Publication {
    volume: PersistentVolume,
    claim_uid: String,
    node: String,
    base: String,
    /// The claim must have selected this very node.
    is_tied: bool,
    is_delayed: bool,
    takes_back: bool,
}

impl Publication {
    /// True while the claim, as the API server shows it now, still asks for this volume.
    #[must_use]
    pub fn still_holds(&self, claim: &Claim) -> bool {
        claim.metadata.uid.as_deref() == Some(self.claim_uid.as_str())
            && claim.metadata.deletion_timestamp.is_none()
            && claim.volume_name().is_none()
            && claim.selected_node().is_none_or(|node| node == self.node || !self.is_tied)
            && (claim.selected_node().is_some() || !self.is_delayed)
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &PersistentVolume {
        &self.volume
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The pool's path.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// True for a directory that an earlier claim of the same name has left.
    #[must_use]
    pub fn takes_back(&self) -> bool {
        self.takes_back
    }
}

pub(super) fn refuse(why: impl Into<String>, again: bool) -> ClaimStep {
    ClaimStep::Refuse(Refused { why: why.into(), again })
}

/// What the loop asked the API server for because the view did not know it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The selected node.
    pub node: Option<Lookup<Arc<Node>>>,
}

/// Decides about a claim. Annotations that name a node are followed for classes that wait for one; where nobody chooses, the
/// node is chosen here.
#[must_use]
pub fn plan(request: &Request<'_>, view: &dyn StorageView, past: &Past, asked: &Asked) -> ClaimStep {
    let claim = request.claim;
    let Some(uid) = claim.metadata.uid.as_deref() else { return ClaimStep::Nothing };
    if claim.volume_name().is_some() || claim.metadata.deletion_timestamp.is_some() {
        return ClaimStep::Nothing;
    }
    if request.class.is_delayed() && claim.selected_node().is_none() {
        return ClaimStep::Nothing;
    }
    match view.volume(&volume_name(uid)) {
        Lookup::Found(_) => return ClaimStep::Nothing,
        Lookup::Absent if past.created => return ClaimStep::Wait(Patience::Caches),
        Lookup::Absent => {}
        Lookup::Unknown => return ClaimStep::Wait(Patience::Person),
    }
    if waits_for_populator(claim) {
        return ClaimStep::Nothing;
    }
    let parameters = match request.parameters {
        Ok(parameters) => parameters,
        Err(why) => return refuse(why, false),
    };
    if let Some(refusal) = refusal(claim, parameters.serves_many()) {
        return refuse(refusal.to_string(), false);
    }
    // `refusal` has checked the size.
    let bytes = bytes(claim).unwrap_or(i64::MAX);
    let deciding = Deciding { claim, class: request.class, parameters, uid, bytes, view, past, asked };
    match claim.selected_node() {
        _ if parameters.shared_file_system => deciding.on_serving(),
        Some(name) => deciding.on_selected(name),
        None => deciding.on_any(),
    }
}

/// One claim, with all that is known of it.
pub(super) struct Deciding<'a> {
    pub claim: &'a Claim,
    pub class: &'a Class,
    pub parameters: &'a ClassParameters,
    pub uid: &'a str,
    pub bytes: i64,
    pub view: &'a dyn StorageView,
    past: &'a Past,
    asked: &'a Asked,
}

pub(super) type NodeOutcome = Result<ClaimStep, NodeObstacle>;

/// Said where the next step depends on the Pods of a claim, and they are not known. Whoever wrote such a Pod can change it.
const PODS_UNKNOWN: &str = "which Pods use this claim is not known, since a Pod of its namespace is too large to be read: \
                            nothing is decided until that one is gone";

impl Deciding<'_> {
    /// The scheduler, the rescue loop or a person chose the node.
    fn on_selected(&self, name: &str) -> ClaimStep {
        let node = match (self.view.node(name), &self.asked.node) {
            (Lookup::Found(node), _) => node,
            (_, Some(Lookup::Found(node))) => Arc::clone(node),
            // It may be so new that the cache has not heard of it.
            (_, None) => return ClaimStep::AskForNode(name.to_owned()),
            (_, Some(Lookup::Absent)) => return self.give_up(name, &NodeObstacle::Gone(name.to_owned()).to_string()),
            (_, Some(Lookup::Unknown)) => return ClaimStep::Wait(Patience::Person),
        };
        match self.on_node(&node) {
            Ok(step) => step,
            Err(NodeObstacle::NoAgent(node)) if !self.past.silent.contains(&node) => {
                ClaimStep::Wait(Patience::Agent(node))
            }
            Err(obstacle) => self.give_up(name, &obstacle.to_string()),
        }
    }

    /// Nobody chose: the class binds immediately.
    fn on_any(&self) -> ClaimStep {
        if let Some(step) = self.begun() {
            return step;
        }
        let chosen = match self.view.pinned_node(self.claim) {
            Lookup::Unknown => return refuse(PODS_UNKNOWN, true),
            Lookup::Found(Some(name)) => match self.view.node(&name) {
                Lookup::Found(node) => Ok(node),
                Lookup::Absent => Err(NodeObstacle::Gone(name)),
                Lookup::Unknown => return ClaimStep::Wait(Patience::Person),
            },
            Lookup::Found(None) | Lookup::Absent => {
                if let Some(chosen) = self.node_of_existing() {
                    return match chosen.and_then(|node| self.on_node(&node)) {
                        Ok(step) => step,
                        Err(obstacle) => refuse(obstacle.to_string(), true),
                    };
                }
                let pool = match self.pool() {
                    Ok(pool) => pool,
                    Err(step) => return step,
                };
                match self.view.best_node(&self.search(&pool), self.bytes) {
                    Lookup::Found(chosen) => chosen,
                    Lookup::Absent | Lookup::Unknown => return ClaimStep::Wait(Patience::Person),
                }
            }
        };
        match chosen.and_then(|node| self.on_node(&node)) {
            Ok(step) => step,
            Err(obstacle) => refuse(obstacle.to_string(), true),
        }
    }

    /// What follows where a directory was ordered already, whichever node would be chosen now.
    fn begun(&self) -> Option<ClaimStep> {
        let begun = self.view.locals_of(self.uid);
        if let Some(local) = begun.into_iter().find(|local| local.spec.disposal.is_none() && !local.is_deleting()) {
            return Some(self.on_begun(&local.spec.node_name));
        }
        // It was ordered a moment ago, on a node that would not be the best one any more.
        (!self.past.reserved.is_empty()).then_some(ClaimStep::Wait(Patience::Moment))
    }

    /// Every node reaches the volume, wherever its Pod goes: the one that the pool names makes the directory.
    fn on_serving(&self) -> ClaimStep {
        if let Some(step) = self.begun() {
            return step;
        }
        let pool = match self.pool() {
            Ok(pool) => pool,
            Err(step) => return step,
        };
        match pool.spec.serving_node() {
            Some(name) => self.on_begun(name),
            None => refuse(
                format!(
                    "class {} has a `sharedFileSystem`: LocalPool {} must have one entry, which names one node. Its agent makes and removes \
                     the directories; another one would take them for its own",
                    self.class.name(),
                    self.parameters.pool
                ),
                true,
            ),
        }
    }

    /// The node was chosen here, and its directory ordered.
    fn on_begun(&self, name: &str) -> ClaimStep {
        let outcome = match (self.view.node(name), &self.asked.node) {
            (Lookup::Found(node), _) => self.on_node(&node),
            (_, Some(Lookup::Found(node))) => self.on_node(node),
            (_, None) => return ClaimStep::AskForNode(name.to_owned()),
            (_, Some(_)) => Err(NodeObstacle::Gone(name.to_owned())),
        };
        match outcome {
            Ok(step) => step,
            Err(NodeObstacle::NoAgent(node)) if !self.past.silent.contains(&node) => {
                ClaimStep::Wait(Patience::Agent(node))
            }
            Err(obstacle) => refuse(obstacle.to_string(), true),
        }
    }

    fn pool(&self) -> Result<Arc<Kept<LocalPool>>, ClaimStep> {
        let name = &self.parameters.pool;
        match self.view.pool(name) {
            Lookup::Found(pool) => Ok(pool),
            Lookup::Absent => {
                let class = self.class.name();
                Err(refuse(format!("class {class} names pool {name}, and there is no LocalPool {name}"), true))
            }
            Lookup::Unknown => Err(ClaimStep::Wait(Patience::Person)),
        }
    }

    pub(super) fn search<'a>(&'a self, pool: &'a LocalPool) -> Search<'a> {
        Search { class: self.class, parameters: self.parameters, pool }
    }

    /// The node is chosen: orders the directory, or makes the volume when it is there.
    fn on_node(&self, node: &Arc<Node>) -> NodeOutcome {
        let name = LocalVolume::name_for(self.uid, node.name());
        let twin = match self.view.label_twin(node, &self.parameters.affinity_key) {
            Lookup::Found(twin) => Some(twin),
            Lookup::Absent => None,
            Lookup::Unknown => return Ok(ClaimStep::Wait(Patience::Person)),
        };
        let local = match self.view.local(&name) {
            Lookup::Found(local) => local,
            Lookup::Unknown => return Ok(ClaimStep::Wait(Patience::Person)),
            // The claim changed again before the watch brought the order that was given a moment ago.
            Lookup::Absent if self.past.reserved.contains(&name) => return Ok(ClaimStep::Wait(Patience::Moment)),
            Lookup::Absent => {
                return match self.pool() {
                    Ok(pool) => self.reserve(&pool, node),
                    Err(step) => Ok(step),
                };
            }
        };
        if local.spec.disposal.is_some() || local.is_deleting() {
            return Ok(ClaimStep::Wait(Patience::Moment));
        }
        if local.is_ready() {
            if self.parameters.shared_file_system {
                return Ok(self.publish(&local, None));
            }
            let value = affinity_value(node, &self.parameters.affinity_key, twin)?;
            return Ok(self.publish(&local, Some(&value)));
        }
        // It goes, and the order is given anew.
        if is_superseded(&local) {
            return Ok(ClaimStep::Wait(Patience::Moment));
        }
        let conditions = local.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        Err(match condition(conditions, READY) {
            Some(ready) => {
                let why = format!("{}: {}", ready.reason, ready.message);
                NodeObstacle::NotUsable { pool: local.spec.pool.clone(), node: node.name().to_owned(), why }
            }
            None => NodeObstacle::NoAgent(node.name().to_owned()),
        })
    }

    fn publish(&self, local: &LocalVolume, value: Option<&str>) -> ClaimStep {
        let pool = self.view.pool(&local.spec.pool).found();
        let volume = persistent_volume(&VolumeOrder {
            claim: self.claim,
            class: self.class,
            parameters: self.parameters,
            local,
            affinity_value: value,
            drain_policy: pool.and_then(|pool| pool.spec.drain_policy),
        });
        ClaimStep::Publish(Box::new(Publication {
            volume,
            claim_uid: self.uid.to_owned(),
            node: local.spec.node_name.clone(),
            base: local.spec.base.clone(),
            is_tied: value.is_some(),
            is_delayed: self.class.is_delayed(),
            takes_back: local.takes_back().is_some(),
        }))
    }

    /// The node will not do: lets the scheduler choose again. With a Pod that names its node there is nothing to choose.
    fn give_up(&self, node: &str, why: &str) -> ClaimStep {
        if !self.class.is_delayed() {
            return refuse(why, true);
        }
        match self.view.pinned_node(self.claim) {
            Lookup::Unknown => refuse(format!("{why}; {PODS_UNKNOWN}"), true),
            Lookup::Found(Some(_)) => refuse(why, true),
            Lookup::Found(None) | Lookup::Absent => {
                let why = format!("{why}; the scheduler is asked for another node");
                ClaimStep::GiveBack { node: node.to_owned(), why }
            }
        }
    }
}
