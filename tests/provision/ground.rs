//! A node with its agent, a pool and a class, each of one test alone; one controller for all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::DeleteParams;
use kube::{Api, Client, ResourceExt};
use latebind::agent;
use latebind::agent::AllowedBases;
use latebind::controllers::volumes as provision;
use latebind::crd::{LocalNode, LocalPool, LocalVolume};
use latebind::facts::live::{LiveCluster, WatchedPods};
use latebind::rancher::{MICROK8S, RANCHER};
use latebind_cluster::{Scope, SimulatedNode, eventually};
use latebind_test_support::local::{PATIENCE, install, path_of};
use latebind_test_support::objects;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

pub const AGENT_PATIENCE: Duration = Duration::from_secs(4);

static INSTALLED: OnceCell<CancellationToken> = OnceCell::const_new();

/// Starts a controller that serves until the token is cancelled.
pub fn controller(client: Client) -> CancellationToken {
    let token = CancellationToken::new();
    let options = provision::Options {
        adopt: [RANCHER, MICROK8S].into_iter().map(str::to_owned).collect(),
        agent_patience: AGENT_PATIENCE,
        // Only while many claims wait, as in the test of it.
        mark_bound: true,
        ..provision::Options::default()
    };
    provision_with(client, options, &token);
    token
}

/// The same with other options.
fn provision_with(client: Client, options: provision::Options, stop: &CancellationToken) {
    let mut registry = prometheus_client::registry::Registry::default();
    let live = LiveCluster::new(WatchedPods::Pending);
    let provisioner = provision::Provisioner::new(client.clone(), live.clone(), options, None, &mut registry);
    let (observer, watching) = (provisioner.observer(), stop.clone());
    tokio::spawn(async move { live.run(client, observer, watching).await });
    tokio::spawn(provisioner.run(|| {}, stop.clone()));
}

/// The agent of a simulated node, working in a directory of this machine.
pub struct Agent {
    token: CancellationToken,
}

impl Agent {
    pub fn start(client: Client, node: &str, allowed: &Path) -> Self {
        Self::start_with(client, node, allowed, None, 5_000)
    }

    pub fn start_with(
        client: Client,
        node: &str,
        allowed: &Path,
        remove_orphans: Option<Duration>,
        unlinks_per_second: usize,
    ) -> Self {
        let options = agent::Options { remove_orphans, unlinks_per_second, ..Self::options(node, allowed) };
        Self::run(client, options, agent::AgentMetrics::default())
    }

    /// What an agent of a test works with where nothing else is said.
    pub fn options(node: &str, allowed: &Path) -> agent::Options {
        agent::Options {
            disks: None,
            node_name: node.to_owned(),
            bases: AllowedBases::new([allowed.to_str().unwrap()]).unwrap(),
            unlinks_per_second: 5_000,
            remove_orphans: None,
            disk_timeout: agent::DISK_TIMEOUT,
        }
    }

    pub fn run(client: Client, options: agent::Options, metrics: agent::AgentMetrics) -> Self {
        let token = CancellationToken::new();
        tokio::spawn(agent::run(client, options, std::sync::Arc::default(), metrics, || {}, token.clone()));
        Self { token }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// What a test works with.
pub struct Ground<'a> {
    pub scope: &'a Scope,
    pub directory: tempfile::TempDir,
    pub node: SimulatedNode,
    pub agent: Option<Agent>,
    pub class: String,
}

impl<'a> Ground<'a> {
    /// A node with agent and base, a pool, and a class `change`d from the default.
    pub async fn new(scope: &'a Scope, change: Value) -> Result<Self> {
        let mut ground = Self::without_agent(scope, change).await?;
        ground.start_agent();
        ground.wait_for_report().await?;
        Ok(ground)
    }

    pub async fn without_agent(scope: &'a Scope, change: Value) -> Result<Self> {
        INSTALLED
            .get_or_try_init(|| async {
                install(&scope.client(), latebind::crd::definitions()).await?;
                anyhow::Ok(controller(scope.client()))
            })
            .await?;
        Self::without_controller(scope, change).await
    }

    /// The same on a cluster that has the definitions, and a controller of the test's own.
    pub async fn without_controller(scope: &'a Scope, change: Value) -> Result<Self> {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
        let node = scope.simulated_node("node", &[]).await?;
        let class = scope.unique("class");
        scope
            .create::<LocalPool>(json!({
                "metadata": { "name": class },
                "spec": { "nodes": [{ "names": [node.name()], "paths": [{ "path": directory.path().join("base") }] }] },
            }))
            .await?;
        let mut object = objects::class(&class, latebind::volumes::PROVISIONER);
        for (key, value) in change.as_object().into_iter().flatten() {
            object[key] = value.clone();
        }
        scope.create::<StorageClass>(object).await?;
        Ok(Self { scope, directory, node, agent: None, class })
    }

