//! Entry point for a workload.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::finding::{Code, FieldPath};
use super::pod::{MOST_CLAIMS, decide_pod, without_looking};
use super::{ClaimRemedy, ClusterView, LayeredView, Lookup, PodVerdict, Row, Rules};
use crate::model::{Claim, ClaimSource, Pod, PodVolume, Text, Volume, Workload, WorkloadKind};

/// How many ordinals of a StatefulSet are decided about.
const MOST_ORDINALS: usize = 1_000;
/// Volumes, mounts and claim templates that are looked at for all ordinals together: 16 for each of the most ordinals, and
/// a few ordinals of a StatefulSet with thousands. Without it one object could ask for a thousand copies of itself.
const MOST_PARTS: usize = 1 << 14;

/// What was decided about a workload: one entry a Pod of it that differs from the others.
#[derive(Clone, Debug, Default)]
pub struct WorkloadVerdict {
    /// Pods as the workload's controller would make them, with what was decided about each. Every replica of a StatefulSet
    /// is decided about, and none gets a volume that an earlier one has; those whose claims are all still to be made anew,
    /// alike for each, have one entry. Every other kind has at most one.
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
    let claims = claims_of_each(workload, &pod);
    if claims > MOST_CLAIMS
        && let Some(mut verdict) = without_looking(&pod, claims)
    {
        relocate(&mut verdict, workload, &BTreeMap::new());
        let (pod, _) = pod_of(workload, &pod, workload.first_ordinal);
        return WorkloadVerdict { pods: vec![(pod, verdict)] };
    }
    let most = most_ordinals(workload, &pod);
    let all = usize::try_from(workload.replicas).unwrap_or(usize::MAX).max(1);
    let mut taken = BTreeSet::new();
    let mut pods: Vec<(Pod, PodVerdict)> = Vec::new();
    for ordinal in (workload.first_ordinal..=u32::MAX).take(all.min(most)) {
        let decided = decide_ordinal(workload, &pod, ordinal, &taken, view, rules);
        taken.extend(decided.1.volumes.iter().filter_map(|volume| match &volume.remedy {
            ClaimRemedy::Prebind { volume } => Some(volume.clone()),
            _ => None,
        }));
        let is_like = |(_, earlier): &(Pod, PodVerdict)| is_alike(earlier, &decided.1);
        if has_claims(workload, ordinal, view) || needs_a_volume(&decided.1) || !pods.iter().any(is_like) {
            pods.push(decided);
        }
    }
    if all > most
        && let Some((_, verdict)) = pods.last_mut().filter(|_| pod.pinned_node().is_some())
    {
        let message = format!("the StatefulSet has {all} Pods, of which the first {most} are looked at");
        verdict.findings.push(Code::TooLarge.at(FieldPath::new(&["spec", "replicas"]), message));
    }
    WorkloadVerdict { pods }
}

/// How many claims of any kind each Pod of a StatefulSet declares, without making one.
fn claims_of_each(workload: &Workload, pod: &Pod) -> usize {
    let mut templates: HashSet<&str> = workload.claim_templates.iter().map(Claim::name).collect();
    let from_templates = templates.len();
    // A template takes the place of the first volume of its name.
    let own = pod.spec.volumes.iter().filter(|volume| !templates.remove(&*volume.name) && volume.is_claim()).count();
    from_templates + own + pod.spec.resource_claims.len()
}

/// True when a claim of the ordinal is in the view.
fn has_claims(workload: &Workload, ordinal: u32, view: &dyn ClusterView) -> bool {
    let exists = |template| {
        matches!(view.claim(workload.namespace(), &workload.claim_name(template, ordinal)), Lookup::Found(_))
    };
    workload.claim_templates.iter().any(exists)
}

/// True when a volume that exists decides: rows 5 to 7 of the truth table.
fn needs_a_volume(verdict: &PodVerdict) -> bool {
    verdict
        .volumes
        .iter()
        .any(|volume| matches!(volume.row, Row::DynamicVolumeFits | Row::StaticVolumeFits | Row::StaticNoVolume))
}

/// True for verdicts that differ in the names of claims alone.
fn is_alike(left: &PodVerdict, right: &PodVerdict) -> bool {
    let codes = |verdict: &PodVerdict| verdict.findings.iter().map(|finding| finding.code).collect::<Vec<_>>();
    left.remedy == right.remedy
        && codes(left) == codes(right)
        && left.volumes.len() == right.volumes.len()
        && left
            .volumes
            .iter()
            .zip(&right.volumes)
            .all(|(left, right)| left.row == right.row && left.remedy == right.remedy)
}

