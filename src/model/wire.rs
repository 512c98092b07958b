//! The model's objects on their way from the API server.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::{Claim, Class, CsiDriver, CsiNode, Metadata, Namespace, Node, Pod, StorageCapacity, Volume};

/// A kind of the model, and the kind of the API that it is a part of.
pub trait Modelled: Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static {
    /// The whole kind.
    type Kind: Resource<DynamicType = ()>;

    /// The object's metadata.
    fn metadata(&self) -> &Metadata;
}

/// An object of the model as kube's client takes it: beside metadata of the client's own type, of which only what the
/// client reads is filled in.
#[derive(Clone, Debug)]
pub struct Wire<K> {
    metadata: ObjectMeta,
    /// The object.
    pub object: K,
}

impl<'de, K: Modelled> Deserialize<'de> for Wire<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = K::deserialize(deserializer)?;
        let read = object.metadata();
        let metadata = ObjectMeta {
            name: read.name.as_ref().map(String::from),
            namespace: read.namespace.as_ref().map(String::from),
            resource_version: read.resource_version.as_ref().map(String::from),
            uid: read.uid.as_ref().map(String::from),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, object })
    }
}

impl<K: Modelled> Resource for Wire<K> {
    type DynamicType = ();
    type Scope = <K::Kind as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::Kind::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::Kind::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::Kind::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::Kind::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What an event calls the object by.
#[must_use]
pub fn reference<K: Modelled>(object: &K) -> ObjectReference {
    let metadata = object.metadata();
    ObjectReference {
        api_version: Some(K::Kind::api_version(&()).into_owned()),
        kind: Some(K::Kind::kind(&()).into_owned()),
        namespace: metadata.namespace.as_ref().map(String::from),
        name: metadata.name.as_ref().map(String::from),
        uid: metadata.uid.as_ref().map(String::from),
        ..ObjectReference::default()
    }
}

macro_rules! modelled {
    ($($kind:ident => $whole:path),+ $(,)?) => {
        $(impl Modelled for $kind {
            type Kind = $whole;

            fn metadata(&self) -> &Metadata {
                &self.metadata
            }
        })+
    };
}

modelled!(
    Claim => k8s_openapi::api::core::v1::PersistentVolumeClaim,
    Volume => k8s_openapi::api::core::v1::PersistentVolume,
    Node => k8s_openapi::api::core::v1::Node,
    Namespace => k8s_openapi::api::core::v1::Namespace,
    Pod => k8s_openapi::api::core::v1::Pod,
    Class => k8s_openapi::api::storage::v1::StorageClass,
    CsiDriver => k8s_openapi::api::storage::v1::CSIDriver,
    CsiNode => k8s_openapi::api::storage::v1::CSINode,
    StorageCapacity => k8s_openapi::api::storage::v1::CSIStorageCapacity,
);
