//! Directories that no volume names any more.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Namespace, PersistentVolume};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use latebind::agent::{AllowedBases, Base, Order};
use latebind::crd::{LocalNode, LocalNodeStatus, LocalVolume, ORPHANS_HELD, Reclaim, SeenVolume, VolumePath, is_true};
use latebind_cluster::{Scope, eventually, holds_for};
use latebind_test_support::local::PATIENCE;
use serde_json::json;

use super::ground::{Agent, Ground};

const WHILE: Duration = Duration::from_secs(5);
const AT_ONCE: Option<Duration> = Some(Duration::from_secs(1));

/// A directory with a file and the marker of a claim; the file.
async fn left(scope: &Scope, ground: &Ground<'_>, claim: &str) -> Result<PathBuf> {
    let cluster = scope.all::<Namespace>().get("kube-system").await?.uid().context("a UID")?;
    left_of(&cluster, ground, claim, Reclaim::Delete)
}

fn left_of(cluster: &str, ground: &Ground<'_>, claim: &str, reclaim: Reclaim) -> Result<PathBuf> {
    let allowed = AllowedBases::new([ground.directory.path().to_str().unwrap()])?;
    let base = Base::open(&allowed, ground.base().to_str().unwrap(), false)?;
    let path = format!("pvc-{claim}_ns_c");
    let order = Order {
        cluster: cluster.to_owned(),
        volume: format!("v-{claim}"),
        claim: claim.to_owned(),
        owner: None,
        same_claim: None,
        path: VolumePath::parse(&path)?,
        mode: 0o777,
        uid: None,
        gid: None,
        base_id: None,
        persistent_volume: Some(SeenVolume {
            name: format!("pvc-{claim}"),
            uid: "gone".to_owned(),
            resource_version: "1".to_owned(),
            reclaim_policy: reclaim,
            claim_uid: claim.to_owned(),
        }),
    };
    base.make(&order, false)?;
    let file = ground.base().join(path).join("data");
    fs::write(&file, claim)?;
    Ok(file)
}

fn agent(scope: &Scope, ground: &Ground<'_>, age: Option<Duration>) -> Agent {
    Agent::start_with(scope.client(), ground.node.name(), ground.directory.path(), age, 5_000)
}

async fn status(scope: &Scope, ground: &Ground<'_>) -> Result<LocalNodeStatus> {
    let report = scope.all::<LocalNode>().get_opt(ground.node.name()).await?;
    Ok(report.and_then(|report| report.status).unwrap_or_default())
}

async fn reported(scope: &Scope, ground: &Ground<'_>, count: usize) -> Result<LocalNodeStatus> {
    eventually(&format!("{count} orphans to be reported"), PATIENCE, async || {
        let status = status(scope, ground).await?;
        Ok((status.orphans.len() == count && status.paths.iter().any(|path| path.usable)).then_some(status))
    })
    .await
}

/// Waits for an event about the node's report.
async fn told(scope: &Scope, ground: &Ground<'_>, reason: &str, text: &str) -> Result<()> {
    let events: Api<Event> = Api::namespaced(scope.client(), "default");
    let about = ListParams::default().fields(&format!("involvedObject.name={}", ground.node.name()));
    eventually(&format!("event {reason}: {text}"), PATIENCE, async || {
        let found = events.list(&about).await?.items;
        let mut said =
            found.iter().filter(|it| it.reason.as_deref() == Some(reason)).filter_map(|it| it.message.as_deref());
        Ok(said.any(|message| message.contains(text)).then_some(()))
    })
    .await
}

async fn stays(ground: &Ground<'_>, file: &std::path::Path) -> Result<()> {
    let there = holds_for("the file", WHILE, async || Ok(file.exists())).await?;
    ensure!(there, "it was removed");
    ensure!(ground.locals().await?.is_empty(), "its removal was ordered");
    Ok(())
}

pub async fn an_orphan_stays_unless_its_removal_was_asked_for_and_it_is_old(scope: &Scope) -> Result<()> {
    let mut ground = Ground::without_agent(scope, json!({})).await?;
    let claim = scope.unique("gone");
    let file = left(scope, &ground, &claim).await?;
    left_of("another-cluster", &ground, "foreign", Reclaim::Delete)?;
    ground.agent = Some(agent(scope, &ground, None));
    let first = reported(scope, &ground, 1).await?;
    ensure!(first.orphans[0].claim == claim, "what is another cluster's is none: {:?}", first.orphans);
    ensure!(first.paths[0].orphans == 1 && !first.orphans[0].removable);
    stays(&ground, &file).await?;
    // Asked for, and too young: its age is counted on from the first report.
    ground.agent = None;
    ground.agent = Some(agent(scope, &ground, Some(Duration::from_secs(3600))));
    eventually("the agent to say that it removes", PATIENCE, async || {
        let conditions = status(scope, &ground).await?.conditions;
        Ok(conditions.iter().any(|it| it.type_ == ORPHANS_HELD && it.status == "False").then_some(()))
    })
    .await?;
    let second = reported(scope, &ground, 1).await?;
    ensure!(second.orphans == first.orphans, "{:?}", second.orphans);
    stays(&ground, &file).await
}

