//! What the rules of pools say of a disk.

use super::context::Context;
use crate::binding::Lookup;
use crate::crd::{DiskRule, LocalDisk};
use crate::model::plain_path;
use crate::model::selector::volume_reachable;
use crate::volumes::disks::adoptable;

/// The rule of a pool that finds disks of a class at a path of a node. Unknown while the pools or the Node are.
pub(super) fn rule_of(context: &Context, node: &str, pool: &str, class: &str, path: &str) -> Lookup<DiskRule> {
    let Some(node) = context.node(node) else { return Lookup::Unknown };
    let pools = context.stores.pools.lookup(&());
    if matches!(pools, Lookup::Unknown) {
        return Lookup::Unknown;
    }
    let Some(pool) = context.stores.pools.get(pool) else { return Lookup::Absent };
    let path = plain_path(path);
    let (above, name) = path.rsplit_once('/').unwrap_or_default();
    let mut rules = pool.spec.disk_rules_on(&node).iter();
    let found = rules
        .find(|rule| rule.storage_class_name == class && plain_path(&rule.directory) == above && rule.is_about(name));
    Lookup::found_or(found.cloned(), Lookup::Absent)
}

/// True for a disk that is as the rule says.
pub(super) fn is_by(disk: &LocalDisk, rule: &DiskRule) -> bool {
    let spec = &disk.spec;
    (spec.volume_mode, spec.access_mode, &spec.fs_type) == (rule.volume_mode, rule.access_mode, &rule.fs_type)
        && (&spec.selector, &spec.labels, &spec.node_labels) == (&rule.selector, &rule.labels, &rule.node_labels)
}

/// The volume that another provisioner has made for a disk, where such are taken over.
pub(super) fn adopted_volume(context: &Context, rule: &DiskRule, path: &str, node: &str) -> Option<String> {
    let node = context.node(node).filter(|_| rule.adopt_volumes)?;
    let of_path = context.live.volumes_at(&plain_path(path)).found()?;
    let mut here = of_path.into_iter().filter(|volume| volume_reachable(volume, &node));
    let volume = here.find(|volume| adoptable(volume, path, &rule.storage_class_name))?;
    Some(volume.name().to_owned())
}

/// The same of a disk that was found before its rule said so.
pub(super) fn newly_adopted(context: &Context, disk: &LocalDisk) -> Option<String> {
    let spec = &disk.spec;
    let rule = rule_of(context, &spec.node_name, &spec.pool, &spec.storage_class_name, &spec.path).found()?;
    adopted_volume(context, &rule, &spec.path, &spec.node_name)
}
