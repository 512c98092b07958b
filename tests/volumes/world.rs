//! What a history is played in: the cluster and its disks, what each process has heard of, and what each is about to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use latebind::agent::Attempts;
use latebind::crd::{KeptDirectory, LocalVolume};
use latebind::model::{Node, Volume};
use serde_json::json;

use super::model::{Disk, NODE, Permitted, Store};

/// What happened in all of them.
#[derive(Debug, Default)]
pub struct Counts {
    /// Directories with data.
    pub removed: u64,
    /// Volumes.
    pub reclaimed: u64,
    /// Orders.
    pub withdrawn: u64,
    /// Attempts that the disk refused.
    pub refused: u64,
    /// Directories that a later claim of the same name took back.
    pub taken_back: u64,
}

/// Good enough to choose by, and the same on every machine. Source: Steele, Lea, Flood: "Fast Splittable Pseudorandom
/// Number Generators", `SplitMix64`.
pub struct Random(u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub fn of<T: Clone>(&mut self, all: impl IntoIterator<Item = T>) -> Option<T> {
        let all: Vec<T> = all.into_iter().collect();
        if all.is_empty() { None } else { Some(all[usize::try_from(self.below(all.len() as u64)).unwrap()].clone()) }
    }
}

pub type Change = Box<dyn FnOnce(&mut LocalVolume)>;

/// A write of the controller that is decided and not made yet: anything may come between, and a crash loses it.
pub enum Write {
    Create(Box<LocalVolume>),
    Publish(Box<Volume>, String),
    Local { name: String, uid: String, version: String, change: Change },
    Finalizer { name: String, uid: String, version: String, held: bool },
    DeleteVolume { name: String, uid: String, version: String },
    ForgetLocal { name: String, uid: String },
}

/// What the agent has decided and not done yet.
pub enum Doing {
    Dispose { local: Box<LocalVolume>, begun: Instant },
    Lift { name: String, uid: String, version: String, deleting: bool },
}

/// One history.
pub struct World {
    pub random: Random,
    pub now: Instant,
    pub numbers: u64,
    pub store: Store,
    pub backups: Vec<Store>,
    pub saved: Vec<Volume>,
    /// What each process has heard of.
    pub controller: Store,
    /// The agent's report on kept directories, as the controller knows it.
    pub report: Vec<KeptDirectory>,
    pub writes: Vec<Write>,
    pub agent: BTreeMap<String, LocalVolume>,
    pub attempts: Attempts,
    pub doings: Vec<Doing>,
    pub disks: Vec<Disk>,
    pub mounted: usize,
    pub permitted: Permitted,
    pub observed: (u64, Instant),
    pub given_up: BTreeSet<String>,
    pub node: Node,
    pub log: Vec<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let node = json!({ "metadata": { "name": NODE, "uid": "node", "labels": { "kubernetes.io/hostname": NODE } } });
        Self {
            random: Random(seed),
            now: Instant::now(),
            numbers: 0,
            store: Store::default(),
            backups: Vec::new(),
            saved: Vec::new(),
            controller: Store::default(),
            report: Vec::new(),
            writes: Vec::new(),
            agent: BTreeMap::new(),
            attempts: Attempts::default(),
            doings: Vec::new(),
            disks: vec![Disk::default(); 3],
            mounted: 1,
            permitted: Permitted::new(),
            observed: (0, Instant::now()),
            given_up: BTreeSet::new(),
            node: serde_json::from_value(node).unwrap(),
            log: Vec::new(),
        }
    }

    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub fn note(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }

    pub fn told(&self, why: &str) -> String {
        format!("{why}\n{}", self.log.join("\n"))
    }
}
