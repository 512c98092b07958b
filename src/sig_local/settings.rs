//! Keys that are about how the old provisioner works, and not about which disks it offers.

use super::config::Config;
use crate::rancher::{Accounts, Loss};

const TAINT_IS_ON: &str = "removeNodeNotReadyTaint";

/// Names each of them, and what becomes of it.
pub(super) fn account(config: &Config, place: &str, accounts: &mut Accounts) {
    for (key, value) in &config.settings {
        let what = format!("{place}: {key}: {value}");
        match (is_missed(config, key), why(key)) {
            (true, why) => accounts.lost(Loss::Entries, what, why),
            (false, _) if value == "false" => accounts.not_needed(what, "it is off"),
            (false, why) => accounts.not_needed(what, why),
        }
    }
}

/// True for what did something that nothing does any more.
fn is_missed(config: &Config, key: &str) -> bool {
    match key {
        "setPVOwnerRef" | TAINT_IS_ON => config.is_on(key),
        "provisionerNotReadyNodeTaintKey" => config.is_on(TAINT_IS_ON),
        _ => false,
    }
}

fn why(key: &str) -> &'static str {
    match key {
        "useAlphaAPI" => "volumes have their node affinity in a field, as in every version of Kubernetes since 1.10",
        "useJobForCleaning" => "the agent of the node cleans, and makes no Jobs",
        "jobTolerations" => "there are no Jobs to clean disks",
        "minResyncPeriod" => "it is about the old provisioner's own list of volumes",
        "useNodeNameOnly" => "it is about the old provisioner's own name: a disk is told by what it is, and where",
        "setPVOwnerRef" => {
            "volumes are not owned by Node objects: a Node that is deleted and registers again would take the volumes of its disks \
             along, which are all still there; for nodes that are gone see docs/drain.md"
        }
        TAINT_IS_ON => {
            "no taint is taken from a node whose disks are ready: remove it by other means, or do not set it"
        }
        _ => "no taint is taken from a node whose disks are ready",
    }
}
