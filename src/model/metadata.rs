//! Metadata of objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};

use super::Object;

/// The fields that are read. `managedFields`, which nobody here reads, is often longer than the rest of the object and
/// would be kept as a tree of small maps.
#[derive(Deserialize)]
#[serde(remote = "ObjectMeta", rename_all = "camelCase", default = "ObjectMeta::default")]
struct Metadata {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    #[serde(skip)]
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip)]
    managed_fields: Option<Vec<ManagedFieldsEntry>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    #[serde(skip)]
    self_link: Option<String>,
    uid: Option<String>,
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

#[derive(Deserialize)]
#[serde(transparent)]
struct Read(#[serde(with = "Metadata")] ObjectMeta);

/// Reads metadata, as far as anybody here reads it.
pub(crate) fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    Ok(Object::<Read>::deserialize(deserializer)?.0.0)
}

/// The same; `null` as nothing.
pub(crate) fn metadata_or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    Ok(Option::<Object<Read>>::deserialize(deserializer)?.map(|read| read.0.0).unwrap_or_default())
}
