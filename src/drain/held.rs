//! Which claims have their volume on one node alone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::VolumeNodeAffinity;
use serde::Serialize;

use crate::binding::{ClusterView, Kind, Lookup};
use crate::model::selector::volume_reachable;
use crate::model::{Labels, Node, PodOnNode, Text, Volume};

/// Volumes that are looked at for one label of a node: as many as the kubelet lets Pods on a node (`maxPods`, 110 where nobody
/// changed it), with some volumes each.
const MOST_VOLUMES: usize = 500;

/// A bound claim whose volume is on this node alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldClaim {
    /// Name of the claim, which is in the Pod's namespace.
    pub claim: String,
    /// Name of the volume.
    pub volume: String,
    /// The path of the data on the node; nothing for a volume that is not a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The data goes with the claim: the volume's reclaim policy is `Delete`, and its directory is neither archived nor left.
    pub deleted_with_claim: bool,
    /// The Pod's StatefulSet makes the claim again, from its template, where it is gone.
    pub made_anew: bool,
}

/// Claims, by namespace and name, whose volume is on a node alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimsOnNode {
    /// Namespaces and names, in their order.
    pub claims: Vec<(Text, Text)>,
    /// There are no others, of volumes that ask for a label that tells nodes apart.
    pub are_all: bool,
}

/// True for a volume that the node reaches and none of the others does. Whether that is all of them is the caller's to know.
pub(super) fn is_alone<'a>(volume: &Volume, node: &Node, mut others: impl Iterator<Item = &'a Node>) -> bool {
    volume_reachable(volume, node) && !others.any(|other| volume_reachable(volume, other))
}

/// The claims whose volume is on the node alone; nothing where volumes or Nodes are not known.
///
/// Volumes are found by the labels of the node that they ask for ([`crate::model::selector::place_labels`]), so that volumes of a
/// zone are not looked at. Nodes are looked at once for each affinity, of which the local volumes of a node share one.
#[must_use]
pub fn claims_on(node: &Node, view: &dyn ClusterView) -> Option<ClaimsOnNode> {
    let nodes = view.all_nodes().found()?;
    let mut found = ClaimsOnNode { claims: Vec::new(), are_all: view.knows_all(Kind::Volumes) };
    let mut alone = AloneBy { node, nodes: &nodes, decided: Vec::new() };
    for (key, value) in node.metadata.labels.iter().flat_map(Labels::iter) {
        let volumes = view.volumes_asking_for(key, value, MOST_VOLUMES + 1).found()?;
        found.are_all &= volumes.len() <= MOST_VOLUMES;
        for volume in volumes.iter().take(MOST_VOLUMES).filter(|volume| volume.is_bound() && alone.holds(volume)) {
            let reference = volume.spec.claim_ref.as_ref();
            let part = |text: Option<&Option<Text>>| text.cloned().flatten().unwrap_or_default();
            found.claims.push((part(reference.map(|it| &it.namespace)), part(reference.map(|it| &it.name))));
        }
    }
    found.claims.sort_unstable();
    found.claims.dedup();
    Some(found)
}

/// The claims of a Pod whose volume is on its node alone, with their volumes; nothing where that is not known. Claims of generic
/// ephemeral volumes go with the Pod, and hold nothing.
#[must_use]
pub fn claims_of(pod: &PodOnNode, node: &Node, view: &dyn ClusterView) -> Option<Vec<(Text, Arc<Volume>)>> {
    let nodes = view.all_nodes().found()?;
    let mut alone = AloneBy { node, nodes: &nodes, decided: Vec::new() };
    let mut held = Vec::new();
    for (name, _) in pod.claims().filter(|(_, is_own)| !is_own) {
        let Lookup::Found(claim) = view.claim(pod.namespace(), &name) else { continue };
        let Some(volume) = claim.volume_name().filter(|_| claim.is_bound()) else { continue };
        if let Lookup::Found(volume) = view.volume(volume)
            && alone.holds(&volume)
        {
            held.push((name, volume));
        }
    }
    Some(held)
}

/// The Pods of a StatefulSet that start again only with the node, since a claim of theirs is on it alone; those too of which that is not
/// known. `templates` are the names of its claim templates.
pub(super) fn tied_to<'a>(
    pods: &'a [String],
    templates: &[String],
    namespace: &str,
    node: &Node,
    view: &dyn ClusterView,
) -> Vec<&'a str> {
    let Lookup::Found(nodes) = view.all_nodes() else { return pods.iter().map(String::as_str).collect() };
    let mut alone = AloneBy { node, nodes: &nodes, decided: Vec::new() };
    let mut is_tied = |pod: &str, template: &String| match view.claim(namespace, &format!("{template}-{pod}")) {
        Lookup::Found(claim) => match claim.volume_name().filter(|_| claim.is_bound()).map(|name| view.volume(name)) {
            Some(Lookup::Found(volume)) => alone.holds(&volume),
            Some(Lookup::Unknown) => true,
            Some(Lookup::Absent) | None => false,
        },
        Lookup::Absent => false,
        Lookup::Unknown => true,
    };
    pods.iter().map(String::as_str).filter(|pod| templates.iter().any(|template| is_tied(pod, template))).collect()
}

/// Volumes of a node, whose affinity is compared with all Nodes once.
struct AloneBy<'a> {
    node: &'a Node,
    nodes: &'a [Arc<Node>],
    decided: Vec<(VolumeNodeAffinity, bool)>,
}

impl AloneBy<'_> {
    fn holds(&mut self, volume: &Volume) -> bool {
        let Some(affinity) = &volume.spec.node_affinity else { return false };
        if let Some((_, decided)) = self.decided.iter().find(|(known, _)| known == affinity) {
            return *decided;
        }
        let others = self.nodes.iter().map(AsRef::as_ref).filter(|other| other.name() != self.node.name());
        let decided = is_alone(volume, self.node, others);
        self.decided.push((affinity.clone(), decided));
        decided
    }
}
