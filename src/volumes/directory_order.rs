//! Which directory is ordered for a claim on a node: a new one, or what an earlier claim of its name has left.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::claim::{ClaimStep, Deciding, NodeOutcome, Patience, refuse};
use super::order::usable;
use super::pattern::Names;
use super::persistent_volume::{local_volume, volume_name};
use super::placement::{NodeObstacle, choose_path};
use super::same_claim::{Existing, existing};
use crate::binding::Lookup;
use crate::crd::{ClaimIdentity, KeptDirectory, LocalPool, LocalVolumeSpec, PoolPath, SameClaim, TakeBack, VolumePath};
use crate::model::selector::volume_reachable;
use crate::model::{Node, Relation, Text, Volume, directories_around, plain_path};

/// The most paths of other volumes that an order carries; the schema allows no more.
const MAX_OTHER_PATHS: usize = 1024;

const EARLIER_UNKNOWN: &str = "what earlier claims of this name have left is not known, since a LocalVolume or LocalNode cannot be read: \
                               nothing is made in its place";

impl Deciding<'_> {
    /// What an earlier claim of the same name has left for this one.
    fn existing(&self) -> Existing {
        let Some(clusters) = &self.parameters.adopt_existing else { return Existing::Nothing };
        match self.view.earlier(self.claim) {
            Lookup::Found(earlier) => existing(self.uid, clusters, &earlier),
            Lookup::Absent => Existing::Nothing,
            Lookup::Unknown => Existing::Refuse(EARLIER_UNKNOWN.to_owned()),
        }
    }

    /// The node of what is taken back, where nobody chose one.
    pub(super) fn node_of_existing(&self) -> Option<Result<Arc<Node>, NodeObstacle>> {
        let Existing::TakeBack(name, _) = self.existing() else { return None };
        Some(self.view.node(&name).found().ok_or(NodeObstacle::Gone(name)))
    }

    /// Chooses a path and the directory's name, or takes both from what an earlier claim has left.
    pub(super) fn reserve(&self, pool: &LocalPool, node: &Node) -> NodeOutcome {
        let usable = usable(&self.search(pool), node, self.view)?;
        let kept = match self.existing() {
            Existing::Nothing => None,
            Existing::Wait => return Ok(ClaimStep::Wait(Patience::Moment)),
            Existing::Refuse(why) => return Ok(refuse(why, true)),
            Existing::TakeBack(name, kept) if name == node.name() => Some(kept),
            Existing::TakeBack(kept_on, kept) => {
                let node = node.name().to_owned();
                return Err(NodeObstacle::KeptElsewhere { node, kept_on, directory: kept.directory() });
            }
        };
        if let Some(kept) = kept {
            let Some(at) = usable.into_iter().find(|candidate| candidate.path.path == kept.base) else {
                let why = format!("{} is to be taken back, and is in none that can be used", kept.directory());
                let (pool, node) = (self.parameters.pool.clone(), node.name().to_owned());
                return Err(NodeObstacle::NotUsable { pool, node, why });
            };
            return Ok(self.take_back(&kept, at.path, node));
        }
        let path = choose_path(&pool.spec, node, usable, self.bytes)?.path;
        let (claim, parameters) = (self.claim, self.parameters);
        let volume = volume_name(self.uid);
        let names = Names {
            namespace: claim.namespace(),
            claim: claim.name(),
            uid: self.uid,
            volume: &volume,
            class: self.class.name(),
        };
        let directory = match parameters.pattern.render(&names) {
            Ok(directory) => directory,
            Err(error) => return Ok(refuse(format!("class {}: {error}", self.class.name()), false)),
        };
        match self.around(&directory.beneath(&path.path), node) {
            Lookup::Found(other) => {
                let path = directory.beneath(&path.path);
                return Ok(refuse(
                    format!(
                        "node {}: {path} would lie inside the directory of another volume, {}, or be the same: change the pathPattern of \
                         class {}, or the name of the claim",
                        node.name(),
                        other.name(),
                        self.class.name()
                    ),
                    true,
                ));
            }
            Lookup::Unknown => return Ok(ClaimStep::Wait(Patience::Person)),
            Lookup::Absent => {}
        }
        Ok(self.order(node, path, &directory, None))
    }

    /// The directory of an earlier claim, unless a volume names it, one above it or one below it.
    fn take_back(&self, kept: &KeptDirectory, base: PoolPath, node: &Node) -> ClaimStep {
        let shown = kept.directory();
        let directory = match VolumePath::parse(&kept.path) {
            Ok(directory) => directory,
            Err(error) => return refuse(format!("node {}: {shown} is not taken back: {error}", node.name()), true),
        };
        let others = self.other_paths(node);
        let other = match self.around(&shown, node) {
            Lookup::Found(volume) => Some(format!("volume {}", volume.name())),
            Lookup::Unknown => return ClaimStep::Wait(Patience::Person),
            Lookup::Absent => {
                let below = others.iter().find(|path| Relation::of(&shown, plain_path(path)) == Relation::Around);
                below.map(|path| format!("a volume at {path}"))
            }
        };
        if let Some(other) = other {
            let why = format!(
                "node {}: {shown}, which an earlier claim of this name has left, is not taken back: {other} names it, or a directory above \
                 or below it",
                node.name()
            );
            return refuse(why, true);
        }
        let from = TakeBack { claim: kept.claim.clone(), cluster: kept.cluster.clone() };
        self.order(node, base, &directory, Some(from))
    }

    fn order(&self, node: &Node, base: PoolPath, directory: &VolumePath, take_back: Option<TakeBack>) -> ClaimStep {
        let (claim, parameters) = (self.claim, self.parameters);
        let clusters = parameters.adopt_existing.clone();
        ClaimStep::Reserve(Box::new(local_volume(LocalVolumeSpec {
            node_name: node.name().to_owned(),
            node_uid: Text::or_empty(node.metadata.uid.as_ref()),
            pool: parameters.pool.clone(),
            base: base.path,
            path: directory.to_string(),
            require_mount: base.require_mount,
            shared_file_system: parameters.shared_file_system,
            bytes: self.bytes,
            claim: ClaimIdentity {
                namespace: claim.namespace().to_owned(),
                name: claim.name().to_owned(),
                uid: self.uid.to_owned(),
            },
            mode: parameters.mode.clone(),
            uid: parameters.uid,
            gid: parameters.gid,
            on_delete: parameters.on_delete,
            same_claim: clusters.map(|clusters| SameClaim { clusters, take_back }),
            reclaim: parameters.reclaim,
            other_paths: self.other_paths(node),
            ..LocalVolumeSpec::default()
        })))
    }

    /// A volume on the node whose directory this one is, or would lie in.
    fn around(&self, directory: &str, node: &Node) -> Lookup<Arc<Volume>> {
        let plain = plain_path(directory);
        // A volume of the whole node is nobody's directory, and would stop every claim there.
        let around = directories_around(&plain).filter(|directory| *directory != "/");
        for directory in std::iter::once(plain.as_str()).chain(around) {
            match self.view.volumes_at(directory) {
                Lookup::Found(volumes) => {
                    if let Some(volume) = volumes.into_iter().find(|volume| volume_reachable(volume, node)) {
                        return Lookup::Found(volume);
                    }
                }
                Lookup::Absent => {}
                Lookup::Unknown => return Lookup::Unknown,
            }
        }
        Lookup::Absent
    }

    /// What the agent has to tell the new directory apart from: links lead where no text says.
    fn other_paths(&self, node: &Node) -> Vec<String> {
        let foreign = self.view.foreign_volumes_on(node, MAX_OTHER_PATHS).found().unwrap_or_default();
        let here = foreign.iter().filter(|volume| volume_reachable(volume, node));
        let paths: BTreeSet<&str> = here.filter_map(|volume| volume.path()).collect();
        paths.into_iter().take(MAX_OTHER_PATHS).map(str::to_owned).collect()
    }
}
