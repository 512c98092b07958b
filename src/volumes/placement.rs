//! Which path of which node.

use super::taken::Taken;
use crate::crd::{LocalNode, LocalNodeStatus, LocalPoolSpec, NODE_REPLACED, Placement, PoolPath, Room, condition};
use crate::model::Node;

/// A path that a volume can be made at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The path.
    pub path: PoolPath,
    /// Bytes left after the volumes that are being made, as far as known.
    pub free_bytes: i64,
    /// Volumes there.
    pub volumes: usize,
}

/// Why a node cannot get a volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeObstacle {
    /// No Node object of that name.
    #[error("node {0} does not exist")]
    Gone(String),
    /// The node has left the class's topology.
    #[error("node {0} is not in the allowedTopologies of the class")]
    Topology(String),
    /// The pool has nothing there.
    #[error("pool {pool} offers no path on node {node}")]
    NoPath {
        /// The pool.
        pool: String,
        /// The node.
        node: String,
    },
    /// The pool has paths there, and none of them can be used.
    #[error("no path of pool {pool} can be used on node {node}: {why}")]
    NotUsable {
        /// The pool.
        pool: String,
        /// The node.
        node: String,
        /// What the agent says.
        why: String,
    },
    /// The claim is larger than what is left. How much that is changes by itself, and stands in the node's LocalNode.
    #[error("not enough room on node {node}: {bytes} bytes asked for; LocalNode {node} says what is left")]
    NoRoom {
        /// The node.
        node: String,
        /// Bytes asked for.
        bytes: i64,
    },
    /// The same of every node.
    #[error("not enough room on any node of pool {pool}: {bytes} bytes asked for; the LocalNodes say what is left")]
    NoRoomAnywhere {
        /// The pool.
        pool: String,
        /// Bytes asked for.
        bytes: i64,
    },
    /// Nobody has a path.
    #[error("pool {0} offers no path on any node")]
    NoNode(String),
    /// Cordoned, or its kubelet does not answer: nobody chose it, and another one is better.
    #[error("node {0} is cordoned or not ready, and no other one can be chosen")]
    NotSchedulable(String),
    /// Kept free for the control plane.
    #[error(
        "node {node} is of the control plane, and pool {pool} does not name it: add an entry with its name or its role label"
    )]
    ControlPlane {
        /// The pool.
        pool: String,
        /// The node.
        node: String,
    },
    /// No value to tie the volume by.
    #[error("node {node} has no label {key}, by which its volumes are tied to it")]
    NoLabel {
        /// The node.
        node: String,
        /// The label's key.
        key: String,
    },
    /// A value that does not tell the node.
    #[error("nodes {node} and {other} both have {key}={value}: a volume could not be tied to one of them")]
    SharedLabel {
        /// The node.
        node: String,
        /// Another one.
        other: String,
        /// The label's key.
        key: String,
        /// The value of both.
        value: String,
    },
    /// The Node is another object than before, and its disks are not confirmed.
    #[error("no volume is made on node {node} for now: {why}")]
    Replaced {
        /// The node.
        node: String,
        /// What the agent says.
        why: String,
    },
    /// The directory that the claim is to take back is on another one.
    #[error(
        "{directory}, which an earlier claim of this name has left, is on node {kept_on}, not on node {node}: have the Pod run there; if \
         its data is not wanted, remove the directory and its marker there, or delete LocalNode {kept_on} if the node is gone for good"
    )]
    KeptElsewhere {
        /// The node that was chosen.
        node: String,
        /// The node that has the directory.
        kept_on: String,
        /// The directory.
        directory: String,
    },
    /// The agent has not answered.
    #[error("the agent of node {0} does not answer: is its Pod running there?")]
    NoAgent(String),
}

/// The value by which a volume is tied to a node: that of the Node's label, which need not be its name. `twin` is another
/// Node with the same value.
///
/// # Errors
/// When the node has no such label, or another node has the same value.
pub fn affinity_value(node: &Node, key: &str, twin: Option<String>) -> Result<String, NodeObstacle> {
    let missing = || NodeObstacle::NoLabel { node: node.name().to_owned(), key: key.to_owned() };
    let value = node.label(key).filter(|value| !value.is_empty()).ok_or_else(missing)?;
    match twin {
        None => Ok(value.to_owned()),
        Some(other) => Err(NodeObstacle::SharedLabel {
            node: node.name().to_owned(),
            other,
            key: key.to_owned(),
            value: value.to_owned(),
        }),
    }
}