    pub fn start_agent(&mut self) {
        self.agent = Some(Agent::start(self.scope.client(), self.node.name(), self.directory.path()));
    }

    pub async fn wait_for_report(&self) -> Result<()> {
        let reports: Api<LocalNode> = self.scope.all();
        eventually("the agent's report", PATIENCE, async || {
            let report = reports.get_opt(self.node.name()).await?;
            let paths = report.and_then(|report| report.status).map(|status| status.paths).unwrap_or_default();
            Ok((!paths.is_empty()).then_some(()))
        })
        .await
    }

    pub fn base(&self) -> PathBuf {
        self.directory.path().join("base")
    }

    /// The names of the volumes' directories.
    pub fn directories(&self) -> Vec<String> {
        let entries = fs::read_dir(self.base()).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|it| it.file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    /// A claim, ordered for this node unless `change`d.
    pub async fn claim(&self, name: &str, change: Value) -> Result<PersistentVolumeClaim> {
        let claim = objects::selected(objects::claim(name, &self.class, "1Mi"), self.node.name());
        self.scope.create(objects::with(claim, &change)).await
    }

    /// Waits until the claim is bound, and gives its volume.
    pub async fn bound(&self, name: &str) -> Result<PersistentVolume> {
        let claim = self.scope.claim_phase(name, "Bound", PATIENCE).await?;
        let volume = claim.spec.and_then(|spec| spec.volume_name).context("bound without a volume")?;
        Ok(self.scope.all::<PersistentVolume>().get(&volume).await?)
    }

    /// A bound claim with a file in its directory; the volume and the file.
    pub async fn filled(&self, name: &str) -> Result<(PersistentVolume, PathBuf)> {
        self.claim(name, json!({})).await?;
        let volume = self.bound(name).await?;
        let file = path_of(&volume).join("data");
        fs::write(&file, name)?;
        Ok((volume, file))
    }

    pub async fn delete_claim(&self, name: &str) -> Result<()> {
        self.scope.api::<PersistentVolumeClaim>().delete(name, &DeleteParams::default()).await?;
        eventually("the claim to go", PATIENCE, async || {
            Ok(self.scope.api::<PersistentVolumeClaim>().get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }

    pub async fn volume_gone(&self, name: &str) -> Result<()> {
        eventually(&format!("volume {name} to go"), PATIENCE, async || {
            Ok(self.scope.all::<PersistentVolume>().get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }

    pub async fn volume_phase(&self, name: &str, phase: &str) -> Result<PersistentVolume> {
        eventually(&format!("volume {name} to be {phase}"), PATIENCE, async || {
            let volume = self.scope.all::<PersistentVolume>().get(name).await?;
            let found = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase);
            Ok(found.then_some(volume))
        })
        .await
    }

    /// The LocalVolumes of this node.
    pub async fn locals(&self) -> Result<Vec<LocalVolume>> {
        let fields = kube::api::ListParams::default().fields(&format!("spec.nodeName={}", self.node.name()));
        Ok(self.scope.all::<LocalVolume>().list(&fields).await?.items)
    }

    /// Nothing of any volume is left: no object, no directory, no marker, no trash.
    pub async fn all_clean(&self) -> Result<()> {
        eventually("nothing to be left", PATIENCE, async || {
            let locals: Vec<String> = self.locals().await?.iter().map(ResourceExt::name_any).collect();
            let own = |path: &str| fs::read_dir(self.base().join(path)).map_or(0, Iterator::count);
            let left = (self.directories(), own(".trash"), own(".latebind/volumes"), own(".latebind/new"));
            anyhow::ensure!(locals.is_empty() && left == (vec![], 0, 0, 0), "left: {locals:?} {left:?}");
            Ok(Some(()))
        })
        .await
    }

    pub fn nodes(&self) -> Api<Node> {
        self.scope.all()
    }
}

/// The message of a warning about a volume. What has no namespace has its events in `default`.
pub async fn warned(scope: &Scope, volume: &str, reason: &str) -> Result<String> {
    let events: Api<Event> = Api::namespaced(scope.client(), "default");
    let of_volume = kube::api::ListParams::default().fields(&format!("involvedObject.name={volume}"));
    eventually(&format!("warning {reason} about {volume}"), PATIENCE, async || {
        let found = events.list(&of_volume).await?.items;
        Ok(found.into_iter().find(|it| it.reason.as_deref() == Some(reason)).and_then(|it| it.message))
    })
    .await
}
