//! Local volumes: their definitions and their directories.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use latebind_cluster::eventually;

/// How long a volume may take to come or go.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Writes latebind's definitions and waits until they are served.
pub async fn install(client: &Client, all: impl IntoIterator<Item = CustomResourceDefinition>) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in all {
        let name = definition.name_any();
        eventually(&format!("{name} to be served"), PATIENCE, async || {
            // What is being deleted is not to be disturbed in it.
            let found = definitions.get_opt(&name).await?;
            if found.is_some_and(|it| it.metadata.deletion_timestamp.is_some()) {
                return Ok(None);
            }
            let parameters = PatchParams::apply("test").force();
            let written = definitions.patch(&name, &parameters, &Patch::Apply(&definition)).await?;
            let conditions = written.status.and_then(|status| status.conditions).unwrap_or_default();
            let served = conditions.iter().any(|it| it.type_ == "Established" && it.status == "True");
            Ok((served && written.metadata.deletion_timestamp.is_none()).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Waits until nothing holds the definitions of local volumes: a LocalVolume outlives its volume by the moment that its
/// agent takes to note the removal, and once controller and agents are gone nobody lifts its finalizer.
pub async fn no_local_volume_is_left(client: &Client) -> Result<()> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("latebind.dev", "v1alpha1", "LocalVolume"));
    let locals: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    eventually("the last LocalVolume to go", PATIENCE, async || {
        let left = locals.list(&ListParams::default()).await?.items;
        Ok(left.is_empty().then_some(()))
    })
    .await
}

/// Waits until the definitions are gone that were deleted.
pub async fn definitions_are_gone(client: &Client) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    eventually("the definitions to go", PATIENCE, async || {
        let left = definitions.list_metadata(&ListParams::default()).await?.items;
        Ok(left.iter().all(|it| !it.name_any().ends_with(".latebind.dev")).then_some(()))
    })
    .await
}

/// The directory of a volume.
pub fn path_of(volume: &PersistentVolume) -> PathBuf {
    let spec = volume.spec.as_ref().unwrap();
    let local = spec.local.as_ref().map(|source| &source.path);
    PathBuf::from(local.or(spec.host_path.as_ref().map(|source| &source.path)).unwrap())
}
