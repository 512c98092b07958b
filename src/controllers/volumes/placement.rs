//! Where volumes are and will be, kept up to date by every change: what is taken of each path, how many a node has, which order
//! was given a moment ago, which nodes share a label, and which node is the best of each class.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::recent::Recent;
use crate::binding::{ClusterView, Lookup};
use crate::crd::{Kept, LocalNode, LocalPool, LocalVolume};
use crate::facts::live::same_claim;
use crate::model::{Claim, Node, Volume};
use crate::volumes::{
    CountByNode, Earlier, NodeObstacle, NodeOrder, Search, StorageView, Taken, TakenByPath, standing,
};

/// For how long an order counts that no watch told of. It takes a request and an event to be seen; a LocalVolume that was
/// gone before is the only one that never is.
const RESERVATION_TTL: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct Placement {
    /// Of what the cache shows and of what is reserved.
    taken: TakenByPath,
    /// Of what the cache shows alone: what is not there yet lets nothing go.
    count: CountByNode,
    /// Orders that the cache does not show yet, so that two claims do not take the same room.
    reserved: Recent<LocalVolume>,
    /// Their names, by the UID of the claim.
    reserved_of: HashMap<String, BTreeSet<String>>,
    /// Names of Nodes by the value of a label, for each key that a class ties its volumes by.
    labels: HashMap<String, HashMap<String, BTreeSet<String>>>,
    /// By the name of the class. Only of classes that bind at once.
    orders: HashMap<String, ClassOrder>,
}

/// The nodes of a class.
#[derive(Debug, Default)]
struct ClassOrder {
    /// Versions of the class and its pool, by which every node was looked at.
    versions: [Option<String>; 3],
    order: NodeOrder,
    /// Nodes that have changed since they were looked at.
    changed: HashSet<String>,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            taken: TakenByPath::default(),
            count: CountByNode::default(),
            reserved: Recent::new(RESERVATION_TTL),
            reserved_of: HashMap::new(),
            labels: HashMap::new(),
            orders: HashMap::new(),
        }
    }
}

impl Placement {
    /// Has an order count from now on.
    pub fn reserve(&mut self, local: &LocalVolume) {
        self.release(local.name());
        self.taken.add(local);
        self.reserved_of.entry(local.spec.claim.uid.clone()).or_default().insert(local.name().to_owned());
        let ended = self.reserved.insert(local.name(), local.clone());
        self.uncount(&ended);
        self.changed(&local.spec.node_name);
    }

    /// Has an order count no more: it was not given after all, or the cache shows it.
    pub fn release(&mut self, name: &str) {
        if let Some(local) = self.reserved.remove(name) {
            self.uncount(&[local]);
        }
    }

    /// Drops orders that were given too long ago to be seen yet.
    pub fn expire(&mut self) {
        let ended = self.reserved.expire();
        self.uncount(&ended);
    }

    fn uncount(&mut self, ended: &[LocalVolume]) {
        for local in ended {
            self.taken.remove(local);
            if let Some(names) = self.reserved_of.get_mut(&local.spec.claim.uid) {
                names.remove(local.name());
                if names.is_empty() {
                    self.reserved_of.remove(&local.spec.claim.uid);
                }
            }
            self.changed(&local.spec.node_name);
        }
    }

    /// The names of the orders that were given for a claim a moment ago.
    pub fn reserved_of(&self, uid: &str) -> BTreeSet<String> {
        self.reserved_of.get(uid).cloned().unwrap_or_default()
    }

    /// Takes note of a change of a LocalVolume, which the cache shows already.
    pub fn local_changed(&mut self, before: Option<&LocalVolume>, after: Option<&LocalVolume>) {
        let Some(local) = after.or(before) else { return };
        self.release(local.name());
        if let Some(before) = before {
            self.taken.remove(before);
            self.count.remove(before);
        }
        if let Some(after) = after {
            self.taken.add(after);
            self.count.add(after);
        }
        self.changed(&local.spec.node_name);
    }

    /// How many more orphans may be ordered away from a node. Its agent keeps the same bound; whoever has only its token does
    /// not.
    pub fn orphans_left(&self, node: &str) -> usize {
        self.count.orphans_left(node)
    }

    /// The same of a Node.
    pub fn node_changed(&mut self, before: Option<&Node>, after: Option<&Node>) {
        let mut twins = BTreeSet::new();
        for (key, names) in &mut self.labels {
            let value = |node: Option<&Node>| node.and_then(|node| node.label(key)).map(str::to_owned);
            let (old, new) = (value(before), value(after));
            if old == new {
                continue;
            }
            if let (Some(node), Some(old)) = (before, old) {
                let others = names.entry(old.clone()).or_default();
                others.remove(node.name());
                twins.extend(others.iter().cloned());
                if others.is_empty() {
                    names.remove(&old);
                }
            }
            if let (Some(node), Some(new)) = (after, new) {
                let others = names.entry(new).or_default();
                twins.extend(others.iter().cloned());
                others.insert(node.name().to_owned());
            }
        }
        // Whether a value tells one node from all others has changed for these too.
        for twin in &twins {
            self.changed(twin);
        }
        if let Some(node) = after.or(before) {
            self.changed(node.name());
        }
    }

