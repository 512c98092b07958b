//! PodDisruptionBudgets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;

use super::metadata::{Metadata, metadata};
use super::selector::{label_selector_matches, labels};
use super::{Pod, null_as_default};

/// A PodDisruptionBudget: how many of which Pods may be evicted.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Budget {
    /// Name and namespace.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// Which Pods.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: BudgetSpec,
    /// How many, as the controller manager has counted.
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: BudgetStatus,
}

/// `spec` of a PodDisruptionBudget.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct BudgetSpec {
    /// The Pods by label, in the budget's namespace. An empty one selects all of them, and none selects none.
    #[serde(default)]
    pub selector: Option<LabelSelector>,
}

/// `status` of a PodDisruptionBudget.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// How many Pods may be evicted now. Of a budget that nobody has counted yet it is none.
    #[serde(default, deserialize_with = "null_as_default")]
    pub disruptions_allowed: i32,
}

impl Budget {
    /// Name of the budget.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name()
    }

    /// True when an eviction of the Pod asks this budget. One of a Pod that is Pending asks none.
    /// Source: `pkg/registry/core/pod/storage/eviction.go`, `getPodDisruptionBudgets`, `canIgnorePDB`.
    #[must_use]
    pub fn protects(&self, pod: &Pod) -> bool {
        let selects = |selector: &LabelSelector| label_selector_matches(selector, labels(pod.metadata.labels.as_ref()));
        pod.status.phase != "Pending"
            && pod.is_live()
            && self.metadata.namespace() == pod.namespace()
            && self.spec.selector.as_ref().is_some_and(selects)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_budget_is_asked_about_running_pods_of_its_namespace_that_it_selects() {
        let budget = |spec: Value| -> Budget {
            serde_json::from_value(json!({ "metadata": { "name": "b", "namespace": "n" }, "spec": spec })).unwrap()
        };
        let pod = |namespace: &str, phase: &str| -> Pod {
            serde_json::from_value(
                json!({ "metadata": { "name": "p", "namespace": namespace, "labels": { "app": "x" } },
                "status": { "phase": phase } }),
            )
            .unwrap()
        };
        let of_app = budget(json!({ "selector": { "matchLabels": { "app": "x" } } }));
        assert!(of_app.protects(&pod("n", "Running")));
        assert!(!of_app.protects(&pod("m", "Running")) && !of_app.protects(&pod("n", "Pending")));
        assert!(budget(json!({ "selector": {} })).protects(&pod("n", "Running")), "an empty one selects all");
        assert!(!budget(json!({})).protects(&pod("n", "Running")), "none selects none");
        assert!(!budget(json!({ "selector": { "matchLabels": { "app": "y" } } })).protects(&pod("n", "Running")));
        assert_eq!(budget(json!({})).status.disruptions_allowed, 0);
    }
}
