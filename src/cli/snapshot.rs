//! Everything that a diagnosis looks at, read from a cluster once. What the cluster refuses to list is named, and the rest is
//! read all the same.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{ApiResource, ListParams};
use serde_json::Value;

use crate::crd::{GROUP, LocalNode, LocalVolume, PinPolicy};
use crate::facts::server::{ServerError, list_objects};
use crate::kubernetes::api::is_plural_served;

/// Objects of one kind that are read. A Pod takes some ten kilobytes as text, so that this is half a gigabyte at most for a
/// moment; a namespace that holds more is looked at object by object.
pub(super) const MOST_OBJECTS: usize = 50_000;

/// One list.
#[derive(Debug)]
pub(super) struct List {
    /// What kind of objects.
    pub kind: ApiResource,
    /// The namespace; none for kinds without one, and where all were read.
    pub namespace: Option<String>,
    /// The moment that the objects are all of.
    pub resource_version: String,
    /// The objects.
    pub objects: Vec<Value>,
    /// Only objects of this kind are what the listed events are about.
    pub about: Option<&'static str>,
    /// Nothing is missing.
    pub is_whole: bool,
}

/// What could not be read.
#[derive(Debug)]
pub(super) struct NotRead {
    /// Group and kind.
    pub kind: ApiResource,
    /// Why.
    pub why: String,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub lists: Vec<List>,
    pub not_read: Vec<NotRead>,
    /// When the reading ended.
    pub taken: Timestamp,
}

/// A kind that is read.
struct Wanted {
    kind: ApiResource,
    namespaced: bool,
    fields: Option<&'static str>,
}

fn wanted() -> Vec<Wanted> {
    let cluster = |kind| Wanted { kind, namespaced: false, fields: None };
    let namespaced = |kind| Wanted { kind, namespaced: true, fields: None };
    vec![
        cluster(ApiResource::erase::<Node>(&())),
        cluster(ApiResource::erase::<PersistentVolume>(&())),
        cluster(ApiResource::erase::<StorageClass>(&())),
        cluster(ApiResource::erase::<CSIDriver>(&())),
        cluster(ApiResource::erase::<CSINode>(&())),
        cluster(ApiResource::erase::<CSIStorageCapacity>(&())),
        cluster(ApiResource::erase::<LocalNode>(&())),
        cluster(ApiResource::erase::<LocalVolume>(&())),
        cluster(ApiResource::erase::<PinPolicy>(&())),
        cluster(ApiResource::erase::<Namespace>(&())),
        // The nodes' own Leases are as many as there are nodes, and say nothing about provisioners.
        Wanted {
            kind: ApiResource::erase::<Lease>(&()),
            namespaced: false,
            fields: Some("metadata.namespace!=kube-node-lease"),
        },
        namespaced(ApiResource::erase::<Pod>(&())),
        namespaced(ApiResource::erase::<PersistentVolumeClaim>(&())),
        namespaced(ApiResource::erase::<Event>(&())),
        namespaced(ApiResource::erase::<ResourceClaim>(&())),
        namespaced(ApiResource::erase::<ResourceClaimTemplate>(&())),
        namespaced(ApiResource::erase::<ResourceQuota>(&())),
        namespaced(ApiResource::erase::<PodDisruptionBudget>(&())),
    ]
}

/// Events about objects of the whole cluster lie in this namespace.
pub(super) const CLUSTER_EVENTS: &str = "default";

impl Snapshot {
    /// Reads one namespace, or all.
    ///
    /// # Errors
    /// When the cluster cannot be reached, or refuses everything.
    pub async fn read(client: &Client, namespace: Option<&str>) -> Result<Self, ServerError> {
        Self::read_kinds(client, namespace, wanted()).await
    }

    /// Reads Nodes, volumes, and the claims and PodDisruptionBudgets of all namespaces.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn of_storage(client: &Client) -> Result<Self, ServerError> {
        let kinds = ["Node", "PersistentVolume", "PersistentVolumeClaim", "StorageClass", "PodDisruptionBudget"];
        let wanted = wanted().into_iter().filter(|it| kinds.contains(&it.kind.kind.as_str()));
        Self::read_kinds(client, None, wanted.collect()).await
    }

    async fn read_kinds(client: &Client, namespace: Option<&str>, kinds: Vec<Wanted>) -> Result<Self, ServerError> {
        let mut snapshot = Self { lists: Vec::new(), not_read: Vec::new(), taken: Timestamp::UNIX_EPOCH };
        let mut last_refusal = None;
        for Wanted { kind, namespaced, fields } in kinds {
            let namespace = namespace.filter(|_| namespaced);
            let is_events = kind.kind == "Event";
            last_refusal = snapshot.list(client, kind.clone(), namespace, fields).await?.or(last_refusal);
            if is_events && namespace.is_some_and(|namespace| namespace != CLUSTER_EVENTS) {
                let of_volumes = Some("involvedObject.kind=PersistentVolume");
                last_refusal = snapshot.list(client, kind, Some(CLUSTER_EVENTS), of_volumes).await?.or(last_refusal);
                if let Some(list) = snapshot.lists.last_mut().filter(|list| list.kind.kind == "Event") {
                    list.about =
                        list.namespace.as_deref().filter(|found| *found == CLUSTER_EVENTS).map(|_| "PersistentVolume");
                }
            }
        }
        snapshot.taken = Timestamp::now();
        match last_refusal {
            Some(refusal) if snapshot.lists.is_empty() => Err(refusal),
            _ => Ok(snapshot),
        }
    }

    /// Reads a list; a refusal is noted and given back.
    async fn list(
        &mut self,
        client: &Client,
        kind: ApiResource,
        namespace: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Option<ServerError>, ServerError> {
        let params = ListParams { field_selector: fields.map(str::to_owned), ..ListParams::default() };
        let namespace = namespace.map(str::to_owned);
        let listed = list_objects(client, &kind, namespace.as_deref(), params, MOST_OBJECTS).await;
        // Rights are asked before whether there is such a kind: who may not list one of latebind's may be refused what nobody has.
        let refused = matches!(listed, Err(ServerError::Refused { .. })) && kind.group == GROUP;
        let is_absent = refused && is_plural_served(client, &kind.api_version, &kind.plural).await == Some(false);
        match listed {
            Ok(read) => {
                let mut objects = Vec::with_capacity(read.objects.len());
                for object in read.objects {
                    // What came as JSON goes as JSON.
                    objects.extend(serde_json::to_value(object).ok());
                }
                let resource_version = read.resource_version;
                self.lists.push(List {
                    kind,
                    namespace,
                    resource_version,
                    objects,
                    about: None,
                    is_whole: read.is_whole,
                });
                Ok(None)
            }
            // A cluster that does not serve a kind has no objects of it.
            Err(error) if is_absent || matches!(error, ServerError::NotServed { .. }) => {
                let (resource_version, objects) = ("0".to_owned(), Vec::new());
                self.lists.push(List { kind, namespace, resource_version, objects, about: None, is_whole: true });
                Ok(None)
            }
            Err(refusal @ ServerError::Refused { .. }) => {
                let why = match &refusal {
                    ServerError::Refused { kind, message } => format!("the cluster refuses to list {kind}: {message}"),
                    other => other.to_string(),
                };
                self.not_read.push(NotRead { kind, why });
                Ok(Some(refusal))
            }
            Err(error) => Err(error),
        }
    }
}
