//! Which flags the control plane's components get.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::binaries::Binaries;
use crate::certificates::{self, Pki};
use crate::cluster::Component;
use crate::network::{self, Link};
use crate::process::Spec;
use crate::versions::Version;
use crate::{kubeconfig, layout};

/// What cluster to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[must_use]
pub struct Options {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    pub(crate) nodes: Vec<String>,
    pub(crate) api_server: Vec<String>,
    pub(crate) controller_manager: Option<Vec<String>>,
    pub(crate) scheduler: Option<Vec<String>>,
    pub(crate) audit: bool,
    pub(crate) images: Vec<PathBuf>,
}

impl Options {
    /// A control plane with controller manager and scheduler and without nodes. The name appears in paths: letters, digits, dashes.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: None,
            nodes: Vec::new(),
            api_server: Vec::new(),
            controller_manager: Some(Vec::new()),
            scheduler: Some(Vec::new()),
            audit: false,
            images: Vec::new(),
        }
    }

    /// Runs this version instead of the one that `KUBE_VERSION` selects.
    pub fn version(mut self, version: Version) -> Self {
        self.version = Some(version.to_string());
        self
    }

    /// Adds real nodes, named `node-a`, `node-b` and so on. They need root.
    pub fn nodes(mut self, count: u8) -> Self {
        self.nodes = (b'a'..=b'z').take(count.into()).map(|letter| format!("node-{}", char::from(letter))).collect();
        self
    }

    /// Adds a flag such as `--enable-admission-plugins=NodeRestriction,PodNodeSelector`; it replaces the flag of that name.
    pub fn api_server_flag(mut self, flag: impl Into<String>) -> Self {
        self.api_server.push(flag.into());
        self
    }

    /// The same for the controller manager, such as `--controllers=*,-node-lifecycle-controller`.
    pub fn controller_manager_flag(mut self, flag: impl Into<String>) -> Self {
        self.controller_manager.get_or_insert_default().push(flag.into());
        self
    }

    /// The same for the scheduler.
    pub fn scheduler_flag(mut self, flag: impl Into<String>) -> Self {
        self.scheduler.get_or_insert_default().push(flag.into());
        self
    }

    /// Starts no controller manager.
    pub fn without_controller_manager(mut self) -> Self {
        self.controller_manager = None;
        self
    }

    /// Starts no scheduler.
    pub fn without_scheduler(mut self) -> Self {
        self.scheduler = None;
        self
    }

    /// Writes an audit log (level `Metadata`; `Request` for patches of claims and volumes), see [`crate::Cluster::audit_log`].
    pub fn audit(mut self) -> Self {
        self.audit = true;
        self
    }

    /// Imports this OCI archive (see [`crate::image`]) on every node, besides pause and busybox.
    pub fn image(mut self, archive: impl Into<PathBuf>) -> Self {
        self.images.push(archive.into());
        self
    }

    pub(crate) fn kube_version(&self) -> Result<Version> {
        self.version.as_deref().map_or_else(Version::from_env, Version::parse)
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Ports {
    etcd: u16,
    etcd_peers: u16,
    api_server: u16,
    controller_manager: u16,
    scheduler: u16,
}

impl Ports {
    /// The customary ones: right in a network namespace of our own.
    const CUSTOMARY: Self =
        Self { etcd: 2379, etcd_peers: 2380, api_server: 6443, controller_manager: 10257, scheduler: 10259 };

    /// Ports that are free on loopback now. They lie below those that Linux gives to clients: a component that is started
    /// again finds its port as it left it.
    fn free() -> Result<Self> {
        /// How many clusters find their ports between 16,000 and 32,000.
        const GROUPS: u16 = 3_200;
        /// Clusters that one process has asked for. Each process begins elsewhere.
        static ASKED: AtomicU16 = AtomicU16::new(0);
        let process = u16::try_from(std::process::id() % u32::from(GROUPS))?;
        for _ in 0..GROUPS {
            let asked = ASKED.fetch_add(1, Ordering::Relaxed);
            let first = 16_000 + 5 * (process.wrapping_mul(16).wrapping_add(asked) % GROUPS);
            let ports = [0, 1, 2, 3, 4].map(|place| first + place);
            if ports.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
                let [etcd, etcd_peers, api_server, controller_manager, scheduler] = ports;
                return Ok(Self { etcd, etcd_peers, api_server, controller_manager, scheduler });
            }
        }
        bail!("no five ports in a row are free on loopback between 16,000 and 32,000")
    }
}

/// Where everything of one cluster is and listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub directory: PathBuf,
    pub options: Options,
    binaries: PathBuf,
    ports: Ports,
    /// The host's end and the cluster's end of the link, when there are nodes.
    link: Option<(String, String)>,
}

impl Plan {
    pub(crate) fn new(directory: PathBuf, options: Options, binaries: &Binaries, link: Option<Link>) -> Result<Self> {
        let ports = if link.is_some() { Ports::CUSTOMARY } else { Ports::free()? };
        let link = link.map(|link| (link.host.to_string(), link.cluster.to_string()));
        Ok(Self { directory, options, binaries: binaries.directory().to_path_buf(), ports, link })
    }

