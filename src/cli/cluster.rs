//! Which cluster a subcommand talks to, and as whom: kubectl's flags, with kubectl's meaning.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use kube::config::{Context, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedContext};
use kube::{Client, Config};

use super::duration::duration;
use crate::kubernetes::{api, client};

/// A call may take this long where `--request-timeout=0` says that it may take as long as it takes. A connection that has
/// gone silent ends before.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(24 * 60 * 60);

/// Which cluster, and as whom.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// The kubeconfig file; otherwise KUBECONFIG, ~/.kube/config, or the account of the Pod that this runs in.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub(super) context: Option<String>,

    /// The cluster of the kubeconfig, instead of the context's.
    #[arg(long, value_name = "NAME")]
    pub(super) cluster: Option<String>,

    /// The user of the kubeconfig, instead of the context's.
    #[arg(long, value_name = "NAME")]
    pub(super) user: Option<String>,

    /// Ask as this user or service account, which needs the right to impersonate.
    #[arg(long = "as", value_name = "USER")]
    pub(super) as_user: Option<String>,

    /// Ask as a member of this group; repeat it for several.
    #[arg(long, value_name = "GROUP", requires = "as_user")]
    pub(super) as_group: Vec<String>,

    /// Ask as the user with this UID.
    #[arg(long, value_name = "UID", requires = "as_user")]
    pub(super) as_uid: Option<String>,
}

/// How long a command that looks and ends waits for the API server.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct RequestArgs {
    /// How long a single request may take, such as 5s or 1m30s; 0 is as long as it takes. The default is 15s.
    #[arg(long, value_name = "TIME", value_parser = request_timeout)]
    pub(super) request_timeout: Option<Duration>,
}

impl RequestArgs {
    /// Makes it the deadline of every call.
    pub(super) fn apply(self) {
        if let Some(limit) = self.request_timeout {
            api::set_deadline(limit);
        }
    }
}

/// Which cluster a command that looks and ends talks to, as whom, and how long a call may take.
#[derive(Clone, Debug, Default, Args)]
pub struct ConnectArgs {
    /// The address of the API server, instead of the kubeconfig's.
    #[arg(short, long, value_name = "ADDRESS", help_heading = "Cluster")]
    server: Option<String>,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    request: RequestArgs,
}

impl ConnectArgs {
    /// A client for the cluster; calls end after the time that was asked for.
    ///
    /// # Errors
    /// When no cluster is configured.
    pub(super) async fn client(&self) -> anyhow::Result<Client> {
        self.request.apply();
        Ok(client::connect(self.cluster.config(self.server.as_deref()).await?)?)
    }

    /// A command of kubectl or of latebind for the cluster that was looked at: which one it is has to be said again.
    pub(super) fn for_cluster(&self, command: &str) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let kubeconfig = self.cluster.kubeconfig.as_ref().map(|path| path.display().to_string());
        let flags = [
            ("kubeconfig", kubeconfig.as_deref()),
            ("context", self.cluster.context.as_deref()),
            ("cluster", self.cluster.cluster.as_deref()),
            ("user", self.cluster.user.as_deref()),
            ("server", self.server.as_deref()),
        ];
        let flags: String =
            flags.iter().filter_map(|(flag, value)| Some(format!(" --{flag}={}", quoted((*value)?)))).collect();
        if command.starts_with("latebind ") {
            return format!("{command}{flags}");
        }
        command.strip_prefix("kubectl ").map_or_else(|| command.to_owned(), |rest| format!("kubectl{flags} {rest}"))
    }
}

/// A time as kubectl reads it: a number without a unit is seconds, zero is no limit.
fn request_timeout(text: &str) -> Result<Duration, String> {
    let limit = text.parse().map(Duration::from_secs).or_else(|_| duration(text))?;
    Ok(if limit.is_zero() { AS_LONG_AS_IT_TAKES } else { limit.min(AS_LONG_AS_IT_TAKES) })
}

