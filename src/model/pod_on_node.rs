//! Pods on nodes, as far as others ask about them: whom they keep away, and which claims they use.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::metadata::{Metadata, metadata};
use super::pod::{ClaimSource, ephemeral_claim_name};
use super::{
    HOSTNAME_LABEL, Pod, PodAffinity, PodAffinityTerm, PodStatus, PodVolume, Text, null_as_default, object, objects,
};

/// A Pod's required anti-affinity, its claims, and where the Pod is. It is all that is kept of Pods where nothing else of them
/// counts.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodOnNode {
    /// Name, namespace, UID.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// What is asked for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: PodOnNodeSpec,
    /// What the kubelet reports.
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: PodStatus,
    /// True when the terms were too large to be kept: one that is left stands for each topology of theirs, and whom it
    /// means is not known.
    #[serde(skip)]
    pub is_cut: bool,
}

/// The part of a Pod's `spec` that others ask about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodOnNodeSpec {
    /// The node that the Pod is on; empty and absent mean that it is on none.
    #[serde(default)]
    pub node_name: Option<Text>,
    /// Affinity.
    #[serde(default, deserialize_with = "object")]
    pub affinity: Option<OnlyAntiAffinity>,
    /// Volumes.
    #[serde(default, deserialize_with = "objects")]
    pub volumes: Vec<ClaimVolume>,
}

/// A volume of a Pod, as far as it tells which claim it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimVolume {
    /// Name, unique in the Pod.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: Text,
    /// A claim of the Pod's namespace.
    #[serde(default)]
    pub persistent_volume_claim: Option<ClaimSource>,
    /// A generic ephemeral volume; only whether it is one counts.
    #[serde(default)]
    pub ephemeral: Option<IgnoredAny>,
}

impl ClaimVolume {
    /// True for one that is a claim.
    #[must_use]
    pub const fn is_claim(&self) -> bool {
        self.persistent_volume_claim.is_some() || self.ephemeral.is_some()
    }
}

/// The part of a Pod's affinity that keeps others away.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OnlyAntiAffinity {
    /// Away from Pods.
    #[serde(default)]
    pub pod_anti_affinity: Option<PodAffinity>,
}

impl PodOnNode {
    /// The node that the Pod is on.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.spec.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// The Pod's namespace; `default` where none is given.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata.namespace()
    }

    /// Terms of required anti-affinity.
    #[must_use]
    pub fn terms(&self) -> &[PodAffinityTerm] {
        let terms = self.spec.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        terms.map(|terms| terms.required.as_slice()).unwrap_or_default()
    }

    /// True while the scheduler counts its terms: it is on a node and has not ended. One that is being deleted counts until
    /// it is gone.
    #[must_use]
    pub fn keeps_others_away(&self) -> bool {
        self.node().is_some() && !self.status.has_ended() && !self.terms().is_empty()
    }

    /// Names of the claims that it uses, in the order of its volumes, and whether each is its own, of a generic ephemeral volume.
    pub fn claims(&self) -> impl Iterator<Item = (Text, bool)> + '_ {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.volumes.iter().filter_map(move |volume| match (&volume.persistent_volume_claim, volume.ephemeral) {
            (Some(source), _) => Some((source.claim_name.clone(), false)),
            (None, Some(_)) => Some((ephemeral_claim_name(name, &volume.name), true)),
            (None, None) => None,
        })
    }

    /// True while it is on a node, has not ended, and uses a claim.
    #[must_use]
    pub fn uses_claims(&self) -> bool {
        self.node().is_some() && !self.status.has_ended() && self.spec.volumes.iter().any(ClaimVolume::is_claim)
    }

    /// Keeps of the terms only in which topologies they hold: on the node, or wherever.
    pub fn cut(&mut self) {
        if self.terms().is_empty() {
            return;
        }
        let on_its_node = self.terms().iter().all(|term| term.topology_key == HOSTNAME_LABEL);
        let rest = PodAffinityTerm {
            topology_key: if on_its_node { HOSTNAME_LABEL.into() } else { Text::default() },
            namespace_selector: (!on_its_node).then(Default::default),
            ..PodAffinityTerm::default()
        };
        let rest = PodAffinity { required: vec![rest] };
        self.spec.affinity = Some(OnlyAntiAffinity { pod_anti_affinity: Some(rest) });
        self.is_cut = true;
    }
}

impl From<&Pod> for PodOnNode {
    fn from(pod: &Pod) -> Self {
        let affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.clone());
        Self {
            metadata: pod.metadata.clone(),
            spec: PodOnNodeSpec {
                node_name: pod.spec.node_name.clone(),
                affinity: affinity.map(|terms| OnlyAntiAffinity { pod_anti_affinity: Some(terms) }),
                volumes: pod.spec.volumes.iter().filter(|volume| volume.is_claim()).map(ClaimVolume::from).collect(),
            },
            status: pod.status.clone(),
            is_cut: false,
        }
    }
}

impl From<&PodVolume> for ClaimVolume {
    fn from(volume: &PodVolume) -> Self {
        Self {
            name: volume.name.clone(),
            persistent_volume_claim: volume.persistent_volume_claim.clone(),
            ephemeral: volume.ephemeral.as_ref().map(|_| IgnoredAny),
        }
    }
}