    pub(crate) fn read(directory: &Path) -> Result<Self> {
        Ok(serde_json::from_slice(&fs::read(directory.join("plan.json"))?)?)
    }

    pub(crate) fn write(&self) -> Result<()> {
        Ok(fs::write(self.directory.join("plan.json"), serde_json::to_vec_pretty(self)?)?)
    }

    pub(crate) fn binary(&self, name: &str) -> String {
        self.binaries.join(name).display().to_string()
    }

    pub(crate) fn pki(&self, file: &str) -> String {
        self.directory.join("pki").join(file).display().to_string()
    }

    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.directory.join(format!("{user}.kubeconfig"))
    }

    pub(crate) fn log(&self, component: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{component}.log"))
    }

    /// The API server's URL for whoever is on this host.
    pub(crate) fn server(&self) -> String {
        format!("https://{}:{}", self.cluster_address(), self.ports.api_server)
    }

    /// The address of this host as the API server sees it.
    pub(crate) fn host_address(&self) -> &str {
        self.link.as_ref().map_or("127.0.0.1", |(host, _)| host)
    }

    /// The control plane's address as this host sees it.
    pub(crate) fn cluster_address(&self) -> &str {
        self.link.as_ref().map_or("127.0.0.1", |(_, cluster)| cluster)
    }

    /// Makes certificates and kubeconfigs.
    pub(crate) fn write_credentials(&self) -> Result<Pki> {
        let mut addresses = vec![network::CONTROL_PLANE.to_owned()];
        addresses.extend(self.link.iter().map(|(_, cluster)| cluster.clone()));
        let pki = Pki::create(&self.directory.join("pki"), &addresses)?;
        let inside = format!("https://127.0.0.1:{}", self.ports.api_server);
        for (user, group, name) in [
            ("admin", Some("system:masters"), "admin"),
            ("system:kube-controller-manager", None, "kube-controller-manager"),
            ("system:kube-scheduler", None, "kube-scheduler"),
        ] {
            let server = if name == "admin" { self.server() } else { inside.clone() };
            kubeconfig::write(&self.kubeconfig(name), &server, &pki.authority, &pki.authority.client(user, group)?)?;
        }
        certificates::write(&self.directory.join("audit-policy.yaml"), &audit_policy())?;
        Ok(pki)
    }

    /// How to start `component` with the flags that the options give it.
    pub(crate) fn spec(&self, component: Component) -> Spec {
        let (own, given) = match component {
            Component::Etcd => (self.etcd(), &[][..]),
            Component::ApiServer => (self.api_server(), &self.options.api_server[..]),
            Component::ControllerManager => {
                (self.controller_manager(), self.options.controller_manager.as_deref().unwrap_or_default())
            }
            Component::Scheduler => (self.scheduler(), self.options.scheduler.as_deref().unwrap_or_default()),
        };
        let argv = [self.binary(component.name())].into_iter().chain(merge(own, given));
        Spec::new(argv, self.log(component.name()))
    }

    /// Where clients reach etcd, as the control plane sees it.
    pub(crate) fn etcd_clients(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.etcd)
    }

    /// Where etcd's other members would reach it.
    pub(crate) fn etcd_peers(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.etcd_peers)
    }

    /// Where etcd keeps what it holds.
    pub(crate) fn etcd_data(&self) -> PathBuf {
        self.directory.join("etcd")
    }

    fn etcd(&self) -> Vec<String> {
        let (clients, peers) = (self.etcd_clients(), self.etcd_peers());
        flags(&[
            // A cluster that lives for minutes needs no durable disk.
            ("unsafe-no-fsync", "true"),
            ("log-level", "warn"),
            ("data-dir", &self.etcd_data().display().to_string()),
            ("listen-client-urls", &clients),
            ("advertise-client-urls", &clients),
            ("listen-peer-urls", &peers),
            ("initial-advertise-peer-urls", &peers),
            ("initial-cluster", &format!("default={peers}")),
        ])
    }

    fn api_server(&self) -> Vec<String> {
        let mut all = flags(&[
            ("etcd-servers", &self.etcd_clients()),
            ("secure-port", &self.ports.api_server.to_string()),
            ("service-cluster-ip-range", network::SERVICES),
            ("authorization-mode", "Node,RBAC"),
            ("enable-admission-plugins", "NodeRestriction"),
            ("allow-privileged", "true"),
            // Webhook Services are reached by their endpoints: no kube-proxy beside the API server.
            ("enable-aggregator-routing", "true"),
            ("kubelet-preferred-address-types", "InternalIP"),
            ("kubelet-certificate-authority", &self.pki("ca.crt")),
            ("kubelet-client-certificate", &self.pki("kubelet-client.crt")),
            ("kubelet-client-key", &self.pki("kubelet-client.key")),
            ("client-ca-file", &self.pki("ca.crt")),
            ("tls-cert-file", &self.pki("apiserver.crt")),
            ("tls-private-key-file", &self.pki("apiserver.key")),
            ("requestheader-client-ca-file", &self.pki("front-proxy-ca.crt")),
            ("requestheader-allowed-names", "front-proxy-client"),
            ("requestheader-username-headers", "X-Remote-User"),
            ("requestheader-group-headers", "X-Remote-Group"),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            ("proxy-client-cert-file", &self.pki("front-proxy-client.crt")),
            ("proxy-client-key-file", &self.pki("front-proxy-client.key")),
            ("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
            ("service-account-key-file", &self.pki("service-accounts.pub")),
            ("service-account-signing-key-file", &self.pki("service-accounts.key")),
        ]);
        if self.link.is_some() {
            all.extend(flags(&[("bind-address", "0.0.0.0"), ("advertise-address", network::CONTROL_PLANE)]));
        } else {
            // Endpoints must not be loopback addresses, so the `kubernetes` Service gets none here; nothing uses it.
            all.extend(flags(&[
                ("bind-address", "127.0.0.1"),
                ("advertise-address", "127.0.0.1"),
                ("endpoint-reconciler-type", "none"),
            ]));
        }
        if self.options.audit {
            all.extend(flags(&[
                ("audit-log-path", &self.log("audit").display().to_string()),
                ("audit-policy-file", &self.directory.join("audit-policy.yaml").display().to_string()),
            ]));
        }
        all
    }

    fn controller_manager(&self) -> Vec<String> {
        let mut all = self.delegating(Component::ControllerManager, self.ports.controller_manager);
        all.extend(flags(&[
            ("use-service-account-credentials", "true"),
            ("service-account-private-key-file", &self.pki("service-accounts.key")),
            ("root-ca-file", &self.pki("ca.crt")),
            // At its default of 20 requests a second it needs 4 s to fetch its controllers' tokens. A test or benchmark
            // in which that limit matters gives the flags itself.
            ("kube-api-qps", "300"),
            ("kube-api-burst", "600"),
        ]));
        all
    }

    fn scheduler(&self) -> Vec<String> {
        self.delegating(Component::Scheduler, self.ports.scheduler)
    }

    fn delegating(&self, component: Component, port: u16) -> Vec<String> {
        let kubeconfig = self.kubeconfig(component.name()).display().to_string();
        flags(&[
            ("kubeconfig", &kubeconfig),
            ("authentication-kubeconfig", &kubeconfig),
            ("authorization-kubeconfig", &kubeconfig),
            ("bind-address", "127.0.0.1"),
            ("secure-port", &port.to_string()),
            ("cert-dir", &self.directory.join("pki").join(component.name()).display().to_string()),
            ("leader-elect", "false"),
        ])
    }
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// Our own flags without those that are given, and the given ones.
fn merge(mut own: Vec<String>, given: &[String]) -> Vec<String> {
    let name = |flag: &String| flag.split('=').next().unwrap_or_default().to_owned();
    let replaced: Vec<String> = given.iter().map(name).collect();
    own.retain(|flag| !replaced.contains(&name(flag)));
    own.extend_from_slice(given);
    own
}

fn audit_policy() -> String {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {
                "level": "Request",
                "verbs": ["patch"],
                "resources": [{ "group": "", "resources": ["persistentvolumeclaims", "persistentvolumes"] }],
            },
            { "level": "Metadata" },
        ],
    })
    .to_string()
}

