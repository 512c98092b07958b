//! Directories of ours that no LocalVolume names: since when, and how many of them may go.
//!
//! One is removed only if all of this holds: the administrator asked for it, its marker names this cluster, it has been
//! known for long enough, the controller has found no volume and no claim that it belongs to, and not too many went
//! within the last hour. Many at once are more likely a mistake than litter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::crd::{LocalNodeStatus, Orphan, RemovedOrphan};

/// The time that the bound on removals is about.
const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// One part of so many of a node's volumes may go within that time, and at least one directory.
const SHARE: usize = 10;
/// How many are listed in a report: some 8 KiB of an object that is written again and again.
pub(super) const LISTED: usize = 32;

/// A base and the UID of a claim: what tells one directory from another.
type Place = (String, String);

/// What is known of orphans, carried over a restart by the report.
#[derive(Clone, Debug, Default)]
pub(super) struct Orphans {
    found: BTreeMap<Place, (String, Timestamp)>,
    removed: Vec<RemovedOrphan>,
}

/// What is true of the node at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    pub now: Timestamp,
    /// How long one must have been known. `None`: nothing is ever removed.
    pub age: Option<Duration>,
    /// LocalVolumes of the node.
    pub volumes: usize,
    /// Claims whose orphaned directory the controller has ordered to be removed.
    pub ordered: &'a BTreeSet<String>,
}

/// What a report says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub listed: Vec<Orphan>,
    /// How many are due and must wait, since too many are.
    pub held: usize,
}

/// The most that may go within an hour.
pub(super) fn allowance(volumes: usize) -> usize {
    (volumes / SHARE).max(1)
}

impl Orphans {
    /// Takes over what the last report says.
    pub(super) fn restore(&mut self, status: &LocalNodeStatus) {
        for orphan in &status.orphans {
            let place = (orphan.base.clone(), orphan.claim.clone());
            self.found.insert(place, (orphan.path.clone(), orphan.since.0));
        }
        self.removed.clone_from(&status.removed_orphans);
    }

    /// What was found just now: base, claim and path of each. One that was not found is forgotten, so that its time
    /// begins anew.
    pub(super) fn saw(&mut self, now: Timestamp, found: impl IntoIterator<Item = (String, String, String)>) {
        let mut next = BTreeMap::new();
        for (base, claim, path) in found {
            let place = (base, claim);
            let since = self.found.get(&place).filter(|(known, _)| *known == path).map_or(now, |(_, since)| *since);
            next.insert(place, (path, since));
        }
        self.found = next;
    }

    /// What went within the last hour.
    pub(super) fn removed(&mut self, now: Timestamp) -> Vec<RemovedOrphan> {
        // What the future holds is a clock that was set back: it counts.
        self.removed.retain(|removed| now.duration_since(removed.at.0) < HOUR);
        self.removed.clone()
    }

    /// What is to be reported, oldest first, and which of it the controller may order to be removed.
    pub(super) fn plan(&mut self, situation: &Situation<'_>) -> Plan {
        let left = self.left(situation);
        let mut all: Vec<(&Place, &str, Timestamp)> =
            self.found.iter().map(|(place, (path, since))| (place, path.as_str(), *since)).collect();
        all.sort_by_key(|(place, _, since)| (*since, (*place).clone()));
        let mut due: Vec<&Place> = all
            .iter()
            .filter(|(place, _, since)| is_ripe(*since, situation) && !situation.ordered.contains(&place.1))
            .map(|(place, ..)| *place)
            .collect();
        if !due.is_empty() {
            // One that the controller does not release must not stand in the way of the others for ever.
            let turn = usize::try_from(situation.now.as_second() / HOUR.as_secs()).unwrap_or(0);
            let turn = turn % due.len();
            due.rotate_left(turn);
        }
        let may_go: BTreeSet<Place> = due.iter().take(left).map(|place| (*place).clone()).collect();
        let held = due.len() - may_go.len();
        // The ones that may go are listed whatever their number.
        all.sort_by_key(|(place, ..)| !may_go.contains(*place));
        all.truncate(LISTED);
        let mut listed: Vec<Orphan> = all
            .into_iter()
            .map(|(place, path, since)| Orphan {
                base: place.0.clone(),
                claim: place.1.clone(),
                path: path.to_owned(),
                since: Time(since),
                removable: may_go.contains(place),
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
        allowance(situation.volumes).saturating_sub(removed.len() + under_way)
    }

    /// Takes leave to remove one, and notes it. Whoever got it must write [`Self::removed`] down before anything is moved.
    ///
    /// # Errors
    /// Why it must stay.
    pub(super) fn take(&mut self, place: &Place, path: &str, situation: &Situation<'_>) -> Result<(), String> {
        let Some(age) = situation.age else {
            return Err("this agent was not told to remove what no volume names (agent.removeOrphans)".to_owned());
        };
        let known = self.found.get(place).filter(|(known, _)| known == path);
        let Some((_, since)) = known else {
            return Err("it is not known as a directory that no volume names".to_owned());
        };
        if !is_ripe(*since, situation) {
            return Err(format!("it has been known since {since}, which is less than {} s", age.as_secs()));
        }
        let removed = self.removed(situation.now);
        if removed.iter().any(|it| (&it.base, &it.claim) == (&place.0, &place.1)) {
            return Ok(());
        }
        let most = allowance(situation.volumes);
        if removed.len() >= most {
            return Err(format!("{} were removed within the last hour, and {most} may be", removed.len()));
        }
        let (base, claim) = place.clone();
        self.removed.push(RemovedOrphan { base, claim, path: path.to_owned(), at: Time(situation.now) });
        Ok(())
    }
}

fn is_ripe(since: Timestamp, situation: &Situation<'_>) -> bool {
    let known = situation.now.duration_since(since);
    situation.age.is_some_and(|age| SignedDuration::try_from(age).is_ok_and(|age| known >= age))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGE: Duration = Duration::from_secs(24 * 3600);

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
    }

    fn found(count: usize) -> Vec<(String, String, String)> {
        (0..count).map(|number| ("/base".to_owned(), format!("u{number}"), format!("p{number}"))).collect()
    }

    fn situation(hours: i64, volumes: usize, ordered: &BTreeSet<String>) -> Situation<'_> {
        Situation { now: at(hours), age: Some(AGE), volumes, ordered }
    }

