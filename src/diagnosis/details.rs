//! What an object says of its own history: conditions, reasons, and who wrote a field and when.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Time};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::model::{Metadata, SELECTED_NODE, Text};

/// A field of which it is told who wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The annotation that orders a claim's volume for a node.
    SelectedNode,
    /// `spec.nodeName` of a Pod.
    NodeName,
    /// `spec.claimRef` of a volume.
    ClaimRef,
}

impl Field {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::SelectedNode, Self::NodeName, Self::ClaimRef];

    /// The steps to it in the account that the API server keeps.
    #[must_use]
    pub fn steps(self) -> Vec<String> {
        let field = |name: &str| format!("f:{name}");
        match self {
            Self::SelectedNode => vec![field("metadata"), field("annotations"), field(SELECTED_NODE)],
            Self::NodeName => vec![field("spec"), field("nodeName")],
            Self::ClaimRef => vec![field("spec"), field("claimRef")],
        }
    }
}

/// Who wrote a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// The name under which the writer keeps its fields.
    pub manager: String,
    /// When it last wrote any field of the object.
    pub at: Option<Timestamp>,
}

/// The part of a Pod, claim or volume that decisions do not read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Details {
    #[serde(default)]
    metadata: Written,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    managed_fields: Option<Vec<ManagedFieldsEntry>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    conditions: Option<Vec<Condition>>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    last_phase_transition_time: Option<Time>,
}

/// A condition of a Pod or claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(default, rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// Why, in a word.
    #[serde(default)]
    pub reason: Option<String>,
    /// Why, in a sentence.
    #[serde(default)]
    pub message: Option<String>,
}

impl Details {
    /// Who wrote a field, where the object keeps account of it.
    #[must_use]
    pub fn writer(&self, field: Field) -> Option<Writer> {
        let steps = field.steps();
        let owns = |entry: &&ManagedFieldsEntry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            fields.is_some_and(|fields| steps.iter().try_fold(fields, |fields, step| fields.get(step)).is_some())
        };
        let entries = self.metadata.managed_fields.iter().flatten().filter(owns);
        let last = entries.max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
        Some(Writer { manager: last.manager.clone().unwrap_or_default(), at: last.time.as_ref().map(|time| time.0) })
    }

    /// The condition of this type.
    #[must_use]
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        let conditions = self.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// `status.reason` and `status.message`, each empty where there is none.
    #[must_use]
    pub fn reason(&self) -> (&str, &str) {
        let status = self.status.as_ref();
        (
            status.and_then(|status| status.reason.as_deref()).unwrap_or_default(),
            status.and_then(|status| status.message.as_deref()).unwrap_or_default(),
        )
    }

    /// When the phase of a volume changed last.
    #[must_use]
    pub fn phase_since(&self) -> Option<Timestamp> {
        self.status.as_ref()?.last_phase_transition_time.as_ref().map(|time| time.0)
    }

    /// The newest write.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        let entries = self.metadata.managed_fields.iter().flatten();
        entries.filter_map(|entry| entry.time.as_ref().map(|time| time.0)).max()
    }
}

/// A Lease by which a leader shows that it lives.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Lease {
    /// Name and namespace.
    pub metadata: Metadata,
    #[serde(default)]
    spec: LeaseSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeaseSpec {
    #[serde(default)]
    holder_identity: Option<Text>,
    #[serde(default)]
    lease_duration_seconds: Option<i64>,
    #[serde(default)]
    renew_time: Option<Time>,
}

impl Lease {
    /// Who holds it; empty where nobody does.
    #[must_use]
    pub fn holder(&self) -> &str {
        self.spec.holder_identity.as_deref().unwrap_or_default()
    }

    /// When it was renewed last.
    #[must_use]
    pub fn renewed(&self) -> Option<Timestamp> {
        self.spec.renew_time.as_ref().map(|time| time.0)
    }

    /// For how many seconds it lasts.
    #[must_use]
    pub fn lasts(&self) -> i64 {
        self.spec.lease_duration_seconds.unwrap_or(15)
    }
}