/// The paths of the pool on a node that can be used, with what is left of them.
///
/// `taken` says what LocalVolumes take of a path of the node; `only` names the one path that is wanted.
///
/// # Errors
/// When the pool offers none, or none can be used.
pub fn usable_paths(
    pool: (&str, &LocalPoolSpec),
    node: &Node,
    report: Option<&LocalNode>,
    taken: &dyn Fn(&str) -> Taken,
    only: Option<&str>,
) -> Result<Vec<Candidate>, NodeObstacle> {
    let (name, spec) = pool;
    let offered: Vec<&PoolPath> =
        spec.paths_on(node).iter().filter(|path| only.is_none_or(|only| only == path.path)).collect();
    if offered.is_empty() {
        return Err(NodeObstacle::NoPath { pool: name.to_owned(), node: node.name().to_owned() });
    }
    let status = status_of(report, node)?;
    let mut usable = Vec::new();
    let mut why = String::new();
    let mut unseen = false;
    for path in offered {
        match status.paths.iter().find(|report| report.path == path.path) {
            Some(report) if report.usable => {
                let taken = taken(&path.path);
                let (whole, promised) = match spec.room {
                    Room::Reserve => (report.total_bytes, taken.bytes),
                    // What is promised and not yet used; a volume that is served counts by what it holds.
                    Room::Free | Room::Ignore => (report.free_bytes, taken.pending_bytes),
                };
                let free = i128::from(whole) - promised;
                let free_bytes = i64::try_from(free).unwrap_or(if free < 0 { i64::MIN } else { i64::MAX });
                usable.push(Candidate { path: path.clone(), free_bytes, volumes: taken.volumes });
            }
            Some(report) => report.message.clone_into(&mut why),
            // The agent has not seen the pool's latest form yet.
            None => unseen = true,
        }
    }
    if !usable.is_empty() {
        return Ok(usable);
    }
    if unseen {
        return Err(NodeObstacle::NoAgent(node.name().to_owned()));
    }
    Err(NodeObstacle::NotUsable { pool: name.to_owned(), node: node.name().to_owned(), why })
}

/// Chooses among the usable paths of a node.
///
/// # Errors
/// When none has room.
pub fn choose_path(
    spec: &LocalPoolSpec,
    node: &Node,
    usable: Vec<Candidate>,
    bytes: i64,
) -> Result<Candidate, NodeObstacle> {
    let fitting = usable.into_iter().filter(|it| spec.room == Room::Ignore || it.free_bytes >= bytes);
    let chosen = match spec.placement {
        Placement::MostFree => fitting.max_by_key(|it| (it.free_bytes, std::cmp::Reverse(it.volumes))),
        Placement::RoundRobin => fitting.min_by_key(|it| (it.volumes, std::cmp::Reverse(it.free_bytes))),
    };
    chosen.ok_or_else(|| NodeObstacle::NoRoom { node: node.name().to_owned(), bytes })
}

