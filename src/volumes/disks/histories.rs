//! Random histories of one disk: mounts, claims, policies, people, restarts and caches that lag, in any order. What a claim has written
//! is never removed unless that was permitted, and never given to another claim unless somebody said so.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{class, found, identity, node, rule};
use super::*;
use crate::binding::Lookup;
use crate::crd::{DiskIdentity, DiskRelease, DiskRule, LocalDisk, LocalDiskStatus, Presence, SameDisk};
use crate::model::{Claim, Volume};
use crate::volumes::VolumeSet;

const PATH: &str = "/mnt/disk1";

/// One event.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The administrator mounts disk 0 or 1, or nothing.
    Mount(Option<usize>),
    /// A claim binds to the volume, if it is free, and writes onto what is mounted.
    Claim,
    /// The claim is deleted.
    DeleteClaim,
    /// A person sets the reclaim policy.
    Policy(bool),
    /// A person deletes the volume.
    DeleteVolume,
    /// A person gives a released volume free again, by hand.
    FreeVolume,
    /// A person says what becomes of the disk.
    Release(DiskRelease),
    /// The agent looks, and follows orders.
    Agent,
    /// The controller takes a step for each LocalDisk, with caches as they were so many changes ago.
    Controller(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => prop_oneof![Just(None), Just(Some(0)), Just(Some(1))].prop_map(Event::Mount),
        3 => Just(Event::Claim),
        3 => Just(Event::DeleteClaim),
        1 => any::<bool>().prop_map(Event::Policy),
        1 => Just(Event::DeleteVolume),
        1 => Just(Event::FreeVolume),
        1 => prop_oneof![Just(DiskRelease::Wipe), Just(DiskRelease::Keep), Just(DiskRelease::Forget)].prop_map(Event::Release),
        8 => Just(Event::Agent),
        12 => prop_oneof![4 => Just(0_usize), 1 => 0..6_usize].prop_map(Event::Controller),
    ]
}

/// What is on a disk.
#[derive(Clone, Debug, Default)]
struct Content {
    /// The claims that have written since it was cleaned.
    owners: Vec<String>,
    /// A person has said that the next claim may have it.
    given_away: bool,
}

/// The store: what there is, and what there was.
#[derive(Clone, Debug, Default)]
struct Store {
    version: u64,
    disks: Vec<LocalDisk>,
    /// Each with the LocalDisk's name.
    volumes: Vec<Value>,
}

struct World {
    now: Store,
    past: Vec<Store>,
    mounted: Option<usize>,
    contents: [Content; 2],
    claim: Option<String>,
    claims: u32,
    wipe_first: bool,
    attempts: u64,
}

impl World {
    fn new(wipe_first: bool) -> Self {
        let contents = [Content::default(), Content::default()];
        Self {
            now: Store::default(),
            past: Vec::new(),
            mounted: Some(0),
            contents,
            claim: None,
            claims: 0,
            wipe_first,
            attempts: 0,
        }
    }

    fn mark(disk: usize) -> String {
        format!("u{disk}")
    }

    fn which(disk: &LocalDisk) -> usize {
        usize::from(disk.spec.identity.compare(&identity("u1")) == SameDisk::Same)
    }

    fn changed(&mut self) {
        self.past.push(self.now.clone());
        self.now.version += 1;
    }

    fn write_disk(&mut self, disk: LocalDisk) {
        self.changed();
        let version = self.now.version.to_string();
        let mut disk = disk;
        disk.metadata.resource_version = Some(version);
        self.now.disks.retain(|it| it.name() != disk.name());
        self.now.disks.push(disk);
    }

    fn write_volume(&mut self, mut volume: Value) {
        self.changed();
        volume["metadata"]["resourceVersion"] = json!(self.now.version.to_string());
        self.now.volumes.retain(|it| it["metadata"]["name"] != volume["metadata"]["name"]);
        let finalizers = volume["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        let is_bound = volume["status"]["phase"] == "Bound";
        if volume["metadata"]["deletionTimestamp"].is_null() || finalizers || is_bound {
            self.now.volumes.push(volume);
        }
    }

    fn volume(&self, name: &str) -> Option<Value> {
        self.now.volumes.iter().find(|it| it["metadata"]["name"] == name).cloned()
    }

    fn happen(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            // The agent hears of it at once; of what is there only between two looks nobody can know.
            Event::Mount(disk) => {
                self.mounted = disk;
                self.take_up(&self.now.clone());
                self.agent()?;
            }
            Event::Claim => self.bind()?,
            Event::DeleteClaim => self.delete_claim(),
            Event::Policy(delete) => self.edit_any(|volume| {
                volume["spec"]["persistentVolumeReclaimPolicy"] = json!(if delete { "Delete" } else { "Retain" });
            }),
            Event::DeleteVolume => {
                self.edit_any(|volume| {
                    volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                });
            }
            Event::FreeVolume => self.free_volume(),
            Event::Release(how) => self.release(how),
            Event::Agent => self.agent()?,
            Event::Controller(lag) => self.controller(lag),
        }
        Ok(())
    }

