//! From what the watches bring to what is to be looked at, and from that to the listing.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::listing::{Key, Listing};
use crate::binding::{ClusterView, Lookup, binds_anywhere, keeps_away_from, open_node, waits_anywhere};
use crate::facts::live::{Change, Changed, LiveCluster, Observer};
use crate::model::selector::labels;
use crate::model::{Class, CsiDriver, HOSTNAME_LABEL, Node, PodOnNode, Text, Volume};
use crate::runtime::queue::Queue;

/// The one key of the queue: the parameter as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Whole;

/// What is to be looked at again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// Before nodes, of which they ask.
    Policies,
    Claim(Key),
    Class(Text),
    Node(Text),
}

/// What is due, and what is listed.
pub(super) struct Triggers {
    pub live: LiveCluster,
    pub queue: Arc<Queue<Whole>>,
    /// Each object at most once: no more than the caches hold.
    due: Mutex<BTreeSet<Due>>,
    listing: Mutex<Listing>,
}

impl Triggers {
    pub fn new(live: LiveCluster) -> Self {
        Self { live, queue: Arc::default(), due: Mutex::default(), listing: Mutex::default() }
    }

    /// Has everything looked at: at the start, and from time to time in case a change was missed.
    pub fn everything(&self) {
        let mut all: Vec<Due> = vec![Due::Policies];
        let text = |name: &Option<Text>| name.clone().unwrap_or_default();
        for claim in self.live.claims().found().into_iter().flatten() {
            all.push(Due::Claim((text(&claim.metadata.namespace), text(&claim.metadata.name))));
        }
        for class in self.live.classes().found().into_iter().flatten() {
            all.push(Due::Class(text(&class.metadata.name)));
        }
        for node in self.live.nodes().found().into_iter().flatten() {
            all.push(Due::Node(text(&node.metadata.name)));
        }
        self.look_at(all);
        self.queue.now(Whole);
    }

    fn look_at(&self, more: impl IntoIterator<Item = Due>) {
        let mut due = self.due.lock();
        let before = due.len();
        due.extend(more);
        let grew = due.len() > before;
        drop(due);
        if grew {
            self.queue.now(Whole);
        }
    }

    /// Looks at what is due, and gives what is listed then to `read`.
    pub fn listed<T>(&self, read: impl FnOnce(&Listing) -> T) -> T {
        let mut listing = self.listing.lock();
        // Whatever comes in meanwhile is due again.
        let due = std::mem::take(&mut *self.due.lock());
        for due in due {
            match due {
                Due::Policies => self.policies(&mut listing),
                Due::Claim(key) => self.claim(&mut listing, &key),
                Due::Class(name) => self.class(&mut listing, &name),
                Due::Node(name) => {
                    let node = self.live.node(&name).found();
                    let found = node.as_ref().map(|node| labels(node.metadata.labels.as_ref()));
                    listing.labels(&name, found);
                    listing.node(&name, node.and_then(|node| open_node(&node, &self.live)));
                }
            }
        }
        read(&listing)
    }

    fn policies(&self, listing: &mut Listing) {
        let policies = self.live.policies().found();
        if listing.policies(policies.as_ref().map(|policies| policies.iter().map(|policy| &***policy))) {
            for node in self.live.nodes().found().into_iter().flatten() {
                let name = node.metadata.name.clone().unwrap_or_default();
                listing.labels(&name, Some(labels(node.metadata.labels.as_ref())));
            }
        }
    }

    fn claim(&self, listing: &mut Listing, key: &Key) {
        let Lookup::Found(claim) = self.live.claim(&key.0, &key.1) else {
            return listing.claim(key, None, false);
        };
        let class = claim.class_name().filter(|_| claim.volume_name().is_none()).map(Text::from);
        listing.claim(key, class, waits_anywhere(&claim, &self.live));
    }

    fn class(&self, listing: &mut Listing, name: &Text) {
        let class = self.live.class(name).found();
        listing.class(name, class.is_some_and(|class| binds_anywhere(&class, &self.live)));
        listing.default_class(self.live.default_class().found().and_then(|class| class.metadata.name.clone()));
        for key in listing.claims_of(name) {
            self.claim(listing, &key);
        }
    }

    /// A volume that names a claim is bound to it without the scheduler.
    fn volume(&self, change: &Changed<Volume>) {
        let references = change.before.iter().chain(&change.after).filter_map(|volume| volume.spec.claim_ref.as_ref());
        let keys = references.map(|reference| {
            (reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default())
        });
        self.look_at(keys.map(Due::Claim));
    }

    /// A hostname label that two nodes have leads to neither.
    fn node(&self, change: &Changed<Node>) {
        let mut names: Vec<Text> = Vec::new();
        for node in change.before.iter().chain(&change.after) {
            names.extend(node.metadata.name.clone());
            if let Some(hostname) = node.label(HOSTNAME_LABEL) {
                let alike = self.live.nodes_with_hostname(hostname).found().unwrap_or_default();
                names.extend(alike.iter().filter_map(|node| node.metadata.name.clone()));
            }
        }
        self.look_at(names.into_iter().map(Due::Node));
    }

    /// There are few classes, and a driver seldom changes.
    fn driver(&self, change: &Changed<CsiDriver>) {
        let names: Vec<Text> =
            change.before.iter().chain(&change.after).filter_map(|driver| driver.metadata.name.clone()).collect();
        let is_concerned = |class: &Arc<Class>| names.iter().any(|name| *name == *class.provisioner);
        let classes = self.live.classes().found().unwrap_or_default();
        self.look_at(
            classes
                .iter()
                .filter(|class| is_concerned(class))
                .filter_map(|class| class.metadata.name.clone().map(Due::Class)),
        );
    }

    fn pod(&self, change: &Changed<PodOnNode>) {
        // Most Pods are watched for their claims, which nobody is told here.
        let Some(pod) = change.after.iter().chain(&change.before).find(|pod| pod.keeps_others_away()) else { return };
        let key = (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default());
        let away = change.after.as_ref().map(|pod| keeps_away_from(pod)).unwrap_or_default();
        self.listing.lock().pod(&key, away);
        self.queue.now(Whole);
    }
}

impl Observer for Triggers {
    fn changed(&self, change: Change) {
        match change {
            Change::Claim(change) => {
                let claim = change.after.as_ref().or(change.before.as_ref());
                let key = claim.map(|claim| {
                    let metadata = &claim.metadata;
                    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
                });
                self.look_at(key.map(Due::Claim));
            }
            Change::Volume(change) => self.volume(&change),
            Change::Class(change) => {
                let class = change.after.or(change.before);
                self.look_at(class.and_then(|class| class.metadata.name.clone()).map(Due::Class));
            }
            Change::Node(change) => self.node(&change),
            Change::Driver(change) => self.driver(&change),
            Change::DriverNode(change) => {
                let csi_node = change.after.or(change.before);
                self.look_at(csi_node.and_then(|csi_node| csi_node.metadata.name.clone()).map(Due::Node));
            }
            Change::PodOnNode(change) => self.pod(&change),
            Change::Policy(_) => self.look_at([Due::Policies]),
            Change::Pod(_) => {}
        }
    }
}
