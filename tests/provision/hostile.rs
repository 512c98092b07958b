//! Names, annotations and paths that try to lead elsewhere.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use latebind::rancher::{MICROK8S, RANCHER};
use latebind_cluster::{Scope, holds_for};
use latebind_test_support::local::PATIENCE;
use latebind_test_support::objects;
use serde_json::{Value, json};

use super::ground::{Ground, warned};
use super::refused::unselected;

const WHILE: Duration = Duration::from_secs(3);

async fn class_of_rancher(scope: &Scope, stem: &str, parameters: Value) -> Result<String> {
    let name = scope.unique(stem);
    let class = objects::with(objects::class(&name, RANCHER), &json!({ "parameters": parameters }));
    scope.create::<StorageClass>(class).await?;
    Ok(name)
}

/// The old provisioner made and removed directories anywhere in its base, wherever an annotation of the claim led.
pub async fn a_pattern_that_climbs_inside_the_base_is_refused(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let victim = ground.base().join("victim-ns/victim-pvc");
    fs::create_dir_all(&victim)?;
    fs::write(victim.join("precious"), "precious")?;
    let user_data = "{{ .PVC.Namespace }}/{{ .PVC.Name }}/{{ .PVC.Annotations.sub }}";
    for (row, pattern) in [
        ("annotation", user_data),
        ("label", "{{ .PVC.Namespace }}/{{ .PVC.Name }}/{{ .PVC.Labels.sub }}"),
        ("basic", "{{ .PVC.Name }}/../../../etc/passwd"),
        ("skipped", "/opt/../{{ .PVC.Namespace }}_{{ .PVC.Name }}/../etc/"),
        ("printed", "{{ printf \"..\" }}/{{ .PVName }}"),
    ] {
        for unsafe_ones in [json!("false"), json!("true")] {
            let parameters = json!({ "pathPattern": pattern, "allowUnsafePathPattern": unsafe_ones });
            let stem = format!("{row}-{}", unsafe_ones.as_str().unwrap());
            let class = class_of_rancher(scope, &stem, parameters).await?;
            let name = class.clone();
            let annotations = json!({ "sub": "../../victim-ns/victim-pvc", "allowUnsafePathPattern": "true" });
            let change = json!({ "metadata": { "annotations": annotations, "labels": { "sub": "x..x" } },
                "spec": { "storageClassName": class } });
            ground.claim(&name, change).await?;
            let told = scope.event(&name, "ProvisioningFailed", "pathPattern", PATIENCE).await?;
            assert!(told.contains(".PVC.Name"), "{row}: it says what can be used instead: {told}");
            ground.delete_claim(&name).await?;
        }
    }
    assert!(ground.locals().await?.is_empty(), "nothing was even ordered");
    assert_eq!(ground.directories(), ["victim-ns"]);
    assert_eq!(fs::read_dir(&victim)?.count(), 1);
    Ok(())
}

/// What a tenant writes onto a claim reaches neither another path nor another address of the API server.
pub async fn annotations_of_a_claim_choose_no_path(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let annotations = json!({
        "nodePath": "/etc", "pathPattern": "../{uid}", "volumeType": "hostPath", "sub": "..", "mode": "4777",
        "latebind.dev/base": "/etc", "latebind.dev/local-volume": "../../x", "defaultVolumeType": "hostPath",
    });
    let claim = ground.claim("data", json!({ "metadata": { "annotations": annotations } })).await?;
    let volume = ground.bound("data").await?;
    let directory = format!("{}_{}_data", volume.name_any(), scope.namespace());
    assert_eq!(volume.name_any(), format!("pvc-{}", claim.uid().unwrap()));
    assert_eq!(ground.directories(), [directory]);
    let spec = volume.spec.as_ref().unwrap();
    assert!(spec.local.is_some() && spec.host_path.is_none(), "a tenant does not choose the source");
    for (number, node) in
        ["..", "../..", "../namespaces/kube-system", "a/b", "?x=y", "#", "a b", "%2e%2e"].iter().enumerate()
    {
        let name = format!("node{number}");
        let change = json!({ "metadata": { "annotations": { "volume.kubernetes.io/selected-node": node } } });
        ground.claim(&name, change).await?;
        let told = scope.event(&name, "ProvisioningFailed", "does not exist", PATIENCE).await?;
        assert!(told.contains(node), "{node}: {told}");
        unselected(scope, &name).await?;
    }
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.name_any()).await?;
    ground.all_clean().await
}

