//! Directories of ours that no LocalVolume names: since when, and how many of them may go.
//!
//! One is removed only if all of this holds: the administrator asked for it, its marker names this cluster and does not
//! say that its volume was retained, it has been seen for long enough, the store knows all that the disk knows, the
//! controller has found no volume and no claim that it belongs to, and not too many went within the last hour. Many at
//! once are more likely a mistake than litter.
//!
//! Time is what this process has run, by a clock that nobody sets, and what was written down on the disk of the time
//! before. The time of day is shown to people and decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::disk::records::Ages;
use crate::crd::{LocalNodeStatus, Orphan, RemovedOrphan, orphan_allowance};

/// The time that the bound on removals is about.
const HOUR: Duration = Duration::from_secs(3600);
/// How many are listed in a report: some 8 KiB of an object that is written again and again.
pub(super) const LISTED: usize = 32;

/// A base and the UID of a claim: what tells one directory from another.
type Place = (String, String);

/// A directory that no LocalVolume names, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub base: String,
    pub claim: String,
    pub path: String,
    /// Its marker says that its volume was retained.
    pub retained: bool,
    /// For how long it was seen before this process began, as the disk says.
    pub age_before: Duration,
}

#[derive(Clone, Debug)]
struct Known {
    path: String,
    retained: bool,
    /// For people.
    since: Timestamp,
    age_before: Duration,
    /// When this process saw it first.
    from: Moment,
}

impl Known {
    fn age(&self, now: Moment) -> Duration {
        self.age_before + now.saturating_sub(self.from)
    }
}

/// The time that this process has run.
pub(super) type Moment = Duration;

/// What is known of orphans.
#[derive(Clone, Debug, Default)]
pub(super) struct Orphans {
    found: BTreeMap<Place, Known>,
    /// Since when, as the last report before this process says.
    since: BTreeMap<Place, (String, Timestamp)>,
    /// What was removed, and when.
    removed: Vec<(RemovedOrphan, Moment)>,
}

/// What is true of the node at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    pub now: Moment,
    /// The time of day.
    pub today: Timestamp,
    /// How long one must have been seen. `None`: nothing is ever removed.
    pub age: Option<Duration>,
    /// LocalVolumes of the node.
    pub volumes: usize,
    /// Claims whose orphaned directory the controller has ordered to be removed.
    pub ordered: &'a BTreeSet<String>,
    /// Why nothing may go, whatever its age: the store does not know all that the disks know.
    pub held_by: Option<&'a str>,
}

/// What a report says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub listed: Vec<Orphan>,
    /// How many are due and must wait, since too many are.
    pub held: usize,
}

impl Orphans {
    /// Takes over what the last report says. What was removed counts for a whole hour again: how long ago it was, only
    /// the time of day tells.
    pub(super) fn restore(&mut self, status: &LocalNodeStatus, now: Moment) {
        for orphan in &status.orphans {
            let place = (orphan.base.clone(), orphan.claim.clone());
            self.since.insert(place, (orphan.path.clone(), orphan.since.0));
        }
        self.removed = status.removed_orphans.iter().map(|removed| (removed.clone(), now)).collect();
    }

    /// What was found just now. One that was not found is forgotten, so that its time begins anew.
    pub(super) fn saw(&mut self, now: Moment, today: Timestamp, found: impl IntoIterator<Item = Found>) {
        let mut next = BTreeMap::new();
        for Found { base, claim, path, retained, age_before } in found {
            let place = (base, claim);
            let known = if let Some(known) = self.found.remove(&place).filter(|known| known.path == path) {
                Known { retained, ..known }
            } else {
                let since = self.since.get(&place).filter(|(known, _)| *known == path).map(|(_, since)| *since);
                Known { path, retained, since: since.unwrap_or(today), age_before, from: now }
            };
            next.insert(place, known);
        }
        self.since.clear();
        self.found = next;
    }

    /// For how long each one of a base was seen.
    pub(super) fn ages(&self, base: &str, now: Moment) -> Ages {
        let mut ages = Ages::default();
        for ((_, claim), known) in self.found.iter().filter(|((of, _), _)| of == base) {
            ages.insert(claim, &known.path, known.age(now));
        }
        ages
    }

