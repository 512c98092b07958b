//! Directories that no volume names any more. An agent cannot see volumes, and so asks by its report; an order to remove
//! one is given only when the API server, asked at that moment, knows no volume and no claim that it belongs to.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{ListParams, PostParams};
use kube::{Api, Resource, ResourceExt};

use super::context::{Context, lock};
use super::volume::{local_volume, volume_name};
use super::volumes::leads_into;
use crate::crd::{
    ClaimIdentity, Disposal, Kept, LocalNode, LocalVolume, LocalVolumeSpec, NODE_REPLACED, ORPHANS_HELD, Origin,
    Orphan, Reclaim, VolumePath, checked_base, condition,
};
use crate::model::{Claim, Node, Volume, Wire};
use crate::runtime::api::{ApiError, in_time};

/// All volumes and claims are listed for it, so not more often than this for one node.
pub(crate) const ASK: Duration = Duration::from_secs(60);

/// Looks at what a node reports: tells of what needs a person, and orders the removal of what may go.
pub(crate) async fn reconcile(context: &Context, report: Arc<Kept<LocalNode>>) -> Result<Option<Duration>, ApiError> {
    tell(context, &report);
    let Some(status) = &report.status else { return Ok(None) };
    let node_name = report.name_any();
    let due: Vec<&Orphan> = status
        .orphans
        .iter()
        .filter(|orphan| orphan.removable && context.local(&LocalVolume::name_for(&orphan.claim, &node_name)).is_none())
        .collect();
    if due.is_empty() {
        return Ok(None);
    }
    // The queue gives a report to one worker at a time.
    if let Some(left) = context.asked.left(&node_name) {
        return Ok(Some(left));
    }
    context.asked.insert(&node_name, ());
    // No cache: what may destroy is decided by what the API server says now.
    let volumes = in_time(context.volumes().list(&ListParams::default())).await?.items;
    let claims = in_time(Api::<Wire<Claim>>::all(context.client.clone()).list(&ListParams::default())).await?.items;
    let volumes: Vec<Volume> = volumes.into_iter().map(|read| read.object).collect();
    let claims: Vec<Claim> = claims.into_iter().map(|read| read.object).collect();
    let node = context.node(&node_name);
    let mut kept = false;
    for orphan in due {
        match keeps(orphan, node.as_deref(), &volumes, &claims) {
            Some(why) => {
                kept = true;
                context.metrics.orphan(false);
                let text = format!("{}/{} is not removed: {why}", orphan.base, orphan.path);
                once(context, &report, "OrphanKept", &text);
            }
            None => order(context, &report, orphan).await?,
        }
    }
    Ok(kept.then_some(ASK))
}

/// Why a directory stays; nothing when nobody names it.
fn keeps(orphan: &Orphan, node: Option<&Node>, volumes: &[Volume], claims: &[Claim]) -> Option<String> {
    let plain = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'-';
    if orphan.claim.is_empty() || orphan.claim.len() > 64 || !orphan.claim.bytes().all(plain) {
        return Some("its marker names no claim".to_owned());
    }
    if checked_base(&orphan.base).is_err() || VolumePath::parse(&orphan.path).is_err() {
        return Some("its path is not one of ours".to_owned());
    }
    if let Some(claim) = claims.iter().find(|claim| claim.metadata.uid.as_deref() == Some(orphan.claim.as_str())) {
        return Some(format!("claim {}/{} is still there", claim.namespace(), claim.name()));
    }
    let path = format!("{}/{}", orphan.base, orphan.path);
    let (name, uid) = (volume_name(&orphan.claim), Some(orphan.claim.as_str()));
    let owner = volumes.iter().find(|volume| {
        let of_claim = volume.spec.claim_ref.as_ref().and_then(|reference| reference.uid.as_deref()) == uid;
        of_claim || volume.name() == name || leads_into(volume, &path, node)
    });
    owner.map(|volume| format!("volume {} names it", volume.name()))
}

