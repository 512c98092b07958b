//! Finding codes: the only vocabulary of warnings, events, reports, metrics and documentation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use super::assume::Assumption;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// May not work, or not as meant.
    Warning,
    /// Does not work.
    Error,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that a person should know about an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What it is.
    pub code: Code,
    /// How much it matters.
    pub severity: Severity,
    /// One line that names the objects.
    pub message: String,
    /// The field that it is about, from the top of the Pod or object.
    #[serde(serialize_with = "as_field_path")]
    pub path: FieldPath,
    /// What it rests on besides the facts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assumptions: Vec<Assumption>,
}

impl Finding {
    /// The same, resting on these assumptions too.
    #[must_use]
    pub fn resting_on(mut self, assumptions: &[Assumption]) -> Self {
        for assumption in assumptions {
            if !self.assumptions.contains(assumption) {
                self.assumptions.push(assumption.clone());
            }
        }
        self
    }
}

/// Steps from the top of an object to a field: keys, and indexes as decimal numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(pub Vec<String>);

impl FieldPath {
    /// A path of the given steps.
    #[must_use]
    pub fn new<S: ToString>(steps: &[S]) -> Self {
        Self(steps.iter().map(ToString::to_string).collect())
    }

    /// The same path beneath others steps.
    #[must_use]
    pub fn beneath<S: ToString>(&self, steps: &[S]) -> Self {
        Self(steps.iter().map(ToString::to_string).chain(self.0.iter().cloned()).collect())
    }
}

impl fmt::Display for FieldPath {
    /// As kubectl writes it: `spec.volumes[0].name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.0.iter().enumerate() {
            if step.bytes().all(|byte| byte.is_ascii_digit()) && !step.is_empty() {
                write!(f, "[{step}]")?;
            } else if place == 0 {
                f.write_str(step)?;
            } else {
                write!(f, ".{step}")?;
            }
        }
        Ok(())
    }
}

fn as_field_path<S: Serializer>(path: &FieldPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}

macro_rules! codes {
    ($($variant:ident = $number:literal, $severity:ident, $title:literal, $about:literal, $next:literal;)+) => {
        /// A finding code. Numbers are stable: none is ever given a second meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(
                #[doc = $title]
                $variant,
            )+
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable name, such as `LB001`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $number,)+ }
            }

            /// How much it matters unless the place says otherwise.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)+ }
            }

            /// One line, without names.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }

            /// A paragraph: what happens, and why.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)+ }
            }

            /// What to do or type next.
            #[must_use]
            pub const fn next(self) -> &'static str {
                match self { $(Self::$variant => $next,)+ }
            }
        }
    };
}

