//! A running cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::binaries::Binaries;
use crate::components::{self, Options, Plan};
use crate::guard::{self, Guard};
use crate::node::{self, Node};
use crate::process::{Output, ProcessState, Signal, Spec};
use crate::supervisor;
use crate::{eventually, image, leftovers, network, prerequisites};

/// How much of a log's line is shown.
const WIDTH: usize = 300;

/// A component of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// etcd
    Etcd,
    /// kube-apiserver
    ApiServer,
    /// kube-controller-manager
    ControllerManager,
    /// kube-scheduler
    Scheduler,
}

impl Component {
    /// The name of its binary, and of its log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

/// A real Kubernetes on this machine. Dropping it tears it down in the background; [`Cluster::shut_down`] waits for that.
pub struct Cluster {
    plan: Mutex<Plan>,
    directory: PathBuf,
    kubeconfig: PathBuf,
    host_address: String,
    binaries: Binaries,
    client: Client,
    supervisor: supervisor::Client,
    nodes: Vec<Node>,
    guard: Mutex<Option<Guard>>,
}

impl Cluster {
    /// Starts a cluster that ends with this process at the latest.
    pub async fn start(options: Options) -> Result<Self> {
        Self::start_in(options, true).await
    }

    /// Starts a cluster that stays until [`Cluster::take_down`] is called with its name.
    pub async fn start_lasting(options: Options) -> Result<Self> {
        let cluster = Self::start_in(options, false).await?;
        let guard = cluster.guard.lock().map_err(|_| anyhow!("poisoned"))?.take();
        guard.map_or(Ok(()), Guard::detach)?;
        Ok(cluster)
    }

    async fn start_in(options: Options, unique: bool) -> Result<Self> {
        guard::ensure_role_was_asked_for()?;
        leftovers::sweep();
        let version = options.kube_version()?;
        let binaries = tokio::task::spawn_blocking(move || Binaries::ensure(version)).await??;
        if !options.nodes.is_empty() {
            prerequisites::for_nodes()?;
        }
        let directory = components::new_directory(&options.name, unique)?;
        let mut guard = Guard::start(&directory, !options.nodes.is_empty())?;
        match bring_up(&directory, options, binaries, &mut guard).await {
            Ok(cluster) => {
                *cluster.guard.lock().map_err(|_| anyhow!("poisoned"))? = Some(guard);
                Ok(cluster)
            }
            Err(error) => {
                let logs = log_tails(&directory, 15);
                guard.end().await.ok();
                Err(error.context(logs))
            }
        }
    }

    /// A cluster that runs already, by its name.
    pub async fn attach(name: &str) -> Result<Self> {
        let directory = crate::layout::clusters().join(name);
        let plan = Plan::read(&directory).with_context(|| format!("no cluster `{name}` runs"))?;
        anyhow::ensure!(guard::is_held(&directory), "cluster `{name}` has died");
        let binaries = Binaries::ensure(plan.options.kube_version()?)?;
        let nodes = node::all(&plan);
        Self::assemble(plan, binaries, nodes).await
    }

    /// Ends a cluster that [`Cluster::start_lasting`] started.
    pub async fn take_down(name: &str) -> Result<()> {
        guard::take_down(&crate::layout::clusters().join(name)).await
    }

    async fn assemble(plan: Plan, binaries: Binaries, nodes: Vec<Node>) -> Result<Self> {
        let kubeconfig = plan.kubeconfig("admin");
        let client = client_for(&kubeconfig).await?;
        Ok(Self {
            directory: plan.directory.clone(),
            host_address: plan.host_address().to_owned(),
            supervisor: supervisor::Client::new(&plan.directory),
            plan: Mutex::new(plan),
            kubeconfig,
            binaries,
            client,
            nodes,
            guard: Mutex::new(None),
        })
    }

    /// A client with the rights of `system:masters`.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The administrator's kubeconfig file.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The cluster's own directory; it goes with the cluster.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The binaries that it runs.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The address at which the API server reaches a server on this host: listen there, and put it into `clientConfig.url`.
    #[must_use]
    pub fn host_address(&self) -> &str {
        &self.host_address
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("this cluster has no node {name}"))
    }

