//! Every volume of a cluster as it was at one moment, by name, by LocalVolume and by path.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::persistent_volume::volume_name;
use crate::crd::LocalVolume;
use crate::model::selector::volume_reachable;
use crate::model::{LOCAL_VOLUME, Node, Volume, directories_around, plain_path};

/// All volumes. What is not in it did not exist at that moment; whoever makes one must have listed all of them.
#[derive(Debug, Default)]
pub struct VolumeSet {
    by_name: HashMap<String, Arc<Volume>>,
    /// By the LocalVolume that their annotation names.
    by_local: HashMap<String, Vec<Arc<Volume>>>,
    /// By their path with a slash at the end: what lies beneath a path follows it.
    by_path: BTreeMap<String, Vec<Arc<Volume>>>,
    /// Those that name a path and no LocalVolume.
    foreign: Vec<Arc<Volume>>,
}

impl FromIterator<Volume> for VolumeSet {
    fn from_iter<I: IntoIterator<Item = Volume>>(volumes: I) -> Self {
        let mut set = Self::default();
        for volume in volumes.into_iter().map(Arc::new) {
            let annotation = volume.metadata.annotation(LOCAL_VOLUME);
            if let Some(local) = annotation {
                set.by_local.entry(local.to_owned()).or_default().push(Arc::clone(&volume));
            }
            if let Some(path) = volume.path() {
                set.by_path.entry(beneath(path)).or_default().push(Arc::clone(&volume));
                if annotation.is_none() {
                    set.foreign.push(Arc::clone(&volume));
                }
            }
            set.by_name.insert(volume.name().to_owned(), volume);
        }
        set
    }
}

/// The path with a slash at the end.
fn beneath(path: &str) -> String {
    let plain = plain_path(path);
    if plain == "/" { plain } else { format!("{plain}/") }
}

impl VolumeSet {
    /// A volume by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Volume>> {
        self.by_name.get(name)
    }

    /// A volume of a claim, by its UID: one that the claim is bound to, or one that bears its name.
    #[must_use]
    pub fn of_claim(&self, uid: &str) -> Option<&Arc<Volume>> {
        let named = self.by_name.get(&volume_name(uid));
        named.or_else(|| self.by_name.values().find(|volume| volume.claim_uid() == Some(uid)))
    }

    /// Every volume.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.by_name.values()
    }

    /// The volumes that are this directory's: those whose annotation names it, and the one that it was adopted from; all of
    /// them with its very path.
    #[must_use]
    pub fn of(&self, local: &LocalVolume) -> Vec<&Arc<Volume>> {
        let annotated = self.by_local.get(local.name()).into_iter().flatten();
        let adopted = local.spec.persistent_volume.as_ref().and_then(|seen| {
            let volume = self.by_name.get(&seen.name)?;
            let same = volume.metadata.uid.as_deref() == Some(seen.uid.as_str());
            (same && volume.metadata.annotation(LOCAL_VOLUME).is_none()).then_some(volume)
        });
        let directory = local.directory();
        annotated.chain(adopted).filter(|volume| volume.path().map(plain_path).as_ref() == Some(&directory)).collect()
    }

    /// The volumes that may name this path on the node, or one above or below it. Without the Node nobody can tell where a
    /// volume is, so that any of them may.
    pub fn naming<'a>(&'a self, path: &str, node: Option<&'a Node>) -> impl Iterator<Item = &'a Arc<Volume>> {
        let above: Vec<String> = directories_around(&plain_path(path)).map(beneath).collect();
        let path = beneath(path);
        let below = self.by_path.range::<str, _>((Bound::Included(path.as_str()), Bound::Unbounded));
        let below = below.take_while(move |(other, _)| other.starts_with(path.as_str())).map(|(_, volumes)| volumes);
        let above = above.into_iter().filter_map(|above| self.by_path.get(&above));
        above.chain(below).flatten().filter(move |volume| is_on(volume, node))
    }

    /// The paths that volumes without a LocalVolume may name on the node.
    pub fn foreign_paths<'a>(&'a self, node: Option<&'a Node>) -> impl Iterator<Item = (&'a str, &'a str)> {
        let here = self.foreign.iter().filter(move |volume| is_on(volume, node));
        here.filter_map(|volume| Some((volume.name(), volume.path()?)))
    }
}

fn is_on(volume: &Volume, node: Option<&Node>) -> bool {
    node.is_none_or(|node| volume_reachable(volume, node))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_is_named_by_what_is_above_it_below_it_and_written_otherwise() {
        let set: VolumeSet = ["/base/a", "/base//b/", "/base/c/deep", "/", "/bas", "/base/./d"]
            .iter()
            .enumerate()
            .map(|(number, path)| -> Volume {
                let spec = json!({ "local": { "path": path } });
                serde_json::from_value(json!({ "metadata": { "name": format!("v{number}") }, "spec": spec })).unwrap()
            })
            .collect();
        let naming = |path: &str| {
            let mut names: Vec<&str> = set.naming(path, None).map(|volume| volume.name()).collect();
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(naming("/base/a"), "v0 v3");
        assert_eq!(naming("/base/b"), "v1 v3");
        assert_eq!(naming("/base/c"), "v2 v3");
        assert_eq!(naming("/base/d"), "v3 v5");
        assert_eq!(naming("/base/ab"), "v3");
        assert_eq!(naming("/base"), "v0 v1 v2 v3 v5");
    }
}