    fn place(number: usize) -> Place {
        ("/base".to_owned(), format!("u{number}"))
    }

    #[test]
    fn each_precondition_alone_keeps() {
        let none = BTreeSet::new();
        let mut orphans = Orphans::default();
        orphans.saw(at(0), found(1));
        let removable = |orphans: &mut Orphans, situation: Situation<'_>| orphans.plan(&situation).listed[0].removable;
        assert!(!removable(&mut orphans, situation(23, 5, &none)), "too young");
        assert!(orphans.take(&place(0), "p0", &situation(23, 5, &none)).unwrap_err().contains("known since"));
        assert!(!removable(&mut orphans, Situation { age: None, ..situation(24, 5, &none) }), "nobody asked for it");
        let unasked = orphans.take(&place(0), "p0", &Situation { age: None, ..situation(24, 5, &none) });
        assert!(unasked.unwrap_err().contains("removeOrphans"));
        assert!(orphans.take(&place(1), "p1", &situation(24, 5, &none)).is_err(), "never seen");
        assert!(orphans.take(&place(0), "other", &situation(24, 5, &none)).is_err(), "another path");
        // It was away for a moment: somebody is at work there.
        let mut seen_anew = orphans.clone();
        seen_anew.saw(at(20), found(0));
        seen_anew.saw(at(21), found(1));
        assert!(!removable(&mut seen_anew, situation(30, 5, &none)));
        assert!(removable(&mut orphans, situation(24, 5, &none)));
        orphans.take(&place(0), "p0", &situation(24, 5, &none)).unwrap();
        orphans.take(&place(0), "p0", &situation(24, 5, &none)).expect("an attempt that failed goes on");
    }

    #[test]
    fn what_is_reported_outlives_a_restart() {
        let none = BTreeSet::new();
        let mut before = Orphans::default();
        before.saw(at(0), found(2));
        before.take(&place(0), "p0", &situation(24, 5, &none)).unwrap();
        let status = LocalNodeStatus {
            orphans: before.plan(&situation(24, 5, &none)).listed,
            removed_orphans: before.removed(at(24)),
            ..LocalNodeStatus::default()
        };
        let mut after = Orphans::default();
        after.restore(&status);
        after.saw(at(24), found(2));
        assert!(after.take(&place(1), "p1", &situation(24, 5, &none)).unwrap_err().contains("last hour"));
        after.take(&place(1), "p1", &situation(25, 5, &none)).unwrap();
    }

    #[test]
    fn one_that_is_not_released_lets_the_others_go() {
        let none = BTreeSet::new();
        let mut orphans = Orphans::default();
        orphans.saw(at(0), found(3));
        let offered: BTreeSet<String> = (24..27)
            .flat_map(|hour| orphans.plan(&situation(hour, 0, &none)).listed)
            .filter(|orphan| orphan.removable)
            .map(|orphan| orphan.claim)
            .collect();
        assert_eq!(offered.len(), 3);
    }

    proptest! {
        #[test]
        fn never_more_than_a_tenth_in_any_hour(count in 1_usize..60, volumes in 0_usize..80, steps in 1_i64..40) {
            let none = BTreeSet::new();
            let mut orphans = Orphans::default();
            orphans.saw(at(0), found(count));
            let mut gone: Vec<(usize, i64)> = Vec::new();
            for step in 0..steps {
                // A quarter of an hour each.
                let now = Timestamp::from_second(at(24).as_second() + step * 900).unwrap();
                let situation = Situation { now, age: Some(AGE), volumes, ordered: &none };
                let plan = orphans.plan(&situation);
                let removable = plan.listed.iter().filter(|orphan| orphan.removable).count();
                prop_assert!(removable <= allowance(volumes));
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
            orphans.saw(at(0), found(count));
            let plan = orphans.plan(&situation(24, volumes, &ordered));
            let removable = plan.listed.iter().filter(|orphan| orphan.removable).count();
            prop_assert!(removable + ordered.len() <= allowance(volumes).max(ordered.len()));
            prop_assert!(plan.held + removable + ordered.len() >= count);
            prop_assert!(plan.listed.len() <= LISTED);
        }
    }
}
