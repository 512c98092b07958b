//! Which path of which node.

use crate::crd::{
    LocalNode, LocalNodeStatus, LocalPoolSpec, LocalVolume, NODE_REPLACED, Placement, PoolPath, Room, condition,
};
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
    /// The claim is larger than what is left.
    #[error("not enough room on node {node}: {bytes} bytes asked for, {left} left at most")]
    NoRoom {
        /// The node.
        node: String,
        /// Bytes asked for.
        bytes: i64,
        /// Bytes left.
        left: i64,
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
    /// The agent has not answered.
    #[error("the agent of node {0} does not answer: is its Pod running there?")]
    NoAgent(String),
}

/// The value by which a volume is tied to a node: that of the Node's label, which need not be its name.
///
/// # Errors
/// When the node has no such label, or another node has the same value.
pub fn affinity_value(
    node: &Node,
    key: &str,
    others: impl IntoIterator<Item = impl std::ops::Deref<Target = Node>>,
) -> Result<String, NodeObstacle> {
    let missing = || NodeObstacle::NoLabel { node: node.name().to_owned(), key: key.to_owned() };
    let value = node.label(key).filter(|value| !value.is_empty()).ok_or_else(missing)?;
    let twin = others.into_iter().find(|other| other.name() != node.name() && other.label(key) == Some(value));
    match twin {
        None => Ok(value.to_owned()),
        Some(other) => Err(NodeObstacle::SharedLabel {
            node: node.name().to_owned(),
            other: other.name().to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
        }),
    }
}

