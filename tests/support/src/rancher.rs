//! The real rancher local-path provisioner, built from its Go module, installed as its own manifest or a product's does.

use anyhow::Result;
use latebind_cluster::Cluster;
use latebind_cluster::image::{self, BUSYBOX, Image};
use serde_json::{Value, json};

/// Where its own manifest installs it.
pub const NAMESPACE: &str = "local-path-storage";
/// Where that one makes directories on each node.
pub const BASE: &str = "/opt/local-path-provisioner";
const IMAGE: &str = "localhost/local-path-provisioner:v0.0.30";
const ACCOUNT: &str = "local-path-provisioner-service-account";

/// What differs between those who ship it.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Where it runs.
    pub namespace: &'static str,
    /// The name that it is given, if any.
    pub provisioner: Option<&'static str>,
    /// Its class.
    pub class: &'static str,
    /// Where it makes directories.
    pub base: &'static str,
    /// Labels of every object.
    pub labels: &'static [(&'static str, &'static str)],
    /// What the setup script does besides making the directory.
    pub setup: &'static str,
}

/// Its own manifest; RKE2 and minikube have the same.
pub const MANIFEST: Shape =
    Shape { namespace: NAMESPACE, provisioner: None, class: "local-path", base: BASE, labels: &[], setup: "" };

impl Shape {
    /// The name that classes have.
    #[must_use]
    pub fn provisioner(&self) -> &'static str {
        self.provisioner.unwrap_or("rancher.io/local-path")
    }

    fn metadata(&self, name: &str, namespaced: bool) -> Value {
        let labels: serde_json::Map<String, Value> =
            self.labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let mut metadata = json!({ "name": name, "labels": labels });
        if namespaced {
            metadata["namespace"] = self.namespace.into();
        }
        metadata
    }

    /// A class of it.
    #[must_use]
    pub fn class_object(&self, name: &str, parameters: &Value) -> Value {
        json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": self.metadata(name, false),
            "provisioner": self.provisioner(), "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete", "parameters": parameters })
    }

    /// What the product removes when the provisioner is switched off: Deployment, ConfigMap and class.
    #[must_use]
    pub fn objects(&self) -> Vec<Value> {
        let config = json!({ "nodePathMap": [{ "node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [self.base] }] });
        let helper = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "helper-pod" }, "spec": {
            "containers": [{ "name": "helper-pod", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent" }] } });
        let labels = json!({ "app": "local-path-provisioner" });
        let mut arguments = vec!["--debug", "start", "--config", "/etc/config/config.json"];
        if let Some(name) = self.provisioner {
            arguments.extend(["--provisioner-name", name]);
        }
        vec![
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": self.metadata("local-path-config", true),
              "data": {
                  "config.json": config.to_string(),
                  "setup": format!("#!/bin/sh\nset -eu\nmkdir -m 0777 -p \"$VOL_DIR\"\n{}", self.setup),
                  "teardown": "#!/bin/sh\nset -eu\nrm -rf \"$VOL_DIR\"\n",
                  "helperPod.yaml": helper.to_string(),
              } }),
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": self.metadata("local-path-provisioner", true),
              "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": {
                  "metadata": { "labels": labels },
                  "spec": { "serviceAccountName": ACCOUNT, "containers": [{
                      "name": "local-path-provisioner", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                      "args": arguments,
                      "env": [{ "name": "POD_NAMESPACE", "value": self.namespace },
                          { "name": "CONFIG_MOUNT_PATH", "value": "/etc/config/" }],
                      "volumeMounts": [{ "name": "config", "mountPath": "/etc/config/" }] }],
                  "volumes": [{ "name": "config", "configMap": { "name": "local-path-config" } }] } } } }),
            self.class_object(self.class, &json!({})),
        ]
    }

    /// What it needs besides: namespace, account and rights.
    #[must_use]
    pub fn surroundings(&self) -> Vec<Value> {
        vec![
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace } }),
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": ACCOUNT, "namespace": self.namespace } }),
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
              "metadata": { "name": format!("local-path-provisioner-{}", self.namespace) },
              "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
              "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": self.namespace }] }),
        ]
    }
}

/// Has every node know the image.
pub async fn import_image(cluster: &Cluster) -> Result<()> {
    let archive = cluster.directory().join("rancher-image.tar");
    let binary = latebind_cluster::rancher_provisioner()?;
    let image = Image::new(IMAGE).file("/local-path-provisioner", binary).entrypoint(&["/local-path-provisioner"]);
    image::archive(&[image], &archive)?;
    for node in cluster.nodes() {
        node.import(&archive).await?;
    }
    Ok(())
}

/// Applies objects.
pub async fn apply(cluster: &Cluster, objects: Vec<Value>) -> Result<()> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    cluster.kubectl_with_input(&["apply", "-f", "-"], &list.to_string()).await?.success().map(drop)
}

/// Waits until it runs.
pub async fn running(cluster: &Cluster, namespace: &str) -> Result<()> {
    let arguments =
        ["--namespace", namespace, "rollout", "status", "--timeout=90s", "deployment/local-path-provisioner"];
    cluster.kubectl(&arguments).await?.success().map(drop)
}

/// Installs it as its own manifest does, with two more classes.
pub async fn install(cluster: &Cluster) -> Result<()> {
    import_image(cluster).await?;
    let mut objects = [MANIFEST.surroundings(), MANIFEST.objects()].concat();
    objects.push(MANIFEST.class_object("local-path-key", &json!({ "nodeAffinityKey": "test.example.com/stable-id" })));
    let pattern = json!({ "pathPattern": "{{ .PVC.Namespace }}/{{ .PVC.Name }}", "nodePath": BASE });
    objects.push(MANIFEST.class_object("local-path-pattern", &pattern));
    apply(cluster, objects).await?;
    running(cluster, NAMESPACE).await
}
