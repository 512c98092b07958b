//! Entry point for a workload.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::finding::FieldPath;
use super::{ClusterView, Lookup, PodVerdict, Rules, decide_pod};
use crate::model::{
    Claim, ClaimSource, Class, CsiDriver, CsiNode, Namespace, Node, Pod, PodVolume, StorageCapacity, Volume, Workload,
    WorkloadKind,
};

/// How many ordinals of a StatefulSet are looked up for claims that exist already.
const MOST_ORDINALS: u32 = 1_000;

/// What was decided about a workload: one entry a Pod of it that differs from the others.
#[derive(Clone, Debug, Default)]
pub struct WorkloadVerdict {
    /// Pods as the workload's controller would make them, with what was decided about each. A StatefulSet has one entry
    /// an ordinal whose claims are in the view and one for all the others; every other kind has at most one.
    ///
    /// Paths of findings start at the top of the workload.
    pub pods: Vec<(Pod, PodVerdict)>,
}

/// Decides about the Pods that a workload's controller would make.
#[must_use]
pub fn decide_workload(workload: &Workload, view: &dyn ClusterView, rules: &Rules) -> WorkloadVerdict {
    let Some(pod) = workload.pod() else { return WorkloadVerdict::default() };
    if workload.kind != WorkloadKind::StatefulSet || workload.claim_templates.is_empty() {
        let mut verdict = decide_pod(&pod, view, rules);
        relocate(&mut verdict, workload, &BTreeMap::new());
        return WorkloadVerdict { pods: vec![(pod, verdict)] };
    }
    let pods = ordinals(workload, view).into_iter().map(|ordinal| decide_ordinal(workload, &pod, ordinal, view, rules));
    WorkloadVerdict { pods: pods.collect() }
}

/// The name of the claim that a StatefulSet's controller makes from a template.
/// Source: `pkg/controller/statefulset/stateful_set_utils.go`, `getPersistentVolumeClaimName`.
fn claim_name(template: &Claim, workload: &Workload, ordinal: u32) -> String {
    format!("{}-{}-{ordinal}", template.name(), workload.name())
}

/// Ordinals with claims of their own in the view, and the first of those without.
fn ordinals(workload: &Workload, view: &dyn ClusterView) -> Vec<u32> {
    let count = workload.replicas.clamp(1, MOST_ORDINALS);
    let namespace = workload.namespace();
    let has_claims = |ordinal: &u32| {
        let exists =
            |template| matches!(view.claim(namespace, &claim_name(template, workload, *ordinal)), Lookup::Found(_));
        workload.claim_templates.iter().any(exists)
    };
    let all = (0..count).map(|place| workload.first_ordinal.saturating_add(place));
    let (mut known, others): (Vec<u32>, Vec<u32>) = all.partition(has_claims);
    known.extend(others.first());
    known.sort_unstable();
    known
}

fn decide_ordinal(
    workload: &Workload,
    pod: &Pod,
    ordinal: u32,
    view: &dyn ClusterView,
    rules: &Rules,
) -> (Pod, PodVerdict) {
    let mut pod = pod.clone();
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(format!("{}-{ordinal}", workload.name()).into());
    let mut templated = BTreeMap::new();
    let mut made = BTreeMap::new();
    for (place, template) in workload.claim_templates.iter().enumerate() {
        let name = claim_name(template, workload, ordinal);
        let source = ClaimSource { claim_name: name.as_str().into() };
        let volume = PodVolume { name: template.name().into(), persistent_volume_claim: Some(source), ephemeral: None };
        // The controller replaces a volume of the same name.
        let index = pod.spec.volumes.iter().position(|other| other.name == volume.name);
        let index = index.unwrap_or_else(|| {
            pod.spec.volumes.push(PodVolume::default());
            pod.spec.volumes.len() - 1
        });
        pod.spec.volumes[index] = volume;
        templated.insert(index, place);
        let mut claim = template.clone();
        claim.metadata.name = Some(name.as_str().into());
        claim.metadata.namespace = Some(workload.namespace().into());
        made.insert(name, Arc::new(claim));
    }
    let view = WithTemplates { view, namespace: workload.namespace(), made };
    let mut verdict = decide_pod(&pod, &view, rules);
    relocate(&mut verdict, workload, &templated);
    (pod, verdict)
}

/// Moves paths of findings from the Pod to where the workload says it; `templated` maps volumes to claim templates.
fn relocate(verdict: &mut PodVerdict, workload: &Workload, templated: &BTreeMap<usize, usize>) {
    for finding in &mut verdict.findings {
        let index = match finding.path.0.as_slice() {
            [spec, volumes, index, ..] if spec == "spec" && volumes == "volumes" => index.parse().ok(),
            _ => None,
        };
        finding.path = match index.and_then(|index: usize| templated.get(&index)) {
            Some(place) => FieldPath::new(&["spec", "volumeClaimTemplates", &place.to_string()]),
            None => finding.path.beneath(workload.kind.template_path()),
        };
    }
}

/// A view in which the claims of one ordinal exist as their templates would make them.
struct WithTemplates<'a> {
    view: &'a dyn ClusterView,
    namespace: &'a str,
    made: BTreeMap<String, Arc<Claim>>,
}

impl ClusterView for WithTemplates<'_> {
    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        match self.view.claim(namespace, name) {
            Lookup::Found(claim) => Lookup::Found(claim),
            otherwise if namespace == self.namespace => Lookup::found_or(self.made.get(name).cloned(), otherwise),
            otherwise => otherwise,
        }
    }
    fn class(&self, name: &str) -> Lookup<Arc<Class>> {
        self.view.class(name)
    }
    fn default_class(&self) -> Lookup<Arc<Class>> {
        self.view.default_class()
    }
    fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        self.view.node(name)
    }
    fn nodes_with_hostname(&self, value: &str) -> Lookup<Vec<Arc<Node>>> {
        self.view.nodes_with_hostname(value)
    }
    fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        self.view.volume(name)
    }
    fn free_volumes_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.view.free_volumes_of_class(class_name)
    }
    fn volumes_claimed_by(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.view.volumes_claimed_by(namespace, claim_name)
    }
    fn namespace(&self, name: &str) -> Lookup<Arc<Namespace>> {
        self.view.namespace(name)
    }
    fn csi_driver(&self, name: &str) -> Lookup<Arc<CsiDriver>> {
        self.view.csi_driver(name)
    }
    fn csi_node(&self, node_name: &str) -> Lookup<Arc<CsiNode>> {
        self.view.csi_node(node_name)
    }
    fn capacities_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<StorageCapacity>>> {
        self.view.capacities_of_class(class_name)
    }
    fn consumers(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Pod>>> {
        self.view.consumers(namespace, claim_name)
    }
}
