//! Directories that no volume names any more. An agent cannot see volumes, and so asks by its report; an order to remove
//! one is given only when the API server, asked at that moment, knows no volume and no claim that it belongs to.

use super::persistent_volume::local_volume;
use super::view::VolumeSet;
use crate::crd::{
    ClaimIdentity, Disposal, LocalVolume, LocalVolumeSpec, Origin, Orphan, Reclaim, VolumePath, checked_base,
};
use crate::model::{Claim, Node};

/// What the API server says at this moment.
#[derive(Clone, Copy, Debug)]
pub struct OrphanFacts<'a> {
    /// All volumes.
    pub volumes: &'a VolumeSet,
    /// All claims.
    pub claims: &'a [Claim],
    /// The Node. Where it is not known, any volume may be on it.
    pub node: Option<&'a Node>,
}

/// Why a directory stays; nothing when nobody names it.
#[must_use]
pub fn kept(orphan: &Orphan, facts: &OrphanFacts<'_>) -> Option<String> {
    let plain = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'-';
    if orphan.claim.is_empty() || orphan.claim.len() > 64 || !orphan.claim.bytes().all(plain) {
        return Some("its marker names no claim".to_owned());
    }
    if checked_base(&orphan.base).is_err() || VolumePath::parse(&orphan.path).is_err() {
        return Some("its path is not one of ours".to_owned());
    }
    if orphan.retained {
        return Some("its volume was retained, as its marker says".to_owned());
    }
    let owner = facts.claims.iter().find(|claim| claim.metadata.uid.as_deref() == Some(orphan.claim.as_str()));
    if let Some(claim) = owner {
        return Some(format!("claim {}/{} is still there", claim.namespace(), claim.name()));
    }
    let named = facts.volumes.naming(&orphan.directory(), facts.node).next();
    let volume = named.or_else(|| facts.volumes.of_claim(&orphan.claim));
    volume.map(|volume| format!("volume {} names it", volume.name()))
}

/// The order to remove one.
#[must_use]
pub fn order(orphan: &Orphan, node_name: &str, node_uid: &str) -> LocalVolume {
    local_volume(LocalVolumeSpec {
        node_name: node_name.to_owned(),
        node_uid: node_uid.to_owned(),
        base: orphan.base.clone(),
        path: orphan.path.clone(),
        claim: ClaimIdentity { uid: orphan.claim.clone(), ..ClaimIdentity::default() },
        origin: Origin::Orphan,
        reclaim: Reclaim::Delete,
        disposal: Some(Disposal::Delete),
        ..LocalVolumeSpec::default()
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::Volume;

    fn keeps(orphan: &Orphan, node: Option<&Node>, volumes: &[Volume], claims: &[Claim]) -> Option<String> {
        let volumes: VolumeSet = volumes.iter().cloned().collect();
        kept(orphan, &OrphanFacts { volumes: &volumes, claims, node })
    }

    fn orphan(claim: &str, path: &str) -> Orphan {
        let since = Time(Timestamp::UNIX_EPOCH);
        Orphan {
            claim: claim.to_owned(),
            base: "/base".to_owned(),
            path: path.to_owned(),
            since,
            removable: true,
            retained: false,
        }
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
