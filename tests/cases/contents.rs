//! What the cases must cover, with the titles under which the documentation shows it.

use std::collections::BTreeMap;

use latebind::binding::Row;
use latebind_test_support::cases::Case;

/// One table of `docs/decisions.md`.
pub struct Section {
    /// First word of `proves`.
    pub kind: &'static str,
    /// Where its cases lie in `tests/cases`.
    pub folder: &'static str,
    pub title: &'static str,
    pub intro: &'static str,
    /// Second word of `proves`, and what it stands for. Every one has at least one case.
    pub groups: &'static [(&'static str, &'static str)],
}

/// Every table, in the order of the page.
pub const SECTIONS: &[Section] = &[
    Section {
        kind: "row",
        folder: "rows",
        title: "The truth table",
        intro: "The Pod names node N and mounts the claim, unless the text says otherwise. Each row is a state of the \
                claim; `latebind simulate` and `latebind lint` name the row.",
        groups: Row::TABLE,
    },
    Section {
        kind: "aspect",
        folder: "aspects",
        title: "What speaks against a rewrite",
        intro: "`nodeName` bypasses more than volume binding. A Pod that ran with `nodeName` must not end up waiting \
                because the scheduler looks at something that the kubelet ignores. Then the Pod keeps its node name, \
                and its claims are fixed instead.",
        groups: ASPECTS,
    },
    Section {
        kind: "device",
        folder: "devices",
        title: "Devices",
        intro: "The devices of a ResourceClaim are allocated by the scheduler alone, and no rescue replaces it. So a Pod \
                whose ResourceClaims nobody has allocated is rewritten where the scheduler could place it, whichever \
                devices are free, since left alone it waits in any case.",
        groups: &[
            ("not-allocated", "Not allocated"),
            ("allocated", "Allocated"),
            ("elsewhere", "Allocated on another node"),
            ("template", "Made from a template"),
            ("missing", "Not there yet"),
            ("deleting", "Being deleted"),
            ("full", "Reserved for as many Pods as it can be"),
            ("foreign", "Not the Pod's own"),
            ("beside-claims", "Beside claims"),
            ("obstacle", "The scheduler would not place the Pod"),
            ("unknown", "Not known"),
            ("workload", "Workloads"),
        ],
    },
    Section {
        kind: "pin",
        folder: "pin",
        title: "The pin",
        intro: "A rewritten Pod is tied to its node by a `nodeSelector` on the hostname label, where that leads to \
                exactly one node, and by the node's name in required node affinity otherwise.",
        groups: &[
            ("hostname", "The hostname label leads to the node"),
            ("hostname-missing", "There is no hostname label"),
            ("hostname-shared", "Several nodes carry the label"),
            ("hostname-differs", "The label is not the node's name"),
            ("hostname-of-another", "The node's name is the label of another node"),
            ("long-name", "The name is too long for a label"),
            ("long-name-with-label", "The name is too long, the label is not"),
            ("forced-name", "`--pin=name`"),
            ("forced-hostname", "`--pin=hostname`"),
            ("forced-hostname-missing", "`--pin=hostname`, no label"),
            ("forced-hostname-shared", "`--pin=hostname`, several nodes carry the label"),
            ("forced-hostname-namespace", "`--pin=hostname`, the namespace has a node selector"),
            ("hostname-selected-already", "The Pod selects the label already"),
            ("selector-kept", "The Pod has other selectors"),
            ("other-annotations", "The Pod has annotations"),
        ],
    },
    Section {
        kind: "merge",
        folder: "merge",
        title: "Node affinity that is there already",
        intro: "Required terms are alternatives, so the node's name goes into each of them. An empty term matches \
                nothing, and would begin to match if it got one. No node that did not match before matches after.",
        groups: &[
            ("no-affinity", "No affinity"),
            ("no-node-affinity", "Only affinity to Pods"),
            ("no-required-affinity", "Only preferred node affinity"),
            ("one-term", "One term"),
            ("several-terms", "Several terms"),
            ("other-term-matches", "Some terms do not match the node"),
            ("empty-term", "An empty term"),
            ("empty-lists-term", "A term of empty lists"),
            ("all-terms-empty", "Only empty terms"),
            ("no-terms", "No terms"),
            ("term-for-another-node", "A term names another node"),
            ("only-another-node", "The only term names another node"),
            ("already-there", "The requirement is there"),
            ("already-in-one-term", "The requirement is there in one term"),
            ("other-field", "Another requirement on the name"),
            ("name-excluded", "The name is excluded"),
            ("selector-beside", "A node selector beside the affinity"),
        ],
    },
    Section {
        kind: "choice",
        folder: "choice",
        title: "The choice among existing volumes",
        intro: "Where the class has volumes that exist, latebind reserves the one that the scheduler would take.",
        groups: CHOICES,
    },
    Section {
        kind: "claim",
        folder: "claims",
        title: "What the rescue loop does for a claim",
        intro: "It acts for the earliest Pod that names its node, mounts the claim, and whose kubelet has \
                acknowledged it, and only where the scheduler has no say. A claim that it leaves alone is looked at \
                again whenever something changes.",
        groups: CLAIMS,
    },
    Section {
        kind: "workload",
        folder: "workloads",
        title: "Workloads",
        intro: "The Pod that the workload's controller would make is decided about.",
        groups: &[
            ("deployment", "Deployment"),
            ("replica-set", "ReplicaSet"),
            ("stateful-set", "StatefulSet"),
            ("daemon-set", "DaemonSet"),
            ("job", "Job"),
            ("cron-job", "CronJob"),
            ("replication-controller", "ReplicationController"),
            ("pod-template", "PodTemplate"),
            ("not-pinned", "No node name"),
            ("ephemeral", "Ephemeral volumes"),
            ("claim-of-the-namespace", "Namespaces"),
        ],
    },
    Section {
        kind: "unknown",
        folder: "unknown",
        title: "What is not known",
        intro: "Manifests are a part of a cluster. A decision that would need more is never a rewrite, and the \
                finding says what to add to the input.",
        groups: &[
            ("node", "The node"),
            ("node-ephemeral", "The node, and the volume is ephemeral"),
            ("class", "The class"),
            ("class-ephemeral", "The class of a template"),
            ("default-class", "Which class is the default"),
            ("claim", "The claim"),
            ("claim-beside-a-delayed-one", "One of several claims"),
            ("volume", "The volume of a bound claim"),
            ("selected-node", "The selected node"),
            ("pods", "Pods on the node and near it"),
            ("nothing-that-matters", "Nothing that matters"),
            ("nothing-delayed", "Nothing that matters, since nothing is delayed"),
        ],
    },
    Section {
        kind: "assume",
        folder: "assume",
        title: "What may be assumed",
        intro: "`--assume-binding-mode`, `--assume-node`, `--assume-storage` and `--assume-cluster` say what holds for what is not in the \
                input. What is in the input is never overruled, and the output names each assumption that was used.",
        groups: &[
            ("delayed-class", "`--assume-binding-mode=delayed`"),
            ("delayed-default-class", "`--assume-binding-mode=delayed`, no class named"),
            ("immediate-class", "`--assume-binding-mode=immediate`"),
            ("unknown-class", "`--assume-binding-mode=unknown`"),
            ("listed-class", "The class is in the input"),
            ("schedulable-node", "`--assume-node=schedulable`"),
            ("long-node-name", "`--assume-node=schedulable`, a long name"),
            ("shared-hostname", "`--assume-node=schedulable`, another node has the label"),
            ("unknown-node", "`--assume-node=unknown`"),
            ("listed-node", "The node is in the input"),
            ("both", "Both"),
            ("not-needed", "Nothing to assume"),
            ("node-agrees", "The Node agrees with what Pod, volume and class ask of it"),
            ("node-not-judged", "Whether the Node reaches a bound volume is not assumed"),
            ("given-hostname", "A Node of the input has a hostname label of its own"),
            ("cluster-kind", "`--assume-cluster`"),
            ("fitting-volume", "`--assume-storage=available`, volumes"),
            ("room", "`--assume-storage=available`, capacities"),
            ("no-repelling-pod", "`--assume-node=schedulable`, Pods that are not in the input"),
            ("bound-by-then", "`--assume-storage=available`, other claims"),
            ("storage-unknown", "`--assume-storage=unknown`"),
            ("cluster", "In a cluster"),
        ],
    },
    Section {
        kind: "mount",
        folder: "mounts",
        title: "Which claims a Pod mounts",
        intro: "The kubelet waits only for volumes that a container mounts or attaches.",
        groups: &[
            ("init-container", "Init containers"),
            ("ephemeral-container", "Ephemeral containers"),
            ("second-container", "Other containers"),
            ("device", "Block devices"),
            ("none", "No container"),
        ],
    },
    Section {
        kind: "operator",
        folder: "operators",
        title: "Node selector operators",
        intro: "Whether the Pod's own required affinity accepts the node.",
        groups: &[
            ("in", "In"),
            ("notin", "NotIn"),
            ("exists", "Exists"),
            ("doesnotexist", "DoesNotExist"),
            ("gt", "Gt"),
            ("lt", "Lt"),
            ("invalid", "Anything else"),
        ],
    },
    Section {
        kind: "toleration",
        folder: "tolerations",
        title: "Tolerations",
        intro: "Whether a toleration covers the node's taint.",
        groups: &[("exists", "Exists"), ("equal", "Equal"), ("empty", "No key"), ("effect", "Effects")],
    },
    Section {
        kind: "patch",
        folder: "patch",
        title: "Objects that are awkward to patch",
        intro: "A patch that does not apply would make the API server reject the Pod. Every operation applies, \
                whatever is absent, null or empty.",
        groups: &[
            ("null-affinity", "`affinity: null`"),
            ("null-node-affinity", "`nodeAffinity: null`"),
            ("null-required", "Required node affinity `null`"),
            ("null-match-fields", "`matchFields: null`"),
            ("empty-affinity", "`affinity: {}`"),
            ("null-selector", "`nodeSelector: null`"),
            ("empty-selector", "`nodeSelector: {}`"),
            ("null-annotations", "`annotations: null`"),
            ("empty-annotations", "`annotations: {}`"),
            ("template-without-metadata", "A template without metadata"),
            ("template-null-metadata", "A template with `metadata: null`"),
            ("template-labels", "A template with labels"),
            ("template-annotations", "A template with annotations"),
            ("template-null-annotations", "A template with `annotations: null`"),
            ("two-templates", "Several templates"),
            ("template-beside-a-claim", "A template beside a claim"),
        ],
    },
];

