//! Volumes of plugins whose work CSI drivers have taken over: kubelet and scheduler see their node affinity in the
//! drivers' own terms.
//!
//! Source: `csi-translation-lib/plugins/in_tree_volume.go`, `translateTopologyFromInTreeToCSI`. The plugins of Azure,
//! vSphere and Portworx translate no affinity.

use std::borrow::Cow;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use super::place::among;
use super::{ClusterView, Lookup};
use crate::model::{MIGRATED_PLUGINS, Volume};

/// Labels of a zone and its region, of today and of old.
pub(super) const ZONE_LABELS: [[&str; 2]; 2] = [
    ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"],
    ["failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region"],
];
/// Between the zones of a volume that lies in several.
/// Source: `cloud-provider/volume/constants.go`, `LabelMultiZoneDelimiter`.
pub(super) const SEVERAL: &str = "__";

/// A plugin, and the label by which nodes of its driver say their zone.
struct Plugin {
    name: &'static str,
    zone: &'static str,
}

fn plugin(volume: &Volume) -> Option<Plugin> {
    let spec = &volume.spec;
    if spec.aws_elastic_block_store.is_some() {
        Some(Plugin { name: "kubernetes.io/aws-ebs", zone: "topology.ebs.csi.aws.com/zone" })
    } else if spec.gce_persistent_disk.is_some() {
        Some(Plugin { name: "kubernetes.io/gce-pd", zone: "topology.gke.io/zone" })
    } else if spec.cinder.is_some() {
        Some(Plugin { name: "kubernetes.io/cinder", zone: "topology.cinder.csi.openstack.org/zone" })
    } else {
        None
    }
}

/// The node affinity of a volume as the kubelet sees it, which has no other way to mount the volume than the driver's.
pub(super) fn kubelet_affinity(volume: &Volume) -> Option<Cow<'_, NodeSelector>> {
    let required = volume.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    match plugin(volume) {
        None => required.map(Cow::Borrowed),
        Some(plugin) => translated(volume, required, &plugin),
    }
}

/// The same as the scheduler sees it: it translates where the node's CSINode says that the plugin is migrated there.
/// Source: `pkg/scheduler/framework/plugins/volumebinding/binder.go`, `tryTranslatePVToCSI`.
pub(super) fn scheduler_affinity<'v>(
    volume: &'v Volume,
    node_name: &str,
    view: &dyn ClusterView,
) -> Option<Cow<'v, NodeSelector>> {
    let plugin_name = plugin(volume).map(|plugin| plugin.name);
    let is_migrated = plugin_name.is_some_and(|name| match view.csi_node(node_name) {
        Lookup::Found(node) => {
            node.metadata.annotation(MIGRATED_PLUGINS).is_some_and(|all| all.split(',').any(|plugin| plugin == name))
        }
        Lookup::Absent => false,
        // Every kubelet writes the annotation as soon as it starts.
        Lookup::Unknown => true,
    });
    if is_migrated {
        return kubelet_affinity(volume);
    }
    volume.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()).map(Cow::Borrowed)
}

fn translated<'v>(
    volume: &Volume,
    required: Option<&'v NodeSelector>,
    plugin: &Plugin,
) -> Option<Cow<'v, NodeSelector>> {
    let terms = required.map(|selector| selector.node_selector_terms.as_slice()).unwrap_or_default();
    let asks_for = |key: &str| terms.iter().any(|term| term.match_expressions.iter().flatten().any(|it| it.key == key));
    let labelled = |[zone, _]: &&[&str; 2]| volume.metadata.label(zone).is_some();
    let asked = ZONE_LABELS.iter().find(|[zone, _]| asks_for(zone));
    let [zone, region] = asked.or_else(|| ZONE_LABELS.iter().find(labelled)).unwrap_or(&ZONE_LABELS[0]);
    let mut selector = required.cloned().unwrap_or_else(|| NodeSelector { node_selector_terms: Vec::new() });
    let values: BTreeSet<String> = values_of(&selector, zone);
    if !values.is_empty() {
        rename(&mut selector, zone, plugin.zone);
    } else if let Some(label) = volume.metadata.label(zone) {
        let zones: BTreeSet<&str> = label.split(SEVERAL).map(str::trim).filter(|zone| !zone.is_empty()).collect();
        if !zones.is_empty() {
            require(&mut selector, &among(plugin.zone, zones));
        }
    }
    if *region == ZONE_LABELS[1][1] && !values_of(&selector, region).is_empty() {
        rename(&mut selector, region, ZONE_LABELS[0][1]);
    }
    (required.is_some() || !selector.node_selector_terms.is_empty()).then_some(Cow::Owned(selector))
}

fn expressions(selector: &mut NodeSelector) -> impl Iterator<Item = &mut NodeSelectorRequirement> {
    selector.node_selector_terms.iter_mut().flat_map(|term| term.match_expressions.iter_mut().flatten())
}

fn values_of(selector: &NodeSelector, key: &str) -> BTreeSet<String> {
    let all = selector.node_selector_terms.iter().flat_map(|term| term.match_expressions.iter().flatten());
    all.filter(|wanted| wanted.key == key).flat_map(|wanted| wanted.values.iter().flatten().cloned()).collect()
}

fn rename(selector: &mut NodeSelector, from: &str, to: &str) {
    expressions(selector).filter(|wanted| wanted.key == from).for_each(|wanted| to.clone_into(&mut wanted.key));
}

fn require(selector: &mut NodeSelector, wanted: &NodeSelectorRequirement) {
    if selector.node_selector_terms.is_empty() {
        selector.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut selector.node_selector_terms {
        term.match_expressions.get_or_insert_default().push(wanted.clone());
    }
}