pub async fn an_orphan_that_a_volume_names_stays(scope: &Scope) -> Result<()> {
    let mut ground = Ground::without_agent(scope, json!({})).await?;
    let file = left(scope, &ground, &scope.unique("gone")).await?;
    let name = scope.unique("by-hand");
    scope
        .create::<PersistentVolume>(json!({ "metadata": { "name": name }, "spec": {
            "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "by-hand", "local": { "path": file.parent().unwrap() },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [ground.node.name()] }] }] } } } }))
        .await?;
    ground.agent = Some(agent(scope, &ground, AT_ONCE));
    told(scope, &ground, "OrphanKept", &name).await?;
    stays(&ground, &file).await
}

pub async fn an_orphan_whose_claim_is_there_stays(scope: &Scope) -> Result<()> {
    let mut ground = Ground::without_agent(scope, json!({})).await?;
    let claim = ground.claim("waiting", json!({ "metadata": { "annotations": null } })).await?;
    let file = left(scope, &ground, &claim.uid().context("a UID")?).await?;
    ground.agent = Some(agent(scope, &ground, AT_ONCE));
    told(scope, &ground, "OrphanKept", "waiting is still there").await?;
    stays(&ground, &file).await
}

pub async fn an_orphan_is_removed_through_the_trash_and_no_more_than_the_bound(scope: &Scope) -> Result<()> {
    let ground = Ground::without_agent(scope, json!({})).await?;
    let mut files = Vec::new();
    for number in 0..3 {
        let file = left(scope, &ground, &scope.unique(&format!("gone{number}"))).await?;
        for more in 0..40 {
            fs::write(file.with_file_name(format!("more{more}")), "x")?;
        }
        files.push(file);
    }
    let left = || files.iter().filter(|file| file.exists()).count();
    // So slow that what is in the trash is seen there.
    let slow = |age| Agent::start_with(scope.client(), ground.node.name(), ground.directory.path(), age, 10);
    let first = slow(AT_ONCE);
    eventually("one of them in the trash", PATIENCE, async || {
        let trash = fs::read_dir(ground.base().join(".trash")).map_or(0, Iterator::count);
        Ok((trash == 1 && left() == 2).then_some(()))
    })
    .await?;
    told(scope, &ground, "OrphanRemovalOrdered", "no volume names").await?;
    told(scope, &ground, ORPHANS_HELD, "2 directories").await?;
    let held = eventually("the rest to be held", PATIENCE, async || {
        let status = status(scope, &ground).await?;
        let held = is_true(&status.conditions, ORPHANS_HELD) && status.orphans.len() == 2;
        Ok((held && status.removed_orphans.len() == 1).then_some(status))
    })
    .await?;
    ensure!(held.orphans.iter().all(|orphan| !orphan.removable), "{:?}", held.orphans);
    let two = holds_for("the others", WHILE, async || Ok(left())).await?;
    ensure!(two == 2);
    // A restart does not begin to count anew, and orders that were not the controller's to give are not followed.
    drop(first);
    let _second = slow(AT_ONCE);
    let claim = &held.orphans[0].claim;
    let order = json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalVolume",
        "metadata": { "name": LocalVolume::name_for(claim, ground.node.name()), "finalizers": ["latebind.dev/directory"] },
        "spec": { "nodeName": ground.node.name(), "base": held.orphans[0].base, "path": held.orphans[0].path,
            "claim": { "namespace": "", "name": "", "uid": claim }, "origin": "Orphan", "disposal": "Delete" } });
    let order: LocalVolume = serde_json::from_value(order)?;
    let order = scope.all::<LocalVolume>().create(&kube::api::PostParams::default(), &order).await?;
    eventually("the order to be held", PATIENCE, async || {
        let conditions = scope.all::<LocalVolume>().get(&order.name_any()).await?.status.unwrap_or_default().conditions;
        let held = conditions.iter().find(|it| it.reason == "OrphanKept");
        Ok(held.filter(|it| it.message.contains("last hour")).map(drop))
    })
    .await?;
    ensure!(holds_for("the others", WHILE, async || Ok(left())).await? == 2);
    eventually("the trash to be emptied", PATIENCE, async || {
        Ok((fs::read_dir(ground.base().join(".trash"))?.count() == 0).then_some(()))
    })
    .await?;
    let torn_off = json!({ "metadata": { "finalizers": null } });
    let locals = scope.all::<LocalVolume>();
    locals.patch(&order.name_any(), &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&torn_off)).await?;
    Ok(())
}

pub async fn an_orphan_whose_marker_says_retain_stays(scope: &Scope) -> Result<()> {
    let mut ground = Ground::without_agent(scope, json!({})).await?;
    let cluster = scope.all::<Namespace>().get("kube-system").await?.uid().context("a UID")?;
    let file = left_of(&cluster, &ground, &scope.unique("gone"), Reclaim::Retain)?;
    ground.agent = Some(agent(scope, &ground, AT_ONCE));
    let told = reported(scope, &ground, 1).await?;
    ensure!(told.orphans[0].retained && !told.orphans[0].removable, "{:?}", told.orphans);
    stays(&ground, &file).await
}

pub async fn a_store_that_knows_less_than_the_disk_removes_no_orphan_until_a_person_says_so(
    scope: &Scope,
) -> Result<()> {
    let mut ground = Ground::without_agent(scope, json!({})).await?;
    let file = left(scope, &ground, &scope.unique("gone")).await?;
    // As an agent left it, whose reports the store took after the backup that it was restored from.
    fs::write(ground.base().join(".latebind/store"), r#"{"epoch":99}"#)?;
    ground.agent = Some(agent(scope, &ground, AT_ONCE));
    let nodes = scope.all::<LocalNode>();
    let held = |status: &LocalNodeStatus| {
        let found = status.conditions.iter().find(|it| it.type_ == ORPHANS_HELD && it.status == "True");
        found.filter(|it| it.reason == "StoreRestored").map(|it| it.message.clone())
    };
    let message =
        eventually("the report to say so", PATIENCE, async || Ok(held(&status(scope, &ground).await?))).await?;
    ensure!(message.contains("latebind.dev/accept-restored-store=99"), "{message}");
    stays(&ground, &file).await?;
    // A restart does not forget it, and what the store knows by now does not count.
    ground.agent = None;
    ground.agent = Some(agent(scope, &ground, AT_ONCE));
    stays(&ground, &file).await?;
    let accept = json!({ "metadata": { "annotations": { "latebind.dev/accept-restored-store": "99" } } });
    nodes.patch(ground.node.name(), &PatchParams::default(), &Patch::Merge(&accept)).await?;
    eventually("the orphan to go", PATIENCE, async || Ok((!file.exists()).then_some(()))).await?;
    let status = status(scope, &ground).await?;
    // A pool of another test may offer a path here as well.
    let own = status.paths.iter().find(|path| ground.base() == std::path::Path::new(&path.path));
    ensure!(held(&status).is_none() && own.is_some_and(|path| path.epoch >= 100), "{status:?}");
    Ok(())
}

/// Whoever has the token of an agent writes what they like about their own node. What they invent costs no more than the
/// bound, since nobody ever finishes those orders.
pub async fn invented_orphans_are_ordered_away_within_the_bound_only(scope: &Scope) -> Result<()> {
    let ground = Ground::without_agent(scope, json!({})).await?;
    let invented: Vec<_> = (0..32)
        .map(|number| {
            let claim = scope.unique(&format!("invented{number}"));
            json!({ "claim": claim, "base": ground.base(), "path": format!("p{number}"),
                "since": "2026-01-01T00:00:00Z", "removable": true })
        })
        .collect();
    let uid = ground.nodes().get(ground.node.name()).await?.uid().context("a UID")?;
    scope
        .create::<LocalNode>(json!({ "metadata": { "name": ground.node.name() }, "spec": { "nodeUID": uid } }))
        .await?;
    let reports = scope.all::<LocalNode>();
    let report = json!({ "status": { "orphans": invented } });
    reports.patch_status(ground.node.name(), &PatchParams::default(), &Patch::Merge(&report)).await?;
    eventually("one of them to be ordered away", PATIENCE, async || {
        Ok((!ground.locals().await?.is_empty()).then_some(()))
    })
    .await?;
    // Another report does not buy another one.
    let report = json!({ "status": { "agentVersion": "stolen" } });
    reports.patch_status(ground.node.name(), &PatchParams::default(), &Patch::Merge(&report)).await?;
    told(scope, &ground, "OrphanKept", "come first").await?;
    let bounded = holds_for("the bound", WHILE, async || Ok(ground.locals().await?.len() == 1)).await?;
    ensure!(bounded, "{} are ordered away", ground.locals().await?.len());
    let report = json!({ "status": { "orphans": [] } });
    reports.patch_status(ground.node.name(), &PatchParams::default(), &Patch::Merge(&report)).await?;
    for local in ground.locals().await? {
        let lifted = json!({ "metadata": { "finalizers": null } });
        let locals = scope.all::<LocalVolume>();
        locals.patch(&local.name_any(), &PatchParams::default(), &Patch::Merge(&lifted)).await?;
        locals.delete(&local.name_any(), &kube::api::DeleteParams::default()).await.ok();
    }
    Ok(())
}