const ASPECTS: &[(&str, &str)] = &[
    ("cordon", "Cordon"),
    ("no-schedule", "`NoSchedule` taint"),
    ("no-execute", "`NoExecute` taint"),
    ("resources", "Resources and host ports"),
    ("extended-resource", "Extended resources"),
    ("pod-affinity", "Affinity to Pods"),
    ("spread", "Topology spread"),
    ("priority", "Priority"),
    ("scheduler", "Scheduler"),
    ("gates", "Scheduling gates"),
    ("pod-node-selector", "Node selector of the namespace"),
    ("contradiction", "Own selector and affinity"),
    ("topology", "Allowed topologies"),
    ("capacity", "Published capacity"),
    ("selected-elsewhere", "Another claim has another node"),
    ("declared-claim", "Another claim is not bound"),
    ("driver-missing", "Driver not on the node"),
    ("attach-limit", "Limit of volumes"),
    ("mirror", "Static Pods"),
    ("node-missing", "No such node"),
    ("node-not-ready", "Node not ready"),
    ("zone-labels", "Zone labels of a bound volume"),
    ("migrated-volume", "Volumes whose plugin a CSI driver has taken over"),
    ("repelled", "Anti-affinity of other Pods"),
    ("group", "Scheduling groups"),
    ("ended", "Pods that have ended"),
    ("daemon-set", "DaemonSets"),
    ("not-pinned", "Nothing to do"),
];

