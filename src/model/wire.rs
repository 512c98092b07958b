//! The model's objects on their way from the API server.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::{Claim, Class, CsiDriver, CsiNode, Metadata, Namespace, Node, Pod, StorageCapacity, Text, Volume};

/// A kind of the model, and the kind of the API that it is a part of.
pub trait Modelled: Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static {
    /// The whole kind.
    type Kind: Resource<DynamicType = ()>;

    /// What tells the object from all others.
    fn identity(&self) -> Identity;
}

/// What tells an object from all others.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Namespace; none for objects of the whole cluster.
    pub namespace: Option<Text>,
    /// Name, unique in the namespace.
    pub name: Option<Text>,
    /// Different for an object of the same name that is made later.
    pub uid: Option<Text>,
    /// Changes with every write.
    pub resource_version: Option<Text>,
}

/// An object of the model as kube's client takes it: beside metadata of the client's own type, of which only what the
/// client reads is filled in.
#[derive(Clone, Debug)]
pub struct Wire<K> {
    metadata: ObjectMeta,
    /// The object.
    pub object: K,
}

fn string(text: Option<&Text>) -> Option<String> {
    text.map(String::from)
}

impl<'de, K: Modelled> Deserialize<'de> for Wire<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = K::deserialize(deserializer)?;
        let read = object.identity();
        let metadata = ObjectMeta {
            name: string(read.name.as_ref()),
            namespace: string(read.namespace.as_ref()),
            resource_version: string(read.resource_version.as_ref()),
            uid: string(read.uid.as_ref()),
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
    let identity = object.identity();
    ObjectReference {
        api_version: Some(K::Kind::api_version(&()).into_owned()),
        kind: Some(K::Kind::kind(&()).into_owned()),
        namespace: string(identity.namespace.as_ref()),
        name: string(identity.name.as_ref()),
        uid: string(identity.uid.as_ref()),
        ..ObjectReference::default()
    }
}

macro_rules! modelled {
    ($($kind:ident => $whole:path),+ $(,)?) => {
        $(impl Modelled for $kind {
            type Kind = $whole;

            fn identity(&self) -> Identity {
                let Metadata { namespace, name, uid, resource_version, .. } = &self.metadata;
                Identity {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    uid: uid.clone(),
                    resource_version: resource_version.clone(),
                }
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
