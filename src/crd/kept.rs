//! Objects of our own kinds as caches hold them.

use std::ops::Deref;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::{LocalDisk, LocalNode, LocalPool, LocalVolume, PinPolicy};
use crate::model::{Identity, ModelObject};

/// An object without what nobody reads: `managedFields` is longer than all the rest, and reading it leaves the heap in
/// pieces.
#[derive(Clone, Debug)]
pub struct Kept<K>(K);

impl<K> Deref for Kept<K> {
    type Target = K;

    fn deref(&self) -> &K {
        &self.0
    }
}

impl<K> From<K> for Kept<K> {
    fn from(object: K) -> Self {
        Self(object)
    }
}

/// A kind of ours, in its parts.
pub trait SpecAndStatus: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static {
    /// What is wanted.
    type Spec: DeserializeOwned;
    /// What is.
    type Status: DeserializeOwned;

    /// The whole.
    fn whole(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;
}

macro_rules! parted {
    ($($kind:ident),+) => {
        $(impl SpecAndStatus for $kind {
            type Spec = <$kind as kube::core::object::HasSpec>::Spec;
            type Status = <$kind as kube::core::object::HasStatus>::Status;

            fn whole(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self {
                Self { metadata, spec, status }
            }
        })+
    };
}

parted!(LocalVolume, LocalDisk, LocalPool, LocalNode, PinPolicy);

/// The metadata that is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
}

impl<'de, K: SpecAndStatus> Deserialize<'de> for Kept<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(bound = "S: DeserializeOwned, T: DeserializeOwned")]
        struct Parts<S, T> {
            metadata: Read,
            spec: S,
            status: Option<T>,
        }
        let Parts { metadata, spec, status } = Parts::<K::Spec, K::Status>::deserialize(deserializer)?;
        let metadata = ObjectMeta {
            name: metadata.name,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            generation: metadata.generation,
            deletion_timestamp: metadata.deletion_timestamp,
            finalizers: metadata.finalizers,
            ..ObjectMeta::default()
        };
        Ok(Self(K::whole(metadata, spec, status)))
    }
}

impl<K: SpecAndStatus> ModelObject for Kept<K> {
    type Kind = K;

    fn identity(&self) -> Identity {
        let metadata = self.0.meta();
        let text = |text: &Option<String>| text.as_deref().map(Into::into);
        Identity {
            namespace: None,
            name: text(&metadata.name),
            uid: text(&metadata.uid),
            resource_version: text(&metadata.resource_version),
        }
    }
}