/// Chooses a path of the pool on a node.
///
/// `volumes` are the LocalVolumes of the node.
///
/// # Errors
/// When the pool offers none, none can be used, or none has room.
pub fn choose_path<'a>(
    pool: (&str, &LocalPoolSpec),
    node: &Node,
    report: Option<&LocalNode>,
    volumes: impl IntoIterator<Item = &'a LocalVolume>,
    wanted: (i64, Option<&str>),
) -> Result<Candidate, NodeObstacle> {
    let (name, spec) = pool;
    let (bytes, only) = wanted;
    let offered: Vec<&PoolPath> =
        spec.paths_on(node).iter().filter(|path| only.is_none_or(|only| only == path.path)).collect();
    if offered.is_empty() {
        return Err(NodeObstacle::NoPath { pool: name.to_owned(), node: node.name().to_owned() });
    }
    let status = status_of(report, node)?;
    let volumes: Vec<&LocalVolume> = volumes.into_iter().collect();
    let mut usable = Vec::new();
    let mut why = String::new();
    let mut unseen = false;
    for path in offered {
        match status.paths.iter().find(|report| report.path == path.path) {
            Some(report) if report.usable => {
                let here = volumes.iter().filter(|volume| volume.spec.base == path.path);
                let sum = |counted: &dyn Fn(&LocalVolume) -> bool| {
                    let sizes = here.clone().filter(|volume| counted(volume)).map(|volume| volume.spec.bytes);
                    sizes.fold(0_i64, i64::saturating_add)
                };
                let free_bytes = match spec.room {
                    Room::Reserve => report.total_bytes.saturating_sub(sum(&|_| true)),
                    // What is promised and not yet used; a volume that is served counts by what it holds.
                    Room::Free | Room::Ignore => report.free_bytes.saturating_sub(sum(&|volume| !volume.is_ready())),
                };
                usable.push(Candidate { path: path.clone(), free_bytes, volumes: here.count() });
            }
            Some(report) => report.message.clone_into(&mut why),
            // The agent has not seen the pool's latest form yet.
            None => unseen = true,
        }
    }
    if usable.is_empty() && unseen {
        return Err(NodeObstacle::NoAgent(node.name().to_owned()));
    }
    if usable.is_empty() {
        return Err(NodeObstacle::NotUsable { pool: name.to_owned(), node: node.name().to_owned(), why });
    }
    let left = usable.iter().map(|candidate| candidate.free_bytes).max().unwrap_or(0);
    let fitting = usable.into_iter().filter(|it| spec.room == Room::Ignore || it.free_bytes >= bytes);
    let chosen = match spec.placement {
        Placement::MostFree => fitting.max_by_key(|it| (it.free_bytes, std::cmp::Reverse(it.volumes))),
        Placement::RoundRobin => fitting.min_by_key(|it| (it.volumes, std::cmp::Reverse(it.free_bytes))),
    };
    chosen.ok_or_else(|| NodeObstacle::NoRoom { node: node.name().to_owned(), bytes, left })
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
        LocalVolume::new("v", crate::crd::LocalVolumeSpec { base: base.to_owned(), bytes, ..Default::default() })
    }

    fn chosen(
        spec: &LocalPoolSpec,
        free: [i64; 2],
        volumes: &[LocalVolume],
        bytes: i64,
    ) -> Result<String, NodeObstacle> {
        choose_path(("p", spec), &node("n", None), Some(&report(free)), volumes, (bytes, None)).map(|it| it.path.path)
    }

    #[test]
    fn the_most_free_path_counts_what_is_promised() {
        let spec = pool("MostFree", "Free");
        assert_eq!(chosen(&spec, [500, 400], &[], 10).unwrap(), "/a");
        assert_eq!(chosen(&spec, [500, 400], &[volume("/a", 200)], 10).unwrap(), "/b");
        assert!(matches!(chosen(&spec, [500, 400], &[], 501), Err(NodeObstacle::NoRoom { left: 500, .. })));
        assert_eq!(chosen(&pool("MostFree", "Ignore"), [500, 400], &[], 501).unwrap(), "/a");
        assert!(chosen(&pool("MostFree", "Reserve"), [5, 5], &[volume("/a", 600), volume("/b", 700)], 500).is_err());
        assert_eq!(chosen(&pool("MostFree", "Reserve"), [5, 5], &[volume("/a", 600)], 500).unwrap(), "/b");
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let spec = pool("MostFree", "Free");
        let only = |path| choose_path(("p", &spec), &node("n", None), Some(&report([1, 1])), &[], (1, Some(path)));
        assert!(matches!(only("/elsewhere"), Err(NodeObstacle::NoPath { .. })));
        assert!(matches!(only("/broken"), Err(NodeObstacle::NotUsable { why, .. }) if why == "EIO"));
        let silent = choose_path(("p", &spec), &node("n", None), None, &[], (1, None));
        assert!(matches!(silent, Err(NodeObstacle::NoAgent(_))));
        let replaced = choose_path(("p", &spec), &node("other", None), Some(&report([1, 1])), &[], (1, None));
        assert!(matches!(replaced, Err(NodeObstacle::NoAgent(_))), "a report of another Node of that name is none");
        let mut unsure = report([1, 1]);
        let conditions = &mut unsure.status.as_mut().unwrap().conditions;
        let now = k8s_openapi::jiff::Timestamp::now();
        crate::crd::set_condition(conditions, (NODE_REPLACED, true, "DisksMissing", "/a is empty"), None, now);
        let told = choose_path(("p", &spec), &node("other", None), Some(&unsure), &[], (1, None)).unwrap_err();
        assert!(matches!(&told, NodeObstacle::Replaced { why, .. } if why == "/a is empty"), "{told}");
    }

    #[test]
    fn a_volume_is_tied_by_the_label_and_only_if_it_tells_the_node() {
        let nodes = [node("n", Some("host-1")), node("m", Some("host-2")), node("k", Some("host-2"))];
        assert_eq!(affinity_value(&nodes[0], "kubernetes.io/hostname", &nodes).unwrap(), "host-1");
        let shared = affinity_value(&nodes[1], "kubernetes.io/hostname", &nodes);
        assert!(matches!(shared, Err(NodeObstacle::SharedLabel { .. })));
        assert!(matches!(affinity_value(&nodes[0], "other", &nodes), Err(NodeObstacle::NoLabel { .. })));
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