    /// Has a node looked at again before the next choice.
    pub fn changed(&mut self, node: &str) {
        for order in self.orders.values_mut() {
            if !order.changed.contains(node) {
                order.changed.insert(node.to_owned());
            }
        }
    }

    /// Drops what can be made anew, so that nothing of a class or key stays that is not used any more.
    pub fn tidy(&mut self) {
        self.labels.clear();
        self.orders.clear();
    }
}

/// The facts of caches together with a placement that nobody else changes meanwhile.
pub(super) struct View<'a> {
    context: &'a Context,
    placement: RefCell<&'a mut Placement>,
}

impl<'a> View<'a> {
    pub fn new(context: &'a Context, placement: &'a mut Placement) -> Self {
        Self { context, placement: RefCell::new(placement) }
    }

    /// Looks at the nodes that have changed, or at all of them if class or pool have.
    fn refresh(&self, search: &Search<'_>, mut found: ClassOrder) -> Option<ClassOrder> {
        let metadata = &search.pool.metadata;
        let class = search.class.metadata.resource_version.as_ref().map(ToString::to_string);
        let versions = [class, metadata.uid.clone(), metadata.resource_version.clone()];
        if found.versions == versions {
            for name in std::mem::take(&mut found.changed) {
                match self.context.live.node(&name) {
                    Lookup::Found(node) => found.order.set(&name, standing(search, &node, self)),
                    Lookup::Absent | Lookup::Unknown => found.order.remove(&name),
                }
            }
            return Some(found);
        }
        let mut anew = ClassOrder { versions, ..ClassOrder::default() };
        for node in self.context.live.nodes().found()? {
            anew.order.set(node.name(), standing(search, &node, self));
        }
        Some(anew)
    }
}

