//! What became of claims and volumes, and when, as a watch of our own saw it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

/// How often a waiter looks. Times are taken by the watch, so this adds nothing to them.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Default)]
struct State {
    /// When each volume was first seen.
    volumes: HashMap<String, Instant>,
    /// The volumes that exist.
    live: HashSet<String>,
    /// When the last volume was seen to go.
    last_gone: Option<Instant>,
    /// When each claim was first seen Bound, by UID.
    bound: HashMap<String, Instant>,
}

/// The watch.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<State>>);

impl Seen {
    /// Starts it, and returns when it has begun.
    pub async fn start(client: &Client) -> Self {
        let seen = Self::default();
        let volumes = Api::<PersistentVolume>::all(client.clone());
        let mut volumes = watcher(volumes, watcher::Config::default()).default_backoff().boxed();
        let claims = Api::<PersistentVolumeClaim>::all(client.clone());
        let mut claims = watcher(claims, watcher::Config::default()).default_backoff().boxed();
        while !matches!(volumes.next().await, Some(Ok(watcher::Event::InitDone))) {}
        while !matches!(claims.next().await, Some(Ok(watcher::Event::InitDone))) {}
        let state = seen.clone();
        tokio::spawn(async move {
            while let Some(event) = volumes.next().await {
                state.on_volume(event);
            }
        });
        let state = seen.clone();
        tokio::spawn(async move {
            while let Some(event) = claims.next().await {
                if let Ok(watcher::Event::Apply(claim) | watcher::Event::InitApply(claim)) = event
                    && claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
                {
                    state.state().bound.entry(claim.uid().unwrap()).or_insert_with(Instant::now);
                }
            }
        });
        seen
    }

    fn on_volume(&self, event: watcher::Result<watcher::Event<PersistentVolume>>) {
        let mut state = self.state();
        match event {
            Ok(watcher::Event::Apply(volume) | watcher::Event::InitApply(volume)) => {
                let name = volume.name_any();
                state.volumes.entry(name.clone()).or_insert_with(Instant::now);
                state.live.insert(name);
            }
            Ok(watcher::Event::Delete(volume)) => {
                state.live.remove(&volume.name_any());
                state.last_gone = Some(Instant::now());
            }
            _ => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// When the volume of each of these claims was there.
    pub async fn volumes(&self, uids: &[String], patience: Duration) -> Result<Vec<Instant>> {
        let names: Vec<String> = uids.iter().map(|uid| format!("pvc-{uid}")).collect();
        self.all("volumes", patience, |state| names.iter().map(|name| state.volumes.get(name).copied()).collect()).await
    }

    /// When each of these claims was Bound.
    pub async fn bound(&self, uids: &[String], patience: Duration) -> Result<Vec<Instant>> {
        self.all("bound claims", patience, |state| uids.iter().map(|uid| state.bound.get(uid).copied()).collect()).await
    }

    /// When the last volume went.
    pub async fn gone(&self, patience: Duration) -> Result<Instant> {
        let gone = |state: &State| vec![state.last_gone.filter(|_| state.live.is_empty())];
        Ok(self.all("volumes to go", patience, gone).await?[0])
    }

    async fn all(
        &self,
        what: &str,
        patience: Duration,
        find: impl Fn(&State) -> Vec<Option<Instant>>,
    ) -> Result<Vec<Instant>> {
        let deadline = Instant::now() + patience;
        loop {
            let found = find(&self.state());
            let there: Vec<Instant> = found.iter().copied().flatten().collect();
            if there.len() == found.len() {
                return Ok(there);
            }
            if Instant::now() > deadline {
                bail!("{} of {} {what} after {patience:?}", there.len(), found.len());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
