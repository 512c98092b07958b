//! Commands that are typed next. Nothing but fixed words and names of objects goes into one, so that pasting it is safe.

use serde::Serialize;

use crate::binding::{ClaimRemedy, Row, VolumeVerdict};
use crate::model::{SELECTED_NODE, is_object_name};

/// A command to type next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The command line.
    pub command: String,
    /// What it does.
    pub why: String,
    /// It removes the cause; the others only show something.
    pub fixes: bool,
}

/// A command that shows something; nothing where a name is none.
pub(super) fn show(names: &[&str], command: String, why: &str) -> Option<Step> {
    are_names(names).then(|| Step { command, why: why.to_owned(), fixes: false })
}

/// A command that removes the cause; nothing where a name is none.
pub(super) fn fix(names: &[&str], command: String, why: &str) -> Option<Step> {
    are_names(names).then(|| Step { command, why: why.to_owned(), fixes: true })
}

/// The command that does for a claim of a Pod what the rescue loop would.
#[must_use]
pub fn for_claim(decided: &VolumeVerdict, namespace: &str) -> Option<String> {
    let claim = decided.claim.as_deref()?;
    match &decided.remedy {
        ClaimRemedy::SelectNode { node } if are_names(&[claim, namespace, node]) => {
            // Only a node that is gone is replaced: what the scheduler has selected meanwhile is to stay.
            let replace = if decided.row == Row::SelectedNodeGone { " --overwrite" } else { "" };
            Some(format!("kubectl annotate pvc {claim} -n {namespace} {SELECTED_NODE}={node}{replace}"))
        }
        ClaimRemedy::Unselect => unselect(namespace, claim),
        ClaimRemedy::Prebind { volume } if are_names(&[claim, namespace, volume]) => {
            let patch = format!(r#"{{"spec":{{"claimRef":{{"namespace":"{namespace}","name":"{claim}"}}}}}}"#);
            Some(format!("kubectl patch pv {volume} --type=merge -p '{patch}'"))
        }
        _ => None,
    }
}

/// The command that takes the selected node off a claim.
#[must_use]
pub fn unselect(namespace: &str, claim: &str) -> Option<String> {
    are_names(&[claim, namespace]).then(|| format!("kubectl annotate pvc {claim} -n {namespace} {SELECTED_NODE}-"))
}

/// The words of `kubectl describe` for an object.
pub(super) fn describe(kind: &str, namespace: &str, name: &str, why: &str) -> Option<Step> {
    if namespace.is_empty() {
        show(&[name], format!("kubectl describe {kind} {name}"), why)
    } else {
        show(&[name, namespace], format!("kubectl describe {kind} {name} -n {namespace}"), why)
    }
}

/// A name that is none may be anything, and goes into no command.
fn are_names(names: &[&str]) -> bool {
    names.iter().all(|name| is_object_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(row: Row, remedy: ClaimRemedy) -> VolumeVerdict {
        let claim = Some("data".to_owned());
        VolumeVerdict { volume: "v".into(), claim, row, stuck: true, says: String::new(), remedy, undecided: false }
    }

    #[test]
    fn what_is_no_name_goes_into_no_command() {
        let select =
            |row, node: &str| for_claim(&decided(row, ClaimRemedy::SelectNode { node: node.to_owned() }), "default");
        assert!(select(Row::Dynamic, "node-a").is_some_and(|command| command.ends_with("/selected-node=node-a")));
        assert!(select(Row::SelectedNodeGone, "node-a").is_some_and(|command| command.ends_with(" --overwrite")));
        assert_eq!(select(Row::Dynamic, "a; rm -rf ."), None);
        assert_eq!(for_claim(&decided(Row::SelectedStatic, ClaimRemedy::Unselect), "$(x)"), None);
        assert_eq!(describe("pod", "default", "a b", ""), None);
    }
}