/// Makes the order. A LocalVolume of that name, whatever it is, stands in the way: then it is no orphan.
async fn order(context: &Context, report: &LocalNode, orphan: &Orphan) -> Result<(), ApiError> {
    let order = local_volume(LocalVolumeSpec {
        node_name: report.name_any(),
        node_uid: report.spec.node_uid.clone(),
        base: orphan.base.clone(),
        path: orphan.path.clone(),
        claim: ClaimIdentity { uid: orphan.claim.clone(), ..ClaimIdentity::default() },
        origin: Origin::Orphan,
        reclaim: Reclaim::Delete,
        disposal: Some(Disposal::Delete),
        ..LocalVolumeSpec::default()
    });
    match in_time(context.locals().create(&PostParams::default(), &order)).await {
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            context.metrics.orphan(true);
            let note = format!("no volume names {}/{}: its removal is ordered", orphan.base, orphan.path);
            context.events.normal(report.object_ref(&()), "OrphanRemovalOrdered", &note);
            Ok(())
        }
    }
}

/// What the agent, which writes no events, has to say.
fn tell(context: &Context, report: &LocalNode) {
    let conditions = report.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    for kind in [NODE_REPLACED, ORPHANS_HELD] {
        if let Some(said) = condition(conditions, kind).filter(|said| said.status == "True") {
            once(context, report, kind, &said.message);
        }
    }
}

fn once(context: &Context, report: &LocalNode, reason: &'static str, note: &str) {
    let key = format!("{reason} {}", report.name_any());
    let before = lock(&context.said).insert(key, note.to_owned());
    if before.as_deref() != Some(note) {
        context.events.warning(report.object_ref(&()), reason, note);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    fn orphan(claim: &str, path: &str) -> Orphan {
        let since = Time(Timestamp::UNIX_EPOCH);
        Orphan { claim: claim.to_owned(), base: "/base".to_owned(), path: path.to_owned(), since, removable: true }
    }

    fn volume(name: &str, change: &Value) -> Volume {
        let mut spec = json!({ "local": { "path": "/elsewhere" } });
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
    }

    #[test]
    fn whoever_names_it_keeps_it() {
        let node: Node =
            serde_json::from_value(json!({ "metadata": { "name": "n", "labels": { "kubernetes.io/hostname": "n" } } }))
                .unwrap();
        let why = |orphan: &Orphan, volumes: &[Volume], claims: &[Claim]| keeps(orphan, Some(&node), volumes, claims);
        let ours = orphan("u-1", "pvc-u-1_ns_c");
        assert_eq!(why(&ours, &[volume("other", &json!({}))], &[]), None);
        let path = |path: &str| json!({ "local": { "path": path } });
        for (name, change) in [
            ("pvc-u-1", json!({})),
            ("x", json!({ "claimRef": { "name": "c", "namespace": "ns", "uid": "u-1" } })),
            ("x", path("/base/pvc-u-1_ns_c")),
            ("x", path("/base/pvc-u-1_ns_c/")),
            ("x", path("/base/pvc-u-1_ns_c/beneath")),
            ("x", path("/base")),
            ("x", json!({ "local": null, "hostPath": { "path": "/base/pvc-u-1_ns_c" } })),
        ] {
            assert!(why(&ours, &[volume(name, &change)], &[]).is_some(), "{name} {change}");
        }
        let on = |host: &str| {
            json!({ "local": { "path": "/base/pvc-u-1_ns_c" }, "nodeAffinity": { "required": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [host] }] }] } } })
        };
        assert!(why(&ours, &[volume("x", &on("n"))], &[]).is_some());
        assert_eq!(why(&ours, &[volume("x", &on("m"))], &[]), None, "the same path of another node");
        assert!(keeps(&ours, None, &[volume("x", &on("m"))], &[]).is_some(), "nobody knows where that is");
        let claim = |uid: &str| -> Claim {
            serde_json::from_value(json!({ "metadata": { "name": "c", "namespace": "ns", "uid": uid } })).unwrap()
        };
        assert!(why(&ours, &[], &[claim("u-1")]).is_some_and(|why| why.contains("ns/c")));
        assert_eq!(why(&ours, &[], &[claim("u-2")]), None);
    }

    #[test]
    fn what_no_agent_of_ours_reports_is_not_followed() {
        for (claim, path) in [("", "p"), ("../x", "p"), ("u", "../etc"), ("u", ""), ("u", ".latebind")] {
            assert!(keeps(&orphan(claim, path), None, &[], &[]).is_some(), "{claim} {path}");
        }
        let elsewhere = Orphan { base: "/".to_owned(), ..orphan("u", "p") };
        assert!(keeps(&elsewhere, None, &[], &[]).is_some());
    }
}
