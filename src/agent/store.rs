//! What the API server's store is asked about itself, and what the disks are told of the answers.

use kube::Api;
use kube::api::ListParams;

use super::disk::base::Base;
use super::disk::marker::revision;
use super::disk::records::StoreMark;
use super::restored::{ACCEPTED, StoreSays, judge};
use super::state::Agent;
use crate::crd::{LocalNode, LocalVolume};
use crate::kubernetes::api::{ApiError, if_found, in_time};

/// Asks the store for this node's report, and not how far it has come.
pub(super) async fn report(agent: &Agent) -> Result<(Option<LocalNode>, StoreSays), ApiError> {
    let nodes: Api<LocalNode> = Api::all(agent.client.clone());
    let node = if_found(nodes.get(&agent.options.node_name)).await?;
    let says = StoreSays::of(node.as_ref());
    Ok((node, says))
}

/// Asks the store.
pub(super) async fn ask(agent: &Agent) -> Result<(Option<LocalNode>, StoreSays), ApiError> {
    let (node, mut says) = report(agent).await?;
    let locals: Api<LocalVolume> = Api::all(agent.client.clone());
    let mine = format!("spec.nodeName={}", agent.options.node_name);
    let list = in_time(locals.list(&ListParams::default().fields(&mine).limit(1))).await?;
    // What is no number cannot be compared, and so is not known to be new enough.
    says.revision = Some(list.metadata.resource_version.as_deref().and_then(revision).unwrap_or(0));
    Ok((node, says))
}

/// Why no orphan may be removed, as the disks were looked at last; nothing when the store knows all that they know.
pub(super) fn held_by(agent: &Agent) -> Option<String> {
    let marks = agent.marks();
    let told = marks.iter().filter_map(|(path, (_, disk))| {
        let why = disk.mark.behind.as_ref()?;
        let held = if disk.mark.went_back {
            "the store was restored from a backup. Nothing is removed there, also no volume that the store says is to go"
        } else {
            "the store was restored from a backup, or the report was lost. No directory that no volume names is removed"
        };
        Some(format!(
            "{path}: {why}; {held}: look at status.orphans, and restore the volumes that you need. After that annotate this \
             LocalNode with {ACCEPTED}={}",
            disk.mark.epoch
        ))
    });
    told.reduce(|all, next| format!("{all}; {next}"))
}

/// Whether a disk was found to be newer than the store, so that no order of removal is followed there.
pub(super) fn went_back(agent: &Agent) -> bool {
    agent.marks().values().any(|(_, disk)| disk.mark.went_back)
}

/// Why no orphan may be removed, asked at this moment.
pub(super) async fn held_now(agent: &Agent) -> Result<Option<String>, ApiError> {
    // First what the disks say: a report may be written while the store is asked.
    let marks = agent.marks();
    let (_, says) = ask(agent).await?;
    let behind = marks.iter().find_map(|(path, (id, disk))| Some((path.clone(), judge(id, disk, &says).behind?)));
    Ok(behind.map(|(path, why)| {
        agent.report_soon();
        format!("the API server's store may not know all that is on the disks; {path}: {why}")
    }))
}

/// Writes down what one disk is to say, if it is still the base of that identity. False when it would not take it.
pub(super) async fn keep(agent: &Agent, path: &str, id: String, mark: StoreMark) -> bool {
    let (bases, opened) = (agent.options.bases.clone(), path.to_owned());
    let written = agent.calls.run(path, move || {
        let base = Base::open_existing(&bases, &opened, false)?;
        // Another disk may have been mounted since.
        if base.known_id()? == Some(id) { base.keep_store_mark(&mark) } else { Ok(()) }
    });
    match written.await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(path, %error, "how far the store has come is not written down");
            false
        }
    }
}
