//! In which order nodes are chosen for claims that nobody chose a node for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::placement::{Candidate, NodeObstacle, affinity_value, usable_paths};
use super::storage_view::{Search, StorageView};
use crate::binding::Lookup;
use crate::crd::Room;
use crate::model::selector::topology_allows;
use crate::model::{Node, Repels};

/// How a node stands that could get a volume of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What its taints keep away.
    pub repels: Repels,
    /// Bytes left on the path that has most.
    pub free_bytes: i64,
}

type Rank = (Repels, Reverse<i64>, Arc<str>);

/// The nodes of one class, best first. A change of a node moves that node alone, and the best one is found without looking
/// at the others.
#[derive(Debug, Default)]
pub struct NodeOrder {
    /// Nodes that could get a volume, by what their taints keep away, then by room, then by name.
    fitting: BTreeSet<Rank>,
    /// Why others could not: what a person can change first, then by name, so that the same facts give the same words.
    obstacles: BTreeMap<(u8, Arc<str>), NodeObstacle>,
    places: HashMap<Arc<str>, Place>,
}

/// Where a node is found.
#[derive(Debug)]
enum Place {
    Fitting(Standing),
    Obstacle(u8),
}

impl NodeOrder {
    /// Takes note of how a node stands now.
    pub fn set(&mut self, node: &str, standing: Result<Standing, NodeObstacle>) {
        self.remove(node);
        let node: Arc<str> = node.into();
        let place = match standing {
            Ok(standing) => {
                self.fitting.insert((standing.repels, Reverse(standing.free_bytes), Arc::clone(&node)));
                Place::Fitting(standing)
            }
            // The pool has no say about that node.
            Err(NodeObstacle::NoPath { .. }) => return,
            Err(obstacle) => {
                let weight = match obstacle {
                    NodeObstacle::NotSchedulable(_) => 2,
                    NodeObstacle::ControlPlane { .. } => 1,
                    _ => 0,
                };
                self.obstacles.insert((weight, Arc::clone(&node)), obstacle);
                Place::Obstacle(weight)
            }
        };
        self.places.insert(node, place);
    }

    /// Forgets a node.
    pub fn remove(&mut self, node: &str) {
        match self.places.remove_entry(node) {
            Some((node, Place::Fitting(Standing { repels, free_bytes }))) => {
                self.fitting.remove(&(repels, Reverse(free_bytes), node));
            }
            Some((node, Place::Obstacle(weight))) => drop(self.obstacles.remove(&(weight, node))),
            None => {}
        }
    }

    /// The best node with so many bytes left. Nodes whose taints keep nothing away come first, whatever room others have.
    ///
    /// # Errors
    /// When there is none.
    pub fn best(&self, pool: &str, room: Room, bytes: i64) -> Result<&str, NodeObstacle> {
        for repels in Repels::ALL {
            let from: Rank = (repels, Reverse(i64::MAX), "".into());
            let first = self.fitting.range(from..).next().filter(|(found, ..)| *found == repels);
            if let Some((_, _, node)) = first.filter(|(_, free, _)| room == Room::Ignore || free.0 >= bytes) {
                return Ok(node);
            }
        }
        Err(match self.obstacles.values().next() {
            _ if !self.fitting.is_empty() => NodeObstacle::NoRoomAnywhere { pool: pool.to_owned(), bytes },
            Some(obstacle) => obstacle.clone(),
            None => NodeObstacle::NoNode(pool.to_owned()),
        })
    }
}

/// How a node stands for claims of a class that nobody chose a node for.
///
/// # Errors
/// Why it cannot be chosen.
pub fn standing(search: &Search<'_>, node: &Node, view: &dyn StorageView) -> Result<Standing, NodeObstacle> {
    let usable = usable(search, node, view)?;
    if node.spec.unschedulable || !node.is_ready() {
        return Err(NodeObstacle::NotSchedulable(node.name().to_owned()));
    }
    // Its disk is that of the control plane: only an administrator who means it gives that away.
    if node.is_reserved_control_plane() && !search.pool.spec.names(node) {
        let pool = search.parameters.pool.clone();
        return Err(NodeObstacle::ControlPlane { pool, node: node.name().to_owned() });
    }
    let free_bytes = usable.iter().map(|candidate| candidate.free_bytes).max().unwrap_or_default();
    Ok(Standing { repels: node.repels(), free_bytes })
}

