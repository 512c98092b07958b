//! What the flags of `latebind run --role agent` make.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use kube::Client;

use super::RunArgs;
use crate::agent::static_disks::DiskScope;
use crate::agent::{AllowedBases, DISK_TIMEOUT, Options};
use crate::roles::AgentOptions;

impl RunArgs {
    pub(super) fn agent_options(
        &self,
        client: Client,
        metrics_listen: Option<SocketAddr>,
    ) -> anyhow::Result<AgentOptions> {
        let given = &self.agent;
        let Some(node_name) = given.node_name.clone().filter(|name| !name.is_empty()) else {
            bail!("the agent must know its node: give --node-name, or NODE_NAME from spec.nodeName of its Pod");
        };
        if given.base_path.is_empty() {
            bail!("the agent needs a directory to make volumes in: give --base-path");
        }
        let bases = AllowedBases::new(&given.base_path).context("--base-path")?;
        let bases = bases.looking_at(&given.other_path).context("--other-path")?;
        let bases = bases.with_node_root(given.node_root.clone());
        let disks = (!given.disk_path.is_empty()).then(|| self.disk_scope()).transpose()?;
        let unlinks_per_second = usize::try_from(given.unlinks_per_second)?;
        let remove_orphans = given.remove_orphans.then_some(given.orphan_age);
        let disk_timeout = DISK_TIMEOUT;
        let options = Options { node_name, bases, disks, unlinks_per_second, remove_orphans, disk_timeout };
        Ok(AgentOptions { client, options, metrics_listen })
    }

    /// Where whole disks are looked for.
    fn disk_scope(&self) -> anyhow::Result<DiskScope> {
        let given = &self.agent;
        let allowed = AllowedBases::new(&given.disk_path).context("--disk-path")?;
        let mut scope = DiskScope::new(allowed.with_node_root(given.node_root.clone()));
        // The table of the process whose root it is.
        scope.node_mountinfo = given.node_root.as_ref().and_then(|root| Some(root.parent()?.join("mountinfo")));
        Ok(scope)
    }
}
