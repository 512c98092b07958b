//! What LocalVolumes take of each path of each node, and how many a node has, as sums that every change keeps up to date: to
//! choose a path, and to know how many orphans may go, costs the same however many volumes there are.

use std::collections::HashMap;

use crate::crd::{LocalVolume, Origin, orphan_allowance};

/// What LocalVolumes take of one path of a node. Sums of more than 2^64 sizes would be needed to overflow one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many there are.
    pub volumes: usize,
    /// Bytes that they asked for together.
    pub bytes: i128,
    /// Bytes that those asked for whose directories are not made yet.
    pub pending_bytes: i128,
}

/// The sums of every path, by node and base. Paths without volumes take no room in it.
#[derive(Debug, Default)]
pub struct TakenByPath(HashMap<String, HashMap<String, Taken>>);

impl TakenByPath {
    /// Counts a LocalVolume.
    pub fn add(&mut self, local: &LocalVolume) {
        let paths = self.0.entry(local.spec.node_name.clone()).or_default();
        let taken = paths.entry(local.spec.base.clone()).or_default();
        let bytes = i128::from(local.spec.bytes);
        taken.volumes += 1;
        taken.bytes += bytes;
        taken.pending_bytes += if local.is_ready() { 0 } else { bytes };
    }

    /// Takes out one that was counted, as it was then.
    pub fn remove(&mut self, local: &LocalVolume) {
        let Some(paths) = self.0.get_mut(&local.spec.node_name) else { return };
        let Some(taken) = paths.get_mut(&local.spec.base) else { return };
        let bytes = i128::from(local.spec.bytes);
        taken.volumes = taken.volumes.saturating_sub(1);
        taken.bytes -= bytes;
        taken.pending_bytes -= if local.is_ready() { 0 } else { bytes };
        if taken.volumes == 0 {
            paths.remove(&local.spec.base);
        }
        if paths.is_empty() {
            self.0.remove(&local.spec.node_name);
        }
    }

    /// What is taken of a path.
    #[must_use]
    pub fn of(&self, node: &str, base: &str) -> Taken {
        self.0.get(node).and_then(|paths| paths.get(base)).copied().unwrap_or_default()
    }
}

/// How many LocalVolumes a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    volumes: usize,
    /// Orders to remove a directory that no volume names.
    orphans: usize,
}

/// The LocalVolumes of each node, counted. Nodes without any take no room in it.
#[derive(Debug, Default)]
pub struct CountByNode(HashMap<String, Count>);

impl CountByNode {
    /// Counts a LocalVolume.
    pub fn add(&mut self, local: &LocalVolume) {
        let count = self.0.entry(local.spec.node_name.clone()).or_default();
        if local.spec.origin == Origin::Orphan {
            count.orphans += 1;
        } else {
            count.volumes += 1;
        }
    }

    /// Takes out one that was counted, as it was then.
    pub fn remove(&mut self, local: &LocalVolume) {
        let Some(count) = self.0.get_mut(&local.spec.node_name) else { return };
        let of = if local.spec.origin == Origin::Orphan { &mut count.orphans } else { &mut count.volumes };
        *of = of.saturating_sub(1);
        if *count == Count::default() {
            self.0.remove(&local.spec.node_name);
        }
    }

    /// How many more orphans may be ordered away from a node.
    #[must_use]
    pub fn orphans_left(&self, node: &str) -> usize {
        let count = self.0.get(node).copied().unwrap_or_default();
        orphan_allowance(count.volumes).saturating_sub(count.orphans)
    }
}

impl<'a> FromIterator<&'a LocalVolume> for TakenByPath {
    fn from_iter<I: IntoIterator<Item = &'a LocalVolume>>(locals: I) -> Self {
        let mut taken = Self::default();
        for local in locals {
            taken.add(local);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::crd::LocalVolumeSpec;

    type Sample = (u8, u8, i64, bool, bool);

    fn local((node, base, bytes, ready, is_orphan): Sample) -> LocalVolume {
        let spec =
            LocalVolumeSpec { node_name: format!("n{node}"), base: format!("/b{base}"), bytes, ..Default::default() };
        let mut local = LocalVolume::new("v", spec);
        local.spec.origin = if is_orphan { Origin::Orphan } else { Origin::Made };
        let conditions = json!({ "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" },
            "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
        local.status = Some(serde_json::from_value(conditions).unwrap());
        local
    }

    proptest! {
        #[test]
        fn sums_are_what_counting_anew_says(
            all in proptest::collection::vec((0_u8..3, 0_u8..2, 0_i64..i64::MAX, any::<bool>(), any::<bool>()), 0..20),
            gone in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut left: Vec<LocalVolume> = all.into_iter().map(local).collect();
            let mut taken: TakenByPath = left.iter().collect();
            let mut count = CountByNode::default();
            for local in &left {
                count.add(local);
            }
            for index in gone {
                if !left.is_empty() {
                    let local = left.swap_remove(index.index(left.len()));
                    taken.remove(&local);
                    count.remove(&local);
                }
            }
            let anew: TakenByPath = left.iter().collect();
            prop_assert_eq!(taken.0, anew.0);
            for node in ["n0", "n1", "n2"] {
                let of_node = left.iter().filter(|local| local.spec.node_name == node);
                let (orphans, volumes): (Vec<_>, Vec<_>) =
                    of_node.partition(|local| local.spec.origin == Origin::Orphan);
                prop_assert_eq!(count.orphans_left(node), orphan_allowance(volumes.len()).saturating_sub(orphans.len()));
            }
            for local in &left {
                count.remove(local);
            }
            prop_assert!(count.0.is_empty());
        }
    }
}
