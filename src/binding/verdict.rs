//! What a decision says.

use serde::Serialize;

use super::assume::Assumption;
use super::finding::{Code, Finding};
use super::row::Row;

/// How a Pod is tied to its node once the scheduler places it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "by", content = "value")]
pub enum Pin {
    /// `nodeSelector` on `kubernetes.io/hostname` with this label value.
    Hostname(String),
    /// Required node affinity, `matchFields: metadata.name In [name]`, in every term that is not empty.
    Name(String),
}

/// What fixes the Pod, or why nothing does. See the table in `docs/decisions.md`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Remedy {
    /// Nothing is delayed, or nothing safe can be done; the findings say which.
    Leave,
    /// Admission drops `nodeName` and ties the Pod to the node by a pin.
    Rewrite {
        /// How the Pod is tied to the node.
        pin: Pin,
    },
    /// Admission writes the selected node into the templates of these ephemeral volumes; the Pod keeps `nodeName`.
    SelectInTemplate {
        /// Names of the Pod's volumes.
        volumes: Vec<String>,
    },
    /// Admission leaves the Pod alone; the rescue loop fixes its claims as [`PodVerdict::rescue`] says.
    Rescue,
    /// Nothing that latebind may do helps.
    Hopeless {
        /// The finding that says why.
        reason: Code,
    },
}

/// What the rescue loop does for one claim of a stuck Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum ClaimRemedy {
    /// Nothing: it is bound, on its way, or the scheduler's to decide.
    Leave,
    /// Order a volume for the node, by annotation.
    SelectNode {
        /// The node.
        node: String,
    },
    /// Reserve an existing volume for the claim.
    Prebind {
        /// The volume.
        volume: String,
    },
    /// Remove the annotation that orders a volume from a class without a provisioner.
    Unselect,
    /// Nothing now; again when a volume or class appears.
    Wait,
    /// Nothing that latebind may do helps.
    Hopeless {
        /// The finding that says why.
        reason: Code,
    },
}

/// What was decided about one volume of a Pod that is, or stands for, a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeVerdict {
    /// Name of the volume in the Pod.
    pub volume: String,
    /// Name of the claim; absent for an ephemeral volume of a Pod without a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Row of the truth table in `docs/decisions.md`.
    pub row: Row,
    /// True when the Pod waits for this claim forever unless something is done.
    pub stuck: bool,
    /// What the row says, in words.
    pub says: String,
    /// What the rescue loop would do for the claim.
    pub remedy: ClaimRemedy,
    /// True when something that is not known decides whether the Pod would wait for the claim forever.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub undecided: bool,
}

impl VolumeVerdict {
    /// True when the Pod waits forever because no scheduler chooses a node for the claim's volume.
    #[must_use]
    pub const fn waits_for_scheduler(&self) -> bool {
        self.stuck && self.row.waits_for_scheduler()
    }
}

/// What was decided about one entry of a Pod's `spec.resourceClaims`: row 28 of the truth table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceVerdict {
    /// Name of the entry.
    pub name: String,
    /// Name of the ResourceClaim; absent while it is to be made from a template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// True when the Pod waits for the devices forever unless something is done.
    pub stuck: bool,
    /// What is the matter with it, in words.
    pub says: String,
    /// True when something that is not known decides whether the Pod would wait for the devices forever.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub undecided: bool,
}

/// What was decided about a Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodVerdict {
    /// The node that the Pod names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What fixes it.
    pub remedy: Remedy,
    /// One entry a claim that the Pod declares.
    pub volumes: Vec<VolumeVerdict>,
    /// One entry a ResourceClaim that the Pod declares.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceVerdict>,
    /// What a person should know, most severe first.
    pub findings: Vec<Finding>,
    /// What all of it rests on besides the facts; each finding names its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assumptions: Vec<Assumption>,
}

impl PodVerdict {
    /// The verdict on a Pod that names no node.
    #[must_use]
    pub const fn not_pinned() -> Self {
        Self {
            node: None,
            remedy: Remedy::Leave,
            volumes: Vec::new(),
            devices: Vec::new(),
            findings: Vec::new(),
            assumptions: Vec::new(),
        }
    }

    /// True when the Pod, left alone, waits forever for at least one claim or ResourceClaim.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.volumes.iter().any(|volume| volume.stuck) || self.devices.iter().any(|device| device.stuck)
    }

    /// True when something that is not known decides whether the Pod would wait forever.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        let undecided = self.volumes.iter().any(|volume| volume.undecided);
        !self.is_stuck() && (undecided || self.devices.iter().any(|device| device.undecided))
    }

    /// Claims for which the rescue loop has something to write, with what it would write.
    pub fn rescue(&self) -> impl Iterator<Item = (&VolumeVerdict, &ClaimRemedy)> {
        self.volumes.iter().filter_map(|volume| match &volume.remedy {
            ClaimRemedy::SelectNode { .. } | ClaimRemedy::Prebind { .. } | ClaimRemedy::Unselect => {
                Some((volume, &volume.remedy))
            }
            ClaimRemedy::Leave | ClaimRemedy::Wait | ClaimRemedy::Hopeless { .. } => None,
        })
    }
}

/// What was decided about a claim, for the rescue loop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimVerdict {
    /// What to do.
    pub remedy: ClaimRemedy,
    /// The Pod on whose behalf, as `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// UID of that Pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer_uid: Option<String>,
    /// What a person should know, most severe first.
    pub findings: Vec<Finding>,
}