/// The volume that such a provisioner made, for a claim that is bound to it.
async fn old_volume(ground: &Ground<'_>, row: &str, by: &str, path: &Path, host: &str) -> Result<String> {
    let scope = ground.scope;
    let (name, class) = (scope.unique(&format!("pvc-{row}")), scope.unique(&format!("class-{row}")));
    // MicroK8s notes where its provisioner ran, which need not be the volume's node.
    let annotations = json!({ "pv.kubernetes.io/provisioned-by": by, "hostPathProvisionerIdentity": "elsewhere" });
    let term = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": [host] });
    scope
        .create::<PersistentVolume>(json!({
            "metadata": { "name": name, "annotations": annotations },
            "spec": { "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": class,
                "hostPath": { "path": path, "type": "DirectoryOrCreate" },
                "claimRef": { "namespace": scope.namespace(), "name": row, "apiVersion": "v1", "kind": "PersistentVolumeClaim" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [term] }] } } },
        }))
        .await?;
    let spec =
        json!({ "metadata": { "annotations": null }, "spec": { "storageClassName": class, "volumeName": name } });
    ground.claim(row, spec).await?;
    scope.claim_phase(row, "Bound", PATIENCE).await?;
    Ok(name)
}

/// MicroK8s writes the node's name where the label's value belongs, and ignores volumes once its Pod has moved.
pub async fn released_volumes_of_microk8s_are_cleaned_where_label_and_name_differ(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let label = scope.unique("host");
    let labelled = json!({ "metadata": { "labels": { "kubernetes.io/hostname": label } } });
    ground.nodes().patch(ground.node.name(), &PatchParams::default(), &Patch::Merge(&labelled)).await?;
    let mut made = Vec::new();
    for (row, host) in [("by-name", ground.node.name()), ("by-label", label.as_str())] {
        let path = ground.base().join(format!("{}-{row}-pvc-1", scope.namespace()));
        fs::create_dir_all(path.join("deep"))?;
        fs::write(path.join("deep/file"), row)?;
        let volume = old_volume(&ground, row, MICROK8S, &path, host).await?;
        made.push((row, volume, path));
    }
    assert!(holds_for("what is in use", WHILE, async || Ok(made.iter().all(|(_, _, path)| path.exists()))).await?);
    for (row, volume, path) in &made {
        ground.delete_claim(row).await?;
        ground.volume_gone(volume).await?;
        assert!(!path.exists(), "{row}");
    }
    ground.all_clean().await?;
    // Only its deletions are taken over: a claim of its class is left to it.
    let class = scope.unique("microk8s");
    scope
        .create::<StorageClass>(json!({ "metadata": { "name": class }, "provisioner": MICROK8S,
            "volumeBindingMode": "WaitForFirstConsumer" }))
        .await?;
    ground.claim("new", json!({ "spec": { "storageClassName": class } })).await?;
    let untouched =
        async || Ok(ground.locals().await?.is_empty() && scope.claim("new").await?.spec.unwrap().volume_name.is_none());
    assert!(holds_for("the claim", WHILE, untouched).await?);
    Ok(())
}