    /// What went within the last hour.
    pub(super) fn removed(&mut self, now: Moment) -> Vec<RemovedOrphan> {
        self.removed.retain(|(_, at)| now.saturating_sub(*at) < HOUR);
        self.removed.iter().map(|(removed, _)| removed.clone()).collect()
    }

    /// What is to be reported, oldest first, and which of it the controller may order to be removed.
    pub(super) fn plan(&mut self, situation: &Situation<'_>) -> Plan {
        let left = self.left(situation);
        let mut all: Vec<(&Place, &Known)> = self.found.iter().collect();
        all.sort_by_key(|(place, known)| (known.since, (*place).clone()));
        let may_be_due = |known: &Known| !known.retained && is_ripe(known, situation);
        let mut due: Vec<&Place> = all
            .iter()
            .filter(|(place, known)| may_be_due(known) && !situation.ordered.contains(&place.1))
            .map(|(place, _)| *place)
            .collect();
        if !due.is_empty() {
            // One that the controller does not release must not stand in the way of the others forever.
            let turn = usize::try_from(situation.now.as_secs() / HOUR.as_secs()).unwrap_or(0);
            let turn = turn % due.len();
            due.rotate_left(turn);
        }
        let left = if situation.held_by.is_some() { 0 } else { left };
        let may_go: BTreeSet<Place> = due.iter().take(left).map(|place| (*place).clone()).collect();
        let held = due.len() - may_go.len();
        // The ones that may go are listed whatever their number.
        all.sort_by_key(|(place, _)| !may_go.contains(*place));
        all.truncate(LISTED);
        let mut listed: Vec<Orphan> = all
            .into_iter()
            .map(|(place, known)| Orphan {
                base: place.0.clone(),
                claim: place.1.clone(),
                path: known.path.clone(),
                since: Time(known.since),
                removable: may_go.contains(place),
                retained: known.retained,
            })
            .collect();
        listed.sort_by(|a, b| (a.since.0, &a.base, &a.claim).cmp(&(b.since.0, &b.base, &b.claim)));
        Plan { listed, held }
    }

    /// How many more may be ordered.
    fn left(&mut self, situation: &Situation<'_>) -> usize {
        let removed = self.removed(situation.now);
        let gone: BTreeSet<&String> = removed.iter().map(|it| &it.claim).collect();
        let under_way = situation.ordered.iter().filter(|claim| !gone.contains(claim)).count();
        orphan_allowance(situation.volumes).saturating_sub(removed.len() + under_way)
    }

    /// Takes leave to remove one, and notes it. Whoever got it must write [`Self::removed`] down before anything is moved.
    ///
    /// # Errors
    /// Why it must stay.
    pub(super) fn take(&mut self, place: &Place, path: &str, situation: &Situation<'_>) -> Result<(), String> {
        let Some(age) = situation.age else {
            return Err("this agent was not told to remove what no volume names (agent.removeOrphans)".to_owned());
        };
        if let Some(why) = situation.held_by {
            return Err(why.to_owned());
        }
        let Some(known) = self.found.get(place).filter(|known| known.path == path) else {
            return Err("it is not known as a directory that no volume names".to_owned());
        };
        if known.retained {
            return Err("its marker says that its volume was retained".to_owned());
        }
        if !is_ripe(known, situation) {
            let seen = known.age(situation.now).as_secs();
            return Err(format!("it has been seen for {seen} s, which is less than {} s", age.as_secs()));
        }
        let removed = self.removed(situation.now);
        if removed.iter().any(|it| (&it.base, &it.claim) == (&place.0, &place.1)) {
            return Ok(());
        }
        let most = orphan_allowance(situation.volumes);
        if removed.len() >= most {
            return Err(format!("{} were removed within the last hour, and {most} may be", removed.len()));
        }
        let (base, claim) = place.clone();
        let removed = RemovedOrphan { base, claim, path: path.to_owned(), at: Time(situation.today) };
        self.removed.push((removed, situation.now));
        Ok(())
    }
}

