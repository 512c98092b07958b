//! What kubectl prints when a node is drained or lost, with latebind as real Pods.

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolume;
use latebind_cluster::{Scope, eventually};
use latebind_test_support::installed::{PATIENCE, class};
use latebind_test_support::objects::{self, claim_spec};
use serde_json::json;

use crate::quickstart::typed;

/// What kubectl says beside its answer.
async fn said(scope: &Scope, arguments: &[&str]) -> Result<String> {
    let output = scope.cluster()?.kubectl(arguments).await?;
    Ok(format!("{}{}", output.stdout, output.stderr))
}

/// A StatefulSet with a disk of a node that no kubelet runs: cordoned, drained, out of service, and deleted. Its claim goes last.
pub async fn whoever_takes_a_node_away_is_told(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("warned", &[]).await?;
    let name = node.name().to_owned();
    let fixed = class(scope, "warned", "kubernetes.io/no-provisioner").await?;
    let disk = scope.unique("warned");
    let mut volume = objects::volume(&disk, &fixed, &name, "1Mi");
    objects::merge(&mut volume["spec"], &json!({ "persistentVolumeReclaimPolicy": "Delete" }));
    scope.create::<PersistentVolume>(volume).await?;
    let labels = json!({ "app": "warned" });
    let mut template = objects::pod("warned", &[]);
    template["metadata"] = json!({ "labels": labels });
    objects::merge(
        &mut template["spec"],
        &json!({ "containers": [
        { "name": "c", "image": "x", "volumeMounts": [{ "name": "data", "mountPath": "/d" }] }] }),
    );
    let claim = json!({ "metadata": { "name": "data" }, "spec": claim_spec(&fixed, "1Mi") });
    scope
        .create::<StatefulSet>(json!({ "metadata": { "name": "warned" }, "spec": { "serviceName": "warned",
            "selector": { "matchLabels": labels }, "template": template, "volumeClaimTemplates": [claim] } }))
        .await?;
    eventually("the Pod to be on the node", PATIENCE, async || {
        let pod = scope.pod("warned-0").await.ok();
        Ok(pod.and_then(|pod| pod.spec?.node_name).filter(|on| *on == name).map(drop))
    })
    .await?;

    // The API server shows no client certificate here, so that answers name nothing that the request does not.
    let held = "LB401: there are claims whose volumes are on this node alone";
    // What the webhook knows comes by watches.
    eventually("a cordon to be warned of", PATIENCE, async || {
        said(scope, &["uncordon", &name]).await?;
        let told = said(scope, &["cordon", &name]).await?;
        let next = format!("Next: latebind plan drain {name}");
        Ok((told.contains(held) && told.contains(&next)).then_some(()))
    })
    .await?;
    let quiet = said(scope, &["label", "node", &name, "latebind.dev/test=1"]).await?;
    ensure!(!quiet.contains("LB401"), "{quiet}");
    // Nobody ends the Pod of a simulated node, so the drain waits for it until its time is up.
    let told = said(scope, &["drain", &name, "--timeout=5s", "--grace-period=1", "--force"]).await?;
    ensure!(told.contains("LB401: what replaces pod warned-0 stays Pending until its node takes Pods again"), "{told}");
    let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
    let told = said(scope, &["taint", "node", &name, taint]).await?;
    ensure!(told.contains(held) && told.contains("the taint frees Pods, not claims"), "{told}");

    let told = said(scope, &["delete", "node", &name]).await?;
    ensure!(told.contains(held) && told.contains("without it their Pods stay Pending"), "{told}");

    let deleted = ["delete", "pvc", "data-warned-0", "--wait=false", "-n", scope.namespace()];
    let told = said(scope, &deleted).await?;
    let keep = format!(r#"kubectl patch pv {disk} -p '{{"spec":{{"persistentVolumeReclaimPolicy":"Retain"}}}}'"#);
    ensure!(told.contains("is deleted with claim data-warned-0") && told.contains(&keep), "{told}");
    // The command, as it stands there.
    typed(scope, &keep).await?;
    let kept = scope.all::<PersistentVolume>().get(&disk).await?;
    let policy = kept.spec.and_then(|spec| spec.persistent_volume_reclaim_policy);
    ensure!(policy.as_deref() == Some("Retain"), "{policy:?}");
    Ok(())
}
