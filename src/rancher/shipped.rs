//! What products ship: their class and its configuration, for clusters where both are gone already.

use serde_json::{Value, json};

use super::{MICROK8S, MICROK8S_DIRECTORY, RANCHER};

/// A product that ships a provisioner of local volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// k3s, also within k3d.
    K3s,
    /// kind.
    Kind,
    /// minikube, with its addon storage-provisioner-rancher.
    Minikube,
    /// MicroK8s, with its addon hostpath-storage.
    Microk8s,
}

impl Product {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::K3s, Self::Kind, Self::Minikube, Self::Microk8s];

    /// Its name as typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::K3s => "k3s",
            Self::Kind => "kind",
            Self::Minikube => "minikube",
            Self::Microk8s => "microk8s",
        }
    }

    /// Class, whether it is the default one, binding mode, and directory.
    /// Sources: k3s `manifests/local-storage.yaml`; kind `pkg/build/nodeimage/const_storage.go`; minikube
    /// `deploy/addons/storage-provisioner-rancher`; MicroK8s `addons/hostpath-storage/storage.yaml`.
    fn shape(self) -> (&'static str, bool, &'static str, &'static str) {
        const WAIT: &str = "WaitForFirstConsumer";
        match self {
            Self::K3s => ("local-path", true, WAIT, "/var/lib/rancher/k3s/storage"),
            Self::Kind => ("standard", true, WAIT, "/var/local-path-provisioner"),
            Self::Minikube => ("local-path", false, WAIT, "/opt/local-path-provisioner"),
            Self::Microk8s => ("microk8s-hostpath", true, WAIT, MICROK8S_DIRECTORY),
        }
    }

    /// Its class and configuration, with this directory in place of the one that it ships.
    #[must_use]
    pub fn objects(self, directory: Option<&str>) -> Vec<Value> {
        let (class, is_default, mode, shipped) = self.shape();
        let directory = directory.unwrap_or(shipped);
        let annotations = json!({ "storageclass.kubernetes.io/is-default-class": is_default.to_string() });
        let mut class = json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": { "name": class, "annotations": annotations }, "provisioner": RANCHER,
            "reclaimPolicy": "Delete", "volumeBindingMode": mode });
        if self == Self::Microk8s {
            class["provisioner"] = MICROK8S.into();
            class["parameters"] = json!({ "pvDir": directory });
            return vec![class];
        }
        let config = json!({ "nodePathMap": [{ "node": super::config::OTHERS, "paths": [directory] }] });
        let config = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": super::CONFIG_MAP },
            "data": { "config.json": config.to_string() } });
        vec![class, config]
    }
}
