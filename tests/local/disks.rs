//! Whole disks as volumes, on real nodes: found, used, cleaned and offered again, by the steps of an administrator.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use latebind::crd::{LocalDisk, LocalNode, LocalPool, Presence};
use latebind_cluster::{Cluster, Node, Scope, eventually, holds_for, project_root};
use latebind_test_support::objects;
use serde_json::{Value, json};

use crate::drains::{run, told};
use crate::nodes::{PATIENCE, delete_claim, delete_pod, installed, last, manifest_with, rolled_out};

/// A class of static volumes, and a pool that looks for them in a directory of one node.
async fn offered(scope: &Scope, name: &str, node: &Node, directory: &str, more: &Value) -> Result<()> {
    let class = json!({ "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete" });
    let class = objects::with(objects::class(name, "kubernetes.io/no-provisioner"), &class);
    scope.create::<StorageClass>(class).await?;
    let rule = objects::with(json!({ "storageClassName": name, "directory": directory }), more);
    let nodes = json!([{ "names": [node.name()], "discover": [rule] }]);
    scope.create::<LocalPool>(json!({ "metadata": { "name": name }, "spec": { "nodes": nodes } })).await?;
    Ok(())
}

/// An example of the project, for a class and a directory of this test's own.
async fn example(scope: &Scope, file: &str, class: &str, directory: &str) -> Result<()> {
    let text = std::fs::read_to_string(project_root().join("examples").join(file))?;
    let text = text.replace("local-storage", class).replace("/mnt/disks", directory);
    let arguments = ["apply", "--namespace", scope.namespace(), "-f", "-"];
    scope.cluster()?.kubectl_with_input(&arguments, &text).await?.success()?;
    Ok(())
}

async fn volumes(scope: &Scope, class: &str) -> Result<Vec<PersistentVolume>> {
    let all = scope.all::<PersistentVolume>().list(&ListParams::default()).await?.items;
    let of_class = |volume: &PersistentVolume| {
        volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) == Some(class)
    };
    Ok(all.into_iter().filter(of_class).collect())
}

fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn path(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.local.as_ref()).map(|local| local.path.as_str()).unwrap_or_default()
}

/// Waits until these are the paths of the volumes of a class that nobody has claimed.
async fn available(scope: &Scope, class: &str, paths: &[&str]) -> Result<Vec<PersistentVolume>> {
    eventually(&format!("{paths:?} to be available"), PATIENCE, async || {
        let mut all = volumes(scope, class).await?;
        all.retain(|volume| phase(volume) == "Available" && volume.metadata.deletion_timestamp.is_none());
        all.sort_by(|one, two| path(one).cmp(path(two)));
        let found: Vec<&str> = all.iter().map(path).collect();
        ensure!(found == paths, "{found:?}; {}", seen(scope, class).await?);
        Ok(Some(all))
    })
    .await
}

/// The disks of a class as the cluster has them, for messages.
async fn seen(scope: &Scope, class: &str) -> Result<String> {
    let disks = scope.all::<LocalDisk>().list(&ListParams::default()).await?.items;
    let of_class: Vec<Value> = disks
        .iter()
        .filter(|disk| disk.spec.storage_class_name == class)
        .map(|disk| json!({ "name": disk.name_any(), "spec": disk.spec, "status": disk.status }))
        .collect();
    Ok(serde_json::to_string_pretty(&of_class)?)
}

async fn disk_at(scope: &Scope, class: &str, at: &str) -> Result<LocalDisk> {
    let disks = scope.all::<LocalDisk>().list(&ListParams::default()).await?.items;
    disks.into_iter().find(|disk| disk.spec.storage_class_name == class && disk.spec.path == at).context("no such disk")
}

