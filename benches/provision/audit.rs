//! Who asked the API server for what.

use std::collections::BTreeMap;

use anyhow::Result;
use latebind_cluster::Cluster;
use serde_json::Value;

/// Whose requests are told apart. The benchmark's own are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A provisioner's controller: null, rancher's, or ours.
    Provisioner,
    /// Our agents.
    Agents,
    /// The controller manager's part that binds.
    Binder,
    /// The rest of the controller manager.
    ControllerManager,
    /// The kubelets, which run rancher's helper Pods.
    Kubelets,
    /// Anybody else of the cluster.
    Others,
}

/// Requests by who, verb and resource. Watches and leases are not counted: they come with time, not with volumes.
#[derive(Clone, Debug, Default)]
pub struct Requests(pub BTreeMap<(Who, String, String), usize>);

/// A place in the log.
pub fn mark(cluster: &Cluster) -> Result<usize> {
    Ok(cluster.log("audit")?.lines().count())
}

/// What was asked since the mark.
pub fn since(cluster: &Cluster, mark: usize) -> Result<Requests> {
    let mut requests = Requests::default();
    for line in cluster.log("audit")?.lines().skip(mark) {
        // The last line may be half written.
        let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
        let text = |path: &str| entry.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (verb, resource) = (text("/verb"), text("/objectRef/resource"));
        let Some(who) = who(&entry) else { continue };
        if text("/stage") != "ResponseComplete" || verb == "watch" || matches!(resource, "" | "leases") {
            continue;
        }
        let sub = text("/objectRef/subresource");
        let resource = if sub.is_empty() { resource.to_owned() } else { format!("{resource}/{sub}") };
        let code = entry.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default();
        let resource = if code < 400 { resource } else { format!("{resource} ({code})") };
        *requests.0.entry((who, verb.to_owned(), resource)).or_default() += 1;
    }
    Ok(requests)
}

fn who(entry: &Value) -> Option<Who> {
    let text = |path: &str| entry.pointer(path).and_then(Value::as_str).unwrap_or_default();
    if text("/impersonatedUser/username") == super::null::NAME {
        return Some(Who::Provisioner);
    }
    let user = text("/user/username");
    Some(match user.rsplit(':').next().unwrap_or_default() {
        "local-path-provisioner-service-account" | "latebind-controller" => Who::Provisioner,
        "latebind-agent" => Who::Agents,
        "persistent-volume-binder" => Who::Binder,
        _ if user.starts_with("system:node:") => Who::Kubelets,
        _ if user.starts_with("system:serviceaccount:kube-system:") || user == "system:kube-controller-manager" => {
            Who::ControllerManager
        }
        _ if user.starts_with("system:") => Who::Others,
        _ => return None,
    })
}

impl Requests {
    /// How many requests of these a volume.
    #[allow(clippy::cast_precision_loss, reason = "thousands")]
    pub fn a_volume(&self, of: &[Who], volumes: usize) -> f64 {
        self.count(of, |_, _| true) as f64 / volumes as f64
    }

    /// The same for writes. Events are a courtesy and left out.
    #[allow(clippy::cast_precision_loss, reason = "thousands")]
    pub fn writes_a_volume(&self, of: &[Who], volumes: usize) -> f64 {
        let writes = |verb: &str, resource: &str| !matches!(verb, "get" | "list") && !resource.starts_with("events");
        self.count(of, writes) as f64 / volumes as f64
    }

    fn count(&self, of: &[Who], counted: impl Fn(&str, &str) -> bool) -> usize {
        let chosen = self.0.iter().filter(|((who, verb, resource), _)| of.contains(who) && counted(verb, resource));
        chosen.map(|(_, count)| *count).sum()
    }

    /// Every kind of request that there was at least once for ten volumes, for a person who wonders.
    #[allow(clippy::cast_precision_loss, reason = "thousands")]
    pub fn tell(&self, volumes: usize) {
        for ((who, verb, resource), count) in &self.0 {
            let each = *count as f64 / volumes as f64;
            if each >= 0.1 {
                println!("    {who:?} {verb} {resource}: {each:.2}");
            }
        }
    }
}