const CHOICES: &[(&str, &str)] = &[
    ("smallest", "Size"),
    ("too-small", "Size"),
    ("exact-size", "Size"),
    ("taken", "Volumes of other claims"),
    ("two-claims", "Several claims of one Pod"),
    ("two-claims-one-volume", "Several claims of one Pod"),
    ("two-classes", "Several claims of one Pod"),
    ("unmounted-claim", "Several claims of one Pod"),
    ("static-and-dynamic", "Several claims of one Pod"),
    ("same-claim-twice", "Several claims of one Pod"),
    ("ephemeral-and-claim", "Several claims of one Pod"),
    ("prebound-wins", "Reserved volumes"),
    ("prebound-blocks", "Reserved volumes"),
    ("reserved-in-another-namespace", "Reserved volumes"),
    ("selector", "The claim's selector"),
    ("selector-expressions", "The claim's selector"),
    ("selector-not-in", "The claim's selector"),
    ("selector-exists", "The claim's selector"),
    ("access-modes", "Access modes"),
    ("access-modes-missing", "Access modes"),
    ("volume-mode", "Volume mode"),
    ("volume-mode-block", "Volume mode"),
    ("volume-mode-default", "Volume mode"),
    ("phase", "Phase"),
    ("deleting", "Deletion"),
    ("other-class", "Class"),
    ("no-affinity", "The volume's node affinity"),
    ("alternatives", "The volume's node affinity"),
    ("all-expressions", "The volume's node affinity"),
    ("label-not-name", "The volume's node affinity"),
    ("fields-only", "The volume's node affinity"),
    ("attributes-class", "Attributes class"),
    ("attributes-class-none", "Attributes class"),
    ("quantity", "Quantities"),
];

