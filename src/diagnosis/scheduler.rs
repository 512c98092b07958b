//! The scheduler's reasons, read from its message.
//!
//! `0/3 nodes are available: 1 node(s) had untolerated taint {a: b}, 2 node(s) didn't match ...`: each part is a group of
//! nodes with the reason that came first for them. Texts differ between versions of Kubernetes; all that are known are read.
//! Source: `pkg/scheduler/framework/types.go`, `FitError`, and the plugins in `pkg/scheduler/framework/plugins`.

/// Why the scheduler takes a group of nodes out. In the order in which they explain a Pod: what is about volumes comes first,
/// since a volume that exists cannot be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// A claim of the Pod does not exist.
    ClaimNotFound,
    /// A claim of an Immediate class is not bound.
    UnboundImmediate,
    /// A node was chosen, and the provisioner could not make a volume there.
    ProvisioningFailed,
    /// A claim is bound to a volume that does not exist.
    VolumeLost,
    /// The nodes do not reach a bound volume.
    VolumeElsewhere,
    /// No existing volume fits there, and nobody makes one.
    NoVolume,
    /// The driver has no room there.
    NoCapacity,
    /// The nodes hold as many volumes as they can.
    VolumeLimit,
    /// Devices.
    Devices,
    /// The Pod's group has not come.
    Group,
    /// The nodes are cordoned.
    Cordoned,
    /// The Pod does not tolerate a taint.
    Taint,
    /// Anything else: resources, selectors, other Pods, ports.
    Other,
}

/// A group of nodes, and why they are out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// How many nodes; nothing where the message counts none.
    pub nodes: Option<u32>,
    pub refusal: Refusal,
    /// The scheduler's words.
    pub text: String,
}

/// What follows the reasons, and is about the eviction of other Pods.
const AFTERWORDS: [&str; 3] = [" preemption: ", " no new claims to deallocate", " still not schedulable"];

/// Reads a message. Groups with the most telling reason come first.
pub(super) fn read(message: &str) -> Vec<Refused> {
    let end = AFTERWORDS.iter().filter_map(|word| message.find(word)).min().unwrap_or(message.len());
    let reasons = message[..end].trim().trim_end_matches('.');
    let parts = match reasons.split_once("nodes are available: ") {
        Some((_, parts)) => split(parts),
        None => vec![reasons],
    };
    let mut refused: Vec<Refused> = parts.into_iter().filter(|part| !part.is_empty()).map(refused).collect();
    refused.sort_by_key(|group| group.refusal);
    refused
}

/// The parts between commas; a taint in braces, and what stands in quotes, may hold some.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_u32);
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

fn refused(part: &str) -> Refused {
    let counted = part.split_once(' ').and_then(|(count, rest)| Some((count.parse().ok()?, rest)));
    let (nodes, text) = counted.map_or((None, part), |(nodes, text)| (Some(nodes), text));
    Refused { nodes, refusal: refusal(text), text: text.to_owned() }
}

fn refusal(text: &str) -> Refusal {
    // Nodes that a plugin has taken out before looking at each: those that do not reach a bound volume.
    if text.contains("didn't satisfy plugin(s)") && text.contains("VolumeBinding") {
        return Refusal::VolumeElsewhere;
    }
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["unbound immediate PersistentVolumeClaims"]) {
        Refusal::UnboundImmediate
    } else if text.starts_with("persistentvolumeclaim ") && says(&["not found"]) {
        Refusal::ClaimNotFound
    } else if says(&["provisioning failed for PVC"]) {
        Refusal::ProvisioningFailed
    } else if says(&["bound to non-existent"]) {
        Refusal::VolumeLost
    } else if says(&[
        "volume node affinity conflict",
        "match PersistentVolume's node affinity",
        "no available volume zone",
    ]) {
        Refusal::VolumeElsewhere
    } else if says(&["find available persistent volumes to bind"]) {
        Refusal::NoVolume
    } else if says(&["did not have enough free storage"]) {
        Refusal::NoCapacity
    } else if says(&["exceed max volume count"]) {
        Refusal::VolumeLimit
    } else if says(&[
        "cannot allocate all claims",
        "resourceclaim",
        "ResourceClaim",
        "resource claim",
        "resource.k8s.io",
    ]) {
        Refusal::Devices
    } else if says(&["from a gang", "pod group", "PodGroup", "podgroup", "pod-group"]) {
        Refusal::Group
    } else if says(&["were unschedulable", "node.kubernetes.io/unschedulable"]) {
        Refusal::Cordoned
    } else if says(&["untolerated taint"]) {
        Refusal::Taint
    } else {
        Refusal::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(message: &str) -> Vec<(Option<u32>, Refusal)> {
        read(message).into_iter().map(|group| (group.nodes, group.refusal)).collect()
    }

    #[test]
    fn both_wordings_of_a_volume_elsewhere_are_read() {
        let before = "0/3 nodes are available: 1 node(s) had untolerated taint {a: b, c}, 2 node(s) had volume node affinity \
                      conflict. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
        assert_eq!(kinds(before), [(Some(2), Refusal::VolumeElsewhere), (Some(1), Refusal::Taint)]);
        let since = "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) had untolerated \
                     taint(s). no new claims to deallocate, preemption: 0/2 nodes are available";
        assert_eq!(kinds(since), [(Some(1), Refusal::VolumeElsewhere), (Some(1), Refusal::Taint)]);
    }

    #[test]
    fn each_reason_is_told_apart() {
        let one = |text: &str| read(text)[0].refusal;
        let unbound = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found";
        assert_eq!(one(unbound), Refusal::UnboundImmediate);
        assert_eq!(one("persistentvolumeclaim \"data\" not found"), Refusal::ClaimNotFound);
        let failed = r#"running PreBind plugin "VolumeBinding": binding volumes: provisioning failed for PVC "data""#;
        assert_eq!(one(failed), Refusal::ProvisioningFailed);
        let reasons = [
            ("1 node(s) didn't find available persistent volumes to bind", Refusal::NoVolume),
            ("1 node(s) didn't satisfy plugin(s) [VolumeBinding]", Refusal::VolumeElsewhere),
            ("1 node(s) didn't satisfy plugin(s) [NodeAffinity]", Refusal::Other),
            ("1 node(s) did not have enough free storage", Refusal::NoCapacity),
            ("1 node(s) exceed max volume count", Refusal::VolumeLimit),
            ("1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)", Refusal::VolumeLost),
            ("1 cannot allocate all claims", Refusal::Devices),
            ("waiting for minCount pods from a gang to be scheduled", Refusal::Group),
            ("1 node(s) were unschedulable", Refusal::Cordoned),
            ("1 node(s) had untolerated taint(s)", Refusal::Taint),
            ("1 Insufficient cpu", Refusal::Other),
            ("1 node(s) didn't match Pod's node affinity/selector", Refusal::Other),
        ];
        for (text, expected) in reasons {
            assert_eq!(one(&format!("0/1 nodes are available: {text}.")), expected, "{text}");
        }
        assert_eq!(read(""), []);
    }
}
