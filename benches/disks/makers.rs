//! What offers disks, how it is installed, and what its processes take.

use anyhow::{Result, ensure};
use latebind_cluster::image::{self, Image};
use latebind_cluster::{Cluster, Node};
use latebind_test_support::chart::{NAMESPACE, render};
use latebind_test_support::objects::{self, NO_PROVISIONER};
use latebind_test_support::process::{self, Cost};
use latebind_test_support::rancher::apply;
use serde_json::json;

const OURS: &str = "localhost/latebind:bench";
const PEER: &str = "localhost/local-volume-provisioner:bench";
const PEERS_NAMESPACE: &str = "static-provisioner";

/// One process.
pub struct Part {
    /// `on each node`, or `once a cluster`.
    pub place: &'static str,
    /// Resident, in MiB.
    pub memory: f64,
    /// Bytes that its Pod has received over the network since it began.
    pub received: f64,
}

/// Who makes the volumes.
pub enum Maker {
    /// sig-storage-local-static-provisioner.
    Peer,
    /// latebind.
    Latebind,
}

impl Maker {
    /// The class of its volumes.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Latebind => "latebind",
        }
    }

    /// Where it looks for disks.
    pub fn directory(&self) -> String {
        format!("/mnt/disks/{}", self.class())
    }

    /// Its processes now.
    pub async fn seen(&self, node: &Node) -> Result<Vec<Part>> {
        // A process that ends in between leaves an incomplete paragraph, which is skipped below.
        let script = "for it in /proc/[0-9]*; do read -r name < $it/comm || continue; case $name in \
            latebind|local-volume-pr*) echo \"== $(tr '\\0' ' ' < $it/cmdline)\"; cat $it/stat $it/status; \
            grep eth0: $it/net/dev;; esac; done 2>/dev/null; true";
        let mut parts: Vec<Part> = Vec::new();
        for text in node.shell(script).await?.split("== ").skip(1) {
            let (command, rest) = text.split_once('\n').unwrap_or_default();
            let (stat, rest) = rest.split_once('\n').unwrap_or_default();
            let place = match self {
                Self::Latebind if command.contains("--role=agent") => "on each node",
                Self::Latebind if command.contains("--role=controller") => "once a cluster",
                Self::Peer if command.contains("local-volume-provisioner") => "on each node",
                _ => continue,
            };
            let received = rest.split_once("eth0:").and_then(|(_, text)| text.split_whitespace().next()?.parse().ok());
            let memory = Cost::read(rest, stat).map(|cost| cost.memory);
            parts.extend(memory.zip(received).map(|(memory, received)| Part { place, memory, received }));
        }
        ensure!(!parts.is_empty(), "no process of {} was found", self.class());
        Ok(parts)
    }
}

/// Installs the peer as its own chart does by default, for one class; with all rights, which change no figure.
pub async fn peer(cluster: &Cluster, binary: &str) -> Result<Maker> {
    let maker = Maker::Peer;
    let image = Image::new(PEER).file("local-volume-provisioner", binary).entrypoint(&["/local-volume-provisioner"]);
    import(cluster, image).await?;
    let (class, directory, named) = (maker.class(), maker.directory(), json!({ "app": "static-provisioner" }));
    let metadata = json!({ "name": "static-provisioner", "namespace": PEERS_NAMESPACE });
    let of_class = json!({ class: { "hostDir": directory, "mountDir": directory, "volumeMode": "Filesystem" } });
    let container = json!({
        "name": "provisioner", "image": PEER, "imagePullPolicy": "IfNotPresent", "securityContext": { "privileged": true },
        "env": [{ "name": "MY_NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
            { "name": "MY_NAMESPACE", "value": PEERS_NAMESPACE }],
        "volumeMounts": [{ "name": "config", "mountPath": "/etc/provisioner/config", "readOnly": true },
            { "name": "disks", "mountPath": directory, "mountPropagation": "HostToContainer" }],
    });
    let objects = vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": PEERS_NAMESPACE } }),
        objects::class(class, NO_PROVISIONER),
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "kind": "ServiceAccount", "name": "default", "namespace": PEERS_NAMESPACE }] }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
            "data": { "storageClassMap": of_class.to_string() } }),
        json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": {
            "selector": { "matchLabels": named }, "template": { "metadata": { "labels": named }, "spec": {
                "containers": [container],
                "volumes": [{ "name": "config", "configMap": { "name": "static-provisioner" } },
                    { "name": "disks", "hostPath": { "path": directory, "type": "DirectoryOrCreate" } }] } } } }),
    ];
    apply(cluster, objects).await?;
    rolled_out(cluster, PEERS_NAMESPACE, "daemonset/static-provisioner").await?;
    Ok(maker)
}

/// Takes the peer away, and waits until it is gone.
pub async fn remove_peer(cluster: &Cluster) -> Result<()> {
    let namespace = ["delete", "namespace", "--timeout=90s", PEERS_NAMESPACE];
    cluster.kubectl(&namespace).await?.success().map(drop)
}

/// Installs latebind as its chart does, with a pool that offers disks.
pub async fn latebind(cluster: &Cluster) -> Result<Maker> {
    let maker = Maker::Latebind;
    let binary = process::under_test(env!("CARGO_BIN_EXE_latebind"));
    import(cluster, Image::new(OURS).file("latebind", binary).entrypoint(&["/latebind"]).user(65532)).await?;
    let directory = maker.directory();
    let paths = format!(r#"--set-json=agent.diskPaths=["{directory}"]"#);
    let rendered = render(&["--set=namespace.create=true", "--skip-tests", "--set=provisioner.enabled=true", &paths])?;
    let manifest = rendered.replace("ghcr.io/latebind/latebind:0.1.0", OURS);
    cluster.kubectl_with_input(&["apply", "-f", "-"], &manifest).await?.success()?;
    for (namespace, workload) in [
        (NAMESPACE, "deployment/latebind-controller"),
        (NAMESPACE, "deployment/latebind-webhook"),
        ("latebind-agent", "daemonset/latebind-agent"),
    ] {
        rolled_out(cluster, namespace, workload).await?;
    }
    let rule = json!({ "storageClassName": maker.class(), "directory": directory });
    let pool = json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalPool", "metadata": { "name": maker.class() },
        "spec": { "nodes": [{ "names": [cluster.nodes()[0].name()], "discover": [rule] }] } });
    apply(cluster, vec![objects::class(maker.class(), NO_PROVISIONER), pool]).await?;
    Ok(maker)
}

async fn import(cluster: &Cluster, image: Image) -> Result<()> {
    let archive = cluster.directory().join("bench-image.tar");
    image::archive(&[image], &archive)?;
    for node in cluster.nodes() {
        node.import(&archive).await?;
    }
    Ok(())
}

async fn rolled_out(cluster: &Cluster, namespace: &str, workload: &str) -> Result<()> {
    let arguments = ["-n", namespace, "rollout", "status", "--timeout=90s", workload];
    cluster.kubectl(&arguments).await?.success().map(drop)
}