impl StorageView for View<'_> {
    fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        self.context.live.volume(name)
    }

    fn volumes_at(&self, path: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.context.live.volumes_at(path)
    }

    fn foreign_volumes_on(&self, node: &Node, limit: usize) -> Lookup<Vec<Arc<Volume>>> {
        self.context.live.foreign_volumes_on(node, limit)
    }

    fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        self.context.live.node(name)
    }

    fn label_twin(&self, node: &Node, key: &str) -> Lookup<String> {
        let mut placement = self.placement.borrow_mut();
        if !placement.labels.contains_key(key) {
            let Lookup::Found(nodes) = self.context.live.nodes() else { return Lookup::Unknown };
            let mut names: HashMap<String, BTreeSet<String>> = HashMap::new();
            for (value, node) in nodes.iter().filter_map(|node| Some((node.label(key)?, node))) {
                names.entry(value.to_owned()).or_default().insert(node.name().to_owned());
            }
            placement.labels.insert(key.to_owned(), names);
        }
        let same = node.label(key).and_then(|value| placement.labels.get(key)?.get(value));
        let twin = same.and_then(|names| names.iter().find(|name| *name != node.name()).cloned());
        Lookup::found_or(twin, Lookup::Absent)
    }

    fn best_node(&self, search: &Search<'_>, bytes: i64) -> Lookup<Result<Arc<Node>, NodeObstacle>> {
        let class = search.class.name();
        let found = self.placement.borrow_mut().orders.remove(class).unwrap_or_default();
        // Taken out meanwhile: to look at a node asks this view for what is taken there.
        let Some(refreshed) = self.refresh(search, found) else { return Lookup::Unknown };
        let best = refreshed.order.best(&search.parameters.pool, search.pool.spec.room, bytes).map(str::to_owned);
        self.placement.borrow_mut().orders.insert(class.to_owned(), refreshed);
        match best.map(|name| (self.context.live.node(&name), name)) {
            Ok((Lookup::Found(node), _)) => Lookup::Found(Ok(node)),
            Ok((Lookup::Absent, name)) => Lookup::Found(Err(NodeObstacle::Gone(name))),
            Ok((Lookup::Unknown, _)) => Lookup::Unknown,
            Err(obstacle) => Lookup::Found(Err(obstacle)),
        }
    }

    // Nothing is decided before all lists have ended; what these caches do not have is absent then.
    fn pool(&self, name: &str) -> Lookup<Arc<Kept<LocalPool>>> {
        Lookup::found_or(self.context.stores.pools.get(name), Lookup::Absent)
    }

    fn report(&self, node: &str) -> Lookup<Arc<Kept<LocalNode>>> {
        Lookup::found_or(self.context.stores.reports.get(node), Lookup::Absent)
    }

    fn local(&self, name: &str) -> Lookup<Arc<Kept<LocalVolume>>> {
        Lookup::found_or(self.context.stores.locals.get(name), Lookup::Absent)
    }

    fn locals_of(&self, claim_uid: &str) -> Vec<Arc<Kept<LocalVolume>>> {
        self.context.stores.locals.find(&claim_uid.into())
    }

    fn earlier(&self, claim: &Claim) -> Lookup<Earlier> {
        let stores = &self.context.stores;
        let (namespace, name) = (claim.namespace(), claim.name());
        let index = same_claim(namespace, name);
        let (Lookup::Found(locals), Lookup::Found(reports)) =
            (stores.locals.lookup(&index), stores.reports.lookup(&index))
        else {
            return Lookup::Unknown;
        };
        let mut kept = Vec::new();
        for report in reports {
            let listed = report.status.iter().flat_map(|status| &status.kept);
            let ours = listed.filter(|directory| directory.namespace == namespace && directory.name == name);
            kept.extend(ours.map(|directory| (report.metadata.name.clone().unwrap_or_default(), directory.clone())));
        }
        Lookup::Found(Earlier { locals, kept })
    }

    fn taken(&self, node: &str, base: &str) -> Taken {
        self.placement.borrow().taken.of(node, base)
    }

    fn pinned_node(&self, claim: &Claim) -> Lookup<Option<String>> {
        self.context.live.consumers(claim.namespace(), claim.name()).map(|pods| {
            let waits = |pod: &&Arc<crate::model::Pod>| !matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
            pods.iter().filter(waits).find_map(|pod| pod.pinned_node()).map(str::to_owned)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::{ClaimIdentity, LocalVolumeSpec, Origin};
    use crate::volumes::local_volume;

    fn local(uid: &str) -> LocalVolume {
        local_volume(LocalVolumeSpec {
            node_name: "n".to_owned(),
            base: "/b".to_owned(),
            bytes: 10,
            claim: ClaimIdentity { uid: uid.to_owned(), ..ClaimIdentity::default() },
            ..LocalVolumeSpec::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_counts_once_whether_reserved_seen_or_both() {
        let mut placement = Placement::default();
        let of_base = |placement: &Placement| placement.taken.of("n", "/b").bytes;
        placement.reserve(&local("a"));
        placement.reserve(&local("a"));
        placement.reserve(&local("b"));
        assert_eq!((of_base(&placement), placement.reserved_of("a").len()), (20, 1));
        placement.local_changed(None, Some(&local("a")));
        assert_eq!((of_base(&placement), placement.reserved_of("a").len()), (20, 0));
        placement.local_changed(Some(&local("a")), Some(&local("a")));
        assert_eq!(of_base(&placement), 20);
        // The one that no watch ever told of.
        tokio::time::advance(RESERVATION_TTL).await;
        placement.expire();
        assert_eq!((of_base(&placement), placement.reserved_of("b").len()), (10, 0));
        placement.local_changed(Some(&local("a")), None);
        assert_eq!(of_base(&placement), 0);
        placement.release("b");
        assert_eq!(of_base(&placement), 0);
    }

    #[test]
    fn orphans_may_go_for_volumes_that_are_seen_not_for_those_that_are_ordered() {
        let mut placement = Placement::default();
        let left = |placement: &Placement| placement.orphans_left("n");
        (0..40).for_each(|number| placement.reserve(&local(&format!("u{number}"))));
        assert_eq!(left(&placement), 1);
        for number in 0..40 {
            placement.local_changed(None, Some(&local(&format!("u{number}"))));
        }
        assert_eq!(left(&placement), 4);
        let mut orphan = local("x");
        orphan.spec.origin = Origin::Orphan;
        placement.local_changed(None, Some(&orphan));
        assert_eq!(left(&placement), 3);
        placement.local_changed(Some(&orphan), None);
        placement.local_changed(Some(&local("u0")), None);
        assert_eq!(left(&placement), 3, "of 39");
    }

    #[test]
    fn who_shares_a_label_is_looked_at_again_when_it_changes() {
        let node = |name: &str, value: &str| -> Node {
            serde_json::from_value(json!({ "metadata": { "name": name, "labels": { "k": value } } })).unwrap()
        };
        let mut placement = Placement::default();
        placement.labels.insert("k".to_owned(), HashMap::new());
        placement.orders.insert("c".to_owned(), ClassOrder::default());
        let changed = |placement: &mut Placement| {
            let mut names: Vec<String> = placement.orders.get_mut("c").unwrap().changed.drain().collect();
            names.sort();
            names.join(" ")
        };
        placement.node_changed(None, Some(&node("a", "1")));
        assert_eq!(changed(&mut placement), "a");
        placement.node_changed(None, Some(&node("b", "1")));
        assert_eq!(changed(&mut placement), "a b");
        placement.node_changed(Some(&node("b", "1")), Some(&node("b", "1")));
        assert_eq!(changed(&mut placement), "b", "a heartbeat says nothing about others");
        placement.node_changed(Some(&node("b", "1")), Some(&node("b", "2")));
        assert_eq!(changed(&mut placement), "a b");
        placement.node_changed(Some(&node("a", "1")), None);
        assert_eq!(changed(&mut placement), "a");
        assert_eq!(placement.labels["k"].len(), 1);
    }
}
