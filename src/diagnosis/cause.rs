//! Causes: why a Pod, a claim or a volume does not move.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::binding::Severity;

macro_rules! causes {
    ($($variant:ident, $severity:ident, $title:literal, $about:literal, $next:literal;)+) => {
        /// Why an object does not move. The names are stable: none is ever given a second meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Cause {
            $(
                #[doc = $title]
                $variant,
            )+
        }

        impl Cause {
            /// Every cause.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }

            /// An error waits for somebody, a warning may, and information is as it should be.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)+ }
            }

            /// One line, without names.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }

            /// How it is told from the others.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)+ }
            }

            /// What the command that is printed does.
            #[must_use]
            pub const fn next(self) -> &'static str {
                match self { $(Self::$variant => $next,)+ }
            }
        }
    };
}

causes! {
    Healthy, Info,
        "Nothing is in the way",
        "The Pod runs, or the claim is bound and no Pod that uses it waits.",
        "";
    NotKnown, Warning,
        "What decides is not known",
        "A fact that decides is not in the dump, or the cluster does not let you read it. It is named, and nothing is concluded from its absence.",
        "Reads what is missing.";
    Deadlock, Error,
        "The Pod names its node, and its claim waits for the scheduler",
        "spec.nodeName is set, so that the scheduler never sees the Pod, and a claim of a WaitForFirstConsumer class waits until the scheduler has chosen a node (LB001).",
        "Orders a volume for the node, or reserves one that fits: the Pod starts. Where latebind's webhook is installed, it says too why the Pod was not rewritten.";
    NoConsumer, Info,
        "The claim waits for a Pod, as it should",
        "The class is WaitForFirstConsumer and no Pod uses the claim. That is known only where all Pods of the namespace are.",
        "Nothing has to be done: create the Pod.";
    Unplaced, Error,
        "The scheduler finds no node for the Pod",
        "The scheduler's own words, from the Pod's condition PodScheduled or its events, each group of nodes with its reason: taints, selectors, resources, affinity to other Pods.",
        "Shows the nodes and what keeps the Pod from them.";
    NodesCordoned, Error,
        "The nodes that could take the Pod are cordoned",
        "The scheduler names cordoned nodes among its reasons, or the only node that reaches a volume is cordoned.",
        "Uncordons the node. Its volumes stay where they are.";
    NodesTainted, Error,
        "The nodes that could take the Pod have taints that it does not tolerate",
        "The scheduler names taints among its reasons, and nothing about volumes.",
        "Shows the taints.";
    NoCapacity, Error,
        "No node has room for the claim",
        "The driver publishes how much room it has (CSIStorageCapacity), and the scheduler found none that is enough: `did not have enough free storage`.",
        "Shows the published capacities.";
    VolumeLimit, Error,
        "The nodes hold as many volumes of the driver as they can",
        "The scheduler says `exceed max volume count`.",
        "Shows each node's limit.";
    GroupIncomplete, Error,
        "The Pod's scheduling group is not complete",
        "The scheduler holds a Pod of a group back until the group has come: it says so, or, as in Kubernetes 1.37, nothing at all for a minute or more.",
        "Shows the Pods of the namespace.";
    DevicesNotAllocated, Error,
        "The Pod's devices are not allocated",
        "A ResourceClaim of the Pod is not allocated: the scheduler finds no devices, or never sees the Pod because it names its node (LB012).",
        "Shows the ResourceClaims.";
    Gated, Error,
        "The Pod has scheduling gates",
        "spec.schedulingGates holds the Pod back until whoever put the gates there removes them.",
        "Shows the gates.";
    SchedulerSilent, Error,
        "No scheduler has looked at the Pod",
        "The Pod has no node, no condition PodScheduled and no event of a scheduler, though it is a minute old or more. A Pod is looked at only by the scheduler that spec.schedulerName names.",
        "Shows which scheduler the Pod waits for.";
    Rejected, Error,
        "The node's kubelet rejects the Pod",
        "The Pod's own selector excludes the node that it names, it does not tolerate a NoExecute taint of it, or it has failed with a reason of the kubelet's (NodeAffinity, OutOfcpu ...).",
        "Shows the Pod as the kubelet left it.";
    NodeGone, Error,
        "The node does not exist",
        "The Pod names a node that is not among the Nodes.",
        "Lists the nodes.";
    NodeNotReady, Error,
        "The node is not ready",
        "The kubelet of the Pod's node does not report, or reports that it is not ready. Nothing is mounted there meanwhile.",
        "Shows the node.";
    ClaimMissing, Error,
        "The claim does not exist",
        "The Pod uses a claim that is not among the claims of its namespace, all of which are known.",
        "Lists the claims of the namespace.";
    QuotaExceeded, Error,
        "A ResourceQuota refuses the claim",
        "An event says `exceeded quota` of the claim that the Pod, or the StatefulSet, needs.",
        "Shows the quotas and what is used of them.";
    ClaimLost, Error,
        "The claim has lost its volume",
        "The claim was bound to a volume that no longer exists (LB010).",
        "Shows the claim. Its data is gone with the volume.";
    ClaimDeleting, Error,
        "The claim is being deleted",
        "The claim has a deletion timestamp and is not bound (LB009).",
        "Shows what uses the claim.";
    ForeignClaim, Error,
        "The claim of an ephemeral volume belongs to another owner",
        "A claim named <pod>-<volume> exists, and the Pod does not own it (LB020).",
        "Shows the claim and its owner.";
    ClassMissing, Error,
        "The claim's class does not exist",
        "The class that the claim names is not among the StorageClasses, or it names none and there is no default.",
        "Lists the classes.";
    PoisonedClaim, Error,
        "The claim has a selected node, and its class no provisioner",
        "The annotation volume.kubernetes.io/selected-node asks a provisioner for a volume, and the class has kubernetes.io/no-provisioner. The scheduler looks for no existing volume while it stands (LB005). Who set it, and when, is told where the object keeps account of it.",
        "Removes the annotation, or reserves a volume that fits.";
    SelectedElsewhere, Error,
        "The claim's volume is ordered for another node than the Pod's",
        "The annotation volume.kubernetes.io/selected-node names another node than the Pod (LB006). Who set it, and when, is told where the object keeps account of it.",
        "Shows the claim; once it is bound, its volume says which nodes reach it.";
    SelectedNodeGone, Error,
        "The claim's volume is ordered for a node that is gone",
        "The annotation volume.kubernetes.io/selected-node names a node that does not exist. No provisioner acts on it and the scheduler accepts no other node (LB007).",
        "Removes the annotation, or names the Pod's node instead.";
    TopologyExcluded, Error,
        "The class allows no volume on the node",
        "allowedTopologies of the class excludes the node that the Pod names (LB111).",
        "Shows what the class allows.";
    BoundElsewhere, Error,
        "The volume cannot be reached from where the Pod is to run",
        "The claim is bound, and the volume's node affinity excludes the node that the Pod names (LB004), or every node that the scheduler may use: `had volume node affinity conflict`, since Kubernetes 1.33 `didn't match PersistentVolume's node affinity`.",
        "Shows which nodes reach the volume, or uncordons the only one.";
    ImmediateElsewhere, Error,
        "An Immediate class bound the claim where the Pod cannot run",
        "As BoundElsewhere, and the class binds claims before any Pod is placed.",
        "Shows which nodes reach the volume. A class with WaitForFirstConsumer avoids it.";
    VolumeNodeGone, Error,
        "No node reaches the volume any more",
        "The volume's node affinity matches none of the Nodes, all of which are known.",
        "Shows the volume's node affinity and the nodes.";
    NoVolume, Error,
        "There is no volume for the claim, and nobody makes one",
        "The class has no provisioner, and no volume of it exists.",
        "Lists the volumes.";
    VolumeMismatch, Error,
        "The volumes that exist do not fit the claim",
        "The class has no provisioner, or the claim names its volume, and each volume differs from what is asked for. The field is named, with what is wanted and what is there (LB008).",
        "Lists the volumes with these fields.";
    VolumeReleased, Error,
        "A volume belongs to an earlier claim, and nobody cleans it",
        "The volume is Released under the reclaim policy Retain: Kubernetes gives it to no other claim until a person says so. Where a claim waits for a volume, that one is named.",
        "Gives the volume back, with the data of the earlier claim in it: look at it first.";
    VolumeKept, Error,
        "A volume is to be deleted, and is kept",
        "The volume is Released or Failed under the reclaim policy Delete, or is being deleted, and something keeps it: the reason is that of its events, of its LocalVolume's conditions, or its finalizers.",
        "Shows the volume and its events.";
    ProvisionerFails, Error,
        "The provisioner fails",
        "The last that it reported about the claim is ProvisioningFailed; the message is its own.",
        "Shows what it reported.";
    ProvisionerMissing, Error,
        "The provisioner does not run",
        "Something positive says so: Kubernetes knows no such plugin, or the Lease of the provisioner has run out.",
        "Shows the claim's events.";
    ProvisionerSilent, Error,
        "The provisioner does not answer",
        "The volume was ordered a minute ago or more, all events of the namespace are known, and none is of the provisioner. It does not run, or does not work for this class.",
        "Looks for who should make the volume.";
    OnOrder, Info,
        "The volume is being made",
        "The provisioner has begun, or was asked less than a minute ago.",
        "Shows the claim's events.";
    BindingInProgress, Info,
        "The claim is about to be bound",
        "A volume is reserved for the claim, or the claim names one that fits.",
        "Shows the claim.";
    AgentAway, Error,
        "latebind's agent does not report from the node",
        "The node has no LocalNode, or its report is a quarter of an hour old or more; an agent reports every ten minutes.",
        "Shows the agents.";
    DiskNotReady, Error,
        "The disk of the volume is not ready",
        "A condition of the LocalVolume, or the report on the path in the LocalNode, says why: not mounted, another disk, full, read-only.",
        "Shows the node's report.";
    DiskHung, Error,
        "Calls to a disk of the node do not return",
        "Condition DiskHung of the LocalNode.",
        "Shows the node's report.";
    NodeReplaced, Error,
        "The Node was made anew, and disks of its volumes were not found",
        "Condition NodeReplaced of the LocalNode.",
        "Shows the node's report, with what to bring back.";
    MountFails, Error,
        "The volume is bound, and cannot be mounted",
        "The newest event of the Pod about its volumes is FailedMount or FailedAttachVolume, and its claims are bound; the message is the kubelet's.",
        "Shows the Pod's events.";
    Starting, Info,
        "The claims are bound, and the Pod is starting",
        "All claims of the Pod are bound. What it waits for now is not a volume: an image, a probe, a container that ends.",
        "Shows the Pod.";
}

impl Cause {
    /// True when nothing moves before somebody does something.
    #[must_use]
    pub fn blocks(self) -> bool {
        self.severity() == Severity::Error
    }

    /// The page that explains it.
    #[must_use]
    pub fn help_uri(self) -> String {
        format!("https://github.com/latebind/latebind/blob/main/docs/diagnose.md#{}", self.as_str().to_lowercase())
    }
}

/// A text that names no cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cause")]
pub struct ParseCauseError(String);

impl FromStr for Cause {
    type Err = ParseCauseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|cause| cause.as_str().eq_ignore_ascii_case(text.trim()));
        found.copied().ok_or_else(|| ParseCauseError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
