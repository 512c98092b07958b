//! Pods as far as they keep other Pods away.

use serde::Deserialize;

use super::metadata::{Metadata, metadata};
use super::{HOSTNAME_LABEL, Pod, PodAffinity, PodAffinityTerm, PodStatus, Text, null_as_default, object};

/// A Pod's required anti-affinity, and where the Pod is. It is all that is kept of Pods where nothing else of them counts.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct AntiAffinityPod {
    /// Name, namespace, UID.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// What is asked for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: AntiAffinitySpec,
    /// What the kubelet reports.
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: PodStatus,
    /// True when the terms were too large to be kept: one that is left stands for each topology of theirs, and whom it
    /// means is not known.
    #[serde(skip)]
    pub is_cut: bool,
}

/// The part of a Pod's `spec` that keeps others away.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AntiAffinitySpec {
    /// The node that the Pod is on; empty and absent mean that it is on none.
    #[serde(default)]
    pub node_name: Option<Text>,
    /// Affinity.
    #[serde(default, deserialize_with = "object")]
    pub affinity: Option<OnlyAntiAffinity>,
}

/// The part of a Pod's affinity that keeps others away.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OnlyAntiAffinity {
    /// Away from Pods.
    #[serde(default)]
    pub pod_anti_affinity: Option<PodAffinity>,
}

impl AntiAffinityPod {
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

    /// Keeps of the terms only in which topologies they hold: on the node, or wherever.
    pub fn cut(&mut self) {
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

impl From<&Pod> for AntiAffinityPod {
    fn from(pod: &Pod) -> Self {
        let affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.clone());
        Self {
            metadata: pod.metadata.clone(),
            spec: AntiAffinitySpec {
                node_name: pod.spec.node_name.clone(),
                affinity: affinity.map(|terms| OnlyAntiAffinity { pod_anti_affinity: Some(terms) }),
            },
            status: pod.status.clone(),
            is_cut: false,
        }
    }
}
