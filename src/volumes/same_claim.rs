//! Whether a claim takes back the directory that an earlier one of its namespace and name has left. Where that is in doubt it
//! gets nothing, rather than a new, empty directory.

use std::sync::Arc;

use crate::crd::{EXISTING_DIRECTORY, Kept, KeptDirectory, LocalVolume, READY, condition};

/// What there is of earlier claims of one namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    /// Their LocalVolumes, of classes that leave directories in their place.
    pub locals: Vec<Arc<Kept<LocalVolume>>>,
    /// Directories that reports list, each with the name of its node.
    pub kept: Vec<(String, KeptDirectory)>,
}

/// What a claim gets of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Existing {
    /// There is nothing: a new directory is made.
    Nothing,
    /// This directory of this node.
    TakeBack(String, KeptDirectory),
    /// The directory of the earlier claim is being marked as kept.
    Wait,
    /// It is in doubt what the claim should get.
    Refuse(String),
}

/// Decides for a claim of this UID; `clusters` are the earlier ones whose directories count too.
#[must_use]
pub fn existing(uid: &str, clusters: &[String], earlier: &Earlier) -> Existing {
    let kept: Vec<&(String, KeptDirectory)> = earlier.kept.iter().filter(|(_, it)| it.claim != uid).collect();
    for local in earlier.locals.iter().filter(|local| local.spec.claim.uid != uid) {
        let is_listed = kept.iter().any(|(_, it)| it.cluster.is_empty() && it.claim == local.spec.claim.uid);
        match (local.is_disposed(), is_under_way(local)) {
            (true, _) if is_listed => {}
            // The report that lists it is about to come.
            (true, _) | (false, true) => return Existing::Wait,
            (false, false) => return Existing::Refuse(not_released(local)),
        }
    }
    match kept.as_slice() {
        [] => Existing::Nothing,
        [(node, directory)] if directory.cluster.is_empty() || clusters.contains(&directory.cluster) => {
            Existing::TakeBack(node.clone(), directory.clone())
        }
        [(node, directory)] => Existing::Refuse(format!(
            "{} on node {node} was left by a claim of this name in cluster {}, which the class does not name: add it to adoptClusters if \
             that cluster is no more and its data is wanted, else remove the directory and its marker .latebind/volumes/{}",
            directory.directory(),
            directory.cluster,
            directory.claim
        )),
        several => {
            let named: Vec<String> =
                several.iter().map(|(node, directory)| format!("{} on node {node}", directory.directory())).collect();
            Existing::Refuse(format!(
                "earlier claims of this name have left more than one directory: {}; remove those that are not wanted, each with its \
                 marker in .latebind/volumes",
                named.join(", ")
            ))
        }
    }
}

/// It is ordered that the directory be marked, and its agent has no complaint.
fn is_under_way(local: &LocalVolume) -> bool {
    let conditions = local.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let refused = condition(conditions, READY).is_some_and(|ready| ready.status == "False");
    local.spec.disposal_of.is_some() && !refused
}

fn not_released(local: &LocalVolume) -> String {
    let volume = local.spec.persistent_volume.as_ref().map(|seen| seen.name.as_str());
    format!(
        "{} on node {} is that of an earlier claim of this name, and is not kept yet: look at {} and LocalVolume {}",
        local.directory(),
        local.spec.node_name,
        volume.map_or_else(|| "its volume".to_owned(), |name| format!("volume {name}")),
        local.name()
    )
}

/// Its agent has made nothing, since a directory that an earlier claim has left is there and in its report: the order goes, and
/// is given anew with that directory.
#[must_use]
pub fn is_superseded(local: &LocalVolume) -> bool {
    let Some(status) = local.status.as_ref().filter(|status| status.base_id.is_none()) else { return false };
    local.spec.same_claim.is_some()
        && condition(&status.conditions, READY)
            .is_some_and(|ready| ready.status == "False" && ready.reason == EXISTING_DIRECTORY)
}
