//! The patch that carries out a remedy.

use latebind::admission::patch::operations;
use latebind::binding::{Pin, Remedy};
use latebind::model::{ORIGINAL_NODE_NAME, Pod};
use serde_json::Value;

use crate::timed;

/// A Pod as JSON.
///
/// Every patch applies to the Pod that it was made for, takes the node name away, keeps it in the annotation, changes
/// nothing that was not asked for, and has nothing left to do afterwards.
pub fn patch(data: &[u8]) {
    let Ok(before) = serde_json::from_slice::<Value>(data) else { return };
    let Ok(pod) = timed("Pod", || serde_json::from_value::<Pod>(before.clone())) else { return };
    let Some(node) = pod.pinned_node().map(str::to_owned) else { return };
    for pin in [Pin::Hostname("n".to_owned()), Pin::Name(node.clone())] {
        let remedy = Remedy::Rewrite { pin };
        let mut after = before.clone();
        let applied = json_patch::patch(&mut after, &timed("operations", || operations(&pod, &remedy)));
        applied.unwrap_or_else(|error| panic!("the patch does not apply: {error}\n{before}"));
        let rewritten = serde_json::from_value::<Pod>(after.clone());
        let rewritten = rewritten.unwrap_or_else(|error| panic!("the patched Pod cannot be read: {error}\n{after}"));
        assert_eq!(rewritten.pinned_node(), None, "{after}");
        assert_eq!(after["metadata"]["annotations"][ORIGINAL_NODE_NAME].as_str(), Some(&*node), "{after}");
        assert!(operations(&rewritten, &remedy).0.is_empty(), "a second patch for {after}");
        let whole = |value: &Value, keys: &[&str]| {
            let mut value = value.clone();
            for key in keys {
                if let Some(field) = value.pointer_mut(key) {
                    field.take();
                }
            }
            value
        };
        let spec = |value: &Value| {
            let mut spec = value["spec"].as_object().cloned().unwrap_or_default();
            spec.retain(|key, _| !["nodeName", "nodeSelector", "affinity"].contains(&key.as_str()));
            spec
        };
        assert_eq!(spec(&before), spec(&after), "more of the spec was changed");
        let outside = ["/spec", "/metadata"];
        assert_eq!(whole(&before, &outside), whole(&after, &outside), "more than metadata and spec was changed");
    }
    let volumes = pod.spec.volumes.iter().map(|volume| volume.name.to_string()).collect();
    let mut after = before.clone();
    let applied = json_patch::patch(&mut after, &operations(&pod, &Remedy::SelectInTemplate { volumes }));
    applied.unwrap_or_else(|error| panic!("the patch does not apply: {error}\n{before}"));
}
