//! The controller manager is slow, and its part is lightened.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use latebind_cluster::{Component, Scope, eventually};
use latebind_test_support::local::PATIENCE;
use serde_json::json;

use super::ground::Ground;

/// The volumes of these claims, once all are there.
async fn volumes(scope: &Scope, uids: &[String]) -> Result<Vec<PersistentVolume>> {
    eventually("all volumes", PATIENCE, async || {
        let mut found = Vec::new();
        for uid in uids {
            found.extend(scope.all::<PersistentVolume>().get_opt(&format!("pvc-{uid}")).await?);
        }
        Ok((found.len() == uids.len()).then_some(found))
    })
    .await
}

fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub async fn phases_are_written_while_the_controller_manager_is_behind(scope: &Scope) -> Result<()> {
    const CLAIMS: usize = 12;
    /// What the controller manager's burst pays for.
    const PROMPT: usize = 5;
    let ground = Ground::new(scope, json!({})).await?;
    scope.cluster()?.pause(Component::ControllerManager).await?;
    let mut uids = Vec::new();
    for number in 0..CLAIMS {
        let claim = ground.claim(&format!("data-{number}"), json!({})).await?;
        uids.push(claim.uid().unwrap());
    }
    let marked = eventually("phases to be written", PATIENCE, async || {
        let volumes = volumes(scope, &uids).await?;
        let marked: Vec<String> = volumes.iter().filter(|it| phase(it) == "Bound").map(ResourceExt::name_any).collect();
        ensure!(marked.len() >= CLAIMS - PROMPT, "only {marked:?} of {uids:?}");
        Ok(Some(marked))
    })
    .await;
    // One claim goes before anybody has bound it: its volume says Bound and is not.
    let lost = marked.as_ref().ok().and_then(|marked| marked.first().cloned());
    let at = uids.iter().position(|uid| lost.as_ref().is_some_and(|name| *name == format!("pvc-{uid}")));
    let deleted = match at {
        Some(at) => scope.kubectl(&["delete", "pvc", &format!("data-{at}"), "--wait=false"]).await.map(drop),
        None => Ok(()),
    };
    // Whatever was seen: the tests after this one need it.
    scope.cluster()?.resume(Component::ControllerManager).await?;
    let marked = marked?;
    deleted?;
    assert_eq!(marked.len(), CLAIMS - PROMPT, "those that it could have bound at once are left to it");
    let (at, lost) = (at.unwrap(), lost.unwrap());
    for number in (0..CLAIMS).filter(|number| *number != at) {
        let volume = ground.bound(&format!("data-{number}")).await?;
        ground.volume_phase(&volume.name_any(), "Bound").await?;
    }
    ground.volume_gone(&lost).await?;
    for number in (0..CLAIMS).filter(|number| *number != at) {
        ground.delete_claim(&format!("data-{number}")).await?;
    }
    ground.all_clean().await
}