codes! {
    PinnedToDelayedClaim = "LB001", Error,
        "A Pod that names its node waits forever for a delayed claim",
        "spec.nodeName hands the Pod to the kubelet and bypasses the scheduler. A claim of a WaitForFirstConsumer class is bound only when the scheduler has chosen a node for a Pod that uses it. Since the scheduler never sees this Pod, the claim stays Pending, the kubelet cannot mount it, and the Pod stays in ContainerCreating forever. Kubernetes calls this by design.",
        "Replace nodeName by a nodeSelector on kubernetes.io/hostname: latebind lint --fix -f FILE. In a cluster, latebind does it at admission.";
    ClaimNotKnown = "LB002", Warning,
        "A Pod that names its node uses a claim that is not known",
        "Whether the Pod deadlocks depends on the class of the claim, and the claim is not in the input or not in the cluster yet. If its class is WaitForFirstConsumer, the Pod waits forever. A ResourceClaim that is not known may be allocated or not; if it is not, the Pod waits forever.",
        "Add the claim to the input with -f or --objects; in a cluster: kubectl get pvc,resourceclaim,resourceclaimtemplate -n NAMESPACE.";
    ClassNotKnown = "LB003", Warning,
        "A Pod that names its node uses a claim whose class is not known",
        "Whether the Pod deadlocks depends on volumeBindingMode of the claim's class, and the class (or which class is the default) is not in the input. k3s (local-path), kind (standard), MicroK8s, EKS, GKE and AKS ship default or usual classes that are WaitForFirstConsumer, and the Pod would wait forever there; minikube and Docker Desktop ship an Immediate one.",
        "Say which cluster it is for: --assume-cluster=k3s (or kind, minikube, microk8s, docker-desktop, eks, gke, aks). Or add the class: kubectl get storageclass -o yaml > classes.yaml, then --objects classes.yaml. Or say --assume-binding-mode=delayed.";
    BoundElsewhere = "LB004", Error,
        "A claim's volume cannot be reached from the node that the Pod names",
        "The claim is bound, or about to be, to a volume whose node affinity excludes the node. The kubelet refuses to mount it there (MountVolume.NodeAffinity check failed), for as long as both exist.",
        "Run the Pod on a node that the volume allows (kubectl get pv VOLUME -o jsonpath='{.spec.nodeAffinity}'), or use another claim.";
    PoisonedClaim = "LB005", Error,
        "A claim without a provisioner carries a selected node",
        "The annotation volume.kubernetes.io/selected-node asks a provisioner for a volume, but the class has kubernetes.io/no-provisioner. The controller manager answers ProvisioningFailed forever, and the scheduler no longer looks for an existing volume.",
        "kubectl annotate pvc CLAIM volume.kubernetes.io/selected-node-, or let latebind's rescue loop bind a fitting volume.";
    SelectedElsewhere = "LB006", Warning,
        "A volume was ordered for another node than the one that the Pod names",
        "The claim's annotation volume.kubernetes.io/selected-node names another node, so a volume is being made for that node, if it exists. If the volume is local to that node, the Pod can never mount it; if the node is gone, it is never made.",
        "Wait until the claim is bound, then look at the volume's node affinity; or delete the claim and create it again.";
    SelectedNodeGone = "LB007", Error,
        "A volume was ordered for a node that no longer exists",
        "The claim's annotation volume.kubernetes.io/selected-node names a Node that is gone. No provisioner will act on it and the scheduler accepts no other node while it stands.",
        "kubectl annotate pvc CLAIM volume.kubernetes.io/selected-node-, or let latebind's rescue loop do it.";
    NoVolumeFits = "LB008", Error,
        "No existing volume fits the claim on the node that the Pod names",
        "The class has no provisioner, so an administrator makes its volumes. None that is Available has the size, access modes, volume mode, labels and node affinity that the claim and the node ask for. Where not all volumes are in the input it is a warning: one that is not may fit.",
        "Create a PersistentVolume of the class for that node: kubectl get pv; latebind simulate -f FILE says which fit.";
    ClaimDeleting = "LB009", Error,
        "A claim that the Pod waits for is being deleted",
        "The claim has a deletion timestamp and is not bound. A Pod that names its node keeps it from going away, and it will never be bound.",
        "Delete the Pod, let the claim go, and create both again.";
    ClaimLost = "LB010", Error,
        "A claim has lost its volume",
        "The claim was bound to a volume that no longer exists. It stays Lost.",
        "Delete the claim and create it again; its data is gone with the volume, or restore the volume from a backup.";
    ClaimNotMounted = "LB011", Info,
        "A claim is declared, but no container mounts it",
        "The kubelet ignores volumes that no container mounts, so this claim blocks nothing while the Pod names its node. The scheduler would wait for it.",
        "Remove the volume from the Pod, or mount it.";
    ResourceClaims = "LB012", Error,
        "A Pod that names its node waits forever for devices",
        "Only the scheduler allocates the devices of a ResourceClaim (dynamic resource allocation), and spec.nodeName bypasses it. The kubelet waits until each ResourceClaim of the Pod is allocated and reserved for it, whether a container refers to it or not. One that another Pod had allocated is reserved for this one too, if the node can use its devices; one that is made from a template never is allocated. No rescue is possible: only a Pod that the scheduler places gets devices.",
        "Replace nodeName by a nodeSelector on kubernetes.io/hostname: latebind lint --fix -f FILE. In a cluster, latebind does it at admission. kubectl get resourceclaim CLAIM -o yaml says where one is allocated.";
    SharedAcrossNodes = "LB013", Warning,
        "Pods on different nodes share one claim",
        "The first Pod whose claim is bound decides where the volume lives. A Pod that names another node cannot mount a volume that is local to the first one.",
        "Give each Pod its own claim, or name one node.";
    NodeNotFound = "LB014", Error,
        "The node that the Pod names does not exist",
        "No Node has this name. Kubernetes deletes such a Pod after a short while. A rewritten Pod would wait for the node to come.",
        "kubectl get nodes, and correct spec.nodeName.";
    NodeNotKnown = "LB015", Warning,
        "The node that the Pod names is not known",
        "Whether a rewrite is safe depends on the node's labels, taints and conditions, and the Node is not in the input.",
        "Add it: kubectl get nodes -o yaml > nodes.yaml, then --objects nodes.yaml. Or say --assume-node=schedulable.";
    VolumeNotKnown = "LB016", Warning,
        "A claim is bound to a volume that is not known",
        "Whether the node can reach the volume depends on the volume's node affinity, and the volume is not in the input.",
        "Add it: kubectl get pv -o yaml > volumes.yaml, then --objects volumes.yaml.";
    WaitsForScheduler = "LB017", Info,
        "A Pod that the scheduler has yet to place uses the same claim",
        "While such a Pod exists the scheduler decides where the claim's volume goes, and the rescue loop writes nothing. A Pod that names a node which cannot reach that volume then waits forever.",
        "Look at that Pod: kubectl describe pod. Replace nodeName by a nodeSelector, so that the scheduler places both.";
    NoClassYet = "LB018", Info,
        "A claim waits for a class",
        "The claim names no class and there is no default, or the class that it names does not exist. It can become delayed when the class appears, and the Pod would then wait forever.",
        "kubectl get storageclass; create the class, or name one that exists.";
    NotBoundImmediately = "LB019", Info,
        "A claim is not bound yet, but does not wait for the Pod",
        "The claim's binding mode is Immediate, or a volume is already chosen for it, so that it is bound without the scheduler. The Pod starts when that is done.",
        "kubectl describe pvc CLAIM, if it takes long.";
    ForeignClaim = "LB020", Error,
        "The claim of an ephemeral volume belongs to another owner",
        "A generic ephemeral volume uses the claim named <pod>-<volume>, and only if the Pod owns it. A claim of that name exists and belongs to someone else, so Kubernetes refuses to use it. The same holds for a ResourceClaim that stands in the Pod's status and was not made for it.",
        "Delete that claim, or name the Pod or the volume differently.";
    FactsNotKnown = "LB021", Warning,
        "Facts that the decision needs are not known",
        "latebind never rewrites a Pod on a guess. Volumes, drivers or capacities of the class, or the Pods on the node and near it, have not been read yet, or are not in the input.",
        "Wait until latebind is ready (/readyz), or add the objects to the input.";
    TooLarge = "LB022", Warning,
        "The object is larger than what is looked at",
        "The Pod declares more than 256 claims or has more than 256 required node affinity terms, or the StatefulSet has more Pods than are looked at. No node can hold so many volumes. What is beyond the bound is neither rewritten nor judged, so that nobody can keep admission busy for all the others.",
        "Use fewer claims or terms in one Pod.";
    Cordoned = "LB101", Warning,
        "The node is cordoned, so the Pod keeps its node name",
        "spec.nodeName ignores a cordon, the scheduler does not: rewritten, the Pod would wait until the node is uncordoned. The Pod keeps its node name and the rescue loop fixes its claims.",
        "kubectl uncordon NODE, or nothing: rescue does the rest.";
    UntoleratedTaint = "LB102", Warning,
        "The node has a NoSchedule taint that the Pod does not tolerate, so the Pod keeps its node name",
        "spec.nodeName ignores NoSchedule taints, the scheduler does not: rewritten, the Pod would wait forever. The Pod keeps its node name and the rescue loop fixes its claims.",
        "Add a toleration to the Pod, or nothing: rescue does the rest.";
    Evicted = "LB103", Error,
        "The node has a NoExecute taint that the Pod does not tolerate",
        "The kubelet rejects the Pod, with or without latebind, and no volume is made for it.",
        "Add a toleration to the Pod, or remove the taint.";
    ExtendedResource = "LB104", Warning,
        "The node lacks an extended resource that the Pod asks for, so the Pod keeps its node name",
        "The kubelet drops a request for an extended resource that the node does not offer, the scheduler does not: rewritten, the Pod would wait forever.",
        "Install the device plugin on the node, or nothing: rescue does the rest.";
    PodAffinityRequired = "LB105", Warning,
        "The Pod has required pod affinity or anti-affinity, so it keeps its node name",
        "spec.nodeName ignores affinity to other Pods, the scheduler does not. Whether it can be met depends on Pods that are not looked at.",
        "Make the terms preferred, or nothing: rescue does the rest.";
    SpreadConstraint = "LB106", Warning,
        "A topology spread constraint could keep the scheduler from the node, so the Pod keeps its node name",
        "spec.nodeName ignores topology spread, the scheduler does not. With minDomains above 1, nodeAffinityPolicy Ignore, nodeTaintsPolicy Honor on a tainted node, or a node without the topology key, the constraint may exclude the node.",
        "Use whenUnsatisfiable: ScheduleAnyway, or nothing: rescue does the rest.";
    MayPreempt = "LB107", Warning,
        "The scheduler may evict other Pods for this one",
        "spec.nodeName never evicts Pods of lower priority to make room, the scheduler may. The rewritten Pod has a priority that allows it.",
        "Set preemptionPolicy: Never in the Pod's priority class if nothing may be evicted.";
    OtherScheduler = "LB108", Warning,
        "The Pod's scheduler is not known to bind volumes, so the Pod keeps its node name",
        "A rewritten Pod is placed by the scheduler that spec.schedulerName names. It must run, and must bind volumes.",
        "Name it with --scheduler if it does both, or nothing: rescue does the rest.";
    Gated = "LB109", Error,
        "The Pod names its node and has scheduling gates",
        "Kubernetes refuses such a Pod. latebind does not make it valid, since that would lift the check.",
        "Remove nodeName or the gates.";
    SelectorContradicts = "LB110", Error,
        "The Pod's own node selector or affinity excludes the node that it names",
        "The kubelet rejects the Pod (reason NodeAffinity), with or without latebind, and no volume is made for it.",
        "Correct nodeName, nodeSelector or affinity.";
    TopologyExcluded = "LB111", Error,
        "The class allows no volume on the node that the Pod names",
        "allowedTopologies of the class excludes the node. The scheduler would refuse it, and ordering a volume there would bypass what the administrator allowed.",
        "Name a node that the class allows: kubectl get storageclass CLASS -o jsonpath='{.allowedTopologies}'.";
    CapacityShort = "LB112", Warning,
        "No published capacity of the class has room on the node, so the Pod keeps its node name",
        "The driver publishes how much room it has (CSIStorageCapacity) and none that covers the node is large enough: rewritten, the Pod would wait. The rescue loop still asks the driver.",
        "kubectl get csistoragecapacities -A; free room, or ask for less.";
    DriverMissing = "LB113", Warning,
        "The driver is not registered on the node, so the Pod keeps its node name",
        "The CSIDriver asks the scheduler to refuse nodes on which it does not run, and the node's CSINode does not list it.",
        "kubectl get csinode NODE; start the driver there.";
    AttachLimit = "LB114", Warning,
        "The node can hold fewer volumes of the driver than the Pod asks for, so the Pod keeps its node name",
        "The scheduler enforces the driver's limit of volumes on a node, spec.nodeName does not.",
        "kubectl get csinode NODE; use fewer volumes.";
    NodeNotReady = "LB115", Warning,
        "The node is not ready, so the Pod keeps its node name",
        "The scheduler places no Pod on a node that is not ready: rewritten, the Pod would wait until it is, as it does now.",
        "kubectl describe node NODE.";
    NoUsableHostname = "LB116", Warning,
        "The node cannot be pinned by its hostname label, so the Pod keeps its node name",
        "The node has no label kubernetes.io/hostname, another node carries the same value, or the namespace has its own node selector, and latebind was told to pin by hostname only.",
        "Use --pin=auto or --pin=name.";
    DeclaredClaimBlocks = "LB117", Warning,
        "Another claim of the Pod would keep the scheduler waiting, so the Pod keeps its node name",
        "The scheduler waits for every claim that the Pod declares, mounted or not. This one is not bound and would not be bound by placing the Pod.",
        "Bind or remove that claim, or nothing: rescue does the rest.";
    Exclusive = "LB118", Warning,
        "Another Pod uses a ReadWriteOncePod claim of this one, so the Pod keeps its node name",
        "The scheduler lets one Pod in the cluster use such a claim, the kubelet one on its node: rewritten, the Pod would wait for the other to end.",
        "End the other Pod, or use ReadWriteOnce.";
    ZoneConflict = "LB119", Warning,
        "The zone or region labels of a volume differ from those of the node, so the Pod keeps its node name",
        "The scheduler compares the labels topology.kubernetes.io/zone and region of a bound volume with those of the node, the kubelet does not: rewritten, the Pod would wait forever. Volumes that were labelled by hand, such as NFS shares, run into it.",
        "Correct the labels of the volume (kubectl label pv VOLUME topology.kubernetes.io/zone-), or nothing: rescue does the rest.";
    InGroup = "LB120", Warning,
        "The Pod belongs to a scheduling group, so it keeps its node name",
        "The scheduler places the Pods of a group together, and holds each of them back until the group has come; spec.nodeName does not. Rewritten, the Pod would wait for its group, and forever if that is missing.",
        "Remove spec.schedulingGroup if the Pod is to run alone, or nothing: rescue does the rest.";
    RepelledByPod = "LB121", Warning,
        "Another Pod's required anti-affinity keeps this Pod from the node, so it keeps its node name",
        "The scheduler honours the required anti-affinity of Pods that are there already, spec.nodeName does not: rewritten, the Pod would wait until that Pod is gone.",
        "Make the other Pod's terms preferred, choose another node, or nothing: rescue does the rest.";
    LocalClassBindsImmediately = "LB201", Warning,
        "A class of node-local volumes binds immediately",
        "With volumeBindingMode Immediate a claim is bound before any Pod is placed, to a volume on a node that may have no room for the Pod, or that its selectors exclude. Kubernetes advises WaitForFirstConsumer for local volumes.",
        "Create the class again with volumeBindingMode: WaitForFirstConsumer; the field cannot be changed.";
    VolumeOnSeveralNodes = "LB202", Warning,
        "The node affinity of a node-local volume matches several nodes",
        "The same path on different nodes is not the same disk: the Pod finds other data, or none, depending on where it starts.",
        "Give the volume an affinity that matches one node, on kubernetes.io/hostname.";
    VolumeOnRootDisk = "LB203", Warning,
        "A node-local volume lies on the root file system",
        "A full volume fills the node's root disk, and the kubelet then evicts Pods. Sizes are not enforced there. One volume on one disk of its own avoids both.",
        "Mount a disk beneath /mnt or /var/local, and use that path.";
    VolumeWithoutLabels = "LB204", Warning,
        "The node affinity of a volume uses fields only, and so matches every node",
        "The node affinity of volumes is evaluated against labels alone, so terms with nothing but matchFields always match.",
        "Use matchExpressions on kubernetes.io/hostname.";
    InvalidBindingMode = "LB205", Error,
        "The API server refuses the class for its binding mode",
        "volumeBindingMode is Immediate or WaitForFirstConsumer, written exactly so. With any other text the class is not created, and its claims stay Pending.",
        "Write volumeBindingMode: WaitForFirstConsumer.";
    IgnoredWithoutReason = "LB301", Warning,
        "A finding is to be ignored without a reason",
        "The annotation latebind.dev/ignore holds codes, each with a reason: \"LB001: the claim is bound by hand\". An entry without a reason, or with an unknown code, is not honoured.",
        "Write CODE: reason; several are separated by semicolons.";
    NodeNotAllowed = "LB302", Error,
        "A PinPolicy does not allow the node that the Pod names",
        "A policy of the cluster covers the Pod and lists the nodes that it may name, and this is none of them. In mode Deny the Pod is refused; in mode Rewrite latebind ties nothing to the node; otherwise it is told. The message names the policy.",
        "Name a node that the policy allows: kubectl get pinpolicy POLICY -o yaml. Or ask its author for an exception.";
    IgnoreNotAllowed = "LB303", Warning,
        "A PinPolicy does not let the Pod ignore findings",
        "The annotation latebind.dev/ignore would accept a finding of this Pod, and a policy that covers the Pod does not say allowIgnore. The annotation does not count.",
        "Remove the annotation, or ask the policy's author for allowIgnore or an exception.";
    PolicyNotKnown = "LB304", Warning,
        "Whether a PinPolicy covers the Pod, or allows its node, is not known",
        "The policies, the labels of the namespace or of the node, the class of a claim, or who creates the Pod have not been read yet or are not in the input. What is not known refuses nothing, and nothing is done that the policy might forbid.",
        "Add what the message names: --policy, --objects, or --requester for who creates the Pod.";
    LeftPendingByDrain = "LB401", Info,
        "A drain of the node would leave Pods Pending, since their volume is on that node alone",
        "The node affinity of the volume admits one node. A drain evicts the Pods that use it, and their controller makes new ones that no other node can take: they stay Pending with \"volume node affinity conflict\" until the node is back. Where the node is to go for good, so is the data on it. latebind audit says so beforehand; where the node is cordoned already it is a warning.",
        "Before a short maintenance: nothing, the Pods start again when the node is uncordoned. Before the node is removed: let the application copy its data to another Pod, or back it up, then delete the claim and the Pod.";
    VolumeNodeGone = "LB402", Error,
        "No node of the cluster can reach a claim's volume",
        "The claim is bound, and the node affinity of its volume admits none of the Nodes that exist: the node was removed, or has another name or label since. Every Pod that uses the claim stays Pending. Where no Pod uses it now, it is a warning.",
        "If the node comes back, give it the labels that the volume asks for (kubectl get pv VOLUME -o jsonpath='{.spec.nodeAffinity}'). If it does not, the data is lost: delete the claim and the Pod, and restore from a backup.";
    OrdinalWithoutVolume = "LB403", Warning,
        "A Pod of a StatefulSet has no volume, while others of it have",
        "The claim of one ordinal is not bound, has lost its volume, or was deleted while its Pod exists. The other Pods hide it: the StatefulSet runs with fewer members than it asks for. The usual reasons are that no node is left with a free volume or room, or that a claim was deleted by hand.",
        "latebind diagnose pvc/CLAIM -n NAMESPACE.";
    EvictionWaits = "LB404", Info,
        "The eviction of a Pod waits for the other replicas of its StatefulSet",
        "The drain policy of one of its claims is Wait: a Pod with a volume on its node alone goes once all other replicas that its StatefulSet asks for are ready. kubectl drain tries again every 5 s, so that it goes by itself. A Pod that is not ready, or whose node is down, is not held up.",
        "Nothing, while the others start. Where one of them waits for a node that is cordoned: kubectl uncordon it first. To go on all the same, approve (docs/drain.md#approve).";
    EvictionDenied = "LB405", Warning,
        "A Pod, or a node, is not taken away before somebody approves",
        "The drain policy of one of the claims whose volume is on the node alone is Deny. A Pod that uses it is not evicted, and a Node that is up is not deleted, before an annotation of the Node or of the claim says who approves and until when. A Pod that is not ready, or whose node is down, is not held up.",
        "Approve: kubectl annotate node NODE latebind.dev/drain-approved-by=YOUR-NAME latebind.dev/drain-approved-until=TIME, with a time such as 2026-01-31T12:00:00Z. Or have latebind drain do so: latebind drain NODE --for=reboot --approve.";
}

impl Code {
    /// The page that explains it.
    #[must_use]
    pub fn help_uri(self) -> String {
        format!("https://github.com/latebind/latebind/blob/main/docs/findings.md#{}", self.as_str().to_lowercase())
    }

    /// A finding of this code at its usual severity.
    #[must_use]
    pub fn at(self, path: FieldPath, message: String) -> Finding {
        Finding { code: self, severity: self.severity(), message, path, assumptions: Vec::new() }
    }
}

/// A text that names no finding code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a finding code; `latebind explain` lists them")]
pub struct ParseCodeError(String);

impl FromStr for Code {
    type Err = ParseCodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|code| code.as_str().eq_ignore_ascii_case(text.trim()));
        found.copied().ok_or_else(|| ParseCodeError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
