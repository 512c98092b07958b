//! Metadata of objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use serde::{Deserialize, Deserializer};

use super::{Labels, Object, Text};

/// The metadata that is read. `managedFields`, which nobody here reads, is often longer than the rest of the object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Annotations.
    pub annotations: Option<Labels>,
    /// When the API server stored the object.
    pub creation_timestamp: Option<Time>,
    /// Since when the object is to go.
    pub deletion_timestamp: Option<Time>,
    /// Who must agree before it goes.
    pub finalizers: Option<Vec<Text>>,
    /// What a generated name begins with.
    pub generate_name: Option<Text>,
    /// Labels.
    pub labels: Option<Labels>,
    /// Name, unique in the namespace.
    pub name: Option<Text>,
    /// Namespace; none for objects of the whole cluster.
    pub namespace: Option<Text>,
    /// The objects that this one goes with.
    pub owner_references: Option<Vec<OwnerReference>>,
    /// Changes with every write.
    pub resource_version: Option<Text>,
    /// Different for an object of the same name that is made later.
    pub uid: Option<Text>,
}

/// True for what an object can be named. A name from an annotation, or from a Pod that is being admitted, has not been
/// checked by anybody, and becomes part of a request's path.
#[must_use]
pub fn is_object_name(text: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 253
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|byte| plain(byte) || matches!(byte, b'-' | b'.'))
}

impl Metadata {
    /// The name; empty where none is given.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// The namespace of an object that has one; `default` where none is given.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default")
    }

    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(Text::as_str)
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(Text::as_str)
    }

    /// The object that made this one and would make another.
    /// Source: `apimachinery/pkg/apis/meta/v1/controller_ref.go`, `GetControllerOf`.
    #[must_use]
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
    }
}

/// Reads metadata.
pub(crate) fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Metadata, D::Error> {
    Ok(Object::<Metadata>::deserialize(deserializer)?.0)
}

/// The same; `null` as nothing.
pub(crate) fn metadata_or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Metadata, D::Error> {
    Ok(Option::<Object<Metadata>>::deserialize(deserializer)?.map(|read| read.0).unwrap_or_default())
}
