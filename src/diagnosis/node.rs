//! What is wrong with a node, as far as volumes and the Pods that name it go.

use super::cause::Cause;
use super::command::{describe, show};
use super::found::{Found, Line};
use super::known::Known;
use super::record::Kind;
use super::{local, pod};
use crate::binding::Lookup;

/// Why a node is as it is; the first Pod that waits there speaks for it where the node itself is well.
pub(super) fn of_node(name: &str, known: &Known<'_>) -> Found {
    let node = match known.node(name) {
        Lookup::Found(node) => node,
        Lookup::Absent => {
            let summary = format!("There is no node {name:?}.");
            let look = show(&[], "kubectl get nodes".to_owned(), "Lists the nodes there are.");
            return Found::new(Cause::NodeGone, summary).then(look);
        }
        Lookup::Unknown => {
            let summary = format!("Node {name:?} is not known.");
            let look = show(&[name], format!("kubectl get node {name} -o yaml"), "Shows the node.");
            return Found::new(Cause::NotKnown, summary).not_knowing(known.missing(Kind::Nodes, "")).then(look);
        }
    };
    if !node.is_ready() {
        let summary = format!(
            "Node {name:?} is not ready: its kubelet does not report, or says so itself. No volume is mounted there, and no Pod starts."
        );
        return Found::new(Cause::NodeNotReady, summary).then(describe(
            "node",
            "",
            name,
            "Shows the node's conditions.",
        ));
    }
    if known.record.local_node(name).is_some()
        && let Some(found) = local::node_trouble(name, None, known)
    {
        return found;
    }
    let here = known.record.pods().filter(|pod| pod.pinned_node() == Some(name));
    let blocked = here.map(|pod| (pod, pod::of_pod(pod, known))).find(|(_, found)| found.cause.blocks());
    if let Some((pod, found)) = blocked {
        let summary = format!(
            "Node {name:?} is well, and Pod {}/{} waits there. {}",
            pod.namespace(),
            pod.display_name(),
            found.summary
        );
        return Found { summary, ..found };
    }
    let cordoned =
        node.spec.unschedulable.then(|| Line::new(format!("node/{name}"), "is cordoned: it takes no new Pods"));
    let found = match known.missing(Kind::Pods, "") {
        None => Found::new(Cause::Healthy, format!("Node {name:?} is ready, and no Pod waits there.")),
        Some(missing) => {
            let summary = format!("Node {name:?} is ready. Whether a Pod waits there is not known: {missing}.");
            let look = show(
                &[name],
                format!("kubectl get pods -A --field-selector spec.nodeName={name}"),
                "Lists the Pods of the node.",
            );
            Found::new(Cause::NotKnown, summary).not_knowing([missing]).then(look)
        }
    };
    found.with(cordoned).not_knowing(known.missing(Kind::LocalNodes, ""))
}
