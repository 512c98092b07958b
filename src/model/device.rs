//! Claims of dynamic resource allocation: which devices a Pod uses, and whether the scheduler has allocated them.

use k8s_openapi::api::core::v1::NodeSelector;
use serde::Deserialize;

use super::metadata::{Metadata, metadata};
use super::{Text, null_as_default, object};

/// The most users that one ResourceClaim can be reserved for.
/// Source: `pkg/apis/resource/types.go`, `ResourceClaimReservedForMaxSize`.
pub const MOST_RESERVED_FOR: usize = 256;

/// A ResourceClaim of `resource.k8s.io`. What it asks for is the scheduler's to read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ResourceClaim {
    /// Name, namespace, owner, UID.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// What the scheduler did.
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: ResourceClaimStatus,
}

/// `status` of a ResourceClaim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceClaimStatus {
    /// Present once the scheduler has allocated devices.
    #[serde(default, deserialize_with = "object")]
    pub allocation: Option<Allocation>,
    /// Who may use the devices now.
    #[serde(default, deserialize_with = "null_as_default")]
    pub reserved_for: Vec<Reservation>,
}

/// Where allocated devices can be used.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// The nodes; every node where this is absent.
    #[serde(default)]
    pub node_selector: Option<NodeSelector>,
}

/// A user of allocated devices.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Reservation {
    /// UID of the Pod, or of another object.
    #[serde(default, deserialize_with = "null_as_default")]
    pub uid: Text,
}

/// A ResourceClaimTemplate: what ResourceClaims of Pods are made from. Only whether there is one counts.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ResourceClaimTemplate {
    /// Name and namespace.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
}

/// An entry of `spec.resourceClaims` of a Pod: exactly one of the two names is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodResourceClaim {
    /// Name, unique among the entries.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: Text,
    /// A ResourceClaim of the Pod's namespace.
    #[serde(default)]
    pub resource_claim_name: Option<Text>,
    /// The template from which the Pod gets a ResourceClaim of its own.
    #[serde(default)]
    pub resource_claim_template_name: Option<Text>,
}

/// An entry of `status.resourceClaimStatuses` of a Pod: which ResourceClaim was made from a template.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodResourceClaimStatus {
    /// Name of the entry of `spec.resourceClaims`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: Text,
    /// The ResourceClaim; absent when none is needed.
    #[serde(default)]
    pub resource_claim_name: Option<Text>,
}

impl ResourceClaim {
    /// The ResourceClaim's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name()
    }

    /// The ResourceClaim's namespace; `default` where none is given.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata.namespace()
    }

    /// True when the devices may be used by the object of that UID.
    #[must_use]
    pub fn is_reserved_for(&self, uid: &str) -> bool {
        self.status.reserved_for.iter().any(|user| user.uid == uid)
    }

    /// True when nobody else can be let in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.status.reserved_for.len() >= MOST_RESERVED_FOR
    }
}

impl ResourceClaimTemplate {
    /// The template's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name()
    }

    /// The template's namespace; `default` where none is given.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata.namespace()
    }
}
