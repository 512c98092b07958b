//! Real nodes: each is a supervisor in namespaces of its own, with containerd, kubelet and kube-proxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node as NodeObject;
use serde_json::json;

use crate::certificates::{self, Authority};
use crate::components::Plan;
use crate::process::{Output, ProcessState, Signal, Spec};
use crate::supervisor::Client;
use crate::{cluster, eventually, guard, image, kubeconfig, leftovers, network, prerequisites};

const CONTAINERD: &str = "containerd";
const KUBELET: &str = "kubelet";
const KUBE_PROXY: &str = "kube-proxy";
const DEVICE_DRIVER: &str = "device-driver";

/// Directories of the host that each node has its own, empty form of. Where one cannot be hidden, those within it are.
const PRIVATE: [(&str, &[&str]); 4] =
    [("/var", &["/var/lib", "/var/log", "/var/local"]), ("/opt", &[]), ("/srv", &[]), ("/mnt", &[])];

/// The cgroup of a node's own processes, below the node's.
const INIT: &str = "init";

/// A component of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeComponent {
    /// The container runtime; Pods run on while it is away.
    Containerd,
    /// The kubelet; Pods run on while it is away.
    Kubelet,
    /// kube-proxy; the rules that it made stay.
    KubeProxy,
    /// A driver of two devices, `devices.latebind.test`, which no node has until it is started.
    DeviceDriver,
}

impl NodeComponent {
    fn name(self) -> &'static str {
        match self {
            Self::Containerd => CONTAINERD,
            Self::Kubelet => KUBELET,
            Self::KubeProxy => KUBE_PROXY,
            Self::DeviceDriver => DEVICE_DRIVER,
        }
    }
}

/// A node of a cluster.
pub struct Node {
    name: String,
    index: u8,
    directory: PathBuf,
    /// What runs in the node.
    inside: Client,
    /// What runs the node.
    outside: Client,
    plan: Plan,
    archives: Mutex<Vec<PathBuf>>,
}

/// The nodes that the plan names.
pub(crate) fn all(plan: &Plan) -> Vec<Node> {
    let nodes = (0_u8..).zip(&plan.options.nodes);
    nodes
        .map(|(index, name)| {
            let directory = plan.directory.join("nodes").join(name);
            Node {
                name: name.clone(),
                index,
                inside: Client::new(&directory),
                outside: Client::new(&plan.directory),
                directory,
                plan: plan.clone(),
                archives: Mutex::default(),
            }
        })
        .collect()
}

/// Brings nodes up to where a kubelet can start.
pub(crate) async fn prepare(
    plan: &Plan,
    authority: &Authority,
    supervisor: &Client,
    nodes: &[Node],
    archives: &[PathBuf],
) -> Result<()> {
    enough_watches()?;
    let named: Vec<(String, u8)> = nodes.iter().map(|node| (node.name.clone(), node.index)).collect();
    for (name, index) in &named {
        network::add_node(supervisor, name, *index).await?;
    }
    network::route_pods(supervisor, &named).await?;
    let preparing = nodes.iter().map(|node| async {
        node.write_files(authority)?;
        *node.archives.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = archives.to_vec();
        node.boot(plan).await.with_context(|| format!("booting {}", node.name))
    });
    futures::future::try_join_all(preparing).await.map(drop)
}

/// Each kubelet and containerd watches many directories, and clusters run side by side: a kubelet without a watch ends.
/// Linux' default of 128 instances for a user is enough for about four nodes.
fn enough_watches() -> Result<()> {
    const INSTANCES: u32 = 1024;
    let file = "/proc/sys/fs/inotify/max_user_instances";
    let now: u32 = fs::read_to_string(file)?.trim().parse().with_context(|| file.to_owned())?;
    if now < INSTANCES {
        eprintln!("raising {file} from {now} to {INSTANCES}, until the next boot");
        fs::write(file, INSTANCES.to_string()).with_context(|| format!("{file} is too low for several nodes"))?;
    }
    Ok(())
}

