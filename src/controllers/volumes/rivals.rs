//! Whether another provisioner of an adopted name still runs.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::kubernetes::api::{ApiError, in_time};
use crate::rancher::{MICROK8S, RANCHER};

/// Pods that are another provisioner of an adopted name, as `namespace/name`: two of them would work against each other.
///
/// # Errors
/// When Pods cannot be listed.
pub async fn running_provisioners(client: &Client, adopted: &str) -> Result<Vec<String>, ApiError> {
    /// What the API server sends at once.
    const PAGE: u32 = 500;
    let pods: Api<Pod> = Api::all(client.clone());
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = in_time(pods.list(&page)).await?;
        let rivals = listed.items.iter().filter(|pod| is_rival(pod, adopted));
        found.extend(rivals.map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())));
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// By the name that it is given, and where it is given none, by its image.
fn is_rival(pod: &Pod, adopted: &str) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return false;
    }
    let image = match adopted {
        RANCHER => Some("local-path-provisioner"),
        MICROK8S => Some("hostpath-provisioner"),
        // Any other name is one that it was given.
        _ => None,
    };
    pod.spec.iter().flat_map(|spec| &spec.containers).any(|container| {
        let env = container.env.iter().flatten().find(|it| it.name == "PROVISIONER_NAME");
        let words: Vec<&str> = container.command.iter().chain(&container.args).flatten().map(String::as_str).collect();
        let after = |at: usize| words.get(at + 1).copied();
        let flag = words.iter().enumerate().find_map(|(at, word)| match *word {
            "--provisioner-name" => after(at),
            word => word.strip_prefix("--provisioner-name="),
        });
        // latebind itself is told the name by another flag.
        if let Some(name) = flag.or(env.and_then(|it| it.value.as_deref())) {
            return name == adopted;
        }
        let path = container.image.as_deref().unwrap_or_default();
        let path = path.split('@').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        image.is_some() && last.split(':').next() == image
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn another_provisioner_is_known_by_its_name_or_its_image() {
        let rival = |container: Value| {
            let spec = json!({ "containers": [{ "name": "other" }, container] });
            is_rival(&serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap(), RANCHER)
        };
        let with = |image: &str, args: Value| rival(json!({ "name": "c", "image": image, "args": args }));
        assert!(with("docker.io/rancher/local-path-provisioner:v0.0.30", json!(["start"])));
        assert!(with("mirror:5000/local-path-provisioner@sha256:00", json!([])));
        assert!(with("my/build", json!(["start", "--provisioner-name", "rancher.io/local-path"])));
        let named = json!([{ "name": "PROVISIONER_NAME", "value": "rancher.io/local-path" }]);
        assert!(rival(json!({ "name": "c", "image": "x", "env": named })));
        assert!(!with("rancher/local-path-provisioner", json!(["--provisioner-name=example.org/other"])));
        assert!(!with("ghcr.io/latebind/latebind", json!(["run", "--adopt=rancher.io/local-path"])));
        assert!(!with("shop/cart:1", json!([])));
        let named = |name: &str, adopted: &str| {
            let container = json!({ "name": "c", "image": "rancher/local-path-provisioner", "args": ["start", "--provisioner-name", name] });
            is_rival(
                &serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": [container] } })).unwrap(),
                adopted,
            )
        };
        assert!(named("cluster.local/x-local-path-provisioner", "cluster.local/x-local-path-provisioner"));
        assert!(!named("rancher.io/local-path", "cluster.local/x-local-path-provisioner"));
    }
}