/// A directory for a new cluster of this name; another one of the name may be alive.
pub(crate) fn new_directory(name: &str, unique: bool) -> Result<PathBuf> {
    let clusters = layout::clusters();
    fs::create_dir_all(&clusters)?;
    let process = std::process::id();
    let mut numbers = 0_u32..;
    loop {
        let number = numbers.next().filter(|_| unique);
        let candidate = number.map_or_else(|| name.to_owned(), |number| format!("{name}-{process}-{number}"));
        let directory = clusters.join(candidate);
        match fs::create_dir(&directory) {
            Ok(()) => {
                fs::create_dir(directory.join("logs"))?;
                return Ok(directory);
            }
            // Another cluster of this process, which may have begun at the same moment.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && unique => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("a cluster `{name}` runs already: `make cluster-down` ends it, `make cluster-status` shows it");
            }
            Err(error) => return Err(error).with_context(|| directory.display().to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_that_begin_at_one_moment_have_a_directory_each() {
        let name = "components-test";
        let all = std::sync::Barrier::new(8);
        let start = || {
            all.wait();
            new_directory(name, true)
        };
        let made: Vec<Result<PathBuf>> = std::thread::scope(|scope| {
            let started: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let made: std::collections::BTreeSet<PathBuf> = made.into_iter().map(Result::unwrap).collect();
        for directory in &made {
            fs::remove_dir_all(directory).unwrap();
        }
        assert_eq!(made.len(), 8);
    }

    #[test]
    fn a_given_flag_replaces_ours_of_the_same_name() {
        let own = flags(&[("v", "1"), ("enable-admission-plugins", "NodeRestriction")]);
        let given = ["--enable-admission-plugins=PodNodeSelector".to_owned()];
        assert_eq!(merge(own, &given), ["--v=1", "--enable-admission-plugins=PodNodeSelector"]);
    }
}