    /// Runs `kubectl` with the administrator's rights.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_with_input(arguments, "").await
    }

    /// The same with a text on standard input, for `kubectl apply -f -`.
    pub async fn kubectl_with_input(&self, arguments: &[&str], stdin: &str) -> Result<Output> {
        let kubectl = self.binaries.path("kubectl").display().to_string();
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig.display());
        let argv: Vec<&str> =
            [kubectl.as_str(), kubeconfig.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        self.supervisor.run(&argv, Some(stdin.to_owned())).await
    }

    /// Runs a command where the control plane runs: on this host, or in the cluster's namespaces when it has nodes.
    pub async fn run(&self, argv: &[&str]) -> Result<Output> {
        self.supervisor.run(argv, None).await
    }

    /// Starts a program beside the control plane, such as the one under test. It ends with the cluster at the latest, however
    /// this process ends; it is not started again when it ends by itself. Its log is [`Cluster::log`] of its name.
    ///
    /// With nodes it runs in the cluster's network: it reaches the API server, Services' endpoints and Pods, and what it serves
    /// on [`Cluster::process_address`] is reached by the API server, by Pods and by this host.
    pub async fn start_process(&self, name: &str, argv: &[&str], env: &[(&str, &str)]) -> Result<()> {
        let log = self.directory.join("logs").join(format!("{name}.log"));
        let mut spec = Spec::new(argv.iter().copied(), log).once();
        spec.env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.supervisor.start(name, spec).await
    }

    /// Sends a signal to a program that [`Cluster::start_process`] started.
    pub async fn signal_process(&self, name: &str, signal: Signal) -> Result<()> {
        self.supervisor.signal(name, signal).await
    }

    /// Waits until such a program has ended, and says how.
    pub async fn wait_for_process(&self, name: &str) -> Result<String> {
        self.supervisor.wait(name).await?;
        let all = self.supervisor.list().await?;
        let ended = all.into_iter().find(|process| process.name == name).and_then(|process| process.ended);
        ended.with_context(|| format!("{name} was never started"))
    }

    /// The address at which a program of [`Cluster::start_process`] serves.
    pub fn process_address(&self) -> Result<String> {
        Ok(self.plan()?.cluster_address().to_owned())
    }

    /// A client that acts as somebody else, with their rights.
    pub async fn client_as(&self, user: &str, groups: &[&str]) -> Result<Client> {
        let mut config = config_for(&self.kubeconfig).await?;
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups = Some(groups.iter().map(|group| (*group).to_owned()).collect());
        Ok(Client::try_from(config)?)
    }

    /// Sends a signal to a component.
    pub async fn signal(&self, component: Component, signal: Signal) -> Result<()> {
        self.supervisor.signal(component.name(), signal).await
    }

    /// Asks a component to end and waits until it has.
    pub async fn stop(&self, component: Component) -> Result<()> {
        stop(&self.supervisor, component.name()).await
    }

    /// Kills a component at once.
    pub async fn kill(&self, component: Component) -> Result<()> {
        kill(&self.supervisor, component.name()).await
    }

    /// Lets a component stand still (SIGSTOP): it keeps its connections and answers nothing.
    pub async fn pause(&self, component: Component) -> Result<()> {
        self.signal(component, Signal::Stop).await
    }

    /// Lets a paused component carry on.
    pub async fn resume(&self, component: Component) -> Result<()> {
        self.signal(component, Signal::Continue).await
    }

    /// Starts a component that does not run.
    pub async fn start_component(&self, component: Component) -> Result<()> {
        let spec = self.plan()?.spec(component);
        self.supervisor.start(component.name(), spec).await
    }

    /// Stops a component and starts it again; returns when the API server answers.
    pub async fn restart(&self, component: Component) -> Result<()> {
        self.stop(component).await?;
        self.start_component(component).await?;
        self.ready(Duration::from_secs(30)).await
    }

    /// Changes the options of the components that are started from now on.
    pub fn reconfigure(&self, change: impl FnOnce(Options) -> Options) -> Result<()> {
        let mut plan = self.plan.lock().map_err(|_| anyhow!("poisoned"))?;
        plan.options = change(plan.options.clone());
        plan.write()
    }

    /// The state of the components, and of the nodes as a whole.
    pub async fn processes(&self) -> Result<Vec<ProcessState>> {
        self.supervisor.list().await
    }

    /// Waits until the API server says it is ready.
    pub async fn ready(&self, patience: Duration) -> Result<()> {
        ready(&self.client, patience).await
    }

    /// All that a component has logged: [`Component::name`], or `<node>-kubelet`, `<node>-containerd`, `<node>-kube-proxy`.
    pub fn log(&self, component: &str) -> Result<String> {
        let path = self.directory.join("logs").join(format!("{component}.log"));
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The audit log, one event a line; needs [`Options::audit`].
    pub fn audit_log(&self) -> Result<Vec<serde_json::Value>> {
        Ok(self.log("audit")?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The last lines of every log, for a person who wants to know what went wrong.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        log_tails(&self.directory, lines)
    }

    /// How it was started.
    pub(crate) fn plan(&self) -> Result<Plan> {
        Ok(self.plan.lock().map_err(|_| anyhow!("poisoned"))?.clone())
    }

    /// Tears the cluster down and waits until nothing is left of it.
    pub async fn shut_down(self) -> Result<()> {
        self.end().await
    }

    /// As [`Cluster::shut_down`], for a cluster that others still hold.
    pub(crate) async fn end(&self) -> Result<()> {
        let guard = self.guard.lock().map_err(|_| anyhow!("poisoned"))?.take();
        match guard {
            Some(guard) => guard.end().await,
            None => Ok(()),
        }
    }
}

async fn bring_up(directory: &Path, options: Options, binaries: Binaries, guard: &mut Guard) -> Result<Cluster> {
    let supervisor = supervisor::Client::new(directory);
    eventually("the supervisor to answer", Duration::from_secs(10), async || {
        if let Some(status) = guard.ended() {
            anyhow::bail!("the guard ended: {status}");
        }
        supervisor.list().await.map(Some)
    })
    .await?;
    let link = if options.nodes.is_empty() { None } else { Some(network::free_link(directory)?) };
    if let Some(link) = link {
        network::connect(directory, link, &supervisor).await?;
    }
    let plan = Plan::new(directory.to_path_buf(), options, &binaries, link)?;
    plan.write()?;
    let pki = plan.write_credentials()?;
    for component in [Component::Etcd, Component::ApiServer] {
        supervisor.start(component.name(), plan.spec(component)).await?;
    }
    let nodes = node::all(&plan);
    let (archives, cluster) = tokio::join!(
        // Nodes need a while for their runtime; it does not need the API server.
        async {
            if nodes.is_empty() {
                return Ok(());
            }
            let mut archives = vec![image::base(directory)?];
            archives.extend(plan.options.images.iter().cloned());
            node::prepare(&plan, &pki.authority, &supervisor, &nodes, &archives).await
        },
        start_control_plane(&plan, &supervisor, &binaries)
    );
    archives?;
    let mut cluster = cluster?;
    node::join(&plan, &nodes).await?;
    cluster.nodes = nodes;
    cluster.wait_for_nodes().await?;
    Ok(cluster)
}

async fn start_control_plane(plan: &Plan, supervisor: &supervisor::Client, binaries: &Binaries) -> Result<Cluster> {
    let cluster = Cluster::assemble(plan.clone(), binaries.clone(), Vec::new()).await?;
    ready(&cluster.client, Duration::from_secs(60)).await?;
    if plan.options.scheduler.is_some() {
        supervisor.start(Component::Scheduler.name(), plan.spec(Component::Scheduler)).await?;
    }
    if plan.options.controller_manager.is_some() {
        supervisor.start(Component::ControllerManager.name(), plan.spec(Component::ControllerManager)).await?;
        // Pods can be created once there is an account for them: the sign that the controllers run.
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client(), "default");
        eventually("the default service account", Duration::from_secs(30), async || {
            Ok(accounts.get_opt("default").await?.map(drop))
        })
        .await?;
    }
    Ok(cluster)
}