async fn use_it(scope: &Scope, class: &str, pod: &str, script: &str) -> Result<()> {
    example(scope, "disks-claim.yaml", class, "").await?;
    let script = format!("{script} && sleep 3600");
    scope
        .create::<Pod>(objects::running(objects::pod(pod, &[objects::named("data", "example-local-claim")]), &script))
        .await?;
    scope.pod_phase(pod, "Running", PATIENCE).await?;
    Ok(())
}

async fn gone(scope: &Scope, volume: &PersistentVolume) -> Result<()> {
    let volumes = scope.all::<PersistentVolume>();
    eventually("the volume to go", PATIENCE, async || {
        let now = volumes.get_opt(&volume.name_any()).await?;
        Ok(now.is_none_or(|now| now.uid() != volume.uid()).then_some(()))
    })
    .await
}

/// Leaves nothing of a test: its pool, its class, its volumes and its mounts.
async fn put_away(scope: &Scope, name: &str, node: &Node, directory: &str) -> Result<()> {
    scope.all::<LocalPool>().delete(name, &DeleteParams::default()).await?;
    node.shell(&format!("for at in {directory}/*; do umount -l $at 2>/dev/null || true; done; rm -rf {directory}"))
        .await?;
    for disk in scope.all::<LocalDisk>().list(&ListParams::default()).await?.items {
        if disk.spec.storage_class_name == name {
            let forget = json!({ "spec": { "release": "Forget" } });
            let disks = scope.all::<LocalDisk>();
            // One that remembers nothing may have gone by itself.
            match disks.patch(&disk.name_any(), &PatchParams::default(), &Patch::Merge(&forget)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                patched => drop(patched?),
            }
        }
    }
    eventually("no volume and no disk of it", PATIENCE, async || {
        let disks = scope.all::<LocalDisk>().list(&ListParams::default()).await?.items;
        let left = disks.iter().filter(|disk| disk.spec.storage_class_name == name).count();
        ensure!(left == 0 && volumes(scope, name).await?.is_empty(), "{}", seen(scope, name).await?);
        Ok(Some(()))
    })
    .await?;
    scope.all::<StorageClass>().delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// Three file systems of memory as in the classic article, with strays beside them: mounted, claimed, written to, released, and
/// offered again without what was on them.
pub async fn the_walk_through_of_the_classic_article(scope: &Scope) -> Result<()> {
    let cluster = installed(scope).await?;
    let (node, class, directory) = (last(cluster), scope.unique("local-storage"), "/mnt/disks/article");
    let script = format!(
        "for vol in vol1 vol2 vol3; do mkdir -p {directory}/$vol; mount -t tmpfs -o size=20m,mode=0751 $vol {directory}/$vol; done\n\
         mkdir -p {directory}/plain; echo read me > {directory}/README; ln -s {directory}/vol1 {directory}/link\n"
    );
    node.shell(&script).await?;
    example(scope, "disks.yaml", &class, directory).await?;
    let [one, two, three] = [1, 2, 3].map(|at| format!("{directory}/vol{at}"));
    let all = available(scope, &class, &[&one, &two, &three]).await?;
    for volume in &all {
        let spec = volume.spec.as_ref().context("a spec")?;
        ensure!(spec.capacity.as_ref().is_some_and(|capacity| capacity["storage"].0 == "20Mi"), "{spec:?}");
        ensure!(spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete"), "{spec:?}");
    }
    strays_are_told_of(scope, node, directory).await?;

    use_it(
        scope,
        &class,
        "writer",
        "echo hello > /data/hello && mkdir -p /data/a/b/c && echo deep > /data/a/b/c/file && chmod 700 /data",
    )
    .await?;
    let bound = scope.claim("example-local-claim").await?.spec.and_then(|spec| spec.volume_name).context("bound")?;
    let volume = scope.all::<PersistentVolume>().get(&bound).await?;
    let at = path(&volume).to_owned();
    node.shell(&format!("test $(cat {at}/hello) = hello")).await?;
    let listed = run(scope, &["disks", "--node", node.name()]).await?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(
        text.contains("Bound") && text.contains(&format!("claim {}/example-local-claim", scope.namespace())),
        "{text}"
    );
    ensure!(listed.status.code() == Some(1) && text.contains("NotOffered"), "the strays are named: {text}");
    delete_pod(scope, "writer").await?;
    delete_claim(scope, "example-local-claim").await?;
    gone(scope, &volume).await?;
    let all = available(scope, &class, &[&one, &two, &three]).await?;
    let left = node.shell(&format!("ls -A {at}; stat -c '%a %u %g' {at}")).await?;
    ensure!(left.trim() == "751 0 0", "empty, and owned as the administrator had it: {left}");
    // The orders that its readers ask about: a volume that nobody has claimed comes back while its disk is there, and goes with it.
    scope.all::<PersistentVolume>().delete(&all[0].name_any(), &DeleteParams::default()).await?;
    gone(scope, &all[0]).await?;
    available(scope, &class, &[&one, &two, &three]).await?;
    node.shell(&format!("umount {two}")).await?;
    available(scope, &class, &[&one, &three]).await?;
    put_away(scope, &class, node, directory).await
}

async fn strays_are_told_of(scope: &Scope, node: &Node, directory: &str) -> Result<()> {
    eventually("the strays to be reported", PATIENCE, async || {
        let report = scope.all::<LocalNode>().get(node.name()).await?.status.unwrap_or_default();
        let reason = |name: &str| {
            let path = format!("{directory}/{name}");
            report.disks.iter().find(|disk| disk.path == path).map_or("", |disk| disk.reason.as_str())
        };
        let told = (reason("plain"), reason("README"), reason("link"));
        ensure!(told == ("NotMounted", "NotADisk", "Link"), "{told:?} in {:?}", report.disks);
        Ok(Some(()))
    })
    .await?;
    // Each is one event, about the report of the node, and keeps nothing else from being offered.
    let events: Api<Event> = Api::namespaced(scope.client(), "default");
    eventually("an event about each stray", PATIENCE, async || {
        let all = events.list(&ListParams::default().fields("reason=DiskNotOffered")).await?.items;
        let about = |name: &str| {
            let path = format!("{directory}/{name}");
            all.iter().filter(|event| event.message.as_deref().is_some_and(|note| note.contains(&path))).count()
        };
        ensure!([about("plain"), about("README"), about("link")] == [1, 1, 1], "{all:?}");
        Ok(Some(()))
    })
    .await
}

/// What is not at its place is neither served nor cleaned, and what has held data is not offered before somebody says what becomes
/// of it.
pub async fn a_disk_that_is_away_or_another_is_neither_served_nor_cleaned(scope: &Scope) -> Result<()> {
    let cluster = installed(scope).await?;
    let (node, class, directory) = (last(cluster), scope.unique("away"), "/mnt/disks/away");
    let disk = format!("{directory}/disk");
    let image = |name: &str| format!("/var/lib/latebind/{class}-{name}.img");
    let (first, second) = (image("first"), image("second"));
    let mount = |image: &str| format!("mount -o loop {image} {disk}");
    node.shell(&format!(
        "mkdir -p {disk}; for it in {first} {second}; do truncate -s 32M $it; mkfs.ext4 -q $it; done; {}",
        mount(&first)
    ))
    .await?;
    offered(scope, &class, node, directory, &json!({})).await?;
    available(scope, &class, &[&disk]).await?;
    // A disk that is pulled is not offered; one that comes back is.
    node.shell(&format!("umount {disk}")).await?;
    available(scope, &class, &[]).await?;
    node.shell(&mount(&first)).await?;
    available(scope, &class, &[&disk]).await?;

    use_it(scope, &class, "writer", "echo kept > /data/kept").await?;
    let bound = scope.claim("example-local-claim").await?.spec.and_then(|spec| spec.volume_name).context("bound")?;
    let volume = scope.all::<PersistentVolume>().get(&bound).await?;
    delete_pod(scope, "writer").await?;
    // Released while it is away: what lies beneath the mount point is nobody's to clean.
    node.shell(&format!("umount {disk}; echo mine > {disk}/mine")).await?;
    presence(scope, &class, &disk, Presence::Absent).await?;
    delete_claim(scope, "example-local-claim").await?;
    stays(scope, &volume).await?;
    ensure!(node.shell(&format!("cat {disk}/mine")).await?.trim() == "mine");
    told_of(scope, &volume, "not a mount point").await?;
    // Another disk at the same path is not cleaned in its place; and since a Pod may have got it instead, it is kept back.
    node.shell(&format!("rm {disk}/mine; {}; echo other > {disk}/other", mount(&second))).await?;
    eventually("the other disk to be seen", PATIENCE, async || {
        let disks = scope.all::<LocalDisk>().list(&ListParams::default()).await?.items;
        let here: Vec<_> =
            disks.iter().filter(|it| it.spec.path == disk).map(|it| (it.presence(), it.spec.unclean)).collect();
        ensure!(here.contains(&(Presence::Another, true)) && here.contains(&(Presence::Present, true)), "{here:?}");
        Ok(Some(()))
    })
    .await?;
    stays(scope, &volume).await?;
    available(scope, &class, &[]).await?;
    ensure!(node.shell(&format!("cat {disk}/other")).await?.trim() == "other");
    // The disk is back: now it is cleaned.
    node.shell(&format!("umount {disk}; {}", mount(&first))).await?;
    gone(scope, &volume).await?;
    available(scope, &class, &[&disk]).await?;
    ensure!(node.shell(&format!("ls -A {disk}")).await?.trim().is_empty());
    retained(scope, node, &class, &disk).await?;
    put_away(scope, &class, node, directory).await?;
    node.shell(&format!("rm -f {first} {second}")).await?;
    Ok(())
}

/// Under Retain nothing is removed; `latebind release` says what becomes of it.
async fn retained(scope: &Scope, node: &Node, class: &str, disk: &str) -> Result<()> {
    for (how, left) in [("--keep", "kept"), ("--wipe", "")] {
        let [volume] =
            <[PersistentVolume; 1]>::try_from(available(scope, class, &[disk]).await?).ok().context("one")?;
        let retain = json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } });
        let volumes = scope.all::<PersistentVolume>();
        volumes.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(&retain)).await?;
        use_it(scope, class, "again", "echo kept > /data/kept").await?;
        delete_pod(scope, "again").await?;
        let object = format!("pv/{}", volume.name_any());
        let early = run(scope, &["release", &object, how]).await?;
        ensure!(early.status.code() == Some(1), "it is bound: {}", told(&early));
        delete_claim(scope, "example-local-claim").await?;
        eventually("the volume to be released", PATIENCE, async || {
            Ok((phase(&volumes.get(&volume.name_any()).await?) == "Released").then_some(()))
        })
        .await?;
        stays(scope, &volume).await?;
        let released = run(scope, &["release", &object, how]).await?;
        ensure!(released.status.success(), "{}", told(&released));
        gone(scope, &volume).await?;
        available(scope, class, &[disk]).await?;
        let found = node.shell(&format!("ls -A {disk}")).await?;
        ensure!(found.trim() == left, "{how}: {found}");
    }
    deleted_by_hand(scope, node, class, disk).await
}