/// Anybody who may write a PersistentVolume could have it adopted, with any path.
pub async fn adopted_paths_that_lead_elsewhere_are_left_alone(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (kept, _) = ground.filled("kept").await?;
    let outside = ground.directory.path().join("outside");
    fs::create_dir(&outside)?;
    fs::write(outside.join("precious"), "precious")?;
    symlink(&outside, ground.base().join("link"))?;
    fs::create_dir_all(ground.base().join("plain/inner"))?;
    let before = ground.directories();
    let own = latebind_test_support::local::path_of(&kept);
    let rows = [
        ("itself", RANCHER, ground.base()),
        ("slash", RANCHER, ground.base().join("plain/").join("")),
        ("beside", RANCHER, outside.clone()),
        ("prefix", MICROK8S, ground.directory.path().join("base-x/y")),
        ("above", MICROK8S, ground.directory.path().to_owned()),
        ("link", RANCHER, ground.base().join("link")),
        ("through", MICROK8S, ground.base().join("link/precious")),
        ("agents", RANCHER, ground.base().join(".latebind/volumes")),
        ("double", RANCHER, Path::new(&format!("{}//plain", ground.base().display())).to_owned()),
        ("ours", RANCHER, own.clone()),
        ("within", MICROK8S, own.join("data")),
    ];
    let mut made = Vec::new();
    for (row, by, path) in &rows {
        made.push((*row, old_volume(&ground, row, by, path, ground.node.name()).await?));
    }
    for (row, _) in &made {
        ground.delete_claim(row).await?;
    }
    for (row, volume) in &made {
        // Some are refused before anything is ordered, and some by the agent, which sees what is on the disk.
        if *row == "slash" {
            continue;
        }
        let told = warned(scope, volume, "VolumeFailedDelete").await?;
        assert!(!told.is_empty(), "{row}");
        ground.volume_phase(volume, "Released").await?;
    }
    let there = async || {
        Ok(outside.join("precious").exists() && own.join("data").exists() && ground.base().join("link").exists())
    };
    assert!(holds_for("what was not theirs", WHILE, there).await?);
    let mut expected = before;
    expected.retain(|name| name != "plain");
    let mut found = ground.directories();
    found.retain(|name| name != "plain");
    assert_eq!(found, expected);
    // None of it can be removed; the objects must not outlive the test.
    let bare = json!({ "metadata": { "finalizers": null } });
    for local in ground.locals().await? {
        let locals = scope.all::<latebind::crd::LocalVolume>();
        if local.spec.claim.name != "kept" {
            locals.patch(&local.name_any(), &PatchParams::default(), &Patch::Merge(&bare)).await?;
        }
    }
    Ok(())
}

/// A claim that has the name of another's volume: a directory of one must not be made inside that of the other.
pub async fn a_volume_is_never_made_inside_another(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({ "parameters": { "pathPattern": "{volume}" } })).await?;
    let (victim, file) = ground.filled("victim").await?;
    let class = scope.unique("nested");
    scope
        .create::<StorageClass>(json!({ "metadata": { "name": class }, "provisioner": "local.latebind.dev",
            "volumeBindingMode": "WaitForFirstConsumer",
            "parameters": { "pool": ground.class, "pathPattern": "{claim}/{uid}" } }))
        .await?;
    let attacker = victim.name_any();
    ground.claim(&attacker, json!({ "spec": { "storageClassName": class } })).await?;
    let told = scope.event(&attacker, "ProvisioningFailed", "another volume", PATIENCE).await?;
    assert!(told.contains(ground.node.name()), "{told}");
    assert_eq!(fs::read_dir(file.parent().unwrap())?.count(), 1, "nothing was made in the other's directory");
    ground.delete_claim(&attacker).await?;
    ground.delete_claim("victim").await?;
    ground.volume_gone(&victim.name_any()).await?;
    ground.all_clean().await
}

/// Caches keep few annotations; those that say how such a class is served must be among them.
pub async fn an_adopted_class_means_what_its_annotations_say(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let annotations = json!({ "defaultVolumeType": "local", "userPattern": "1000", "permPattern": "0750" });
    let base = ground.base();
    let patch = json!({ "spec": { "nodes": [{ "names": [ground.node.name()], "paths": [{ "path": base }] }] } });
    let name = scope.unique("adopted");
    scope
        .create::<StorageClass>(
            json!({ "metadata": { "name": name, "annotations": annotations }, "provisioner": RANCHER,
            "volumeBindingMode": "WaitForFirstConsumer" }),
        )
        .await?;
    scope.create::<latebind::crd::LocalPool>(json!({ "metadata": { "name": name }, "spec": patch["spec"] })).await?;
    ground.claim("data", json!({ "spec": { "storageClassName": name } })).await?;
    let volume = ground.bound("data").await?;
    assert!(volume.spec.as_ref().unwrap().local.is_some(), "{volume:?}");
    let made = latebind_test_support::local::path_of(&volume).metadata()?;
    assert_eq!((made.mode() & 0o7777, made.uid()), (0o750, 1000));
    Ok(())
}