    fn bind(&mut self) -> Result<(), TestCaseError> {
        let free = self.now.volumes.iter().find(|volume| {
            volume["status"]["phase"] == "Available"
                && volume["spec"]["claimRef"].is_null()
                && volume["metadata"]["deletionTimestamp"].is_null()
        });
        let (Some(mut volume), None, Some(mounted)) = (free.cloned(), &self.claim, self.mounted) else { return Ok(()) };
        self.claims += 1;
        let uid = format!("c-{}", self.claims);
        volume["spec"]["claimRef"] = json!({ "namespace": "shop", "name": "cart", "uid": uid });
        volume["status"]["phase"] = json!("Bound");
        let name = volume["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.write_volume(volume);
        self.claim = Some(uid.clone());
        // Of a volume whose disk was swapped a moment ago nobody can promise anything: the kubelet mounts what is there.
        let of_volume = self.now.disks.iter().find(|disk| disk.name() == name).map(Self::which);
        let content = &mut self.contents[mounted];
        if of_volume == Some(mounted) {
            prop_assert!(
                content.owners.is_empty() || content.given_away,
                "claim {uid} was given the data of {:?}",
                content.owners
            );
        }
        content.given_away = false;
        content.owners.push(uid);
        Ok(())
    }

    fn delete_claim(&mut self) {
        let Some(uid) = self.claim.take() else { return };
        let bound = self.now.volumes.iter().find(|volume| volume["spec"]["claimRef"]["uid"] == json!(uid)).cloned();
        if let Some(mut volume) = bound {
            volume["status"]["phase"] = json!("Released");
            self.write_volume(volume);
        }
    }

    fn edit_any(&mut self, edit: impl FnOnce(&mut Value)) {
        let Some(mut volume) = self.now.volumes.first().cloned() else { return };
        edit(&mut volume);
        self.write_volume(volume);
    }

    /// Who takes the claim out of a volume by hand gives away what is on its disk.
    fn free_volume(&mut self) {
        let released = self.now.volumes.iter().find(|volume| {
            volume["status"]["phase"] == "Released" && volume["metadata"]["deletionTimestamp"].is_null()
        });
        let Some(mut volume) = released.cloned() else { return };
        volume["spec"]["claimRef"] = Value::Null;
        volume["status"]["phase"] = json!("Available");
        self.write_volume(volume);
        for content in &mut self.contents {
            content.given_away = true;
        }
    }

    fn release(&mut self, how: DiskRelease) {
        let free = self.now.disks.iter().find(|disk| self.volume(disk.name()).is_none() && disk.spec.unclean).cloned();
        let Some(mut disk) = free else { return };
        // Keep and Forget are a person's word that the data may be seen by others.
        if how != DiskRelease::Wipe {
            self.contents[Self::which(&disk)].given_away = true;
        }
        disk.spec.release = Some(how);
        self.write_disk(disk);
    }

    /// The agent: looks at the path, answers, and cleans when the attempt that it asked about is confirmed.
    fn agent(&mut self) -> Result<(), TestCaseError> {
        for disk in self.now.disks.clone() {
            let before = disk.status.clone().unwrap_or_default();
            let here = self.mounted.map(|disk| identity(&Self::mark(disk)));
            let presence = match here.as_ref().map(|here: &DiskIdentity| disk.spec.identity.compare(here)) {
                None => Presence::Absent,
                Some(SameDisk::Same) => Presence::Present,
                Some(SameDisk::Another) => Presence::Another,
                Some(SameDisk::Unknown) => Presence::Unknown,
            };
            let mut status = LocalDiskStatus { presence, capacity_bytes: 5 << 30, ..before.clone() };
            let order = disk.spec.clean.clone().filter(|order| before.cleaned.as_ref() != Some(&order.id));
            if let (Some(order), Presence::Present) = (order, presence) {
                if before.attempt.is_some() && disk.spec.confirmed_attempt == before.attempt {
                    self.cleaned(&disk, &order.id)?;
                    status.cleaned = Some(order.id);
                    status.attempt = None;
                } else {
                    self.attempts += 1;
                    status.attempt = Some(format!("a-{}", self.attempts));
                }
            }
            if status != before {
                self.write_disk(LocalDisk { status: Some(status), ..disk });
            }
        }
        Ok(())
    }

    /// Everything on the disk goes, and what permits it must be so, or have begun for good.
    fn cleaned(&mut self, disk: &LocalDisk, order: &str) -> Result<(), TestCaseError> {
        let in_use = self.claim.as_ref().filter(|claim| self.contents[Self::which(disk)].owners.contains(claim));
        prop_assert!(in_use.is_none(), "the disk of claim {in_use:?} is cleaned by order {order}");
        self.contents[Self::which(disk)] = Content::default();
        Ok(())
    }

    fn controller(&mut self, lag: usize) {
        let cached = self.past.iter().rev().nth(lag.wrapping_sub(1)).filter(|_| lag > 0).unwrap_or(&self.now).clone();
        self.take_up(&cached);
        for disk in &cached.disks {
            let volume = cached.volumes.iter().find(|it| it["metadata"]["name"] == disk.name()).map(read);
            let volume = Lookup::found_or(volume, Lookup::Absent);
            let (class, node) = (Lookup::Found(class()), Lookup::Found(node()));
            let named = |name: &str| cached.volumes.iter().any(|it| it["metadata"]["name"] == name);
            let beside_volume = at_its_place(disk, &cached.disks).any(|other| named(other.name()));
            let facts = DiskFacts {
                volume: &volume,
                class: &class,
                node: &node,
                rule: &Lookup::Found(()),
                neighbour: neighbour(disk, &cached.disks),
                beside_volume,
            };
            self.take_step(disk, &volume, plan(disk, &facts));
        }
    }

    fn take_up(&mut self, cached: &Store) {
        let Some(mounted) = self.mounted else { return };
        let report = found(PATH, &Self::mark(mounted));
        let rule = DiskRule { wipe_before_first_use: self.wipe_first, ..rule() };
        let new = || new_disk(&report, &rule, ("node-a", Some(&"n-1".into())));
        let alike = cached.disks.iter().filter(|disk| disk.spec.identity == report.identity);
        match offer(&report, "node-a", new, &cached.disks, alike) {
            Offer::Create(disk) if self.now.disks.iter().all(|it| it.name() != disk.name()) => {
                let mut disk = *disk;
                disk.metadata.uid = Some(format!("d-{}", self.now.version));
                // Nobody has seen it before, or a person has had it forgotten.
                self.write_disk(disk);
            }
            _ => {}
        }
    }

    /// What the loop around the decisions does: each write has the version that was decided about.
    fn take_step(&mut self, cached: &LocalDisk, cached_volume: &Lookup<Volume>, step: DiskStep) {
        let live = self.now.disks.iter().find(|disk| disk.name() == cached.name()).cloned();
        let Some(live) = live else { return };
        let is_current = live.metadata.resource_version == cached.metadata.resource_version;
        let mut next = cached.clone();
        let volume = self.volume(cached.name());
        match step {
            DiskStep::Nothing | DiskStep::Tell(_) | DiskStep::Change(_) => return,
            DiskStep::Doubt(claim) => {
                (next.spec.unclean, next.spec.claim) = (true, Some(claim));
                (next.spec.clean, next.spec.confirmed_attempt) = (None, None);
            }
            DiskStep::Unsay => next.spec.release = None,
            DiskStep::Publish => return self.publish(&live),
            DiskStep::Record(_) => {
                let Some(volume) = volume.as_ref().map(read) else { return };
                let record = record_of(cached, &volume);
                (next.spec.persistent_volume, next.spec.unclean) = (Some(record.volume), record.unclean);
                next.spec.claim = record.claim.or(next.spec.claim);
            }
            DiskStep::Order(order) => (next.spec.clean, next.spec.confirmed_attempt) = (Some(order), None),
            DiskStep::TakeBack(_) => (next.spec.clean, next.spec.confirmed_attempt) = (None, None),
            DiskStep::Confirm(attempt) => return self.confirm(&live, &attempt),
            DiskStep::Settle | DiskStep::Forget if volume.is_some() => return,
            DiskStep::Forget
                if cached.spec.release != Some(DiskRelease::Forget)
                    && at_its_place(cached, &self.now.disks).any(|other| self.volume(other.name()).is_some()) =>
            {
                return;
            }
            DiskStep::Settle => {
                let is_cleaned = next.is_cleaned();
                let spec = &mut next.spec;
                spec.kept = spec.release == Some(DiskRelease::Keep) || (spec.kept && !is_cleaned);
                spec.cleared_of = spec.claim.as_ref().map(|claim| claim.uid.clone()).or(spec.cleared_of.take());
                (spec.unclean, spec.claim, spec.persistent_volume) = (false, None, None);
                (spec.clean, spec.confirmed_attempt, spec.release) = (None, None, None);
            }
            DiskStep::Forget | DiskStep::LetGo => {
                if is_current {
                    self.changed();
                    self.now.disks.retain(|disk| disk.name() != cached.name());
                }
                return;
            }
            DiskStep::Hold | DiskStep::Let => {
                let (Some(mut volume), Lookup::Found(seen)) = (volume, cached_volume) else { return };
                if read(&volume).metadata.resource_version == seen.metadata.resource_version {
                    let finalizers =
                        if step == DiskStep::Hold { json!([crate::crd::DISK_FINALIZER]) } else { json!([]) };
                    volume["metadata"]["finalizers"] = finalizers;
                    self.write_volume(volume);
                }
                return;
            }
            DiskStep::Withdraw | DiskStep::Release => {
                let Some(mut whole) = volume else { return };
                let volume = read(&whole);
                let permitted = if step == DiskStep::Withdraw {
                    permits_withdrawal(cached, &volume, false)
                } else {
                    permits_release(cached, &volume, &self.owner(&volume))
                };
                if permitted.is_ok() {
                    whole["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                    self.write_volume(whole);
                }
                return;
            }
        }
        if is_current {
            self.write_disk(next);
        }
    }

    fn owner(&self, volume: &Volume) -> Lookup<Claim> {
        let named = volume.claim_uid().map(str::to_owned);
        if named.is_some() && named == self.claim { Lookup::Found(Claim::default()) } else { Lookup::Absent }
    }

    fn publish(&mut self, live: &LocalDisk) {
        let volumes: VolumeSet = self.now.volumes.iter().map(read).collect();
        let node = node();
        let facts = LiveFacts { volumes: &volumes, owner: &Lookup::Unknown, node: Some(&node), alike: &[] };
        if volumes.get(live.name()).is_none() && permits_publication(live, &facts).is_ok() {
            let mut volume =
                serde_json::to_value(disk_volume(live, &class(), &node).unwrap_or_default()).unwrap_or_default();
            volume["metadata"]["uid"] = json!(format!("v-{}", self.now.version));
            volume["status"] = json!({ "phase": "Available" });
            self.write_volume(volume);
        }
    }

    fn confirm(&mut self, live: &LocalDisk, attempt: &str) {
        let asked = live.status.as_ref().and_then(|status| status.attempt.as_deref());
        let volumes: VolumeSet = self.now.volumes.iter().map(read).collect();
        let owner = volumes.get(live.name()).map_or(Lookup::Unknown, |volume| self.owner(volume));
        let node = node();
        let facts = LiveFacts { volumes: &volumes, owner: &owner, node: Some(&node), alike: &[] };
        if asked == Some(attempt) && permits_cleaning(live, &facts).is_ok() {
            let mut next = live.clone();
            next.spec.confirmed_attempt = Some(attempt.to_owned());
            self.write_disk(next);
        }
    }
}

fn read(volume: &Value) -> Volume {
    serde_json::from_value(volume.clone()).unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_data_is_removed_or_given_away_that_should_not_be(
        wipe_first in any::<bool>(),
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut world = World::new(wipe_first);
        for event in events {
            world.happen(event)?;
        }
    }
}

/// Some hundred, and more in the long runs.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

/// A history that ends well gets there: the world above is no place where nothing ever happens.
#[test]
fn a_disk_comes_round_in_a_quiet_world() {
    let mut world = World::new(false);
    for round in 0..3 {
        let turn = |world: &mut World| {
            for _ in 0..12 {
                world.happen(Event::Agent).unwrap();
                world.happen(Event::Controller(0)).unwrap();
            }
        };
        turn(&mut world);
        world.happen(Event::Claim).unwrap();
        assert!(world.claim.is_some(), "round {round}: {:?}", world.now);
        turn(&mut world);
        world.happen(Event::DeleteClaim).unwrap();
        turn(&mut world);
        assert!(world.contents[0].owners.is_empty(), "round {round}: it is clean");
    }
}