/// A retained volume that is deleted by hand leaves a disk that is kept back.
async fn deleted_by_hand(scope: &Scope, node: &Node, class: &str, disk: &str) -> Result<()> {
    let [volume] = <[PersistentVolume; 1]>::try_from(available(scope, class, &[disk]).await?).ok().context("one")?;
    let (volumes, name) = (scope.all::<PersistentVolume>(), volume.name_any());
    let retain = json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } });
    volumes.patch(&name, &PatchParams::default(), &Patch::Merge(&retain)).await?;
    use_it(scope, class, "last", "echo mine > /data/mine").await?;
    delete_pod(scope, "last").await?;
    delete_claim(scope, "example-local-claim").await?;
    volumes.delete(&name, &DeleteParams::default()).await?;
    gone(scope, &volume).await?;
    let kept =
        holds_for("it is not offered", Duration::from_secs(2), async || Ok(volumes.get_opt(&name).await?.is_none()));
    ensure!(kept.await?, "it is offered with what is on it");
    let listed = run(scope, &["disks", "--node", node.name()]).await?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(listed.status.code() == Some(1) && text.contains("KeptBack"), "{text}");
    ensure!(node.shell(&format!("cat {disk}/mine")).await?.trim() == "mine");
    let released = run(scope, &["release", &format!("disk/{name}"), "--wipe"]).await?;
    ensure!(released.status.success(), "{}", told(&released));
    available(scope, class, &[disk]).await?;
    ensure!(node.shell(&format!("ls -A {disk}")).await?.trim().is_empty());
    Ok(())
}

