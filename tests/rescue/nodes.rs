//! On real nodes: a Pod that exists and is stuck starts once its claim is bound, and its file is on the right node.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::DeleteParams;
use latebind_cluster::{Scope, eventually, holds_for, image};
use serde_json::{Value, json};

use crate::process::{Rescuer, leave, writes};
use crate::stage::*;

/// A Pod that writes a file to each of its volumes.
fn writing(name: &str, node: &str, volumes: &[Value], cpu: &str) -> Value {
    let mounts: Vec<Value> = volumes
        .iter()
        .map(|volume| json!({"name": volume["name"], "mountPath": format!("/{}", volume["name"].as_str().unwrap_or_default())}))
        .collect();
    let script =
        format!("for volume in {}; do echo {name} > /$volume/file || exit 1; done; sleep 3600", names(volumes));
    json!({"metadata": {"name": name}, "spec": {
        "nodeName": node,
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
            "volumeMounts": mounts, "resources": {"requests": {"cpu": cpu}},
        }],
        "volumes": volumes,
    }})
}

fn names(volumes: &[Value]) -> String {
    volumes.iter().filter_map(|volume| volume["name"].as_str()).collect::<Vec<_>>().join(" ")
}

fn from_claim(name: &str) -> Value {
    json!({"name": name, "persistentVolumeClaim": {"claimName": name}})
}

/// A volume that is a directory of the node; of a claim's own if one is given.
async fn directory(
    scope: &Scope,
    name: &str,
    class: &str,
    node: &str,
    claim: Option<&PersistentVolumeClaim>,
) -> Result<String> {
    let path = format!("/var/lib/latebind-test/{name}");
    let mut object = json!({
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": path, "type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
        },
    });
    if let Some(claim) = claim {
        object["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": PROVISIONER});
        object["spec"]["claimRef"] = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid(),
        });
    }
    scope.create::<PersistentVolume>(object).await?;
    Ok(path)
}

/// Rows 4, 6, 23 and 25 of Pods that were created while latebind was away. A test provisioner makes volumes.
pub async fn existing_pods_start(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let node = cluster.nodes().first().context("a node")?;
    let (made, fixed) = (class(scope, "dynamic", PROVISIONER).await?, class(scope, "static", NO_PROVISIONER).await?);
    let disk = directory(scope, &scope.unique("disk"), &fixed, node.name(), None).await?;
    claim(scope, "made", &made, "1Gi").await?;
    claim(scope, "fixed", &fixed, "1Gi").await?;
    let own = json!({"name": "own", "ephemeral": {"volumeClaimTemplate": {"spec": claim_spec(&made, "1Gi")}}});
    scope.create::<Pod>(writing("both", node.name(), &[from_claim("made"), from_claim("fixed")], "1m")).await?;
    scope.create::<Pod>(writing("scratch", node.name(), &[own], "1m")).await?;
    let mut template = writing("set-0", node.name(), &[from_claim("of")], "1m")["spec"].clone();
    template["volumes"] = json!([]);
    let set = json!({"metadata": {"name": "set"}, "spec": {
        "serviceName": "none", "replicas": 1, "selector": {"matchLabels": {"app": "set"}},
        "template": {"metadata": {"labels": {"app": "set"}}, "spec": template},
        "volumeClaimTemplates": [{"metadata": {"name": "of"}, "spec": claim_spec(&made, "1Gi")}],
    }});
    scope.create::<StatefulSet>(set).await?;
    let pods = ["both", "scratch", "set-0"];
    // As it is without latebind: the kubelet has seen them, and they wait for ever.
    for name in pods {
        eventually("the kubelet to see the Pod", PATIENCE, async || {
            let pod = scope.api::<Pod>().get_opt(name).await?;
            Ok(pod.and_then(|pod| pod.status?.start_time).map(drop))
        })
        .await?;
    }
    holds_for("the Pods to be stuck", QUIET, async || {
        let both = scope.pod("both").await?.status.and_then(|status| status.phase);
        Ok((both, scope.claim("made").await?.status.and_then(|status| status.phase)))
    })
    .await?;

    let rescuer = Rescuer::start(cluster, &[]).await?;
    let mut paths = vec![("both", disk)];
    for (pod, name) in [("both", "made"), ("scratch", "scratch-own"), ("set-0", "of-set-0")] {
        let claim = selected(scope, name).await?;
        let to = claim.annotations().get(SELECTED_NODE).context("selected")?;
        ensure!(to == node.name());
        let volume = format!("pvc-{}", claim.uid().unwrap_or_default());
        paths.push((pod, directory(scope, &volume, &made, to, Some(&claim)).await?));
    }
    for name in pods {
        scope.pod_phase(name, "Running", PATIENCE * 3).await?;
    }
    for (pod, path) in paths {
        let text =
            eventually("the Pod's file", PATIENCE, async || node.shell(&format!("cat {path}/file")).await.map(Some))
                .await?;
        ensure!(text.trim() == pod, "{path}: {text}");
    }
    for name in ["made", "scratch-own", "of-set-0"] {
        ensure!(writes(cluster, "persistentvolumeclaims", scope.namespace(), name)? == 1);
    }
    rescuer.signal("TERM").await
}

/// What a real kubelet rejects (too little CPU, a selector that excludes the node) does not pin its claim.
pub async fn pods_that_a_kubelet_rejects_pin_nothing(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let node = cluster.nodes().first().context("a node")?;
    let rescuer = Rescuer::start(cluster, &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "cpu", &class, "1Gi").await?;
    claim(scope, "selector", &class, "1Gi").await?;
    scope.create::<Pod>(writing("cpu", node.name(), &[from_claim("cpu")], "9999")).await?;
    let mut excluded = writing("selector", node.name(), &[from_claim("selector")], "1m");
    excluded["spec"]["nodeSelector"] = json!({"test.example.com/no": "where"});
    scope.create::<Pod>(excluded).await?;
    for (name, reason) in [("cpu", "OutOfcpu"), ("selector", "NodeAffinity")] {
        let pod = scope.pod_phase(name, "Failed", PATIENCE).await?;
        let said = pod.status.and_then(|status| status.reason).unwrap_or_default();
        ensure!(said == reason, "{said}");
    }
    for name in ["cpu", "selector"] {
        crate::rows::untouched(scope, name).await?;
        scope.api::<Pod>().delete(name, &DeleteParams::default()).await?;
    }
    rescuer.signal("TERM").await
}
