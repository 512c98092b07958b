//! What the older provisioner's own end-to-end tests try, with classes that the import made from its configuration; and
//! the directory is gone afterwards, which those tests never looked at.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node as NodeObject, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{ApiResource, Patch, PatchParams};
use latebind::crd::LocalPool;
use latebind_cluster::{Node, Scope, eventually};
use latebind_test_support::objects::{self, merge, of_claim};
use serde_json::{Value, json};

use crate::nodes::{PATIENCE, delete_claim, delete_pod, installed, last, pod, removed};
use latebind_test_support::local::path_of;

const KEY: &str = "test.example.com/stable-id";

/// One of its tests.
struct Row {
    name: &'static str,
    class: &'static str,
    claim: Value,
    pod: Value,
    /// Whether the volume's source is hostPath, its default, or local.
    host_path: bool,
}

fn row(name: &'static str, class: &'static str, host_path: bool, claim: Value, pod: Value) -> Row {
    Row { name, class, claim, pod, host_path }
}

/// A class of it, with an entry of `storageClassConfigs`.
fn class(scope: &Scope, name: &str, parameters: &Value, annotations: &Value) -> Value {
    let class = objects::class(&scope.unique(name), "rancher.io/local-path");
    let more =
        json!({ "metadata": { "annotations": annotations }, "reclaimPolicy": "Delete", "parameters": parameters });
    objects::with(class, &more)
}

/// What `kubectl get` shows of an installation of it.
fn installation(scope: &Scope, base: &str) -> Value {
    let unsafe_pattern = "/opt/../{{ .PVC.Namespace }}_{{ .PVC.Name }}/../etc/";
    let owner = json!({ "userPattern": "1000", "groupPattern": "2000", "permPattern": "0700" });
    let pattern = json!({ "nodePath": base, "pathPattern": "{{ .PVC.Namespace }}/{{ .PVC.Name }}/" });
    let none = json!({});
    let classes = [
        class(scope, "plain", &none, &none),
        class(scope, "local", &none, &json!({ "defaultVolumeType": "local" })),
        class(scope, "key", &json!({ "nodeAffinityKey": KEY }), &none),
        class(scope, "pattern", &pattern, &none),
        class(scope, "owner", &owner, &none),
        class(scope, "skip", &json!({ "pathPattern": unsafe_pattern, "allowUnsafePathPattern": "true" }), &none),
        class(
            scope,
            "annotated",
            &json!({ "pathPattern": unsafe_pattern }),
            &json!({ "allowUnsafePathPattern": "true" }),
        ),
        class(scope, "climbs", &json!({ "pathPattern": "{{ .PVC.Name }}/../../../etc/passwd" }), &none),
        class(scope, "many", &none, &none),
        class(scope, "shared", &none, &none),
    ];
    let mut configs = json!({});
    for class in &classes {
        let paths = json!([{ "node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [base] }]);
        configs[class["metadata"]["name"].as_str().unwrap()] = json!({ "nodePathMap": paths });
    }
    // As its own documentation spells it.
    configs[scope.unique("shared")] = json!({ "sharedFilesystemPath": "/shared" });
    let two = json!([format!("{base}/first/"), format!("{base}/second")]);
    configs[scope.unique("many")]["nodePathMap"][0]["paths"] = two;
    let mut items = classes.to_vec();
    items.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "local-path-config" },
        "data": { "config.json": json!({ "storageClassConfigs": configs }).to_string() } }));
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// Runs the import, applies what it writes, and gives what it says.
async fn import(scope: &Scope, installation: &Value) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), installation.to_string())?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_latebind"));
    let output = command.args(["import", "rancher", "-f"]).arg(file.path()).stdin(Stdio::null()).output()?;
    let (made, said) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.code() == Some(1), "something is lost, and that is said: {said}");
    scope.cluster()?.kubectl_with_input(&["apply", "-f", "-"], &made).await?.success()?;
    for item in installation["items"].as_array().into_iter().flatten() {
        if let (Some("StorageClass"), Some(name)) = (item["kind"].as_str(), item["metadata"]["name"].as_str()) {
            scope.remember(ApiResource::erase::<StorageClass>(&()), name.to_owned());
            scope.remember(ApiResource::erase::<LocalPool>(&()), name.to_owned());
        }
    }
    Ok(said)
}

