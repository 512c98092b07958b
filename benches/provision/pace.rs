//! How fast a provisioner serves many claims at once, and one after another.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use latebind_cluster::Cluster;
use latebind_test_support::objects;

use crate::audit::{self, Requests};
use crate::makers::{Costs, Maker, Values};
use crate::seen::Seen;

/// Longer than rancher's provisioner takes for 100 claims with its default flags, which is three minutes.
const PATIENCE: Duration = Duration::from_secs(600);
/// Claims that are created at one time.
const SIDE_BY_SIDE: usize = 16;
/// Fills the controller manager's bucket of 30 requests at 20 a second, and more.
const REST: Duration = Duration::from_secs(4);
/// The same for the five requests of one claim.
const SHORT_REST: Duration = Duration::from_millis(400);

/// Who watches whom.
pub struct Ground {
    pub cluster: Cluster,
    pub seen: Seen,
}

/// What one provisioner did with many claims at once.
#[derive(Clone, Debug)]
pub struct Pace {
    pub claims: usize,
    /// For each claim, from the answer that it has its selected node to its volume; in order of length.
    pub to_volume: Vec<Duration>,
    /// From the first claim to the last volume.
    pub volumes: Duration,
    /// From the first claim to the last one Bound.
    pub bound: Duration,
    /// From their deletion until volumes and directories were gone.
    pub gone: Duration,
    pub making: Requests,
    pub removing: Requests,
    /// At the end of making.
    pub costs: Costs,
    /// CPU time in seconds, of all its parts together.
    pub seconds: f64,
}

/// Who is served how.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    pub maker: &'a Maker,
    /// With which of the chart's options, if it is ours.
    pub values: Values,
}

fn claim(name: &str, way: Way<'_>, node: &str) -> PersistentVolumeClaim {
    serde_json::from_value(objects::selected(objects::claim(name, way.maker.class(), "1Mi"), node)).unwrap()
}

fn total(costs: &Costs) -> f64 {
    costs.iter().map(|(_, cost)| cost.seconds).sum()
}

impl Ground {
    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.cluster.client(), "default")
    }

    /// Creates claims with a selected node; their UIDs, and when each was answered.
    pub async fn create(&self, way: Way<'_>, count: usize, nodes: &[&str]) -> Result<Vec<(String, Instant)>> {
        let claims = self.claims();
        let created = stream::iter(0..count).map(|number| {
            let object = claim(&format!("many-{number}"), way, nodes[number % nodes.len()]);
            let claims = claims.clone();
            async move {
                let made = claims.create(&PostParams::default(), &object).await?;
                anyhow::Ok((made.uid().unwrap(), Instant::now()))
            }
        });
        created.buffer_unordered(SIDE_BY_SIDE).try_collect().await
    }

    /// Waits until all claims are Bound; from when to when.
    pub async fn bound(&self, created: &[(String, Instant)]) -> Result<Instant> {
        let uids: Vec<String> = created.iter().map(|(uid, _)| uid.clone()).collect();
        Ok(self.seen.bound(&uids, PATIENCE).await?.into_iter().max().unwrap())
    }

    /// Many claims at once, on both nodes.
    pub async fn pace(&self, way: Way<'_>, claims: usize) -> Result<Pace> {
        let maker = way.maker;
        let names: Vec<&str> = self.cluster.nodes().iter().map(latebind_cluster::Node::name).collect();
        tokio::time::sleep(REST).await;
        let (mark, before) = (audit::mark(&self.cluster)?, maker.costs(&self.cluster).await?);
        let begun = Instant::now();
        let created = self.create(way, claims, &names).await?;
        let uids: Vec<String> = created.iter().map(|(uid, _)| uid.clone()).collect();
        let volumes = self.seen.volumes(&uids, PATIENCE).await?;
        let bound = self.bound(&created).await?;
        let directories = maker.directories(&self.cluster).await?;
        ensure!(directories.is_none_or(|count| count == claims), "{directories:?} directories for {claims} claims");
        tokio::time::sleep(REST).await;
        let costs = maker.costs(&self.cluster).await?;
        let making = audit::since(&self.cluster, mark)?;
        let mark = audit::mark(&self.cluster)?;
        let gone = self.clear(maker).await?;
        tokio::time::sleep(REST).await;
        let removing = audit::since(&self.cluster, mark)?;
        let after = maker.costs(&self.cluster).await?;
        let mut to_volume: Vec<Duration> = volumes
            .iter()
            .zip(&created)
            .map(|(volume, (_, created))| volume.saturating_duration_since(*created))
            .collect();
        to_volume.sort();
        Ok(Pace {
            claims,
            to_volume,
            volumes: volumes.into_iter().max().unwrap() - begun,
            bound: bound - begun,
            gone,
            making,
            removing,
            costs,
            seconds: total(&after) - total(&before),
        })
    }

    /// Deletes all claims and waits until volumes and directories are gone; how long that took.
    async fn clear(&self, maker: &Maker) -> Result<Duration> {
        let begun = Instant::now();
        self.claims().delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        let mut gone = self.seen.gone(PATIENCE).await?.max(begun);
        while maker.directories(&self.cluster).await?.is_some_and(|count| count > 0) {
            ensure!(begun.elapsed() < PATIENCE, "directories are left over");
            gone = Instant::now();
        }
        if matches!(maker, Maker::Rancher) {
            crate::makers::helpers_are_gone(&self.cluster).await?;
        }
        Ok(gone - begun)
    }

    /// One claim at a time, with nothing else to do: from the request that creates it to its volume. In order of length.
    pub async fn single(&self, way: Way<'_>, count: usize) -> Result<Vec<Duration>> {
        let node = self.cluster.nodes()[0].name();
        let mut took = Vec::new();
        for number in 0..count {
            let object = claim(&format!("single-{number}"), way, node);
            tokio::time::sleep(SHORT_REST).await;
            let begun = Instant::now();
            let made = self.claims().create(&PostParams::default(), &object).await?;
            let uid = [made.uid().unwrap()];
            took.push(self.seen.volumes(&uid, PATIENCE).await?[0].saturating_duration_since(begun));
            self.seen.bound(&uid, PATIENCE).await?;
        }
        self.clear(way.maker).await?;
        took.sort();
        Ok(took)
    }
}