/// Devices: a volume of mode Block, and one on which the kubelet makes a file system. What was on them is zeros when they are offered
/// again; one with data on it is not offered.
pub async fn devices_are_zeros_before_they_are_offered_again(scope: &Scope) -> Result<()> {
    let cluster = installed(scope).await?;
    apply(cluster, &["--set=agent.diskDevices=true"]).await?;
    let outcome = devices(scope).await;
    apply(cluster, &[]).await?;
    outcome
}

async fn devices(scope: &Scope) -> Result<()> {
    let node = last(scope.cluster()?);
    let (class, directory) = (scope.unique("block"), "/mnt/disks/devices");
    let image = |name: &str| format!("/var/lib/latebind/{class}-{name}.img");
    node.shell(&format!("mkdir -p {directory}")).await?;
    for name in ["empty", "full"] {
        let make = format!(
            "truncate -s 24M {0}; {1} at=$(losetup -f --show {0}); ln -s $at {directory}/{name}",
            image(name),
            if name == "full" { format!("mkfs.ext4 -q {};", image(name)) } else { String::new() }
        );
        node.shell(&make).await?;
    }
    let outcome = zeros(scope, node, &class, directory).await;
    put_away(scope, &class, node, directory).await?;
    for name in ["empty", "full"] {
        node.shell(&format!("losetup -j {0} | cut -d: -f1 | xargs -r losetup -d; rm -f {0}", image(name))).await?;
    }
    outcome
}