fn named_is_what_cannot_be_kept(said: &str) -> Result<()> {
    for note in [
        "it uses the shared path /shared",
        "give --shared-by NODE",
        "pathPattern `/opt/../",
        "pathPattern `{{ .PVC.Name }}/../../../etc/passwd`",
        "allowUnsafePathPattern is not kept",
        "annotation volumeType of a claim is no longer read",
        "so that no two claims share a directory",
    ] {
        ensure!(said.contains(note), "{note} is missing in:\n{said}");
    }
    Ok(())
}

fn rows(node: &str, stable: &str) -> Vec<Row> {
    let nothing = || json!({});
    let here = || json!({ "spec": { "nodeSelector": { "kubernetes.io/hostname": node } } });
    let term = json!({ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [node] }] });
    let required = json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] } });
    let affinity = json!({ "spec": { "affinity": { "nodeAffinity": required } } });
    let jenkins = json!({ "spec": { "nodeName": node, "restartPolicy": "Never",
        "securityContext": { "runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 1000 } } });
    let group = json!({ "spec": { "nodeName": node,
        "securityContext": { "runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 3000 } } });
    let key = json!({ "spec": { "nodeSelector": { KEY: stable } } });
    vec![
        row("host-path", "plain", true, nothing(), here()),
        // It let the tenant choose: the claim's annotation is not read.
        row("volume-type", "plain", true, json!({ "metadata": { "annotations": { "volumeType": "local" } } }), here()),
        row("default-type", "local", false, nothing(), here()),
        row("affinity", "plain", true, nothing(), affinity),
        row("rwop", "local", false, json!({ "spec": { "accessModes": ["ReadWriteOncePod"] } }), here()),
        row("jenkins", "plain", true, nothing(), jenkins),
        row("group", "local", false, nothing(), group),
        row("sub-path", "plain", true, nothing(), json!({ "spec": { "nodeName": node } })),
        row("key", "key", true, nothing(), key),
        row("pattern", "pattern", true, nothing(), here()),
        row("owner", "owner", true, nothing(), here()),
        row("skip", "skip", true, nothing(), here()),
        row("annotated", "annotated", true, nothing(), here()),
        row("climbs", "climbs", true, nothing(), here()),
        row("many-1", "many", true, nothing(), here()),
        row("many-2", "many", true, nothing(), here()),
    ]
}

fn pod_of(row: &Row) -> Value {
    let mut object = pod(row.name, None, &of_claim(row.name));
    merge(&mut object, &row.pod);
    let main = &mut object["spec"]["containers"][0];
    match row.name {
        "jenkins" => main["command"] = json!(["/bin/sh", "-c", "hostname > /data/name && touch /data/test"]),
        "group" => {
            let script = "hostname > /data/name && stat -c %g /data > /data/group && sleep 3600";
            main["command"] = json!(["/bin/sh", "-c", script]);
        }
        "sub-path" => {
            main["volumeMounts"][0]["subPath"] = json!("nginx");
            let mut second = main.clone();
            second["name"] = json!("second");
            second["volumeMounts"][0]["subPath"] = json!("deep/busybox");
            object["spec"]["containers"] = json!([main.clone(), second]);
        }
        _ => {}
    }
    object
}

/// The volume of a row, once its Pod has written into it.
async fn filled(scope: &Scope, node: &Node, row: &Row) -> Result<PersistentVolume> {
    let claim = objects::claim(row.name, &scope.unique(row.class), "1Mi");
    scope.create::<PersistentVolumeClaim>(objects::with(claim, &row.claim)).await?;
    scope.create::<Pod>(pod_of(row)).await?;
    let phase = if row.name == "jenkins" { "Succeeded" } else { "Running" };
    let running = scope.pod_phase(row.name, phase, PATIENCE).await?;
    let on = running.spec.and_then(|spec| spec.node_name);
    ensure!(on.as_deref() == Some(node.name()), "it runs on {on:?}");
    if row.name == "jenkins" {
        let conditions = running.status.and_then(|status| status.conditions).unwrap_or_default();
        let completed = |it: &&k8s_openapi::api::core::v1::PodCondition| {
            it.type_ == "Ready" && it.reason.as_deref() == Some("PodCompleted")
        };
        ensure!(conditions.iter().any(|it| completed(&it)), "{conditions:?}");
    }
    let volume = scope.claim(row.name).await?.spec.and_then(|spec| spec.volume_name).context("bound")?;
    let volume = scope.all::<PersistentVolume>().get(&volume).await?;
    let files: &[&str] = if row.name == "sub-path" { &["nginx/name", "deep/busybox/name"] } else { &["name"] };
    for file in files {
        let path = path_of(&volume).join(file);
        eventually("the file on the node", PATIENCE, async || {
            let found = node.shell(&format!("cat {} 2>/dev/null || true", path.display())).await?;
            Ok((found.trim() == row.name).then_some(()))
        })
        .await?;
    }
    Ok(volume)
}

/// What the row is about.
async fn as_wanted(scope: &Scope, node: &Node, base: &str, row: &Row, volume: &PersistentVolume) -> Result<()> {
    let (path, spec) = (path_of(volume).display().to_string(), volume.spec.clone().unwrap());
    ensure!(spec.host_path.is_some() == row.host_path && spec.local.is_some() != row.host_path, "{spec:?}");
    let usual = format!("{}_{}_{}", volume.name_any(), scope.namespace(), row.name);
    let expected = match row.name {
        "pattern" => format!("{base}/{}/pattern/{}", scope.namespace(), volume.name_any()),
        name if name.starts_with("many") => {
            ensure!(path.ends_with(&usual) && path.starts_with(base), "{path}");
            path.clone()
        }
        // A pattern that could leave the base is not followed: these lie where all others do.
        _ => format!("{base}/{usual}"),
    };
    ensure!(path == expected, "{path}, not {expected}");
    let affinity = serde_json::to_value(&spec.node_affinity)?;
    let term = &affinity["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    let (key, value) = if row.name == "key" {
        (KEY, scope.unique("stable"))
    } else {
        ("kubernetes.io/hostname", node.name().to_owned())
    };
    ensure!(term["key"] == key && term["values"] == json!([value]), "{affinity}");
    let stat = node.shell(&format!("stat -c '%a %u %g' {path}; cat {path}/group 2>/dev/null || true")).await?;
    let words: Vec<&str> = stat.split_whitespace().collect();
    match row.name {
        "owner" => ensure!(words == ["700", "1000", "2000"], "{stat}"),
        "group" => ensure!(words.last() == Some(&"3000"), "{stat}"),
        _ if row.host_path => ensure!(words == ["777", "0", "0"], "{stat}"),
        _ => {}
    }
    Ok(())
}

pub async fn every_row_of_its_own_tests_serves_and_cleans_up(scope: &Scope) -> Result<()> {
    let node = last(installed(scope).await?);
    let (stable, base) = (scope.unique("stable"), format!("/var/lib/latebind/{}", scope.unique("rancher")));
    let label = json!({ "metadata": { "labels": { KEY: stable } } });
    scope.all::<NodeObject>().patch(node.name(), &PatchParams::default(), &Patch::Merge(&label)).await?;
    let said = import(scope, &installation(scope, &base)).await?;
    named_is_what_cannot_be_kept(&said)?;
    let shared = scope.all::<StorageClass>().get_opt(&scope.unique("shared")).await?;
    ensure!(shared.is_none(), "nobody said which node answers for the shared path");

    let rows = rows(node.name(), &stable);
    let life = async |row: &Row| {
        let volume = filled(scope, node, row).await?;
        as_wanted(scope, node, &base, row, &volume).await?;
        let parent = path_of(&volume).parent().map(std::path::Path::to_path_buf);
        anyhow::Ok((volume, parent))
    };
    let lives = rows.iter().map(|row| async { life(row).await.with_context(|| row.name.to_owned()) });
    let made = futures::future::try_join_all(lives).await?;
    let of_many: Vec<_> = rows.iter().zip(&made).filter(|(row, _)| row.class == "many").map(|(_, it)| &it.1).collect();
    ensure!(of_many[0] != of_many[1], "two paths, and both volumes in one: {of_many:?}");

    let ends = rows.iter().zip(&made).map(|(row, (volume, _))| async {
        let end = async {
            delete_pod(scope, row.name).await?;
            delete_claim(scope, row.name).await?;
            removed(scope, volume, node.name()).await
        };
        end.await.with_context(|| row.name.to_owned())
    });
    futures::future::try_join_all(ends).await?;
    // Of what tenants named only the empty directories above a volume stay, nothing above the volume being touched.
    let left = node.shell(&format!("cd {base} && find . -mindepth 1 -not -path '*/.*' | sort")).await?;
    let namespace = scope.namespace();
    let expected = [format!("./{namespace}"), format!("./{namespace}/pattern"), "./first".into(), "./second".into()];
    let mut expected = expected.to_vec();
    expected.sort();
    ensure!(left.split_whitespace().eq(expected.iter().map(String::as_str)), "{left}");
    // Where the pattern that climbs would have led.
    node.shell("test ! -e /var/lib/etc").await.map(drop)
}
