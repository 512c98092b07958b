//! The provisioners that are compared, and how each is installed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use latebind::crd::{LocalNode, LocalPool};
use latebind_cluster::image::{self, Image};
use latebind_cluster::{Cluster, eventually, target_directory};
use serde_json::json;

use latebind_test_support::chart::render;
use latebind_test_support::process::{self, Cost, Process};
use latebind_test_support::rancher;

use crate::null;

const PATIENCE: Duration = Duration::from_secs(120);
const IMAGE: &str = "localhost/latebind:bench";

/// A provisioner that runs.
pub enum Maker {
    /// The null provisioner, here.
    Null(Process),
    /// rancher's, as a Pod.
    Rancher,
    /// Ours, as Pods.
    Latebind,
}

/// What its parts cost: `controller`, `agent`.
pub type Costs = Vec<(&'static str, Cost)>;

impl Maker {
    /// The class that it serves.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Null(_) => null::CLASS,
            Self::Rancher => "local-path",
            Self::Latebind => "latebind-local",
        }
    }

    /// Where it makes directories on each node.
    fn base(&self) -> Option<&'static str> {
        match self {
            Self::Null(_) => None,
            Self::Rancher => Some(rancher::BASE),
            Self::Latebind => Some("/var/lib/latebind/volumes"),
        }
    }

    /// How many directories it has on all nodes, trash included. `None` if it makes none.
    pub async fn directories(&self, cluster: &Cluster) -> Result<Option<usize>> {
        let Some(base) = self.base() else { return Ok(None) };
        let script = format!(
            "[ ! -d {base} ] || find {base} -mindepth 1 -maxdepth 1 ! -name '.*'
             [ ! -d {base}/.trash ] || find {base}/.trash -mindepth 1 -maxdepth 1"
        );
        let mut count = 0;
        for node in cluster.nodes() {
            count += node.shell(&script).await?.lines().count();
        }
        Ok(Some(count))
    }

    /// What each of its processes costs now.
    pub async fn costs(&self, cluster: &Cluster) -> Result<Costs> {
        if let Self::Null(process) = self {
            return Ok(vec![("controller", Cost::of(process.0.id()).context("the null provisioner ended")?)]);
        }
        let mut costs = Vec::new();
        for node in cluster.nodes() {
            // A process that ends in between leaves an incomplete paragraph, which is skipped below.
            let script = "for it in /proc/[0-9]*; do read -r name < $it/comm || continue; case $name in \
                latebind|local-path-prov*) echo \"== $(tr '\\0' ' ' < $it/cmdline)\"; cat $it/stat $it/status;; esac; \
                done 2>/dev/null; true";
            for text in node.shell(script).await?.split("== ").skip(1) {
                let (command, rest) = text.split_once('\n').unwrap_or_default();
                let (stat, status) = rest.split_once('\n').unwrap_or_default();
                let part = match self {
                    Self::Latebind if command.contains("--role=agent") => "agent",
                    Self::Latebind if command.contains("--role=controller") => "controller",
                    Self::Rancher if command.contains("local-path-provisioner") => "controller",
                    _ => continue,
                };
                costs.extend(Cost::read(status, stat).map(|cost| (part, cost)));
            }
        }
        costs.sort_by_key(|(part, _)| std::cmp::Reverse(*part));
        ensure!(!costs.is_empty(), "no process of {} was found", self.class());
        Ok(costs)
    }
}

/// Starts the null provisioner, and makes its class.
pub async fn null(cluster: &Cluster) -> Result<Maker> {
    // The macro takes the module's name for its own.
    let (class, provisioner) = (null::CLASS, null::NAME);
    let class = json!({ "metadata": { "name": class }, "provisioner": provisioner,
        "volumeBindingMode": "WaitForFirstConsumer" });
    let class: StorageClass = serde_json::from_value(class)?;
    Api::all(cluster.client()).create(&PostParams::default(), &class).await?;
    Ok(Maker::Null(null::start(cluster.kubeconfig())?))
}

/// Installs rancher's provisioner as its own manifest does.
pub async fn rancher(cluster: &Cluster) -> Result<Maker> {
    rancher::install(cluster).await?;
    Ok(Maker::Rancher)
}

