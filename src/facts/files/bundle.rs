//! Dumps of clusters: which lists hold everything of a kind, and what files without kinds hold.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::ServerList;

/// Names of files and folders of dumps, and the kind of the objects in them.
const NAMES: [(&str, &str, &str); 18] = [
    ("pods", "v1", "Pod"),
    ("pvcs", "v1", "PersistentVolumeClaim"),
    ("persistentvolumeclaims", "v1", "PersistentVolumeClaim"),
    ("pvs", "v1", "PersistentVolume"),
    ("persistentvolumes", "v1", "PersistentVolume"),
    ("nodes", "v1", "Node"),
    ("namespaces", "v1", "Namespace"),
    ("events", "v1", "Event"),
    ("storageclasses", "storage.k8s.io/v1", "StorageClass"),
    ("storage-classes", "storage.k8s.io/v1", "StorageClass"),
    ("csidrivers", "storage.k8s.io/v1", "CSIDriver"),
    ("csinodes", "storage.k8s.io/v1", "CSINode"),
    ("csistoragecapacities", "storage.k8s.io/v1", "CSIStorageCapacity"),
    ("resourceclaims", "resource.k8s.io/v1", "ResourceClaim"),
    ("resourceclaimtemplates", "resource.k8s.io/v1", "ResourceClaimTemplate"),
    ("leases", "coordination.k8s.io/v1", "Lease"),
    ("localnodes", "latebind.dev/v1alpha1", "LocalNode"),
    ("localvolumes", "latebind.dev/v1alpha1", "LocalVolume"),
];

/// API version and kind of the objects in a file of this name: `nodes.json`, or `pods/default.json`.
pub(super) fn kind_of_file(path: &Path) -> Option<(&'static str, &'static str)> {
    let of = |name: &str| NAMES.iter().find(|(known, ..)| *known == name).map(|(_, version, kind)| (*version, *kind));
    let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(of);
    stem.or_else(|| folder(path).and_then(of))
}

/// Of which namespace a file is: that of its folder (`default/pods.json`), or of its name (`pods/default.json`).
fn namespace_of_file(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    let is_kind = |name: &str| NAMES.iter().any(|(known, ..)| *known == name);
    match folder(path) {
        Some(folder) if is_kind(folder) && !is_kind(stem) => Some(stem.to_owned()),
        Some(folder) if is_kind(stem) && !is_kind(folder) => Some(folder.to_owned()),
        _ => None,
    }
}

fn folder(path: &Path) -> Option<&str> {
    path.parent()?.file_name()?.to_str()
}

/// A list that an API server wrote: it has the kind of its items and the version of the moment that it is of, and does not go
/// on. What kubectl puts together from several answers has neither.
pub(super) fn server_list(list: &Value, (api_version, kind): (&str, &str), path: Option<&Path>) -> Option<ServerList> {
    let metadata = |key: &str| list.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
    let is_of_server = metadata("resourceVersion").is_some_and(|version| !version.is_empty());
    if kind.is_empty() || !is_of_server || metadata("continue").is_some_and(|token| !token.is_empty()) {
        return None;
    }
    let items = list.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let namespace = |item: &Value| item.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
    let mut namespaces: BTreeSet<String> = items.iter().filter_map(namespace).collect();
    if namespaces.is_empty() {
        namespaces.extend(path.and_then(namespace_of_file));
    }
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    Some(ServerList { group: group.to_owned(), kind: kind.to_owned(), namespaces })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_told_by_their_names() {
        let of = |path: &str| kind_of_file(Path::new(path)).map(|(_, kind)| kind);
        assert_eq!(of("bundle/cluster-resources/pvs.json"), Some("PersistentVolume"));
        assert_eq!(of("bundle/cluster-resources/pods/default.json"), Some("Pod"));
        assert_eq!(of("manifests/web.yaml"), None);
        assert_eq!(namespace_of_file(Path::new("dump/team-a/events.json")).as_deref(), Some("team-a"));
        assert_eq!(namespace_of_file(Path::new("b/pvcs/team-a.json")).as_deref(), Some("team-a"));
        assert_eq!(namespace_of_file(Path::new("b/nodes.json")).as_deref(), Some("b"));
    }

    #[test]
    fn only_what_an_api_server_wrote_is_whole() {
        let list = |metadata: serde_json::Value| {
            let item = json!({"metadata": {"name": "a", "namespace": "n"}});
            server_list(&json!({"metadata": metadata, "items": [item]}), ("v1", "Pod"), None)
        };
        assert_eq!(list(json!({"resourceVersion": "7"})).unwrap().namespaces, ["n".to_owned()].into());
        assert_eq!(list(json!({"resourceVersion": ""})), None, "put together by kubectl");
        assert_eq!(list(json!({"resourceVersion": "7", "continue": "more"})), None);
        let empty = json!({"metadata": {"resourceVersion": "7"}, "items": []});
        let found = server_list(&empty, ("v1", "Pod"), Some(Path::new("d/team-a/pods.json"))).unwrap();
        assert_eq!(found.namespaces, ["team-a".to_owned()].into());
    }
}