/// How many ordinals are looked at.
pub(super) fn most_ordinals(workload: &Workload, pod: &Pod) -> usize {
    let mounts = pod.spec.all_containers().map(|container| {
        1 + container.volume_mounts.len() + container.volume_devices.len() + container.resources.requests.len()
    });
    let parts = workload.claim_templates.len() + pod.spec.volumes.len() + mounts.sum::<usize>();
    (MOST_PARTS / parts.max(1)).clamp(1, MOST_ORDINALS)
}

/// The Pod of an ordinal, and which of its volumes stand for which claim template.
fn pod_of(workload: &Workload, pod: &Pod, ordinal: u32) -> (Pod, BTreeMap<usize, usize>) {
    let mut pod = pod.clone();
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(format!("{}-{ordinal}", workload.name()).into());
    let mut templated = BTreeMap::new();
    let mut places: HashMap<Text, usize> =
        pod.spec.volumes.iter().enumerate().rev().map(|(place, volume)| (volume.name.clone(), place)).collect();
    for (place, template) in workload.claim_templates.iter().enumerate() {
        let source = ClaimSource { claim_name: workload.claim_name(template, ordinal).into() };
        let volume = PodVolume { name: template.name().into(), persistent_volume_claim: Some(source), ephemeral: None };
        // The controller replaces a volume of the same name.
        let index = *places.entry(volume.name.clone()).or_insert_with(|| {
            pod.spec.volumes.push(PodVolume::default());
            pod.spec.volumes.len() - 1
        });
        pod.spec.volumes[index] = volume;
        templated.insert(index, place);
    }
    (pod, templated)
}

fn decide_ordinal(
    workload: &Workload,
    pod: &Pod,
    ordinal: u32,
    taken: &BTreeSet<String>,
    view: &dyn ClusterView,
    rules: &Rules,
) -> (Pod, PodVerdict) {
    let (pod, templated) = pod_of(workload, pod, ordinal);
    let mut made = BTreeMap::new();
    for template in &workload.claim_templates {
        let name = workload.claim_name(template, ordinal);
        let mut claim = template.clone();
        claim.metadata.name = Some(name.as_str().into());
        claim.metadata.namespace = Some(workload.namespace().into());
        made.insert(name, Arc::new(claim));
    }
    let view = WithTemplates { view, namespace: workload.namespace(), made, taken };
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

/// A view in which the claims of one ordinal exist as their templates would make them, and volumes that earlier ordinals
/// took are gone.
struct WithTemplates<'a> {
    view: &'a dyn ClusterView,
    namespace: &'a str,
    made: BTreeMap<String, Arc<Claim>>,
    taken: &'a BTreeSet<String>,
}

impl LayeredView for WithTemplates<'_> {
    fn beneath(&self) -> &dyn ClusterView {
        self.view
    }

    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        match self.view.claim(namespace, name) {
            Lookup::Found(claim) => Lookup::Found(claim),
            otherwise if namespace == self.namespace => Lookup::found_or(self.made.get(name).cloned(), otherwise),
            otherwise => otherwise,
        }
    }
    fn free_volumes_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        let left = |volumes: Vec<Arc<Volume>>| {
            volumes.into_iter().filter(|volume| !self.taken.contains(volume.name())).collect()
        };
        self.view.free_volumes_of_class(class_name).map(left)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(volumes: &[Value], templates: &[&str]) -> Workload {
        let templates: Vec<Value> = templates.iter().map(|name| json!({ "metadata": { "name": name } })).collect();
        let spec = json!({ "nodeName": "n", "volumes": volumes, "resourceClaims": [{ "name": "r" }] });
        let set = json!({ "metadata": { "name": "s" }, "spec": { "replicas": 5, "template": { "spec": spec },
            "volumeClaimTemplates": templates } });
        Workload::read(WorkloadKind::StatefulSet, &set).unwrap()
    }

    #[test]
    fn claims_of_a_statefulset_are_counted_as_its_pods_declare_them() {
        let claim = |name: &str| json!({ "name": name, "persistentVolumeClaim": { "claimName": "c" } });
        let other = |name: &str| json!({ "name": name, "emptyDir": {} });
        for volumes in
            [vec![], vec![claim("a")], vec![other("a"), claim("a"), claim("b")], vec![claim("a"), claim("a")]]
        {
            for templates in [&["a"][..], &["a", "a"], &["b", "c"], &["a", "b", "c", "d"]] {
                let set = set(&volumes, templates);
                let pod = set.pod().unwrap();
                let (made, _) = pod_of(&set, &pod, 0);
                let declared = made.spec.volumes.iter().filter(|volume| volume.is_claim()).count() + 1;
                assert_eq!(claims_of_each(&set, &pod), declared, "{volumes:?} {templates:?}");
            }
        }
    }
}
