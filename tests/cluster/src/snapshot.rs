//! etcd as an administrator saves and restores it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::{Cluster, Component};

impl Cluster {
    /// Saves what etcd holds into a new file, over etcd's client API, while everything runs.
    pub async fn save_etcd(&self, file: &Path) -> Result<()> {
        let endpoint = self.plan()?.etcd_clients();
        self.snapshot(&["save", &endpoint, &file.display().to_string()]).await.context("saving etcd")
    }

    /// Stops the control plane, has etcd hold what it held when the file was saved, and starts the control plane again.
    ///
    /// `bump` raises revisions by as much, as is advised where clients keep versions of objects: no new version is then the
    /// same as one that was there before. With 0 revisions go back.
    pub async fn restore_etcd(&self, file: &Path, bump: u64) -> Result<()> {
        let plan = self.plan()?;
        let running: Vec<String> = self.processes().await?.into_iter().map(|process| process.name).collect();
        let all = [Component::Etcd, Component::ApiServer, Component::ControllerManager, Component::Scheduler];
        let ours = all.into_iter().filter(|component| running.iter().any(|name| name == component.name()));
        let ours: Vec<Component> = ours.collect();
        for component in ours.iter().rev() {
            self.stop(*component).await?;
        }
        let data = plan.etcd_data();
        fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))?;
        let arguments = [
            "restore",
            &file.display().to_string(),
            &data.display().to_string(),
            &plan.etcd_peers(),
            &bump.to_string(),
        ];
        self.snapshot(&arguments).await.context("restoring etcd")?;
        for component in ours {
            self.start_component(component).await?;
            if component == Component::ApiServer {
                self.ready(Duration::from_secs(60)).await?;
            }
        }
        Ok(())
    }

    async fn snapshot(&self, arguments: &[&str]) -> Result<()> {
        let program = tokio::task::spawn_blocking(crate::etcd_snapshot).await??.display().to_string();
        let argv: Vec<&str> = [program.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        self.run(&argv).await?.success().map(drop)
    }
}
