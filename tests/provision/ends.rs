//! What is deleted, by whom, and what that may take with it. The order to delete data is never the deletion of an object.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use latebind::crd::{LocalPool, LocalVolume};
use latebind_cluster::{Scope, eventually, holds_for};
use latebind_test_support::local::{PATIENCE, install};
use serde_json::json;

use super::ground::Ground;

const WHILE: Duration = Duration::from_secs(3);

async fn strip(scope: &Scope, local: &str) -> Result<()> {
    let patch = json!({ "metadata": { "finalizers": null } });
    scope.all::<LocalVolume>().patch(local, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

pub async fn a_deleted_local_volume_takes_no_data_with_it(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = ground.filled("data").await?;
    let local = ground.locals().await?[0].name_any();
    scope.all::<LocalVolume>().delete(&local, &DeleteParams::default()).await?;
    eventually("the object to say that it is held", PATIENCE, async || {
        let conditions = scope.all::<LocalVolume>().get(&local).await?.status.unwrap_or_default().conditions;
        Ok(conditions.iter().any(|it| it.type_ == "DeletionHeld" && it.status == "True").then_some(()))
    })
    .await?;
    let there = holds_for("the file", WHILE, async || Ok(file.exists())).await?;
    assert!(there && scope.all::<LocalVolume>().get_opt(&local).await?.is_some());
    // The order still comes in the usual way, and is followed.
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.name_any()).await?;
    ground.all_clean().await
}

pub async fn a_local_volume_whose_finalizer_was_torn_off_is_made_again(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = ground.filled("data").await?;
    let first = ground.locals().await?.remove(0);
    scope.all::<LocalVolume>().delete(&first.name_any(), &DeleteParams::default()).await?;
    strip(scope, &first.name_any()).await?;
    let again = eventually("it to be made again", PATIENCE, async || {
        let found = scope.all::<LocalVolume>().get_opt(&first.name_any()).await?;
        Ok(found.filter(|it| it.uid() != first.uid() && it.is_ready()))
    })
    .await?;
    assert_eq!(again.spec.path, first.spec.path);
    assert_eq!(fs::read_to_string(&file)?, "data");
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.name_any()).await?;
    ground.all_clean().await
}

pub async fn a_retained_volume_keeps_its_directory_whatever_is_deleted(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({ "reclaimPolicy": "Retain" })).await?;
    let (volume, file) = ground.filled("data").await?;
    ground.delete_claim("data").await?;
    ground.volume_phase(&volume.name_any(), "Released").await?;
    assert!(holds_for("the file", WHILE, async || Ok(file.exists())).await?);
    scope.all::<PersistentVolume>().delete(&volume.name_any(), &DeleteParams::default()).await?;
    ground.volume_gone(&volume.name_any()).await?;
    eventually("the record to say that the data is retained", PATIENCE, async || {
        let locals = ground.locals().await?;
        let conditions = locals.first().and_then(|it| it.status.clone()).unwrap_or_default().conditions;
        Ok(conditions.iter().any(|it| it.reason == "Retained").then_some(()))
    })
    .await?;
    assert!(holds_for("the file", WHILE, async || Ok(file.exists())).await?);
    Ok(())
}

pub async fn a_policy_that_changes_to_retain_keeps_the_data(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = ground.filled("data").await?;
    let name = volume.name_any();
    let volumes = scope.all::<PersistentVolume>();
    let set = async |policy: &str| {
        let patch = json!({ "spec": { "persistentVolumeReclaimPolicy": policy } });
        volumes.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await
    };
    set("Retain").await?;
    // At once, before anybody could have noticed: the finalizer holds the volume until it is written down.
    volumes.delete(&name, &DeleteParams::default()).await?;
    ground.delete_claim("data").await?;
    ground.volume_gone(&name).await?;
    assert!(holds_for("the file", WHILE, async || Ok(file.exists())).await?);

    let (other, file) = ground.filled("other").await?;
    let patch = |policy: &str| json!({ "spec": { "persistentVolumeReclaimPolicy": policy } });
    let retain = patch("Retain");
    volumes.patch(&other.name_any(), &PatchParams::default(), &Patch::Merge(&retain)).await?;
    ground.delete_claim("other").await?;
    ground.volume_phase(&other.name_any(), "Released").await?;
    assert!(holds_for("the file", WHILE, async || Ok(file.exists())).await?);
    let delete = patch("Delete");
    volumes.patch(&other.name_any(), &PatchParams::default(), &Patch::Merge(&delete)).await?;
    ground.volume_gone(&other.name_any()).await?;
    assert!(!file.exists());
    Ok(())
}

pub async fn a_volume_deleted_by_hand_before_its_claim_still_cleans_up(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = ground.filled("data").await?;
    scope.all::<PersistentVolume>().delete(&volume.name_any(), &DeleteParams::default()).await?;
    assert!(holds_for("the file", WHILE, async || Ok(file.exists())).await?, "its claim still uses it");
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.name_any()).await?;
    ground.all_clean().await
}

pub async fn a_claim_deleted_while_it_is_provisioned_leaves_nothing(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    for number in 0..20 {
        let name = format!("brief{number}");
        ground.claim(&name, json!({})).await?;
        if number % 4 == 0 {
            eventually("the order", PATIENCE, async || Ok((!ground.locals().await?.is_empty()).then_some(()))).await?;
        }
        scope.api::<PersistentVolumeClaim>().delete(&name, &DeleteParams::default()).await?;
    }
    // An agent that was away meanwhile finds orders that nobody needs any more.
    ground.agent = None;
    ground.claim("unanswered", json!({})).await?;
    scope.api::<PersistentVolumeClaim>().delete("unanswered", &DeleteParams::default()).await?;
    ground.start_agent();
    ground.all_clean().await
}

