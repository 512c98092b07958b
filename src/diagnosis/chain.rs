//! The chain from a Pod to its claims, their classes, their volumes, the node and whoever makes the volumes.

use super::found::Link;
use super::known::{ClassOf, Known, wants};
use crate::binding::Lookup;
use crate::model::{Claim, Node, Pod, Volume};

/// Claims of a Pod that are followed.
const MOST_CLAIMS: usize = 16;

fn link(object: impl Into<String>, says: impl Into<String>) -> Link {
    Link { object: object.into(), says: says.into() }
}

/// From a Pod on.
pub(super) fn of_pod(pod: &Pod, known: &Known<'_>) -> Vec<Link> {
    let phase = if pod.status.phase.is_empty() { "no phase yet" } else { pod.status.phase.as_str() };
    let place = match pod.pinned_node() {
        Some(node) => format!("on node {node:?}"),
        None => "placed on no node yet".to_owned(),
    };
    let mut links = vec![link(format!("pod/{}", pod.display_name()), format!("{phase}, {place}"))];
    let mut names: Vec<String> = Vec::new();
    for name in pod.claim_names() {
        if !names.iter().any(|known| known == name.as_str()) {
            names.push(name.to_string());
        }
    }
    for name in names.iter().take(MOST_CLAIMS) {
        match known.claim(pod.namespace(), name) {
            Lookup::Found(claim) => links.extend(of_claim(&claim, known)),
            Lookup::Absent => links.push(link(format!("pvc/{name}"), "does not exist")),
            Lookup::Unknown => links.push(link(format!("pvc/{name}"), "not known")),
        }
    }
    if let Some(node) = pod.pinned_node() {
        links.push(of_node(node, known));
    }
    without_repetition(links)
}

/// From a claim on.
pub(super) fn of_claim(claim: &Claim, known: &Known<'_>) -> Vec<Link> {
    let name = claim.name();
    let phase = if claim.status.phase.is_empty() { "no phase yet" } else { claim.status.phase.as_str() };
    let bound = claim.volume_name().map(|volume| format!(", volume {volume:?}")).unwrap_or_default();
    let selected = claim.selected_node().filter(|_| !claim.is_bound());
    let selected = selected.map(|node| format!(", ordered for node {node:?}")).unwrap_or_default();
    let mut links = vec![link(format!("pvc/{name}"), format!("{phase}{bound}{selected}"))];
    match known.class_of(claim) {
        ClassOf::Found(class) => {
            let mode = class.volume_binding_mode.as_deref().unwrap_or("Immediate");
            links.push(link(
                format!("storageclass/{}", class.name()),
                format!("{mode}, provisioner {:?}", class.provisioner),
            ));
        }
        ClassOf::Empty => links.push(link("no class", "only volumes without a class are taken")),
        ClassOf::None => links.push(link("no class", "none is named, and there was no default")),
        ClassOf::Absent(class) => links.push(link(format!("storageclass/{class}"), "does not exist")),
        ClassOf::Unknown(class) => links.push(link(format!("storageclass/{class}"), "not known")),
    }
    if let Some(volume_name) = claim.volume_name() {
        links.push(match known.volume(volume_name) {
            Lookup::Found(volume) => of_volume(&volume),
            Lookup::Absent => link(format!("pv/{volume_name}"), "does not exist"),
            Lookup::Unknown => link(format!("pv/{volume_name}"), "not known"),
        });
    } else if let Some(node) = selected_node(claim) {
        links.push(of_node(node, known));
    }
    links
}

fn selected_node(claim: &Claim) -> Option<&str> {
    claim.selected_node().filter(|_| !claim.is_bound())
}

/// A volume.
pub(super) fn of_volume(volume: &Volume) -> Link {
    let phase = if volume.status.phase.is_empty() { "no phase yet" } else { volume.status.phase.as_str() };
    let wanted = wants(volume).map(|wanted| format!(", on nodes with {wanted}")).unwrap_or_default();
    link(format!("pv/{}", volume.name()), format!("{phase}, {}{wanted}", volume.capacity()))
}

/// A node.
pub(super) fn of_node(name: &str, known: &Known<'_>) -> Link {
    let state = |node: &Node| {
        let ready = if node.is_ready() { "ready" } else { "not ready" };
        let cordoned = if node.spec.unschedulable { ", cordoned" } else { "" };
        let taints = match node.spec.taints.len() {
            0 => String::new(),
            1 => ", 1 taint".to_owned(),
            taints => format!(", {taints} taints"),
        };
        format!("{ready}{cordoned}{taints}")
    };
    let says = match known.node(name) {
        Lookup::Found(node) => state(&node),
        Lookup::Absent => "does not exist".to_owned(),
        Lookup::Unknown => "not known".to_owned(),
    };
    link(format!("node/{name}"), says)
}

fn without_repetition(links: Vec<Link>) -> Vec<Link> {
    let mut kept: Vec<Link> = Vec::new();
    for link in links {
        if !kept.contains(&link) {
            kept.push(link);
        }
    }
    kept
}