/// What the agent says of this very Node, not of an earlier one of its name.
fn status_of<'a>(report: Option<&'a LocalNode>, node: &Node) -> Result<&'a LocalNodeStatus, NodeObstacle> {
    let silent = || NodeObstacle::NoAgent(node.name().to_owned());
    let report = report.ok_or_else(silent)?;
    let status = report.status.as_ref().ok_or_else(silent)?;
    if Some(report.spec.node_uid.as_str()) == node.metadata.uid.as_deref() {
        return Ok(status);
    }
    match condition(&status.conditions, NODE_REPLACED).filter(|said| said.status == "True") {
        Some(said) => Err(NodeObstacle::Replaced { node: node.name().to_owned(), why: said.message.clone() }),
        None => Err(silent()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::crd::LocalVolume;
    use crate::volumes::TakenByPath;

    fn node(name: &str, hostname: Option<&str>) -> Node {
        let labels = hostname.map(|value| json!({ "kubernetes.io/hostname": value }));
        serde_json::from_value(json!({ "metadata": { "name": name, "uid": format!("uid-{name}"), "labels": labels } }))
            .unwrap()
    }

    fn pool(placement: &str, room: &str) -> LocalPoolSpec {
        let paths = json!([{ "path": "/a" }, { "path": "/b" }, { "path": "/broken" }]);
        serde_json::from_value(json!({ "nodes": [{ "paths": paths }], "placement": placement, "room": room })).unwrap()
    }

    fn report(free: [i64; 2]) -> LocalNode {
        let path =
            |path: &str, free: i64| json!({ "path": path, "usable": true, "totalBytes": 1000, "freeBytes": free });
        serde_json::from_value(json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalNode",
            "metadata": { "name": "n" }, "spec": { "nodeUID": "uid-n" },
            "status": { "paths": [path("/a", free[0]), path("/b", free[1]),
                { "path": "/broken", "usable": false, "message": "EIO" }] } }))
        .unwrap()
    }

    fn volume(base: &str, bytes: i64) -> LocalVolume {
        LocalVolume::new(
            "v",
            crate::crd::LocalVolumeSpec {
                node_name: "n".to_owned(),
                base: base.to_owned(),
                bytes,
                ..Default::default()
            },
        )
    }

    fn chosen(
        spec: &LocalPoolSpec,
        free: [i64; 2],
        volumes: &[LocalVolume],
        bytes: i64,
    ) -> Result<String, NodeObstacle> {
        let volumes: TakenByPath = volumes.iter().collect();
        let node = node("n", None);
        let usable = usable_paths(("p", spec), &node, Some(&report(free)), &|base| volumes.of("n", base), None)?;
        choose_path(spec, &node, usable, bytes).map(|it| it.path.path)
    }

    #[test]
    fn the_most_free_path_counts_what_is_promised() {
        let spec = pool("MostFree", "Free");
        assert_eq!(chosen(&spec, [500, 400], &[], 10).unwrap(), "/a");
        assert_eq!(chosen(&spec, [500, 400], &[volume("/a", 200)], 10).unwrap(), "/b");
        assert!(matches!(chosen(&spec, [500, 400], &[], 501), Err(NodeObstacle::NoRoom { bytes: 501, .. })));
        assert_eq!(chosen(&pool("MostFree", "Ignore"), [500, 400], &[], 501).unwrap(), "/a");
        assert!(chosen(&pool("MostFree", "Reserve"), [5, 5], &[volume("/a", 600), volume("/b", 700)], 500).is_err());
        assert_eq!(chosen(&pool("MostFree", "Reserve"), [5, 5], &[volume("/a", 600)], 500).unwrap(), "/b");
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let spec = pool("MostFree", "Free");
        let of = |name: &str, report: Option<&LocalNode>, only| {
            usable_paths(("p", &spec), &node(name, None), report, &|_| Taken::default(), only)
        };
        let whole = report([1, 1]);
        assert!(matches!(of("n", Some(&whole), Some("/elsewhere")), Err(NodeObstacle::NoPath { .. })));
        let broken = of("n", Some(&whole), Some("/broken"));
        assert!(matches!(broken, Err(NodeObstacle::NotUsable { why, .. }) if why == "EIO"));
        assert!(matches!(of("n", None, None), Err(NodeObstacle::NoAgent(_))));
        let replaced = of("other", Some(&whole), None);
        assert!(matches!(replaced, Err(NodeObstacle::NoAgent(_))), "a report of another Node of that name is none");
        let mut unsure = report([1, 1]);
        let conditions = &mut unsure.status.as_mut().unwrap().conditions;
        let now = k8s_openapi::jiff::Timestamp::now();
        crate::crd::set_condition(conditions, (NODE_REPLACED, true, "DisksMissing", "/a is empty"), None, now);
        let told = of("other", Some(&unsure), None).unwrap_err();
        assert!(matches!(&told, NodeObstacle::Replaced { why, .. } if why == "/a is empty"), "{told}");
    }

    #[test]
    fn a_volume_is_tied_by_the_label_and_only_if_it_tells_the_node() {
        let node = node("n", Some("host-1"));
        assert_eq!(affinity_value(&node, "kubernetes.io/hostname", None).unwrap(), "host-1");
        let shared = affinity_value(&node, "kubernetes.io/hostname", Some("m".to_owned()));
        assert!(matches!(shared, Err(NodeObstacle::SharedLabel { .. })));
        assert!(matches!(affinity_value(&node, "other", None), Err(NodeObstacle::NoLabel { .. })));
    }

    proptest! {
        #[test]
        fn round_robin_never_differs_by_more_than_one(count in 1_usize..40) {
            let spec = pool("RoundRobin", "Ignore");
            let mut volumes = Vec::new();
            for _ in 0..count {
                let path = chosen(&spec, [100, 900], &volumes, 1).unwrap();
                volumes.push(volume(&path, 1));
            }
            let at = |path: &str| volumes.iter().filter(|volume| volume.spec.base == path).count();
            prop_assert!(at("/a").abs_diff(at("/b")) <= 1);
        }

        #[test]
        fn what_is_reserved_always_fits(sizes in proptest::collection::vec(1_i64..400, 1..20)) {
            let spec = pool("MostFree", "Reserve");
            let mut volumes: Vec<LocalVolume> = Vec::new();
            for bytes in sizes {
                if let Ok(path) = chosen(&spec, [0, 0], &volumes, bytes) {
                    volumes.push(volume(&path, bytes));
                }
            }
            for path in ["/a", "/b"] {
                let sum: i64 = volumes.iter().filter(|it| it.spec.base == path).map(|it| it.spec.bytes).sum();
                prop_assert!(sum <= 1000);
            }
        }
    }
}
