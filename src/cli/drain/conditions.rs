//! Conditions of a Node that say that it is being drained, or is. Kubernetes 1.37 has names for them, and leaves them to whoever
//! drains.
//! Source: `k8s.io/api/core/v1/types.go`, `NodeDrainInProgress`, `NodeDrained`.

use std::io::Write as _;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::kubernetes::api::in_time;
use crate::report::style::clean;

const IN_PROGRESS: &str = "DrainInProgress";
const DRAINED: &str = "Drained";
/// The first minor version of Kubernetes 1 that has the names.
const SINCE_MINOR: u32 = 37;

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has begun.
    Begun,
    /// All that it takes has gone.
    Done,
    /// It has ended, and left Pods on the node.
    Left,
    /// It has run out of time.
    TimedOut,
    /// The node takes Pods again.
    Over,
}

/// Writes how far the drain of a node is, where the version has conditions for it. A drain goes on without: who may not write them is
/// told so.
///
/// # Errors
/// When standard error cannot be written.
pub async fn tell(client: &Client, node: &str, intent: &str, progress: Progress) -> std::io::Result<()> {
    if !has_conditions(client).await {
        return Ok(());
    }
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = json!({ "status": { "conditions": conditions(intent, progress, Timestamp::now()) } });
    let written = in_time(nodes.patch_status(node, &PatchParams::default(), &Patch::Strategic(&patch))).await;
    match written {
        Err(error) if !error.is_not_found() => {
            let why = error.to_string();
            writeln!(anstream::stderr(), "the conditions of node/{} say nothing of it: {}", clean(node), clean(&why))
        }
        _ => Ok(()),
    }
}

async fn has_conditions(client: &Client) -> bool {
    let Ok(version) = in_time(client.apiserver_version()).await else { return false };
    is_new_enough(&version.major, &version.minor)
}

/// Some providers write a minor version as `37+`.
fn is_new_enough(major: &str, minor: &str) -> bool {
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    major == "1" && digits.parse::<u32>().is_ok_and(|minor| minor >= SINCE_MINOR)
}

fn conditions(intent: &str, progress: Progress, now: Timestamp) -> Value {
    let one = |kind: &str, status: bool, reason: &str, message: &str| {
        json!({ "type": kind, "status": if status { "True" } else { "False" }, "reason": reason, "message": message,
            "lastTransitionTime": now, "lastHeartbeatTime": now })
    };
    let of_intent = format!("latebind drain --for={intent}");
    let both = |is_running: bool, is_drained: bool, reason: &str, message: &str| {
        json!([one(IN_PROGRESS, is_running, reason, message), one(DRAINED, is_drained, reason, message)])
    };
    match progress {
        Progress::Begun => both(true, false, "LatebindDrain", &of_intent),
        Progress::Done => both(false, true, "LatebindDrain", &of_intent),
        Progress::Left => both(false, false, "PodsLeft", &format!("{of_intent} has left Pods on the node")),
        Progress::TimedOut => both(false, false, "TimedOut", &format!("{of_intent} ran out of time")),
        Progress::Over => {
            let gone = |kind: &str| json!({ "type": kind, "$patch": "delete" });
            json!([gone(IN_PROGRESS), gone(DRAINED)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        for (major, minor, new) in [
            ("1", "36", false),
            ("1", "37", true),
            ("1", "37+", true),
            ("1", "38", true),
            ("1", "", false),
            ("2", "37", false),
        ] {
            assert_eq!(is_new_enough(major, minor), new, "{major}.{minor}");
        }
    }

    #[test]
    fn a_node_is_not_drained_while_it_is_being_drained_or_pods_are_left() {
        for (progress, running, drained) in [
            (Progress::Begun, "True", "False"),
            (Progress::Done, "False", "True"),
            (Progress::Left, "False", "False"),
            (Progress::TimedOut, "False", "False"),
        ] {
            let told = conditions("reboot", progress, Timestamp::UNIX_EPOCH);
            assert_eq!((&told[0]["status"], &told[1]["status"]), (&json!(running), &json!(drained)), "{progress:?}");
        }
    }
}
