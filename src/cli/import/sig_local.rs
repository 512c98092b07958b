//! `latebind import sig-local`.

use std::collections::BTreeSet;
use std::io::Write;

use serde_json::{Value, json};

use super::super::Exit;
use super::super::cluster::ClusterArgs;
use super::{live, print};
use crate::rancher::{Loss, lost};
use crate::sig_local::{CLASS_MAP, Import, Input, import};

/// Imports the objects of files, or of a cluster.
pub(super) fn run(
    objects: Vec<(String, Value)>,
    cluster: Option<&ClusterArgs>,
    is_check: bool,
    accepted: &BTreeSet<Loss>,
) -> anyhow::Result<Exit> {
    let mut input = if cluster.is_some() { Input::of_cluster() } else { Input::default() };
    let objects = match cluster {
        Some(cluster) => live::sig_local(cluster, CLASS_MAP)?,
        None => objects.into_iter().map(|(_, object)| object).collect(),
    };
    for object in objects {
        input.add(object);
    }
    let made = import(&input)?;
    let has_nothing = made.pools.is_empty();
    if is_check {
        print::check(&made.accounts, accepted, (!has_nothing).then(|| flags(&made)).as_deref())?;
    } else {
        if !has_nothing {
            values(&made)?;
        }
        print::manifests(&made.pools, &made.classes)?;
        print::differences(&made.accounts, has_nothing)?;
    }
    let is_lost = lost(&made.accounts, accepted).next().is_some();
    Ok(if is_lost || has_nothing { Exit::Findings } else { Exit::Clean })
}

/// The values of the chart that the pools need, as flags.
fn flags(made: &Import) -> String {
    let paths = print::list_flag("agent.diskPaths", made.disk_paths().into_iter());
    if made.needs_devices() { format!("{paths} --set agent.diskDevices=true") } else { paths }
}

/// The same as a comment above the manifests.
fn values(made: &Import) -> anyhow::Result<()> {
    let mut agent = json!({ "diskPaths": made.disk_paths() });
    if made.needs_devices() {
        agent["diskDevices"] = true.into();
    }
    let mut out = anstream::stdout().lock();
    writeln!(out, "# Values of the chart that these pools need:")?;
    for line in serde_saphyr::to_string(&json!({ "agent": agent }))?.lines() {
        writeln!(out, "#   {line}")?;
    }
    Ok(())
}