async fn zeros(scope: &Scope, node: &Node, class: &str, directory: &str) -> Result<()> {
    let empty = format!("{directory}/empty");
    offered(scope, class, node, directory, &json!({ "volumeMode": "Block" })).await?;
    available(scope, class, &[&empty]).await?;
    eventually("the one with data to be told of", PATIENCE, async || {
        let report = scope.all::<LocalNode>().get(node.name()).await?.status.unwrap_or_default();
        let full = report.disks.iter().find(|disk| disk.path.ends_with("/full")).context("not reported")?;
        ensure!(!full.usable && full.reason == "HasData" && full.message.contains("ext"), "{full:?}");
        Ok(Some(()))
    })
    .await?;
    let claim = objects::with(objects::claim("raw", class, "1Mi"), &json!({ "spec": { "volumeMode": "Block" } }));
    scope.create::<PersistentVolumeClaim>(claim).await?;
    let pod = objects::pod("writer", &[objects::named("raw", "raw")]);
    let pod = objects::running(pod, "echo a secret of mine | dd of=/dev/xvda bs=1M seek=11 && sync && sleep 3600");
    let mut pod = objects::with(pod, &json!({}));
    pod["spec"]["containers"][0]["volumeMounts"] = Value::Null;
    pod["spec"]["containers"][0]["volumeDevices"] = json!([{ "name": "raw", "devicePath": "/dev/xvda" }]);
    scope.create::<Pod>(pod).await?;
    scope.pod_phase("writer", "Running", PATIENCE).await?;
    let bound = scope.claim("raw").await?.spec.and_then(|spec| spec.volume_name).context("bound")?;
    let volume = scope.all::<PersistentVolume>().get(&bound).await?;
    eventually("the secret on the device", PATIENCE, async || {
        let found = node.shell(&format!("grep -c 'a secret of mine' {empty} || true")).await?;
        Ok((found.trim() == "1").then_some(()))
    })
    .await?;
    delete_pod(scope, "writer").await?;
    delete_claim(scope, "raw").await?;
    gone(scope, &volume).await?;
    available(scope, class, &[&empty]).await?;
    let left = node.shell(&format!("tr -d '\\0' < {empty} | wc -c")).await?;
    ensure!(left.trim() == "0", "bytes that are not zero: {left}");
    Ok(())
}