/// Starts what needs the API server.
pub(crate) async fn join(_plan: &Plan, nodes: &[Node]) -> Result<()> {
    for node in nodes {
        node.start(NodeComponent::Kubelet).await?;
        node.start(NodeComponent::KubeProxy).await?;
    }
    Ok(())
}

impl Node {
    /// The name of its Node object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> String {
        network::node_address(self.index)
    }

    /// Runs a command in the node's namespaces: it sees the node's processes, mounts and links.
    pub async fn run(&self, argv: &[&str]) -> Result<Output> {
        self.inside.run(argv, None).await
    }

    /// The same for a line of shell; standard output of success.
    pub async fn shell(&self, script: &str) -> Result<String> {
        self.inside.run(&["sh", "-euc", script], None).await?.success().with_context(|| format!("on {}", self.name))
    }

    /// Its PID 1 as this host sees it: `nsenter --target` it for a look around.
    pub async fn host_pid(&self) -> Result<i32> {
        self.inside.pid().await
    }

    /// Imports an OCI archive (see [`crate::image`]).
    pub async fn import(&self, archive: &Path) -> Result<()> {
        let archive = archive.display().to_string();
        let import = ["ctr", "--namespace", "k8s.io", "images", "import", &archive];
        self.run(&import).await?.success().with_context(|| format!("importing {archive} on {}", self.name)).map(drop)
    }

    /// The state of its components.
    pub async fn processes(&self) -> Result<Vec<ProcessState>> {
        self.inside.list().await
    }

    /// Sends a signal to a component.
    pub async fn signal(&self, component: NodeComponent, signal: Signal) -> Result<()> {
        self.inside.signal(component.name(), signal).await
    }

    /// Asks a component to end and waits until it has.
    pub async fn stop(&self, component: NodeComponent) -> Result<()> {
        cluster::stop(&self.inside, component.name()).await
    }

    /// Kills a component at once.
    pub async fn kill(&self, component: NodeComponent) -> Result<()> {
        cluster::kill(&self.inside, component.name()).await
    }

    /// Lets a component stand still.
    pub async fn pause(&self, component: NodeComponent) -> Result<()> {
        self.signal(component, Signal::Stop).await
    }

    /// Lets a paused component carry on.
    pub async fn resume(&self, component: NodeComponent) -> Result<()> {
        self.signal(component, Signal::Continue).await
    }

    /// Starts a component that does not run.
    pub async fn start(&self, component: NodeComponent) -> Result<()> {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let argv = match component {
            NodeComponent::Containerd => vec![CONTAINERD.to_owned(), "--config".to_owned(), file("containerd.toml")],
            NodeComponent::Kubelet => self.kubelet_argv(),
            NodeComponent::KubeProxy => {
                vec![self.plan.binary(KUBE_PROXY), format!("--config={}", file("kube-proxy.json"))]
            }
            NodeComponent::DeviceDriver => vec![
                self.plan.binary(DEVICE_DRIVER),
                format!("--kubeconfig={}", file("kubelet.kubeconfig")),
                format!("--node-name={}", self.name),
            ],
        };
        self.start_as(component, argv).await
    }

    fn kubelet_argv(&self) -> Vec<String> {
        let file = |name: &str| self.directory.join(name).display().to_string();
        vec![
            self.plan.binary(KUBELET),
            format!("--config={}", file("kubelet.json")),
            format!("--kubeconfig={}", file("kubelet.kubeconfig")),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", self.address()),
            "--root-dir=/var/lib/kubelet".to_owned(),
            "--cert-dir=/var/lib/kubelet/pki".to_owned(),
        ]
    }

    async fn start_as(&self, component: NodeComponent, argv: Vec<String>) -> Result<()> {
        let log = self.plan.log(&format!("{}-{}", self.name, component.name()));
        self.inside.start(component.name(), Spec::new(argv, log)).await
    }

    /// Starts the kubelet again as one with a root of its own, as in a container (RKE1, Talos): at this path it sees an empty
    /// directory, and everybody else what is there. [`Node::stop`] and [`Node::start`] make it an ordinary one again.
    pub async fn hide_from_kubelet(&self, path: &str) -> Result<()> {
        self.stop(NodeComponent::Kubelet).await?;
        // A mount over the path would go to all others by the group of what it is mounted in.
        let hide = format!(
            "mkdir -p /run/hidden {path}\n\
             at={path}; while ! mountpoint -q \"$at\"; do at=$(dirname \"$at\"); done\n\
             mount --make-private \"$at\"\n\
             mount --bind /run/hidden {path}\n\
             exec \"$@\""
        );
        let unshare = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-euc", &hide, "-"];
        let argv = unshare.into_iter().map(str::to_owned).chain(self.kubelet_argv()).collect();
        self.start_as(NodeComponent::Kubelet, argv).await
    }

    /// Starts the kubelet again with these fields in its configuration; all others are as they were at first.
    pub async fn configure_kubelet(&self, change: &serde_json::Value) -> Result<()> {
        let mut config = self.kubelet_config();
        for (key, value) in change.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        certificates::write(&self.directory.join("kubelet.json"), &config.to_string())?;
        self.stop(NodeComponent::Kubelet).await?;
        self.start(NodeComponent::Kubelet).await
    }

    /// Cuts the node's power: all its processes die at once, its disks stay.
    pub async fn power_off(&self) -> Result<()> {
        // PID 1 of the node ends, and the kernel kills the rest. The answer may be lost in the process.
        self.inside.exit().await.ok();
        self.outside.wait(&self.name).await
    }

    /// Boots a node that was powered off; returns when its components have been started.
    pub async fn power_on(&self) -> Result<()> {
        self.boot(&self.plan).await?;
        self.start(NodeComponent::Kubelet).await?;
        self.start(NodeComponent::KubeProxy).await
    }

    /// Pulls the node's network cable: Pods run on, nobody reaches them.
    pub async fn disconnect(&self) -> Result<()> {
        network::set_cable(&self.outside, self.index, false).await
    }

    /// Plugs it in again.
    pub async fn connect(&self) -> Result<()> {
        network::set_cable(&self.outside, self.index, true).await
    }

    /// Starts the node's PID 1, gives it its file systems, starts containerd and imports the images.
    async fn boot(&self, plan: &Plan) -> Result<()> {
        let socket = self.directory.join(crate::supervisor::SOCKET);
        fs::remove_file(&socket).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        let cgroup = self.cgroup();
        self.outside.run(&["sh", "-euc", &make_cgroups(&cgroup)], None).await?.success().context("making cgroups")?;
        let network = format!("--net=/run/netns/{}", self.name);
        let (enter, settle) = (enter_cgroup(&cgroup), enter_cgroup(&format!("{cgroup}/{INIT}")));
        // The cgroup namespace is rooted where the process is at its birth; after that the root is to have no processes.
        let words = ["nsenter", &network, "sh", "-euc", &enter, "-", "unshare", "--cgroup", "sh", "-euc", &settle, "-"];
        let mut argv: Vec<String> = words.into_iter().chain(guard::NAMESPACES).map(str::to_owned).collect();
        argv.push(std::env::current_exe()?.display().to_string());
        let mut spec = Spec::new(argv, plan.log(&format!("{}-supervisor", self.name))).once();
        spec.env.insert(guard::ROLE.to_owned(), "supervisor".to_owned());
        spec.env.insert(guard::DIRECTORY.to_owned(), self.directory.display().to_string());
        self.outside.start(&self.name, spec).await?;
        eventually("the node's supervisor", Duration::from_secs(10), async || self.inside.list().await.map(Some))
            .await?;
        self.shell(&self.mounts(plan)?).await.context("mounting the node's file systems")?;
        self.start(NodeComponent::Containerd).await?;
        eventually("containerd to answer", Duration::from_secs(20), async || {
            self.run(&["ctr", "version"]).await?.success().map(Some)
        })
        .await?;
        let archives = self.archives.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
        for archive in archives {
            self.import(&archive).await?;
        }
        Ok(())
    }

    fn cgroup(&self) -> String {
        format!("{}/{}", leftovers::cgroup(&self.plan.directory), self.name)
    }

    /// The script that makes the node's own view of the file system.
    fn mounts(&self, plan: &Plan) -> Result<String> {
        let plugins = prerequisites::cni_plugins().context("the CNI plugins are gone")?;
        let mut script = format!(
            "mount --make-rshared /\n\
             mount -t tmpfs run /run\n\
             mkdir -p /run/cni/bin /run/lock\n\
             mount --bind {plugins} /run/cni/bin\n\
             hostname {name}\n\
             echo 1 > /proc/sys/net/ipv4/ip_forward\n",
            plugins = quoted(&plugins),
            name = self.name,
        );
        for hierarchy in leftovers::hierarchies() {
            let own = hierarchy.join(self.cgroup().trim_start_matches('/'));
            script.extend(["mount --bind ", &quoted(&own), " ", &quoted(&hierarchy), "\n"]);
        }
        let needed = [plan.directory.clone(), PathBuf::from(plan.binary("")), std::env::current_exe()?];
        // A directory that this cluster itself is run from cannot be hidden from its nodes.
        let can_go = |path: &&str| Path::new(path).is_dir() && !needed.iter().any(|needed| needed.starts_with(path));
        for (whole, parts) in PRIVATE {
            let hidden = if can_go(&whole) { vec![whole] } else { parts.iter().copied().filter(can_go).collect() };
            for path in hidden {
                let own = self.directory.join("disk").join(path.trim_start_matches('/').replace('/', "-"));
                fs::create_dir_all(&own)?;
                script.extend(["mount --bind ", &quoted(&own), " ", path, "\n"]);
            }
        }
        // What the kubelet mounts for Pods, the container runtime must see, also when the kubelet has a root of its own: that
        // directory is a group of mounts of its own. Made later, each mount that is there would be in it twice.
        script.push_str(
            "mkdir -p /var/lib/kubelet /var/log/pods /var/log/containers /var/tmp\n\
             [ -e /var/run ] || ln -s /run /var/run\n\
             at=/var/lib/kubelet; mount --bind $at $at && mount --make-private $at && mount --make-shared $at\n",
        );
        Ok(script)
    }

    fn write_files(&self, authority: &Authority) -> Result<()> {
        fs::create_dir_all(&self.directory)?;
        let address = self.address();
        let server = format!("https://{}:6443", network::CONTROL_PLANE);
        authority.server(&[&address, &self.name])?.write(&self.directory, "kubelet")?;
        let kubelet = authority.client(&format!("system:node:{}", self.name), Some("system:nodes"))?;
        kubeconfig::write(&self.directory.join("kubelet.kubeconfig"), &server, authority, &kubelet)?;
        let proxy = authority.client("system:kube-proxy", None)?;
        kubeconfig::write(&self.directory.join("kube-proxy.kubeconfig"), &server, authority, &proxy)?;
        certificates::write(&self.directory.join("containerd.toml"), &self.containerd_config())?;
        certificates::write(&self.directory.join("kubelet.json"), &self.kubelet_config().to_string())?;
        certificates::write(&self.directory.join("kube-proxy.json"), &self.proxy_config().to_string())?;
        let cni = self.directory.join("cni");
        fs::create_dir_all(&cni)?;
        certificates::write(&cni.join("10-pods.conflist"), &self.cni_config().to_string())
    }

    fn containerd_config(&self) -> String {
        let root = toml_string(&self.directory.join("containerd"));
        let cni = toml_string(&self.directory.join("cni"));
        // Without CAP_SYS_RESOURCE runc could not set the scores that Kubernetes asks for, hence `restrict_oom_score_adj`.
        format!(
            "version = 2\n\
             root = {root}\n\
             state = \"/run/containerd\"\n\
             [grpc]\n\
             address = \"/run/containerd/containerd.sock\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n\
             sandbox_image = \"{pause}\"\n\
             restrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
             bin_dir = \"/run/cni/bin\"\n\
             conf_dir = {cni}\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
             runtime_type = \"io.containerd.runc.v2\"\n",
            pause = image::PAUSE,
        )
    }

    fn kubelet_config(&self) -> serde_json::Value {
        let file = |name: &str| self.directory.join(name).display().to_string();
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address(),
            "healthzPort": 0,
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": self.plan.pki("ca.crt") },
            },
            "authorization": { "mode": "Webhook" },
            "tlsCertFile": file("kubelet.crt"),
            "tlsPrivateKeyFile": file("kubelet.key"),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            "resolvConf": "",
            "cgroupDriver": "cgroupfs",
            // Nodes share the machine: none of them has a share of it to allocate or to evict from.
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "evictionHard": {
                "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "failCgroupV1": false,
            "failSwapOn": false,
        })
    }

    fn proxy_config(&self) -> serde_json::Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": { "kubeconfig": self.directory.join("kube-proxy.kubeconfig") },
            "hostnameOverride": self.name,
            "mode": "nftables",
            "clusterCIDR": network::PODS,
            // The connection tracker's size belongs to the host.
            "conntrack": { "maxPerCore": 0 },
        })
    }

    /// Routed Pods without a bridge: what a Service sends back to the same node passes the node's rules again.
    fn cni_config(&self) -> serde_json::Value {
        json!({
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [{
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni/addresses",
                    "ranges": [[{ "subnet": network::pod_subnet(self.index) }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            }],
        })
    }
}

/// Shell that makes the cgroups of a node in every hierarchy: one that the node sees as the root of all, so that whatever its
/// runtime makes is found again, and below it one for the node's own processes.
fn make_cgroups(cgroup: &str) -> String {
    let mut script = String::new();
    for hierarchy in leftovers::hierarchies() {
        let enter = format!("cd {}\n", quoted(&hierarchy));
        script.push_str(&enter);
        let levels = Path::new(cgroup).ancestors().filter(|level| level.parent().is_some());
        let mut levels: Vec<String> = levels.map(|level| format!(".{}", level.display())).collect();
        levels.reverse();
        for level in &levels {
            script.extend(["hand_down ", level, "/..\nmake ", level, "\nweigh ", level, " 8192 800\n"]);
        }
        // Handing controllers down to here would forbid processes in the node's cgroup, where the first one is born.
        let init = format!(".{cgroup}/{INIT}");
        script.extend(["make ", &init, "\nweigh ", &init, " 512 50\n"]);
    }
    format!("{MAKE_CGROUP}{script}")
}

/// Version 1 gives a new cpuset no processors; version 2 gives a cgroup only the controllers that its parent hands down. Of the
/// processors a cgroup gets what one process beside it gets, and all the nodes of a cluster are one: they count as eight, or they
/// would stand still beside a busy test, and their webhooks answer too late. Within a node its Pods have twice what the kubelet and
/// the container runtime have, as on a real one of two processors.
const MAKE_CGROUP: &str = r#"make() {
    mkdir -p "$1"
    for file in cpuset.cpus cpuset.mems; do
        if [ ! -e cgroup.controllers ] && [ -e "$1/$file" ] && [ -z "$(cat "$1/$file")" ]; then cat "$1/../$file" > "$1/$file"; fi
    done
}
weigh() {
    # Shares of version 1, 1024 by default, and the weight of version 2, 100 by default.
    if [ -e "$1/cpu.shares" ]; then echo "$2" > "$1/cpu.shares" || true; fi
    if [ -e "$1/cpu.weight" ]; then echo "$3" > "$1/cpu.weight" || true; fi
}
hand_down() {
    mkdir -p "${1%/..}"
    for controller in $(cat "$1/cgroup.controllers" 2>/dev/null); do
        echo "+$controller" > "$1/cgroup.subtree_control" || true
    done
}
"#;

/// Shell that moves itself into a cgroup of every hierarchy and becomes the command that it was given.
fn enter_cgroup(cgroup: &str) -> String {
    let mut script = String::new();
    for hierarchy in leftovers::hierarchies() {
        let procs = hierarchy.join(cgroup.trim_start_matches('/')).join("cgroup.procs");
        script.extend(["echo $$ > ", &quoted(&procs), "\n"]);
    }
    script.push_str("exec \"$@\"");
    script
}

/// A basic string of TOML has the escapes of a JSON string.
fn toml_string(path: &Path) -> String {
    json!(path).to_string()
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

pub(crate) fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
