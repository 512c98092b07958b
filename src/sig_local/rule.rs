//! A class of the old provisioner as a rule that finds the same disks, with an account of each of its keys.

use super::config::{ClassConfig, Config};
use crate::crd::{AccessMode, DiskRule, VolumeMode};
use crate::rancher::{Accounts, Loss};

/// The directory of the scripts that the old provisioner's image has.
const SCRIPTS: &str = "/scripts/";

/// What a class becomes.
pub(super) fn rule(class: &ClassConfig, config: &Config, place: &str, accounts: &mut Accounts) -> DiskRule {
    let is_block = class.volume_mode == VolumeMode::Block;
    for key in &class.given {
        let what = format!("{place}: {key}");
        match *key {
            "blockCleanerCommand" => {}
            "mountDir" => mount_directory(class, what, accounts),
            "accessMode" if is_for_many(class) => {
                let why = "many nodes can only use a disk that they reach: give the rule a `selector`, or the class ReadWriteOnce";
                accounts.changed(what, why);
            }
            "fsType" if is_block => accounts.not_needed(what, "a volume of mode Block has no file system"),
            "namePattern" => {
                accounts.kept(what, if class.names.is_empty() { "every name" } else { "`names` of the rule" });
            }
            "hostDir" => accounts.kept(what, format!("directory {}", class.directory)),
            _ => accounts.kept(what, ""),
        }
    }
    cleaner(class, place, accounts);
    data(class, place, accounts);
    DiskRule {
        storage_class_name: class.name.clone(),
        directory: class.directory.clone(),
        names: class.names.clone(),
        volume_mode: class.volume_mode,
        access_mode: class.access_mode,
        fs_type: class.fs_type.clone().filter(|_| !is_block),
        allow_data: class.is_for_devices(),
        adopt_volumes: true,
        selector: class.selector.clone(),
        labels: config.labels.clone(),
        node_labels: config.node_labels.clone(),
        ..DiskRule::default()
    }
}

/// True for disks that many nodes are to use, and one reaches.
fn is_for_many(class: &ClassConfig) -> bool {
    matches!(class.access_mode, AccessMode::ReadOnlyMany | AccessMode::ReadWriteMany) && class.selector.is_empty()
}

fn mount_directory(class: &ClassConfig, what: String, accounts: &mut Accounts) {
    let why = if class.mounted_at == class.directory {
        "an agent sees a directory where the node has it".to_owned()
    } else {
        format!(
            "{} was its path in a Pod: an agent sees it where the node has it, at {}",
            class.mounted_at, class.directory
        )
    };
    accounts.not_needed(what, why);
}

/// What cleaned devices. Directories were always emptied.
fn cleaner(class: &ClassConfig, place: &str, accounts: &mut Accounts) {
    let what = format!("{place}: blockCleanerCommand");
    let Some(command) = &class.cleaner else {
        if class.is_for_devices() {
            accounts.changed(format!("{what} (not given)"), replaced(&quick()));
        }
        return;
    };
    let script = command.first().and_then(|path| path.strip_prefix(SCRIPTS)).unwrap_or_default();
    match script {
        "quick_reset.sh" => accounts.changed(what, replaced(&quick())),
        "shred.sh" => accounts.changed(what, replaced("shred.sh, which overwrote it with random bytes")),
        "dd_zero.sh" => accounts.changed(what, replaced("dd_zero.sh, which did the same without looking again")),
        "blkdiscard.sh" => {
            accounts.changed(
                what,
                replaced("blkdiscard.sh, which left it to the device whether anything can still be read"),
            );
        }
        _ => {
            let why =
                format!("{}; agents run no commands", replaced(&format!("a command of yours, `{}`", shown(command))));
            accounts.lost(Loss::Scripts, what, why);
        }
    }
}

fn quick() -> String {
    "quick_reset.sh, which made a new file system and left what had been written: cleaning takes longer now".to_owned()
}

fn replaced(before: &str) -> String {
    format!(
        "the agent writes zeros over the whole device and reads it again before it is offered, in place of {before}"
    )
}

fn shown(command: &[String]) -> String {
    command.join(" ").chars().take(64).collect()
}

/// Disks with something on them: the old provisioner never looked.
fn data(class: &ClassConfig, place: &str, accounts: &mut Accounts) {
    let what = format!("{place}: devices with something on them");
    if class.is_for_devices() {
        let why = "they are offered, as before (`allowData: true`); without that field only empty ones are";
        accounts.kept(what, why);
    } else {
        let why = "what is mounted in its directory is offered, as before; for links to devices too set agent.diskDevices, and \
                   `allowData: true` for those that are not empty";
        accounts.changed(what, why);
    }
}
