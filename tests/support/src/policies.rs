//! Admission policies, which are newer than the oldest version that the tests run on.

use anyhow::{Context, Result, ensure};
use kube::api::PostParams;
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::ApiResource;
use kube::{Api, ResourceExt};
use latebind_cluster::Scope;
use serde_json::{Value, json};

/// The version since which MutatingAdmissionPolicy is served as `v1`.
const SERVED_SINCE: u32 = 36;

/// A kind of admission policies or of their bindings.
#[must_use]
pub fn policy_kind(kind: &str) -> ApiResource {
    let plural = match kind.strip_suffix("Policy") {
        Some(stem) => format!("{}policies", stem.to_lowercase()),
        None => format!("{}s", kind.to_lowercase()),
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind), &plural)
}

/// Whether the API server serves MutatingAdmissionPolicies; says so where it does not.
///
/// # Errors
/// When it serves them and should not, or the other way round.
pub async fn served(scope: &Scope) -> Result<bool> {
    let version = scope.client().apiserver_version().await?;
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    let minor: u32 = digits.parse().with_context(|| format!("{version:?}"))?;
    let listed = scope.client().list_api_group_resources("admissionregistration.k8s.io/v1").await?;
    let served = listed.resources.iter().any(|resource| resource.kind == "MutatingAdmissionPolicy");
    ensure!(served == (minor >= SERVED_SINCE), "1.{minor} serves MutatingAdmissionPolicy v1: {served}");
    if !served {
        eprintln!("1.{minor} has no MutatingAdmissionPolicy v1: not applicable");
    }
    Ok(served)
}

/// Creates a policy and its binding, for the namespace of the test alone. Both go when the test ends.
///
/// # Errors
/// When the API server refuses one of them.
pub async fn create_policy(scope: &Scope, kind: &str, stem: &str, policy: Value, mut binding: Value) -> Result<()> {
    let name = scope.unique(stem);
    binding["policyName"] = json!(name);
    binding["matchResources"] =
        json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": scope.namespace() } } });
    for (kind, spec) in [(kind.to_owned(), policy), (format!("{kind}Binding"), binding)] {
        let resource = policy_kind(&kind);
        let object = json!({
            "apiVersion": resource.api_version, "kind": kind, "metadata": { "name": name }, "spec": spec,
        });
        let api: Api<DynamicObject> = Api::all_with(scope.client(), &resource);
        let created = api.create(&PostParams::default(), &serde_json::from_value(object)?).await;
        let created = created.with_context(|| format!("creating {kind} {name}"))?;
        scope.remember(resource, created.name_any());
    }
    Ok(())
}
