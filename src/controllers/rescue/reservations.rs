//! Volumes that have been promised to claims in writes that the watch has not brought back yet.
//!
//! Without them every claim of a class would be given the same smallest volume until the first write is seen, and all
//! writes but one would fail.

use std::collections::HashMap;
use std::sync::Arc;

use crate::binding::{ClusterView, LayeredView, Lookup};
use crate::model::{Claim, ClaimReference, Text, Volume};

/// Promises by volume. As many as writes under way and not yet seen.
#[derive(Debug, Default)]
pub(super) struct Reservations(HashMap<String, Promise>);

#[derive(Debug)]
struct Promise {
    /// The volume's version that was decided on; at any other, the watch has caught up.
    version: Option<Text>,
    claim: ClaimReference,
}

impl Reservations {
    /// Promises a volume.
    pub fn promise(&mut self, volume: &Volume, claim: &Claim) {
        let claim = ClaimReference {
            namespace: claim.metadata.namespace.clone(),
            name: claim.metadata.name.clone(),
            uid: claim.metadata.uid.clone(),
        };
        let promise = Promise { version: volume.metadata.resource_version.clone(), claim };
        self.0.insert(volume.name().to_owned(), promise);
    }

    /// Takes a promise back.
    pub fn release(&mut self, volume: &str) {
        self.0.remove(volume);
    }

    /// Drops promises that the view shows, or that something else has overtaken.
    pub fn settle(&mut self, view: &dyn ClusterView) {
        self.0.retain(|name, promise| {
            let version = view.volume(name).found().and_then(|volume| volume.metadata.resource_version.clone());
            version.is_some() && version == promise.version
        });
    }
}

/// A view in which promised volumes carry the claims that they are promised to.
pub(super) struct Promised<'a> {
    pub view: &'a dyn ClusterView,
    pub reservations: &'a Reservations,
}

impl Promised<'_> {
    fn apply(&self, volume: Arc<Volume>) -> Arc<Volume> {
        match self.reservations.0.get(volume.name()) {
            Some(promise) if promise.version == volume.metadata.resource_version => {
                let mut promised = Volume::clone(&volume);
                promised.spec.claim_ref = Some(promise.claim.clone());
                Arc::new(promised)
            }
            _ => volume,
        }
    }
}

impl LayeredView for Promised<'_> {
    fn beneath(&self) -> &dyn ClusterView {
        self.view
    }

    fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        self.view.volume(name).map(|volume| self.apply(volume))
    }

    fn free_volumes_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        let volumes = self.view.free_volumes_of_class(class_name);
        if self.reservations.0.is_empty() {
            return volumes;
        }
        volumes.map(|volumes| volumes.into_iter().map(|volume| self.apply(volume)).collect())
    }

    fn volumes_claimed_by(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        let promised = self.reservations.0.iter().filter(|(_, promise)| {
            promise.claim.namespace.as_deref() == Some(namespace) && promise.claim.name.as_deref() == Some(claim_name)
        });
        let promised: Vec<Arc<Volume>> =
            promised.filter_map(|(name, _)| self.view.volume(name).found()).map(|volume| self.apply(volume)).collect();
        self.view.volumes_claimed_by(namespace, claim_name).map(|mut volumes| {
            volumes.extend(promised.into_iter().filter(|volume| volume.spec.claim_ref.is_some()));
            volumes
        })
    }
}