pub async fn a_retained_claim_deleted_while_it_is_provisioned_leaves_nothing(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({ "reclaimPolicy": "Retain" })).await?;
    ground.agent = None;
    ground.claim("unanswered", json!({})).await?;
    eventually("the order", PATIENCE, async || Ok((!ground.locals().await?.is_empty()).then_some(()))).await?;
    scope.api::<PersistentVolumeClaim>().delete("unanswered", &DeleteParams::default()).await?;
    ground.start_agent();
    ground.all_clean().await
}

pub async fn a_deleted_class_does_not_stop_the_removal(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (volume, _) = ground.filled("data").await?;
    scope.all::<StorageClass>().delete(&ground.class, &DeleteParams::default()).await?;
    scope.all::<LocalPool>().delete(&ground.class, &DeleteParams::default()).await?;
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.name_any()).await?;
    ground.all_clean().await
}

pub async fn an_edited_pool_does_not_move_or_lose_anything(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = ground.filled("data").await?;
    let patch = json!({ "spec": { "nodes": [{ "names": [ground.node.name()], "paths": [{ "path": ground.directory.path().join("new") }] }] } });
    scope.all::<LocalPool>().patch(&ground.class, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    assert!(holds_for("the file", WHILE, async || Ok(file.exists())).await?);
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.name_any()).await?;
    ground.all_clean().await
}

pub async fn a_directory_that_another_volume_names_is_left_alone(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = ground.filled("data").await?;
    let name = scope.unique("by-hand");
    scope
        .create::<PersistentVolume>(json!({ "metadata": { "name": name }, "spec": {
            "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "by-hand", "local": { "path": file.parent().unwrap().join("sub") },
            "nodeAffinity": volume.spec.as_ref().unwrap().node_affinity,
        } }))
        .await?;
    ground.delete_claim("data").await?;
    ground.volume_phase(&volume.name_any(), "Released").await?;
    assert!(holds_for("the file", WHILE, async || Ok(file.exists())).await?);
    scope.all::<PersistentVolume>().delete(&name, &DeleteParams::default()).await?;
    ground.volume_gone(&volume.name_any()).await?;
    ground.all_clean().await
}

pub async fn a_released_volume_of_rancher_is_cleaned_where_label_and_name_differ(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let value = scope.unique("host");
    let label = json!({ "metadata": { "labels": { "kubernetes.io/hostname": value } } });
    ground.nodes().patch(ground.node.name(), &PatchParams::default(), &Patch::Merge(&label)).await?;
    let old = ground.base().join("pvc-1_ns_old");
    fs::create_dir_all(old.join("x"))?;
    let name = scope.unique("pvc-old");
    let class = scope.unique("old-class");
    scope
        .create::<PersistentVolume>(json!({
            "metadata": { "name": name, "annotations": { "pv.kubernetes.io/provisioned-by": "rancher.io/local-path" } },
            "spec": { "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": class,
                "hostPath": { "path": old, "type": "DirectoryOrCreate" },
                "claimRef": { "namespace": scope.namespace(), "name": "old", "apiVersion": "v1", "kind": "PersistentVolumeClaim" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": [value] }] }] } } },
        }))
        .await?;
    ground
        .claim(
            "old",
            json!({ "metadata": { "annotations": null }, "spec": { "storageClassName": class, "volumeName": name } }),
        )
        .await?;
    scope.claim_phase("old", "Bound", PATIENCE).await?;
    assert!(holds_for("the directory", WHILE, async || Ok(old.exists())).await?);
    ground.delete_claim("old").await?;
    ground.volume_gone(&name).await?;
    ground.all_clean().await
}

pub async fn data_outlives_the_definitions_and_a_new_installation_adopts_it(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    let mut kept = Vec::new();
    for number in 0..3 {
        kept.push(ground.filled(&format!("data{number}")).await?);
    }
    let definitions = scope.all::<CustomResourceDefinition>();
    for definition in latebind::crd::definitions() {
        definitions.delete(&definition.name_any(), &DeleteParams::default()).await?;
    }
    let there = || kept.iter().all(|(_, file)| file.exists());
    assert!(holds_for("the files", WHILE, async || Ok(there())).await?);
    // The finalizers hold; a person tears them off.
    ground.agent = None;
    eventually("the definitions to go", PATIENCE, async || {
        for local in scope.all::<LocalVolume>().list(&ListParams::default()).await.map_or(vec![], |list| list.items) {
            strip(scope, &local.name_any()).await.ok();
        }
        let mut left = 0;
        for definition in latebind::crd::definitions() {
            left += usize::from(definitions.get_opt(&definition.name_any()).await?.is_some());
        }
        Ok((left == 0).then_some(()))
    })
    .await?;
    assert!(there());
    install(&scope.client(), latebind::crd::definitions()).await?;
    scope
        .create::<LocalPool>(json!({ "metadata": { "name": ground.class },
            "spec": { "nodes": [{ "names": [ground.node.name()], "paths": [{ "path": ground.base() }] }] } }))
        .await?;
    ground.start_agent();
    // The watches of the controller were refused for a while, and ask again less and less often.
    eventually("everything to be adopted", 2 * PATIENCE, async || {
        let locals = ground.locals().await?;
        Ok((locals.len() == 3 && locals.iter().all(LocalVolume::is_ready)).then_some(()))
    })
    .await?;
    assert!(there());
    for (number, (volume, _)) in kept.iter().enumerate() {
        ground.delete_claim(&format!("data{number}")).await?;
        ground.volume_gone(&volume.name_any()).await?;
    }
    ground.all_clean().await
}