fn is_ripe(known: &Known, situation: &Situation<'_>) -> bool {
    situation.age.is_some_and(|age| known.age(situation.now) >= age)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGE: Duration = Duration::from_secs(24 * 3600);

    fn at(hours: u64) -> Moment {
        Duration::from_secs(hours * 3600)
    }

    const TODAY: Timestamp = Timestamp::UNIX_EPOCH;

    fn found(count: usize) -> Vec<Found> {
        (0..count).map(|number| found_one(number, Duration::ZERO)).collect()
    }

    fn found_one(number: usize, age_before: Duration) -> Found {
        let (base, claim, path) = ("/base".to_owned(), format!("u{number}"), format!("p{number}"));
        Found { base, claim, path, retained: false, age_before }
    }

    fn situation(hours: u64, volumes: usize, ordered: &BTreeSet<String>) -> Situation<'_> {
        Situation { now: at(hours), today: TODAY, age: Some(AGE), volumes, ordered, held_by: None }
    }

    fn place(number: usize) -> Place {
        ("/base".to_owned(), format!("u{number}"))
    }

    #[test]
    fn each_precondition_alone_keeps() {
        let none = BTreeSet::new();
        let mut orphans = Orphans::default();
        orphans.saw(at(0), TODAY, found(1));
        let removable = |orphans: &mut Orphans, situation: Situation<'_>| orphans.plan(&situation).listed[0].removable;
        assert!(!removable(&mut orphans, situation(23, 5, &none)), "too young");
        assert!(
            orphans
                .take(&place(0), "p0", &situation(23, 5, &none))
                .unwrap_err()
                .contains("it has been seen for 82800 s")
        );
        assert!(!removable(&mut orphans, Situation { age: None, ..situation(24, 5, &none) }), "nobody asked for it");
        let unasked = orphans.take(&place(0), "p0", &Situation { age: None, ..situation(24, 5, &none) });
        assert!(unasked.unwrap_err().contains("removeOrphans"));
        assert!(orphans.take(&place(1), "p1", &situation(24, 5, &none)).is_err(), "never seen");
        assert!(orphans.take(&place(0), "other", &situation(24, 5, &none)).is_err(), "another path");
        // It was away for a moment: somebody is at work there.
        let mut seen_anew = orphans.clone();
        seen_anew.saw(at(20), TODAY, found(0));
        seen_anew.saw(at(21), TODAY, found(1));
        assert!(!removable(&mut seen_anew, situation(30, 5, &none)));
        assert!(removable(&mut orphans, situation(24, 5, &none)));
        orphans.take(&place(0), "p0", &situation(24, 5, &none)).unwrap();
        orphans.take(&place(0), "p0", &situation(24, 5, &none)).expect("an attempt that failed goes on");
    }

    #[test]
    fn what_is_reported_outlives_a_restart() {
        let none = BTreeSet::new();
        let mut before = Orphans::default();
        before.saw(at(0), TODAY, found(2));
        before.take(&place(0), "p0", &situation(24, 5, &none)).unwrap();
        let status = LocalNodeStatus {
            orphans: before.plan(&situation(24, 5, &none)).listed,
            removed_orphans: before.removed(at(24)),
            ..LocalNodeStatus::default()
        };
        let mut after = Orphans::default();
        // Its clock begins anew, and the disk says how long they were seen.
        after.restore(&status, at(0));
        after.saw(at(0), Timestamp::MAX, (0..2).map(|number| found_one(number, AGE)));
        assert!(after.take(&place(1), "p1", &situation(0, 5, &none)).unwrap_err().contains("last hour"));
        after.take(&place(1), "p1", &situation(1, 5, &none)).unwrap();
        assert_eq!(after.plan(&situation(1, 5, &none)).listed[0].since.0, TODAY, "as it was said before");
    }

    #[test]
    fn the_time_of_day_ages_nothing_and_a_restart_takes_up_what_was_written_down() {
        let none = BTreeSet::new();
        let mut orphans = Orphans::default();
        orphans.saw(at(0), TODAY, found(1));
        // A board without a clock battery learns the time.
        orphans.saw(at(1), Timestamp::MAX, found(1));
        let later = Situation { today: Timestamp::MAX, ..situation(1, 5, &none) };
        assert!(!orphans.plan(&later).listed[0].removable);
        assert!(orphans.take(&place(0), "p0", &later).is_err());
        let ages = orphans.ages("/base", at(10));
        assert_eq!((ages.get("u0", "p0"), ages.get("u0", "other"), ages.get("u1", "p1")), (at(10), at(0), at(0)));
        let mut after = Orphans::default();
        after.saw(at(0), TODAY, [found_one(0, ages.get("u0", "p0"))]);
        assert!(!after.plan(&situation(13, 5, &none)).listed[0].removable);
        assert!(after.plan(&situation(14, 5, &none)).listed[0].removable);
    }

    #[test]
    fn what_was_retained_or_may_be_unknown_to_the_store_is_never_removable() {
        let none = BTreeSet::new();
        let mut orphans = Orphans::default();
        orphans.saw(at(0), TODAY, [Found { retained: true, ..found_one(0, AGE) }, found_one(1, AGE)]);
        let plan = orphans.plan(&situation(9, 5, &none));
        let said: Vec<_> = plan.listed.iter().map(|orphan| (orphan.retained, orphan.removable)).collect();
        assert_eq!((said, plan.held), (vec![(true, false), (false, true)], 0));
        assert!(orphans.take(&place(0), "p0", &situation(9, 5, &none)).unwrap_err().contains("retained"));
        let restored = Situation { held_by: Some("the store is older"), ..situation(9, 5, &none) };
        let plan = orphans.plan(&restored);
        assert!(plan.held == 1 && plan.listed.iter().all(|orphan| !orphan.removable));
        assert!(orphans.take(&place(1), "p1", &restored).unwrap_err().contains("older"));
    }

    #[test]
    fn one_that_is_not_released_lets_the_others_go() {
        let none = BTreeSet::new();
        let mut orphans = Orphans::default();
        orphans.saw(at(0), TODAY, found(3));
        let offered: BTreeSet<String> = (24..27)
            .flat_map(|hour| orphans.plan(&situation(hour, 0, &none)).listed)
            .filter(|orphan| orphan.removable)
            .map(|orphan| orphan.claim)
            .collect();
        assert_eq!(offered.len(), 3);
    }

    proptest! {
        #[test]
        fn never_more_than_a_tenth_in_any_hour(count in 1_usize..60, volumes in 0_usize..80, steps in 1_u64..40) {
            let none = BTreeSet::new();
            let mut orphans = Orphans::default();
            orphans.saw(at(0), TODAY, found(count));
            let mut gone: Vec<(usize, u64)> = Vec::new();
            for step in 0..steps {
                // A quarter of an hour each.
                let now = at(24) + Duration::from_secs(step * 900);
                let situation = Situation { now, ..situation(24, volumes, &none) };
                let plan = orphans.plan(&situation);
                let removable = plan.listed.iter().filter(|orphan| orphan.removable).count();
                prop_assert!(removable <= orphan_allowance(volumes));
                for number in 0..count {
                    if !gone.iter().any(|(known, _)| *known == number)
                        && orphans.take(&place(number), &format!("p{number}"), &situation).is_ok() {
                        gone.push((number, step));
                    }
                }
                let recent = gone.iter().filter(|(_, at)| step - at < 4).count();
                prop_assert!(recent <= (volumes / 10).max(1), "{recent} of {volumes}");
            }
            prop_assert!(!gone.is_empty());
        }

        #[test]
        fn what_is_under_way_counts(count in 1_usize..60, volumes in 0_usize..200, ordered in 0_usize..10) {
            let ordered: BTreeSet<String> = (0..ordered.min(count)).map(|number| format!("u{number}")).collect();
            let mut orphans = Orphans::default();
            orphans.saw(at(0), TODAY, found(count));
            let plan = orphans.plan(&situation(24, volumes, &ordered));
            let removable = plan.listed.iter().filter(|orphan| orphan.removable).count();
            prop_assert!(removable + ordered.len() <= orphan_allowance(volumes).max(ordered.len()));
            prop_assert!(plan.held + removable + ordered.len() >= count);
            prop_assert!(plan.listed.len() <= LISTED);
        }
    }
}