impl Cluster {
    async fn wait_for_nodes(&self) -> Result<()> {
        let nodes: Api<NodeObject> = Api::all(self.client());
        for node in &self.nodes {
            let what = format!("{} to be Ready", node.name());
            eventually(&what, Duration::from_secs(60), async || {
                Ok(nodes.get_opt(node.name()).await?.filter(node::is_ready).map(drop))
            })
            .await?;
        }
        Ok(())
    }
}

/// A client for a kubeconfig file that this crate wrote.
async fn client_for(kubeconfig: &Path) -> Result<Client> {
    Ok(Client::try_from(config_for(kubeconfig).await?)?)
}

async fn config_for(kubeconfig: &Path) -> Result<Config> {
    // Fails when a provider is installed already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // The cluster is on this machine, whatever proxy the environment names.
    config.proxy_url = None;
    Ok(config)
}

async fn ready(client: &Client, patience: Duration) -> Result<()> {
    eventually("the API server to be ready", patience, async || {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        let answer = tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await??;
        Ok((answer == "ok").then_some(()))
    })
    .await
}

pub(crate) async fn stop(supervisor: &supervisor::Client, name: &str) -> Result<()> {
    supervisor.signal(name, Signal::Terminate).await?;
    if tokio::time::timeout(Duration::from_secs(20), supervisor.wait(name)).await.is_err() {
        return kill(supervisor, name).await;
    }
    Ok(())
}

pub(crate) async fn kill(supervisor: &supervisor::Client, name: &str) -> Result<()> {
    supervisor.signal(name, Signal::Kill).await?;
    supervisor.wait(name).await
}

fn log_tails(directory: &Path, lines: usize) -> String {
    let mut text = String::new();
    let mut logs: Vec<PathBuf> =
        fs::read_dir(directory.join("logs")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    logs.sort();
    for path in logs {
        let content = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let all: Vec<&str> = content.lines().collect();
        text.extend(["---- the end of ", &path.display().to_string(), "\n"]);
        for line in &all[all.len().saturating_sub(lines)..] {
            text.extend(line.chars().take(WIDTH));
            text.push('\n');
        }
    }
    text
}