/// Gives rancher's provisioner as many workers as there are claims. This version has no flag for its rate of requests.
pub async fn with_best_flags(cluster: &Cluster) -> Result<()> {
    let arguments = ["--debug", "start", "--config", "/etc/config/config.json", "--worker-threads", "100"];
    let patch = json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/args", "value": arguments }]);
    let (patch, of) = (patch.to_string(), "deployment/local-path-provisioner");
    cluster.kubectl(&["-n", rancher::NAMESPACE, "patch", of, "--type=json", "-p", &patch]).await?.success()?;
    cluster.kubectl(&["-n", rancher::NAMESPACE, "rollout", "status", "--timeout=90s", of]).await?.success()?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), rancher::NAMESPACE);
    eventually("the old Pod to go", PATIENCE, async || {
        Ok((pods.list(&ListParams::default()).await?.items.len() == 1).then_some(()))
    })
    .await
}

/// True when none of rancher's helper Pods is left.
pub async fn helpers_are_gone(cluster: &Cluster) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), rancher::NAMESPACE);
    eventually("helper Pods to go", PATIENCE, async || {
        let all = pods.list(&ListParams::default()).await?;
        Ok((!all.iter().any(|pod| pod.name_any().starts_with("helper-pod"))).then_some(()))
    })
    .await
}

/// Takes rancher's provisioner away.
pub async fn remove_rancher(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "namespace", rancher::NAMESPACE, "--timeout=90s"]).await?.success().map(drop)
}

/// Which of the chart's options for many claims at once are on.
#[derive(Clone, Copy, Default)]
pub struct Values {
    /// `provisioner.claimHook.enabled`: new claims are told who makes their volume.
    pub hook: bool,
    /// `provisioner.markBound`: the controller writes phases of volumes.
    pub mark: bool,
}

/// What the chart renders, with the image of this build.
fn manifest(values: Values) -> Result<String> {
    let hook = format!("--set=provisioner.claimHook.enabled={}", values.hook);
    let mark = format!("--set=provisioner.markBound={}", values.mark);
    let always = ["--set=namespace.create=true", "--skip-tests", "--set=provisioner.enabled=true"];
    let rendered = render(&[&always[..], &[&hook, &mark]].concat())?;
    Ok(rendered.replace("ghcr.io/latebind/latebind:0.1.0", IMAGE))
}

async fn rolled_out(cluster: &Cluster, namespace: &str, workload: &str) -> Result<()> {
    let arguments = ["-n", namespace, "rollout", "status", "--timeout=90s", workload];
    cluster.kubectl(&arguments).await?.success().map(drop)
}

/// Turns the chart's options on or off, and waits until they are.
pub async fn set(cluster: &Cluster, values: Values) -> Result<()> {
    cluster.kubectl_with_input(&["apply", "-f", "-"], &manifest(values)?).await?.success()?;
    rolled_out(cluster, "latebind-system", "deployment/latebind-controller").await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client(), "default");
    let claim = json!({ "metadata": { "name": "asks" }, "spec": { "storageClassName": Maker::Latebind.class(),
        "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } } });
    let claim: PersistentVolumeClaim = serde_json::from_value(claim)?;
    eventually("the claim hook to be as it is wanted", PATIENCE, async || {
        let seen = claims.create(&PostParams { dry_run: true, ..PostParams::default() }, &claim).await?;
        let told = seen.annotations().contains_key("volume.kubernetes.io/storage-provisioner");
        Ok((told == values.hook).then_some(()))
    })
    .await
}

/// Installs latebind as its chart does.
pub async fn latebind(cluster: &Cluster) -> Result<Maker> {
    let archive = target_directory().join("bench-image.tar");
    let binary = process::under_test(env!("CARGO_BIN_EXE_latebind"));
    image::archive(&[Image::new(IMAGE).file("latebind", binary).entrypoint(&["/latebind"]).user(65532)], &archive)?;
    for node in cluster.nodes() {
        node.import(&archive).await?;
    }
    cluster.kubectl_with_input(&["apply", "-f", "-"], &manifest(Values::default())?).await?.success()?;
    for (namespace, workload) in [
        ("latebind-system", "deployment/latebind-controller"),
        ("latebind-system", "deployment/latebind-webhook"),
        ("latebind-agent", "daemonset/latebind-agent"),
    ] {
        rolled_out(cluster, namespace, workload).await?;
    }
    let reports: Api<LocalNode> = Api::all(cluster.client());
    let pools: Api<LocalPool> = Api::all(cluster.client());
    eventually("the agents", PATIENCE, async || {
        let seen = reports.list(&ListParams::default()).await?;
        let usable = seen.iter().filter(|it| it.status.as_ref().is_some_and(|status| !status.paths.is_empty()));
        let pool = pools.get_opt("latebind-local").await?;
        Ok((usable.count() == cluster.nodes().len() && pool.is_some()).then_some(()))
    })
    .await?;
    Ok(Maker::Latebind)
}