/// The agent is killed again and again while it cleans thousands of files: it goes on where it was, and nothing is offered before all
/// is gone.
pub async fn an_agent_that_is_killed_while_it_cleans_goes_on(scope: &Scope) -> Result<()> {
    let cluster = installed(scope).await?;
    let (node, class, directory) = (last(cluster), scope.unique("killed"), "/mnt/disks/killed");
    let disk = format!("{directory}/disk");
    node.shell(&format!("mkdir -p {disk}; mount -t tmpfs -o size=200m {class} {disk}")).await?;
    offered(scope, &class, node, directory, &json!({})).await?;
    available(scope, &class, &[&disk]).await?;
    let script =
        "for d in $(seq 60); do mkdir -p /data/$d/x/y; for f in $(seq 500); do echo $f > /data/$d/x/y/$f; done; done";
    use_it(scope, &class, "writer", &format!("{script} && touch /tmp/all")).await?;
    eventually("the files", PATIENCE, async || {
        Ok((node.shell(&format!("ls {disk}/60/x/y 2>/dev/null | wc -l")).await?.trim() == "500").then_some(()))
    })
    .await?;
    let bound = scope.claim("example-local-claim").await?.spec.and_then(|spec| spec.volume_name).context("bound")?;
    let volume = scope.all::<PersistentVolume>().get(&bound).await?;
    delete_pod(scope, "writer").await?;
    delete_claim(scope, "example-local-claim").await?;
    for _ in 0..3 {
        let before = files(node, &disk).await?;
        eventually("the cleaning to go on", PATIENCE, async || {
            Ok((files(node, &disk).await? < before || before == 0).then_some(()))
        })
        .await?;
        node.shell("pkill -9 -f '[r]ole=agent' || true").await?;
        ensure!(
            volumes(scope, &class).await?.iter().all(|volume| phase(volume) != "Available")
                || files(node, &disk).await? == 0
        );
    }
    gone(scope, &volume).await?;
    available(scope, &class, &[&disk]).await?;
    ensure!(node.shell(&format!("ls -A {disk}")).await?.trim().is_empty());
    put_away(scope, &class, node, directory).await
}

async fn files(node: &Node, at: &str) -> Result<usize> {
    Ok(node.shell(&format!("find {at} -type f 2>/dev/null | wc -l")).await?.trim().parse()?)
}

async fn apply(cluster: &Cluster, settings: &[&str]) -> Result<()> {
    cluster.kubectl_with_input(&["apply", "-f", "-"], &manifest_with(settings)?).await?.success()?;
    rolled_out(cluster).await
}

