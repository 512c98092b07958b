//! Random histories of nodes that come and go, looks at any time, restarts, and Nodes that are not all known: no claim is let go
//! whose node is there, was there within the time of grace as far as anybody looked, or is one of too many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tokio::time::Instant;

use super::timers::Timers;
use crate::binding::Kind;
use crate::crd::LostNodePolicy;
use crate::drain::lost::{LostClaim, LostStep, Patience, Reachability, decide, reachability};
use crate::drain::policy::ChosenPolicy;
use crate::facts::{Fact, Facts, Unlisted};
use crate::model::{Claim, Pod, Volume};

const NODES: usize = 6;
const GRACE: Duration = Duration::from_secs(120);
const PATIENCE: Patience = Patience { grace: GRACE, most_places: 1, most_percent: 20 };

#[derive(Clone, Debug)]
enum Event {
    Leaves(usize),
    Returns(usize),
    /// All volumes are looked at.
    Look,
    /// Another process takes over, after some seconds.
    Restart(u64),
    Passes(u64),
    /// Whether all Nodes are known from now on.
    Known(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0..NODES).prop_map(Event::Leaves),
        1 => (0..NODES).prop_map(Event::Returns),
        6 => Just(Event::Look),
        1 => (0_u64..300).prop_map(Event::Restart),
        4 => (1_u64..60).prop_map(Event::Passes),
        1 => any::<bool>().prop_map(Event::Known),
    ]
}

struct World {
    there: BTreeSet<usize>,
    all_known: bool,
    /// Seconds since the beginning.
    now: u64,
    begin: Instant,
    timers: Timers,
    /// What is written down at each volume.
    notes: BTreeMap<usize, Duration>,
    /// Since when looks have found each node gone, one after another, and for how much of that somebody looked.
    gone: BTreeMap<usize, (u64, Duration)>,
    unbound: usize,
}

impl World {
    /// These nodes are there.
    fn of(nodes: std::ops::Range<usize>) -> Self {
        Self {
            there: nodes.collect(),
            all_known: true,
            now: 0,
            begin: Instant::now(),
            timers: Timers::default(),
            notes: BTreeMap::new(),
            gone: BTreeMap::new(),
            unbound: 0,
        }
    }

    fn view(&self) -> Facts {
        let mut facts = Facts::new(if self.all_known { Unlisted::Absent } else { Unlisted::Unknown });
        for node in &self.there {
            let name = format!("n{node}");
            let node = json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } } });
            facts.add(Fact::read("", "Node", &node).unwrap().unwrap());
        }
        if self.all_known {
            facts.complete(Kind::Nodes);
        }
        facts
    }

    fn look(&mut self) {
        let view = self.view();
        let at = self.begin + Duration::from_secs(self.now);
        for number in 0..NODES {
            let (name, id) = (format!("n{number}"), format!("v{number}"));
            let terms = json!([{ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [name] }] }]);
            let volume: Volume =
                serde_json::from_value(json!({ "metadata": { "name": id }, "spec": { "local": { "path": "/d" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": terms } } }, "status": { "phase": "Bound" } }))
                .unwrap();
            let is_there = self.there.contains(&number);
            match reachability(&volume, &view) {
                Reachability::Reached => {
                    assert!(is_there, "nothing else reaches it");
                    self.timers.forget(&id);
                    self.notes.remove(&number);
                    self.gone.remove(&number);
                }
                Reachability::NotKnown => {
                    assert!(!is_there, "a node that is known reaches it");
                    self.timers.pause(&id, at);
                    if let Some((last, _)) = self.gone.get_mut(&number) {
                        *last = self.now;
                    }
                }
                Reachability::Lost(place) => {
                    assert!(!is_there && self.all_known && !self.there.is_empty());
                    let (last, looked) = self.gone.entry(number).or_insert((self.now, Duration::ZERO));
                    *looked += Duration::from_secs(self.now - *last);
                    *last = self.now;
                    let looked = *looked;
                    let noted = self.notes.get(&number).copied();
                    let observed = self.timers.observe(&id, &place, noted, at);
                    assert!(
                        observed.total <= looked,
                        "{:?} counted of {looked:?} in which it was looked at",
                        observed.total
                    );
                    if observed.is_due {
                        self.notes.insert(number, observed.total);
                        self.timers.wrote(&id, observed.total);
                    }
                    self.step(observed.total, looked);
                }
            }
        }
    }

    fn step(&mut self, observed: Duration, looked: Duration) {
        let claim: Claim = serde_json::from_value(json!({ "metadata": { "name": "c", "namespace": "n" } })).unwrap();
        let pod: Pod =
            serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "n" }, "spec": {} })).unwrap();
        let by = Some("class fast".to_owned());
        let chosen = ChosenPolicy { policy: LostNodePolicy::Unbind, by, unread: Vec::new() };
        let too_many = PATIENCE.is_too_many(self.timers.places(), self.there.len());
        let (claim, chosen, waiting) = (&claim, &chosen, [Arc::new(pod)]);
        let (forbidden, patience, waiting) = (None, PATIENCE, &waiting[..]);
        let lost = LostClaim { claim, chosen, forbidden, observed, patience, too_many, waiting };
        if let LostStep::Unbind { .. } = decide(&lost) {
            self.unbound += 1;
            assert!(looked >= GRACE, "let go after {looked:?}");
            let (gone, all) = (self.timers.places(), self.timers.places() + self.there.len());
            assert!(gone <= 1 || gone * 5 <= all, "{gone} of {all} were gone");
        }
    }
}

proptest! {
    #[test]
    fn no_claim_is_let_go_whose_node_is_there_or_was_a_moment_ago(events in prop::collection::vec(event(), 1..200)) {
        let mut world = World::of(0..NODES);
        for event in events {
            match event {
                Event::Leaves(node) => drop(world.there.remove(&node)),
                Event::Returns(node) => drop(world.there.insert(node)),
                Event::Look => world.look(),
                Event::Restart(seconds) => {
                    world.now += seconds;
                    world.timers = Timers::default();
                    // What nobody looked at counts for nothing.
                    for (last, _) in world.gone.values_mut() {
                        *last = world.now;
                    }
                }
                Event::Passes(seconds) => world.now += seconds,
                Event::Known(all) => world.all_known = all,
            }
        }
    }
}

/// The property says something: a node that stays away is given up in the end.
#[test]
fn a_node_that_stays_away_is_given_up() {
    let mut world = World::of(1..NODES);
    for _ in 0..5 {
        world.look();
        world.now += 30;
    }
    assert_eq!(world.unbound, 1);
}
