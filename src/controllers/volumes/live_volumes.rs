//! Every volume as the API server has it at a moment, for the decisions that can destroy data.

use std::sync::{Arc, Weak};

use kube::{Api, Client};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::kubernetes::api::{ApiError, list_all};
use crate::model::{Volume, Wire};
use crate::volumes::VolumeSet;

/// Lists volumes: whoever asks gets a list that was begun after they asked. While one runs, all who ask share the next one,
/// so that a thousand decisions at once do not list a thousand times.
#[derive(Default)]
pub(crate) struct LiveVolumes(Mutex<Option<(Instant, Weak<VolumeSet>)>>);

impl LiveVolumes {
    /// All volumes, as of now or later. It is no cache: without `resourceVersion` the list is what the store has.
    pub(crate) async fn now(&self, client: &Client) -> Result<Arc<VolumeSet>, ApiError> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((begun, set)) = &*last
            && *begun >= asked
            && let Some(set) = set.upgrade()
        {
            return Ok(set);
        }
        let begun = Instant::now();
        let set = Arc::new(list(client).await?);
        *last = Some((begun, Arc::downgrade(&set)));
        Ok(set)
    }
}

async fn list(client: &Client) -> Result<VolumeSet, ApiError> {
    let volumes: Api<Wire<Volume>> = Api::all(client.clone());
    Ok(list_all(&volumes).await?.into_iter().map(|read| read.object).collect())
}
