//! Whose word counts about a whole disk: what a stolen token of an agent, of the controller or of a person cannot say.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use latebind::crd::LocalDisk;
use latebind_cluster::Scope;
use serde_json::{Value, json};

use crate::rights::{ensure_denied, only_tried, until_denied};

fn disk(name: &str, node: &str, more: &Value) -> Result<LocalDisk> {
    let mut spec = json!({ "nodeName": node, "path": "/mnt/disks/a", "kind": "Mount", "storageClassName": "fast" });
    latebind_test_support::objects::merge(&mut spec, more);
    let object = json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalDisk", "metadata": { "name": name }, "spec": spec });
    Ok(serde_json::from_value(object)?)
}

/// An agent writes about the disks of its own node, and that one is clean only after an attempt that the controller confirmed.
pub async fn an_agent_calls_no_disk_clean_that_is_not(
    scope: &Scope,
    controller: &Client,
    mine: &Client,
    node: &str,
    other: &str,
) -> Result<()> {
    let (of_mine, of_controller): (Api<LocalDisk>, Api<LocalDisk>) =
        (Api::all(mine.clone()), Api::all(controller.clone()));
    // One of which the controller that runs meanwhile confirms no attempt, and that it does not take back.
    let seen = json!({ "name": "v", "uid": "u", "resourceVersion": "1", "reclaimPolicy": "Delete" });
    let order = json!({ "unclean": true, "clean": { "id": "order", "why": "FirstUse" }, "confirmedAttempt": "one",
        "persistentVolume": seen });
    let (own, foreign) = (scope.unique("own"), scope.unique("foreign"));
    // No agent knows of them: these paths are given to none.
    of_controller.create(&PostParams::default(), &disk(&own, node, &order)?).await?;
    of_controller.create(&PostParams::default(), &disk(&foreign, other, &order)?).await?;
    let merge = PatchParams::default();
    let says = |status: Value| Patch::Merge(json!({ "status": status }));
    let present = says(json!({ "presence": "Present" }));
    ensure_denied(&json!("another node's"), &of_mine.patch_status(&foreign, &merge, &present).await)?;
    of_mine.patch_status(&own, &merge, &present).await.context("its work")?;
    let clean = says(json!({ "cleaned": "order" }));
    ensure_denied(&json!("not asked"), &of_mine.patch_status(&own, &merge, &clean).await)?;
    of_mine.patch_status(&own, &merge, &says(json!({ "attempt": "two" }))).await.context("its work")?;
    ensure_denied(&json!("not confirmed"), &of_mine.patch_status(&own, &merge, &clean).await)?;
    of_mine.patch_status(&own, &merge, &says(json!({ "attempt": "one" }))).await.context("its work")?;
    let another = says(json!({ "cleaned": "another" }));
    ensure_denied(&json!("another order"), &of_mine.patch_status(&own, &merge, &another).await)?;
    of_mine.patch_status(&own, &merge, &clean).await.context("its work")?;
    for name in [&own, &foreign] {
        let spec = json!({ "spec": { "unclean": false } });
        let refused = of_mine.patch(name, &merge, &Patch::Merge(&spec)).await;
        ensure!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403), "{refused:?}");
        let refused = of_mine.delete(name, &DeleteParams::default()).await.map(drop);
        ensure!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403), "{refused:?}");
        match of_controller.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted?),
        }
    }
    Ok(())
}

/// With the controller's token volumes of disks are made beneath the agents' disk paths only; an order to clean one is written with no
/// other.
pub async fn disks_are_the_controllers_within_its_paths(scope: &Scope, thief: &Client) -> Result<()> {
    let disks = scope.all::<LocalDisk>();
    let merge = PatchParams::default();
    let made = disks.create(&PostParams::default(), &disk(&scope.unique("d"), "nowhere", &json!({}))?).await?;
    let order = json!({ "spec": { "clean": { "id": "x", "why": "Asked" } } });
    until_denied("the policy for disks to hold", async || {
        disks.patch(&made.name_any(), &only_tried(), &Patch::Merge(&order)).await
    })
    .await?;
    for change in [
        order,
        json!({ "spec": { "unclean": true } }),
        json!({ "spec": { "confirmedAttempt": "a" } }),
        json!({ "spec": { "identity": { "fs": "x" } } }),
    ] {
        ensure_denied(&change, &disks.patch(&made.name_any(), &merge, &Patch::Merge(&change)).await)?;
    }
    let ordered = disk(&scope.unique("d"), "nowhere", &json!({ "clean": { "id": "x", "why": "Asked" } }))?;
    ensure_denied(&json!("created with an order"), &disks.create(&PostParams::default(), &ordered).await)?;
    let person = json!({ "spec": { "release": "Wipe", "retries": 1 } });
    disks.patch(&made.name_any(), &merge, &Patch::Merge(&person)).await.context("a person's word")?;
    disks.delete(&made.name_any(), &DeleteParams::default()).await?;

    let volumes: Api<PersistentVolume> = Api::all(thief.clone());
    let good = scope.unique("disk");
    let volume = |path: &str, change: Value| {
        let mut whole = json!({ "metadata": { "name": good, "finalizers": ["latebind.dev/disk"], "annotations": {
                "pv.kubernetes.io/provisioned-by": "disks.latebind.dev", "latebind.dev/local-disk": good } },
            "spec": { "storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" },
                "persistentVolumeReclaimPolicy": "Delete", "local": { "path": path },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": ["nowhere"] }] }] } } } });
        json_patch::merge(&mut whole, &change);
        serde_json::from_value::<PersistentVolume>(whole)
    };
    let at = "/mnt/disks/a";
    let claim = json!({ "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": scope.namespace(), "name": "c", "uid": "u" });
    for (path, change) in [
        ("/etc", json!({})),
        ("/mnt/disks", json!({})),
        ("/mnt/disks-other/a", json!({})),
        (at, json!({ "spec": { "claimRef": claim } })),
        (at, json!({ "metadata": { "finalizers": null } })),
        (at, json!({ "metadata": { "annotations": { "latebind.dev/local-disk": "another" } } })),
    ] {
        let outcome = volumes.create(&PostParams::default(), &volume(path, change.clone())?).await;
        ensure_denied(&json!([path, change]), &outcome)?;
    }
    volumes.create(&PostParams::default(), &volume(at, json!({}))?).await.context("its work")?;
    let retain = json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } });
    ensure_denied(&retain, &volumes.patch(&good, &merge, &Patch::Merge(&retain)).await)?;
    let bound = |status: Value| Patch::Merge(json!({ "status": status }));
    scope.all::<PersistentVolume>().patch_status(&good, &merge, &bound(json!({ "phase": "Available" }))).await?;
    let grown = json!({ "spec": { "capacity": { "storage": "2Gi" } }, "metadata": { "labels": { "zone": "z" } } });
    volumes.patch(&good, &merge, &Patch::Merge(&grown)).await.context("its work")?;
    let none = json!({ "metadata": { "finalizers": ["kubernetes.io/pv-protection"] } });
    volumes.patch(&good, &merge, &Patch::Merge(&none)).await.context("its work")?;
    volumes.delete(&good, &DeleteParams::default()).await.context("its work")?;
    Ok(())
}