/// The paths of a node that a volume of the class could be made at, whoever chose the node.
///
/// # Errors
/// When there are none.
pub(super) fn usable(search: &Search<'_>, node: &Node, view: &dyn StorageView) -> Result<Vec<Candidate>, NodeObstacle> {
    let Search { class, parameters, pool } = search;
    let report = view.report(node.name()).found();
    let paths = usable_paths(
        (&parameters.pool, &pool.spec),
        node,
        report.as_ref().map(|report| &***report),
        &|base| view.taken(node.name(), base),
        parameters.node_path.as_deref(),
    );
    // That the pool has nothing there is said before anything about the node.
    if let Err(obstacle @ NodeObstacle::NoPath { .. }) = paths {
        return Err(obstacle);
    }
    // Where its volumes may be reached from says nothing of the node that makes them.
    if parameters.shared_file_system {
        return paths;
    }
    if !topology_allows(&class.allowed_topologies, node) {
        return Err(NodeObstacle::Topology(node.name().to_owned()));
    }
    // Whether Nodes are known was asked before.
    let twin = match view.label_twin(node, &parameters.affinity_key) {
        Lookup::Found(twin) => Some(twin),
        Lookup::Absent | Lookup::Unknown => None,
    };
    affinity_value(node, &parameters.affinity_key, twin)?;
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(repels: Repels, free_bytes: i64) -> Standing {
        Standing { repels, free_bytes }
    }

    #[test]
    fn untainted_nodes_come_first_and_then_those_with_most_room() {
        let mut order = NodeOrder::default();
        let best = |order: &NodeOrder, bytes| order.best("p", Room::Free, bytes).map(str::to_owned);
        order.set("tainted", Ok(at(Repels::Untolerating, 900)));
        order.set("preferred-not", Ok(at(Repels::Preferably, 500)));
        order.set("b", Ok(at(Repels::Nothing, 100)));
        order.set("a", Ok(at(Repels::Nothing, 100)));
        assert_eq!(best(&order, 100).unwrap(), "a");
        assert_eq!(best(&order, 101).unwrap(), "preferred-not");
        assert_eq!(best(&order, 501).unwrap(), "tainted");
        assert!(matches!(best(&order, 901), Err(NodeObstacle::NoRoomAnywhere { bytes: 901, .. })));
        assert_eq!(order.best("p", Room::Ignore, 901), Ok("a"));
        order.set("b", Ok(at(Repels::Nothing, 101)));
        assert_eq!(best(&order, 1).unwrap(), "b");
        order.set("b", Err(NodeObstacle::NotSchedulable("b".to_owned())));
        order.remove("a");
        assert_eq!(best(&order, 1).unwrap(), "preferred-not");
    }

    #[test]
    fn the_same_obstacles_are_told_of_in_the_same_words_in_whatever_order_they_came() {
        let obstacles = [
            NodeObstacle::NotSchedulable("a".to_owned()),
            NodeObstacle::ControlPlane { pool: "p".to_owned(), node: "b".to_owned() },
            NodeObstacle::NoAgent("d".to_owned()),
            NodeObstacle::NoAgent("c".to_owned()),
            NodeObstacle::NoPath { pool: "p".to_owned(), node: "0".to_owned() },
        ];
        for turn in 0..obstacles.len() {
            let mut order = NodeOrder::default();
            for place in 0..obstacles.len() {
                let place = (place + turn) % obstacles.len();
                order.set(["a", "b", "d", "c", "0"][place], Err(obstacles[place].clone()));
            }
            assert_eq!(order.best("p", Room::Free, 1), Err(NodeObstacle::NoAgent("c".to_owned())));
        }
        let nobody = NodeOrder::default();
        assert_eq!(nobody.best("p", Room::Free, 1), Err(NodeObstacle::NoNode("p".to_owned())));
    }
}
