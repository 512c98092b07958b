//! What a Pod says of itself, as the API server shows it.

use k8s_openapi::api::core::v1::Pod;

/// True where the kubelet says that the Pod is ready. What nobody says is not known.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.type_ == "Ready").any(|ready| ready.status == "True")
}