const CLAIMS: &[(&str, &str)] = &[
    ("dynamic", "A provisioner makes volumes"),
    ("static", "Volumes exist"),
    ("static-in-a-dynamic-class", "Volumes exist"),
    ("static-no-volume", "Volumes exist"),
    ("static-second-claim", "Volumes exist"),
    ("ephemeral", "Ephemeral volumes"),
    ("ephemeral-foreign-owner", "Ephemeral volumes"),
    ("ephemeral-no-owner", "Ephemeral volumes"),
    ("no-consumer", "The Pod"),
    ("not-acknowledged", "The Pod"),
    ("failed", "The Pod"),
    ("pod-deleting", "The Pod"),
    ("unmounted", "The Pod"),
    ("mirror", "The Pod"),
    ("earlier-consumer-elsewhere", "Several Pods"),
    ("earlier-by-uid", "Several Pods"),
    ("earlier-consumer-same-node", "Several Pods"),
    ("earlier-consumer-ended", "Several Pods"),
    ("earlier-consumer-not-acknowledged", "Several Pods"),
    ("unscheduled-consumer", "Pods of the scheduler"),
    ("unscheduled-consumer-alone", "Pods of the scheduler"),
    ("gated-consumer", "Pods of the scheduler"),
    ("selected-node-gone", "Selected node"),
    ("selected-node-alive", "Selected node"),
    ("selected-node-here", "Selected node"),
    ("selected-node-unknown", "Selected node"),
    ("poisoned", "Selected node, no provisioner"),
    ("poisoned-volume-fits", "Selected node, no provisioner"),
    ("poisoned-another-node", "Selected node, no provisioner"),
    ("poisoned-another-node-volume-fits", "Selected node, no provisioner"),
    ("poisoned-node-gone", "Selected node, no provisioner"),
    ("bound", "The claim"),
    ("volume-named", "The claim"),
    ("prebound", "The claim"),
    ("deleting", "The claim"),
    ("lost", "The claim"),
    ("immediate", "The class"),
    ("class-missing", "The class"),
    ("class-unknown", "The class"),
    ("topology-excluded", "The class"),
    ("node-missing", "The node"),
    ("node-unknown", "The node"),
    ("affinity-contradicts", "The node"),
    ("no-execute", "The node"),
    ("cordoned", "The node"),
    ("other-claim-bound-elsewhere", "Another claim of the Pod"),
];

/// Fails when something has no case, or a case proves something that is not listed.
pub fn check(cases: &[(String, Case)]) -> Result<(), String> {
    let mut proven: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (_, case) in cases {
        *proven.entry(case.kind_and_slug()).or_default() += 1;
    }
    let mut problems = Vec::new();
    for section in SECTIONS {
        for (slug, title) in section.groups {
            if proven.remove(&(section.kind, slug)).is_none() {
                problems.push(format!("no case proves {} {slug}: {title}", section.kind));
            }
        }
    }
    let unlisted = proven.keys().map(|(kind, slug)| format!("{kind} {slug} is not listed in tests/cases/contents.rs"));
    problems.extend(unlisted);
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// Fails when a case lies elsewhere than the others of its table.
pub fn check_folders(cases: &[(String, Case)]) -> Result<(), String> {
    let mut problems = Vec::new();
    for (file, case) in cases {
        let (kind, _) = case.kind_and_slug();
        let folder = SECTIONS.iter().find(|section| section.kind == kind).map(|section| section.folder);
        let (topic, name) = file.split_once('/').unwrap_or_default();
        if let Some(folder) = folder.filter(|folder| *folder != topic) {
            problems.push(format!(
                "tests/cases/{file}.yaml proves `{}`: it belongs to tests/cases/{folder}/{name}.yaml",
                case.proves
            ));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}