/// A volume that sig-storage-local-static-provisioner has made, with a claim's data on it: taken over under its name, cleaned once it is
/// released, and followed by one of latebind's own. A second one for the same disk is never made.
pub async fn volumes_of_another_static_provisioner_are_taken_over(scope: &Scope) -> Result<()> {
    let cluster = installed(scope).await?;
    let (node, class, directory) = (last(cluster), scope.unique("adopted"), "/mnt/disks/adopted");
    let disk = format!("{directory}/mount1");
    node.shell(&format!("mkdir -p {disk}; mount -t tmpfs -o size=20m {class} {disk}")).await?;
    let name = latebind::sig_local::pv_name("mount1", node.name(), &class);
    let by = format!("local-volume-provisioner-{}-0d6f1e2c", node.name());
    let affinity = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": [node.name()] });
    let theirs = json!({
        "metadata": { "name": name, "annotations": { "pv.kubernetes.io/provisioned-by": by } },
        "spec": { "storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "20Mi" },
            "persistentVolumeReclaimPolicy": "Delete", "volumeMode": "Filesystem", "local": { "path": disk },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [affinity] }] } } },
    });
    scope.create::<PersistentVolume>(theirs).await?;
    let theirs = scope.all::<PersistentVolume>().get(&name).await?;
    offered(scope, &class, node, directory, &json!({})).await?;
    use_it(scope, &class, "writer", "echo kept > /data/kept").await?;
    // It is not taken over unless the rule says so, and the disk is not offered a second time.
    eventually("the disk to be found", PATIENCE, async || Ok(disk_at(scope, &class, &disk).await.ok())).await?;
    stays(scope, &theirs).await?;
    ensure!(
        volumes(scope, &class).await?.len() == 1 && disk_at(scope, &class, &disk).await?.spec.adopted_volume.is_none()
    );
    let rule = json!({ "storageClassName": class, "directory": directory, "adoptVolumes": true });
    let spec = json!({ "spec": { "nodes": [{ "names": [node.name()], "discover": [rule] }] } });
    scope.all::<LocalPool>().patch(&class, &PatchParams::default(), &Patch::Merge(&spec)).await?;
    eventually("the volume to be taken over", PATIENCE, async || {
        let volume = scope.all::<PersistentVolume>().get(&name).await?;
        ensure!(volume.finalizers().iter().any(|it| it == "latebind.dev/disk"), "{}", seen(scope, &class).await?);
        Ok(Some(()))
    })
    .await?;
    ensure!(node.shell(&format!("cat {disk}/kept")).await?.trim() == "kept");
    delete_pod(scope, "writer").await?;
    delete_claim(scope, "example-local-claim").await?;
    gone(scope, &theirs).await?;
    let ours = available(scope, &class, &[&disk]).await?;
    ensure!(ours[0].name_any() != name, "{:?}", ours[0].metadata);
    ensure!(node.shell(&format!("ls -A {disk}")).await?.trim().is_empty());
    put_away(scope, &class, node, directory).await
}

/// Waits for an event about a volume.
async fn told_of(scope: &Scope, volume: &PersistentVolume, text: &str) -> Result<()> {
    let events: Api<Event> = Api::namespaced(scope.client(), "default");
    let about = ListParams::default().fields(&format!("involvedObject.name={}", volume.name_any()));
    eventually(&format!("an event: {text}"), PATIENCE, async || {
        let notes: Vec<String> =
            events.list(&about).await?.items.into_iter().filter_map(|event| event.message).collect();
        ensure!(notes.iter().any(|note| note.contains(text)), "{notes:?}");
        Ok(Some(()))
    })
    .await
}

async fn presence(scope: &Scope, class: &str, at: &str, wanted: Presence) -> Result<()> {
    eventually(&format!("{at} to be {wanted:?}"), PATIENCE, async || {
        let disk = disk_at(scope, class, at).await?;
        ensure!(disk.presence() == wanted, "{:?}", disk.status);
        Ok(Some(()))
    })
    .await
}

/// The volume is there, and the same, for some seconds.
async fn stays(scope: &Scope, volume: &PersistentVolume) -> Result<()> {
    let volumes = scope.all::<PersistentVolume>();
    holds_for("the volume stays", Duration::from_secs(2), async || {
        Ok(volumes.get_opt(&volume.name_any()).await?.is_some_and(|now| now.uid() == volume.uid()))
    })
    .await
    .map(drop)
}
