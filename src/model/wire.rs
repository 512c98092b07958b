//! The model's objects on their way from the API server.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    Claim, Class, CsiDriver, CsiNode, Event, Metadata, Namespace, Node, Pod, PodOnNode, ResourceClaim,
    ResourceClaimTemplate, StorageCapacity, Text, Volume,
};

/// A kind of the model, and the kind of the API that it is a part of.
pub trait ModelObject: Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static {
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

impl<'de, K: ModelObject> Deserialize<'de> for Wire<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = K::deserialize(deserializer)?;
        let read = object.identity();
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

/// The same where one object that cannot be read must not hide the others.
#[derive(Clone, Debug)]
pub struct OrMalformed<K> {
    metadata: ObjectMeta,
    /// The object, or why it could not be read.
    pub object: Result<K, String>,
}

impl<'de, K: ModelObject> Deserialize<'de> for OrMalformed<K> {
    /// Takes JSON only, and in a watch event only behind its type, which is where every API server has it: the text is
    /// kept until it has been read, where kube's guard makes two trees of it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Named {
            metadata: Place,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Place {
            name: Option<String>,
            namespace: Option<String>,
            // Without it the watch would not know where it is, and begin anew.
            resource_version: Option<String>,
        }
        let text = Box::<RawValue>::deserialize(deserializer)?;
        match serde_json::from_str::<Wire<K>>(text.get()) {
            Ok(Wire { metadata, object }) => Ok(Self { metadata, object: Ok(object) }),
            Err(error) => {
                let Named { metadata } = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
                let Place { name, namespace, resource_version } = metadata;
                let metadata = ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() };
                Ok(Self { metadata, object: Err(error.to_string()) })
            }
        }
    }
}

macro_rules! of_their_kind {
    ($($wrapper:ident),+) => {
        $(impl<K: ModelObject> Resource for $wrapper<K> {
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
        })+
    };
}

of_their_kind!(Wire, OrMalformed);

/// What an event calls the object by.
#[must_use]
pub fn reference<K: ModelObject>(object: &K) -> ObjectReference {
    let identity = object.identity();
    ObjectReference {
        api_version: Some(K::Kind::api_version(&()).into_owned()),
        kind: Some(K::Kind::kind(&()).into_owned()),
        namespace: identity.namespace.as_ref().map(String::from),
        name: identity.name.as_ref().map(String::from),
        uid: identity.uid.as_ref().map(String::from),
        ..ObjectReference::default()
    }
}

macro_rules! modelled {
    ($($kind:ident => $whole:path),+ $(,)?) => {
        $(impl ModelObject for $kind {
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
    Event => k8s_openapi::api::core::v1::Event,
    Pod => k8s_openapi::api::core::v1::Pod,
    PodOnNode => k8s_openapi::api::core::v1::Pod,
    ResourceClaim => k8s_openapi::api::resource::v1::ResourceClaim,
    ResourceClaimTemplate => k8s_openapi::api::resource::v1::ResourceClaimTemplate,
    Class => k8s_openapi::api::storage::v1::StorageClass,
    CsiDriver => k8s_openapi::api::storage::v1::CSIDriver,
    CsiNode => k8s_openapi::api::storage::v1::CSINode,
    StorageCapacity => k8s_openapi::api::storage::v1::CSIStorageCapacity,
);

#[cfg(test)]
mod tests {
    use kube::core::WatchEvent;
    use kube::core::object::ObjectList;

    use super::{Node, OrMalformed};

    const BROKEN: &str =
        r#"{"metadata":{"name":"b","resourceVersion":"5","managedFields":[{}]},"spec":{"taints":"none"}}"#;

    #[test]
    fn one_object_that_cannot_be_read_hides_no_other() {
        let text = format!(r#"{{"kind":"NodeList","items":[{{"metadata":{{"name":"a"}}}},{BROKEN}],"metadata":{{}}}}"#);
        let list: ObjectList<OrMalformed<Node>> = serde_json::from_str(&text).unwrap();
        let [good, bad] = list.items.as_slice() else { panic!("two") };
        assert_eq!(good.object.as_ref().unwrap().name(), "a");
        assert_eq!(bad.metadata.name.as_deref(), Some("b"));
        assert!(bad.object.is_err());
    }

    #[test]
    fn watch_events_are_read_as_they_are_written() {
        let read = |text: String| serde_json::from_str::<WatchEvent<OrMalformed<Node>>>(&text).unwrap();
        let WatchEvent::Added(node) = read(r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#.to_owned()) else {
            panic!("added")
        };
        assert_eq!(node.object.unwrap().name(), "a");
        let WatchEvent::Modified(node) = read(format!(r#"{{"type":"MODIFIED","object":{BROKEN}}}"#)) else {
            panic!("modified")
        };
        assert!(node.object.is_err());
        assert_eq!(node.metadata.resource_version.as_deref(), Some("5"), "where the watch goes on");
        let bookmark =
            r#"{"type":"BOOKMARK","object":{"kind":"Node","apiVersion":"v1","metadata":{"resourceVersion":"7"}}}"#;
        assert!(matches!(read(bookmark.to_owned()), WatchEvent::Bookmark(_)));
    }
}
