//! The real rancher local-path provisioner, built from its Go module, installed as its own manifest does.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use latebind_cluster::image::{self, BUSYBOX, Image};
use latebind_cluster::{Cluster, project_root, target_directory};
use serde_json::json;

pub const NAMESPACE: &str = "local-path-storage";
pub const BASE: &str = "/opt/local-path-provisioner";
const IMAGE: &str = "localhost/local-path-provisioner:v0.0.30";

/// The binary; built the first time, which takes some minutes.
fn binary() -> Result<PathBuf> {
    let directory = target_directory().join("rancher");
    let built = directory.join("local-path-provisioner");
    if !built.is_file() {
        std::fs::create_dir_all(&directory)?;
        let mut go = Command::new("go");
        go.current_dir(project_root().join("tests/migrate")).env("CGO_ENABLED", "0");
        go.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"]).arg(&directory).arg("tool");
        ensure!(go.status().context("`go` does not start")?.success(), "the build of rancher's provisioner failed");
    }
    Ok(built)
}

/// Installs it.
pub async fn install(cluster: &Cluster) -> Result<()> {
    let archive = target_directory().join("rancher/image.tar");
    let image = Image::new(IMAGE).file("/local-path-provisioner", binary()?).entrypoint(&["/local-path-provisioner"]);
    image::archive(&[image], &archive)?;
    for node in cluster.nodes() {
        node.import(&archive).await?;
    }
    cluster.kubectl_with_input(&["apply", "-f", "-"], &manifest().to_string()).await?.success()?;
    let arguments =
        ["--namespace", NAMESPACE, "rollout", "status", "--timeout=90s", "deployment/local-path-provisioner"];
    cluster.kubectl(&arguments).await?.success().map(drop)
}

fn manifest() -> serde_json::Value {
    let config = json!({ "nodePathMap": [{ "node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [BASE] }] });
    let helper = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "helper-pod" }, "spec": {
        "containers": [{ "name": "helper-pod", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent" }] } });
    let class = |name: &str, parameters: serde_json::Value| {
        json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": name },
            "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete", "parameters": parameters })
    };
    let account = "local-path-provisioner-service-account";
    let labels = json!({ "app": "local-path-provisioner" });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } },
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": account, "namespace": NAMESPACE } },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
          "metadata": { "name": "local-path-provisioner" },
          "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
          "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": NAMESPACE }] },
        { "apiVersion": "v1", "kind": "ConfigMap",
          "metadata": { "name": "local-path-config", "namespace": NAMESPACE },
          "data": {
              "config.json": config.to_string(),
              "setup": "#!/bin/sh\nset -eu\nmkdir -m 0777 -p \"$VOL_DIR\"\n",
              "teardown": "#!/bin/sh\nset -eu\nrm -rf \"$VOL_DIR\"\n",
              "helperPod.yaml": helper.to_string(),
          } },
        { "apiVersion": "apps/v1", "kind": "Deployment",
          "metadata": { "name": "local-path-provisioner", "namespace": NAMESPACE },
          "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": {
              "metadata": { "labels": labels },
              "spec": { "serviceAccountName": account, "containers": [{
                  "name": "local-path-provisioner", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                  "args": ["--debug", "start", "--config", "/etc/config/config.json"],
                  "env": [{ "name": "POD_NAMESPACE", "value": NAMESPACE },
                      { "name": "CONFIG_MOUNT_PATH", "value": "/etc/config/" }],
                  "volumeMounts": [{ "name": "config", "mountPath": "/etc/config/" }] }],
              "volumes": [{ "name": "config", "configMap": { "name": "local-path-config" } }] } } } },
        class("local-path", json!({})),
        class("local-path-key", json!({ "nodeAffinityKey": "test.example.com/stable-id" })),
        class("local-path-pattern",
            json!({ "pathPattern": "{{ .PVC.Namespace }}/{{ .PVC.Name }}", "nodePath": BASE })),
    ] })
}
