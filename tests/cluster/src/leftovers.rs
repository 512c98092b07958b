//! Removing what a cluster leaves behind once its processes are dead: a link, cgroups and a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::{guard, layout, network};

/// How many clusters' logs stay.
const KEPT: usize = 12;

/// The name under which a cluster's things are found outside of its directory: short enough for a network interface.
pub(crate) fn tag(directory: &Path) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, directory.as_os_str().as_encoded_bytes());
    let mut tag = crate::image::hexadecimal(digest.as_ref());
    tag.truncate(8);
    format!("lb{tag}")
}

/// The cgroup, below each hierarchy's root, that holds the Pods of the cluster's nodes.
pub(crate) fn cgroup(directory: &Path) -> String {
    format!("/latebind-cluster-{}", tag(directory))
}

/// Removes clusters whose guard is gone, and says so.
pub(crate) fn sweep() {
    for entry in fs::read_dir(layout::clusters()).into_iter().flatten().flatten() {
        let directory = entry.path();
        if directory.is_dir() && !guard::is_held(&directory) {
            eprintln!("removing what a crashed run left in {}", directory.display());
            if let Err(error) = remove(&directory) {
                eprintln!("  not all of it: {error:#}");
            }
        }
    }
}

/// Removes all that belongs to a cluster whose processes are dead. The logs stay below `target/cluster-logs`.
pub(crate) fn remove(directory: &Path) -> Result<()> {
    let link = network::host_link(directory);
    if Path::new("/sys/class/net").join(&link).exists() {
        // The kernel removes it too, a little later, when the network namespace is gone.
        Command::new("ip").args(["link", "delete", &link]).status().ok();
    }
    let name = cgroup(directory);
    for hierarchy in hierarchies() {
        remove_cgroups(&hierarchy.join(name.trim_start_matches('/')));
    }
    keep_logs(directory).context("keeping the logs")?;
    fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))
}

/// The root of the unified hierarchy, or of each version 1 hierarchy.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_path_buf()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn remove_cgroups(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    // The kernel says "busy" for a moment after the last process of a cgroup has died.
    for _ in 0..50 {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}

fn keep_logs(directory: &Path) -> Result<()> {
    let (logs, kept) = (directory.join("logs"), layout::kept_logs());
    let Some(name) = directory.file_name().filter(|_| logs.is_dir()) else {
        return Ok(());
    };
    fs::create_dir_all(&kept)?;
    let destination = kept.join(name);
    if destination.exists() {
        fs::remove_dir_all(&destination)?;
    }
    fs::rename(logs, destination)?;
    let mut all: Vec<(SystemTime, PathBuf)> = fs::read_dir(&kept)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    all.sort();
    let surplus = all.len().saturating_sub(KEPT);
    for (_, old) in all.into_iter().take(surplus) {
        fs::remove_dir_all(old)?;
    }
    Ok(())
}