/// The files that KUBECONFIG names, merged, else `~/.kube/config`. As for kubectl, files that are not there do not count.
fn of_environment() -> Result<Option<Kubeconfig>, KubeconfigError> {
    let paths: Vec<PathBuf> = match std::env::var_os("KUBECONFIG") {
        Some(paths) if !paths.is_empty() => std::env::split_paths(&paths).collect(),
        _ => std::env::home_dir().map(|home| home.join(".kube").join("config")).into_iter().collect(),
    };
    let mut merged: Option<Kubeconfig> = None;
    for path in paths.iter().filter(|path| !path.as_os_str().is_empty()) {
        let read = match Kubeconfig::read_from(path) {
            Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => read?,
        };
        merged = Some(match merged {
            Some(before) => before.merge(read)?,
            None => read,
        });
    }
    Ok(merged)
}

impl ClusterArgs {
    /// A client for the cluster.
    ///
    /// # Errors
    /// When no cluster is configured.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Ok(client::connect(self.config(None).await?)?)
    }

    /// What the flags and the kubeconfig say: the address, which `server` replaces, the account, the namespace.
    ///
    /// # Errors
    /// When no cluster is configured, or what a flag names is not in the kubeconfig.
    pub async fn config(&self, server: Option<&str>) -> anyhow::Result<Config> {
        let mut config = match self.kubeconfig()? {
            Some(kubeconfig) => self.of_kubeconfig(kubeconfig, server).await?,
            // Without a kubeconfig an address is enough, as for kubectl.
            None => match server {
                Some(address) => Config::new(address.parse().with_context(|| format!("--server {address}"))?),
                None => Config::incluster()
                    .context("no cluster: neither a kubeconfig nor a Pod's account was found; give --kubeconfig")?,
            },
        };
        if let Some(user) = &self.as_user {
            let identity = &mut config.auth_info;
            identity.impersonate = Some(user.clone());
            identity.impersonate_groups = (!self.as_group.is_empty()).then(|| self.as_group.clone());
            identity.impersonate_uid.clone_from(&self.as_uid);
            identity.impersonate_user_extra = None;
        }
        Ok(config)
    }

    /// The kubeconfig; absent where there is none and none is asked for.
    fn kubeconfig(&self) -> anyhow::Result<Option<Kubeconfig>> {
        if let Some(path) = &self.kubeconfig {
            let read = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
            return Ok(Some(read));
        }
        let asked_for = self.context.is_some() || self.cluster.is_some() || self.user.is_some();
        let read = of_environment()?;
        if asked_for && read.is_none() {
            bail!("there is no kubeconfig that --context, --cluster or --user could choose from; give --kubeconfig");
        }
        let chooses = |read: &Kubeconfig| read.current_context.as_deref().is_some_and(|name| !name.is_empty());
        Ok(read.filter(|read| asked_for || chooses(read)))
    }

    async fn of_kubeconfig(&self, mut kubeconfig: Kubeconfig, server: Option<&str>) -> anyhow::Result<Config> {
        let chosen = self.context.clone().or_else(|| kubeconfig.current_context.clone());
        let chosen = chosen.filter(|name| !name.is_empty());
        let context = match (&chosen, &self.cluster) {
            (Some(name), _) => {
                let named = kubeconfig.contexts.iter().find(|context| &context.name == name);
                named.and_then(|named| named.context.clone())
            }
            // A cluster without a context, as kubectl allows it.
            (None, Some(cluster)) => {
                let context = Context { cluster: cluster.clone(), ..Context::default() };
                let named =
                    NamedContext { name: String::new(), context: Some(context.clone()), ..NamedContext::default() };
                kubeconfig.contexts.push(named);
                kubeconfig.current_context = Some(String::new());
                Some(context)
            }
            (None, None) => None,
        };
        if let Some(user) = self.user.as_ref().filter(|user| !kubeconfig.auth_infos.iter().any(|it| it.name == **user))
        {
            bail!("--user {user}: the kubeconfig has no such user");
        }
        let cluster_name = self.cluster.clone().or_else(|| context.map(|context| context.cluster));
        let cluster = kubeconfig.clusters.iter_mut().find(|cluster| Some(&cluster.name) == cluster_name.as_ref());
        let mut proxy = None;
        if let Some(cluster) = cluster.and_then(|named| named.cluster.as_mut()) {
            if let Some(address) = server {
                cluster.server = Some(address.to_owned());
            }
            proxy = cluster.proxy_url.clone().filter(|proxy| !proxy.trim().is_empty());
        }
        let options =
            KubeConfigOptions { context: self.context.clone(), cluster: self.cluster.clone(), user: self.user.clone() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        // kube puts the environment's proxy here too, whether NO_PROXY names the server or not.
        config.proxy_url = proxy.map(|proxy| proxy.parse()).transpose().context("proxy-url of the kubeconfig")?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kubeconfig() -> Kubeconfig {
        let cluster = |name: &str, more: serde_json::Value| {
            let mut cluster = json!({"server": format!("https://{name}.example:6443")});
            cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"name": name, "cluster": cluster})
        };
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Config", "current-context": "first",
            "contexts": [
                {"name": "first", "context": {"cluster": "one", "user": "ann", "namespace": "team-a"}},
                {"name": "second", "context": {"cluster": "two", "user": "bob"}}],
            "clusters": [cluster("one", json!({})), cluster("two", json!({"proxy-url": "http://proxy.example:3128"}))],
            "users": [{"name": "ann", "user": {"token": "of-ann"}}, {"name": "bob", "user": {"token": "of-bob", "as": "x"}}]}))
        .unwrap()
    }

    async fn config(args: ClusterArgs, server: Option<&str>) -> anyhow::Result<Config> {
        let mut file = tempfile::NamedTempFile::new()?;
        std::io::Write::write_all(&mut file, serde_json::to_string(&kubeconfig())?.as_bytes())?;
        ClusterArgs { kubeconfig: Some(file.path().to_owned()), ..args }.config(server).await
    }

    #[tokio::test]
    async fn flags_choose_as_kubectl_s_do() {
        let some = |text: &str| Some(text.to_owned());
        let by_itself = config(ClusterArgs::default(), None).await.unwrap();
        assert_eq!(by_itself.default_namespace, "team-a");
        assert_eq!(by_itself.cluster_url, "https://one.example:6443");
        assert_eq!(by_itself.proxy_url, None);

        let second = config(ClusterArgs { context: some("second"), ..ClusterArgs::default() }, None).await.unwrap();
        assert_eq!((second.default_namespace.as_str(), second.cluster_url.host()), ("default", Some("two.example")));
        assert_eq!(second.proxy_url.unwrap().authority().unwrap(), "proxy.example:3128");
        assert_eq!(second.auth_info.impersonate.as_deref(), Some("x"));

        // The namespace stays the context's, whatever else is replaced.
        let args = ClusterArgs {
            cluster: some("two"),
            user: some("bob"),
            as_user: some("system:serviceaccount:a:b"),
            as_group: vec!["c".to_owned(), "d".to_owned()],
            ..ClusterArgs::default()
        };
        let mixed = config(args, Some("https://elsewhere:1")).await.unwrap();
        assert_eq!((mixed.default_namespace.as_str(), mixed.cluster_url.host()), ("team-a", Some("elsewhere")));
        assert_eq!(mixed.auth_info.impersonate.as_deref(), Some("system:serviceaccount:a:b"));
        assert_eq!(mixed.auth_info.impersonate_groups.unwrap(), ["c", "d"]);
        assert!(mixed.auth_info.token.is_some() && mixed.proxy_url.is_some());

        for (args, expected) in [
            (ClusterArgs { user: some("eve"), ..ClusterArgs::default() }, "eve"),
            (ClusterArgs { cluster: some("three"), ..ClusterArgs::default() }, "three"),
            (ClusterArgs { context: some("third"), ..ClusterArgs::default() }, "third"),
        ] {
            let error = format!("{:#}", config(args, None).await.unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_timeout_is_read_as_kubectl_reads_it() {
        assert_eq!(request_timeout("5"), Ok(Duration::from_secs(5)));
        assert_eq!(request_timeout("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(request_timeout("0"), Ok(AS_LONG_AS_IT_TAKES));
        assert_eq!(request_timeout("0s"), Ok(AS_LONG_AS_IT_TAKES));
        assert!(request_timeout("-5").is_err() && request_timeout("soon").is_err());
    }
}
