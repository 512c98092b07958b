//! For configurations of any shape: what the import says it kept is served as rancher's provisioner served it, and every key,
//! script, class, label and path of the rest is named.

use std::collections::{BTreeMap, BTreeSet};

use latebind::crd::VolumeType;
use latebind::model::{Class, Node};
use latebind::rancher::{Account, Import, Input, Outcome, import_all};
use latebind::volumes::{ClassParameters, Names};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use crate::kinds::{STOCK_SETUP, STOCK_TEARDOWN};

const DEFAULT: &str = "DEFAULT_PATH_FOR_NON_LISTED_NODES";
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const CLASSES: [&str; 3] = ["fast", "slow", "local-path"];

/// An installation, as it was made up.
#[derive(Clone, Debug)]
struct Case {
    objects: Vec<Value>,
    shared_by: Option<&'static str>,
}

fn paths() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::btree_set(select(vec!["/opt/lpp", "/data1/", "/mnt//a", "/mnt/b/."]), 0..3)
        .prop_map(|set| set.into_iter().collect())
}

/// `nodePathMap` or a shared path, in some spelling, with keys that nobody knows.
fn location() -> impl Strategy<Value = Map<String, Value>> {
    let entries = prop::collection::btree_map(select(vec!["n1", "n2", DEFAULT]), paths(), 1..4);
    let spelling = select(vec!["nodePathMap", "NodePathMap", "NODEPATHMAP"]);
    let map = (entries, spelling).prop_map(|(entries, key)| {
        let entries: Vec<Value> =
            entries.into_iter().map(|(node, paths)| json!({ "node": node, "paths": paths })).collect();
        Map::from_iter([(key.to_owned(), Value::from(entries))])
    });
    let shared = select(vec!["sharedFileSystemPath", "sharedFilesystemPath"])
        .prop_map(|key| Map::from_iter([(key.to_owned(), Value::from("/nfs"))]));
    let unknown = prop::option::weighted(0.2, Just(("comment".to_owned(), Value::from("x"))));
    (prop_oneof![4 => map, 1 => shared], unknown).prop_map(|(mut location, unknown)| {
        location.extend(unknown);
        location
    })
}

fn config() -> impl Strategy<Value = Value> {
    let by_class = prop::collection::btree_map(select(CLASSES.to_vec()), location(), 1..3);
    let by_class = (by_class, prop::option::of(location())).prop_map(|(entries, beside)| {
        let mut whole = beside.unwrap_or_default();
        let entries: Map<String, Value> = entries.into_iter().map(|(name, it)| (name.to_owned(), it.into())).collect();
        whole.insert("storageClassConfigs".to_owned(), entries.into());
        whole
    });
    let whole = prop_oneof![location(), by_class];
    (whole, prop::option::weighted(0.2, Just("/manager")), prop::option::weighted(0.2, Just(30))).prop_map(
        |(mut whole, command, timeout)| {
            whole.extend(command.map(|it| ("teardownCommand".to_owned(), Value::from(it))));
            whole.extend(timeout.map(|it| ("cmdTimeoutSeconds".to_owned(), Value::from(it))));
            Value::from(whole)
        },
    )
}

fn config_map() -> impl Strategy<Value = Value> {
    let script = |stock: &'static str| {
        prop::option::of(select(vec![
            stock,
            "mv \"$VOL_DIR\" /kept",
            "chown 1000 \"$VOL_DIR\"",
            "zfs create t/$VOL_DIR",
            "exit 0",
        ]))
    };
    let template = prop::option::of(select(vec![
        "kind: Pod\nspec: {containers: [{name: helper-pod, image: busybox}]}",
        "kind: Pod\nspec: {containers: [{name: helper-pod, image: my/tools}]}",
    ]));
    let names = (select(vec!["one", "two"]), select(vec!["local-path-config", "lpp-config"]));
    (names, config(), script(STOCK_SETUP), script(STOCK_TEARDOWN), template, any::<bool>()).prop_map(
        |((namespace, name), config, setup, teardown, template, more)| {
            let mut data = json!({ "config.json": config.to_string() });
            let texts = [
                ("setup", setup),
                ("teardown", teardown),
                ("helperPod.yaml", template),
                ("extra.sh", more.then_some("x")),
            ];
            for (key, text) in texts {
                if let Some(text) = text {
                    data[key] = text.into();
                }
            }
            json!({ "kind": "ConfigMap", "metadata": { "namespace": namespace, "name": name }, "data": data })
        },
    )
}

fn words(from: Vec<(&'static str, &'static str)>) -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::vec(select(from), 0..4)
        .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

fn class(name: &'static str) -> impl Strategy<Value = Value> {
    let provisioner = select(vec![
        "rancher.io/local-path",
        "rancher.io/local-path-big",
        "cluster.local/x-local-path-provisioner",
        "microk8s.io/hostpath",
        "ebs.csi.aws.com",
    ]);
    let parameters = words(vec![
        ("nodePath", "/data1"),
        ("nodePath", "/mnt/a/"),
        ("nodePath", "relative"),
        ("pathPattern", "{{ .PVC.Namespace }}/{{ .PVC.Name }}-{{ .PVName }}"),
        ("pathPattern", "{{ .PVC.Namespace }}/{{ .PVC.Name }}"),
        ("pathPattern", "{{ .PVC.Annotations.dir }}"),
        ("nodeAffinityKey", "example.com/rack"),
        ("userPattern", "1000"),
        ("groupPattern", "{{ .PVC.Labels.g }}"),
        ("permPattern", "0750"),
        ("permPattern", ""),
        ("allowUnsafePathPattern", "true"),
        ("pvDir", "/srv/data/"),
        ("mystery", "1"),
    ]);
    let labels =
        words(vec![("team", "a"), ("app.kubernetes.io/managed-by", "Helm"), ("objectset.rio.cattle.io/hash", "h")]);
    let annotations = words(vec![
        ("storageclass.kubernetes.io/is-default-class", "true"),
        ("defaultVolumeType", "Local"),
        ("defaultVolumeType", "nfs"),
        ("userPattern", "7"),
        ("groupPattern", "70"),
        ("meta.helm.sh/release-name", "r"),
        ("note", "n"),
    ]);
    let fields = (
        select(vec!["Delete", "Retain"]),
        select(vec!["WaitForFirstConsumer", "Immediate"]),
        any::<bool>(),
        prop::option::weighted(0.2, Just("ro")),
    );
    (provisioner, parameters, labels, annotations, fields).prop_map(
        move |(provisioner, parameters, labels, annotations, (reclaim, mode, expand, option))| {
            json!({ "kind": "StorageClass", "metadata": { "name": name, "labels": labels, "annotations": annotations },
                "provisioner": provisioner, "parameters": parameters, "reclaimPolicy": reclaim, "volumeBindingMode": mode,
                "allowVolumeExpansion": expand, "mountOptions": option.map(|it| vec![it]) })
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    let classes = CLASSES.map(|name| prop::option::weighted(0.7, class(name)));
    let shared_by = prop::option::of(Just("n1"));
    (prop::collection::vec(config_map(), 0..3), classes, shared_by).prop_map(|(mut maps, classes, shared_by)| {
        maps.dedup_by_key(|map| map["metadata"].clone());
        maps.extend(classes.into_iter().flatten());
        Case { objects: maps, shared_by }
    })
}

/// What rancher's provisioner does with one class on one node: its source is `provisioner.go`, written down here once more.
mod rancher {
    use super::{DEFAULT, Value};

    pub fn field<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
        object.as_object()?.iter().find(|(found, _)| found.eq_ignore_ascii_case(key)).map(|(_, value)| value)
    }

    /// The part of the configuration that is for a class.
    pub fn for_class<'a>(config: &'a Value, class: &str) -> Option<&'a Value> {
        match field(config, "storageClassConfigs").and_then(Value::as_object).filter(|it| !it.is_empty()) {
            Some(entries) => entries.get(class),
            None => Some(config),
        }
    }

    pub fn clean(path: &str) -> String {
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        format!("/{}", parts.join("/"))
    }

    pub fn paths(location: &Value, node: &str) -> Option<Vec<String>> {
        let map = field(location, "nodePathMap")?.as_array()?;
        let entry = |name: &str| map.iter().find(|entry| entry["node"] == name);
        let entry = entry(node).or_else(|| entry(DEFAULT));
        let paths = entry.map_or(&[][..], |entry| entry["paths"].as_array().map_or(&[][..], Vec::as_slice));
        Some(paths.iter().filter_map(Value::as_str).map(clean).collect())
    }

    pub fn directory(template: &str) -> String {
        let filled = template.replace("{{ .PVC.Namespace }}", "ns").replace("{{ .PVC.Name }}", "cl");
        filled.replace("{{ .PVName }}", "pvc-u")
    }
}

fn imported(case: &Case) -> Import {
    let mut input = Input::default();
    input.share_by(case.shared_by.map(str::to_owned));
    for object in &case.objects {
        input.add(object.clone()).unwrap();
    }
    import_all(&input)
}

/// Every account of a place.
fn of<'a>(made: &'a Import, words: &[&str]) -> Vec<&'a Account> {
    let fits = |account: &&Account| words.iter().all(|word| account.place.contains(word));
    made.accounts.iter().filter(fits).collect()
}

fn accounted(made: &Import, words: &[&str]) -> Result<(), TestCaseError> {
    prop_assert!(!of(made, words).is_empty(), "{words:?} has no account in {:#?}", made.accounts);
    Ok(())
}

/// Nothing of a ConfigMap goes without a word.
fn every_key_of_a_config_map(made: &Import, map: &Value) -> Result<(), TestCaseError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let place = format!("{}/{}", text(&map["metadata"]["namespace"]), text(&map["metadata"]["name"]));
    let whole_is_lost = of(made, &[]).iter().any(|it| {
        it.place == format!("ConfigMap {place}") && matches!(it.outcome, Outcome::Lost(_) | Outcome::LeftAlone)
    });
    for key in map["data"].as_object().unwrap().keys().filter(|key| *key != "config.json") {
        accounted(made, &[&place, key])?;
    }
    if whole_is_lost {
        return Ok(());
    }
    let config: Value = serde_json::from_str(map["data"]["config.json"].as_str().unwrap()).unwrap();
    let by_class = rancher::field(&config, "storageClassConfigs").and_then(Value::as_object);
    for (key, value) in config.as_object().unwrap() {
        match (key.to_ascii_lowercase().as_str(), by_class) {
            ("storageclassconfigs", Some(entries)) => {
                for (class, location) in entries {
                    every_path(made, &[&place, "storageClassConfigs", class], location)?;
                }
            }
            ("nodepathmap" | "sharedfilesystempath", None) => every_path(made, &[&place], &json!({ key: value }))?,
            _ => accounted(made, &[&place, key])?,
        }
    }
    Ok(())
}

fn every_path(made: &Import, place: &[&str], location: &Value) -> Result<(), TestCaseError> {
    // An entry as a whole, or each of its paths.
    let entry_is_lost = place.len() == 3
        && of(made, place).iter().any(|it| it.place.ends_with(place[2]) && matches!(it.outcome, Outcome::Lost(_)));
    if entry_is_lost {
        return Ok(());
    }
    for (key, value) in location.as_object().unwrap() {
        if key.eq_ignore_ascii_case("nodePathMap") {
            for entry in value.as_array().unwrap() {
                let node = entry["node"].as_str().unwrap();
                accounted(made, &[place, &[node]].concat())?;
                for path in entry["paths"].as_array().unwrap() {
                    accounted(made, &[place, &[node, &rancher::clean(path.as_str().unwrap())]].concat())?;
                }
            }
        } else if key.eq_ignore_ascii_case("sharedFileSystemPath") {
            accounted(made, &[place, &[value.as_str().unwrap()]].concat())?;
        } else {
            accounted(made, &[place, &[key]].concat())?;
        }
    }
    Ok(())
}

/// Nothing of a class that was imported goes without a word, and what is kept is in the new one.
fn every_key_of_a_class(made: &Import, given: &Value) -> Result<(), TestCaseError> {
    let name = given["metadata"]["name"].as_str().unwrap();
    let place = format!("class {name}");
    accounted(made, &[&place])?;
    let Some(new) = made.classes.iter().find(|it| it.metadata.name.as_deref() == Some(name)) else {
        let gone = |it: &Account| it.place == place && matches!(it.outcome, Outcome::Lost(_) | Outcome::LeftAlone);
        prop_assert!(made.accounts.iter().any(gone), "{place} vanished without a word");
        return Ok(());
    };
    let new = serde_json::to_value(new).unwrap();
    for (kind, field) in [("label", "labels"), ("annotation", "annotations")] {
        for (key, value) in given["metadata"][field].as_object().into_iter().flatten() {
            let accounts = of(made, &[&place, kind, key]);
            prop_assert!(!accounts.is_empty(), "{place}: {kind} {key} in {:#?}", made.accounts);
            let is_parameter = matches!(key.as_str(), "defaultVolumeType" | "userPattern" | "groupPattern")
                && given["provisioner"] != "microk8s.io/hostpath";
            if !is_parameter && accounts.iter().any(|it| it.outcome == Outcome::Kept) {
                prop_assert_eq!(&new["metadata"][field][key], value);
            }
        }
    }
    for key in given["parameters"].as_object().into_iter().flatten().map(|(key, _)| key) {
        accounted(made, &[&place, "parameter", key])?;
    }
    for key in ["reclaimPolicy", "volumeBindingMode"] {
        prop_assert_eq!(&new[key], &given[key]);
    }
    for (key, is_there) in [
        ("allowVolumeExpansion", given["allowVolumeExpansion"] == true),
        ("mountOptions", given["mountOptions"].is_array()),
    ] {
        if is_there {
            accounted(made, &[&place, key])?;
        }
    }
    Ok(())
}

/// What was kept is served as it was.
fn served_the_same(case: &Case, made: &Import, given: &Value) -> Result<(), TestCaseError> {
    let name = given["metadata"]["name"].as_str().unwrap();
    let Some(pool) = made.pools.iter().find(|pool| pool.metadata.name.as_deref() == Some(name)) else { return Ok(()) };
    let new = made.classes.iter().find(|it| it.metadata.name.as_deref() == Some(name)).unwrap();
    let new: Class = serde_json::from_value(serde_json::to_value(new).unwrap()).unwrap();
    let read = ClassParameters::of(&new);
    prop_assert!(read.is_ok(), "{:?}", read);
    let read = read.unwrap();
    prop_assert_eq!(&read.pool, name);
    let is_microk8s = given["provisioner"] == "microk8s.io/hostpath";
    let maps: Vec<Value> = (case.objects.iter().filter(|it| it["kind"] == "ConfigMap"))
        .map(|map| serde_json::from_str(map["data"]["config.json"].as_str().unwrap()).unwrap())
        .collect();
    if let Some(serving) = pool.spec.serving_node().filter(|_| read.shared_file_system) {
        prop_assert_eq!((Some(serving), read.volume_type), (case.shared_by, VolumeType::HostPath));
        prop_assert_eq!(made.base_paths().contains("/nfs"), true);
        return Ok(());
    }
    for node in NODES {
        let object: Node = serde_json::from_value(json!({ "metadata": { "name": node } })).unwrap();
        let ours: Vec<String> = pool.spec.paths_on(&object).iter().map(|path| path.path.clone()).collect();
        if is_microk8s {
            let given = given["parameters"]["pvDir"]
                .as_str()
                .map_or_else(|| "/var/snap/microk8s/common/default-storage".to_owned(), rancher::clean);
            prop_assert_eq!(ours, vec![given]);
            continue;
        }
        // The only configuration that can be its.
        let usable: Vec<&Value> = maps.iter().filter_map(|config| rancher::for_class(config, name)).collect();
        let listed: Vec<&Value> = (maps.iter())
            .filter(|config| rancher::field(config, "storageClassConfigs").is_some())
            .filter_map(|config| rancher::for_class(config, name))
            .collect();
        let [location] = if listed.len() == 1 { listed } else { usable }[..] else {
            return Err(TestCaseError::fail(format!("{name} was given a configuration that may be another's")));
        };
        prop_assert_eq!(Some(ours), rancher::paths(location, node));
    }
    if is_microk8s {
        prop_assert_eq!(read.volume_type, VolumeType::HostPath);
        return Ok(());
    }
    let is_local = given["metadata"]["annotations"]["defaultVolumeType"] == "Local";
    prop_assert_eq!(read.volume_type == VolumeType::Local, is_local);
    let parameter = |key: &str| given["parameters"][key].as_str().filter(|it| !it.is_empty());
    let kept = |key: &str| of(made, &[&format!("class {name}"), key]).iter().any(|it| it.outcome == Outcome::Kept);
    prop_assert_eq!(read.affinity_key.as_str(), parameter("nodeAffinityKey").unwrap_or("kubernetes.io/hostname"));
    if kept("nodePath") {
        prop_assert_eq!(read.node_path.clone(), parameter("nodePath").map(rancher::clean));
    }
    let names = Names { namespace: "ns", claim: "cl", uid: "u", volume: "pvc-u", class: name };
    let directory = read.pattern.render(&names).unwrap().to_string();
    match parameter("pathPattern") {
        Some(template) if kept("pathPattern") => prop_assert_eq!(directory, rancher::directory(template)),
        Some(_) => accounted(made, &[&format!("class {name}"), "pathPattern"])?,
        None => prop_assert_eq!(directory, "pvc-u_ns_cl"),
    }
    for (theirs, ours) in [("userPattern", read.uid.map(|it| it.to_string())), ("permPattern", read.mode.clone())] {
        let value = parameter(theirs).or(given["metadata"]["annotations"][theirs].as_str());
        if value.is_some() && kept(theirs) {
            prop_assert_eq!(ours.as_deref(), value);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_kept_is_served_the_same_and_the_rest_is_named(case in case()) {
        let made = imported(&case);
        let names: BTreeSet<_> = made.pools.iter().map(|pool| pool.metadata.name.clone()).collect();
        prop_assert_eq!(names.len(), made.pools.len());
        prop_assert_eq!(made.pools.len(), made.classes.len());
        for object in &case.objects {
            if object["kind"] == "ConfigMap" {
                every_key_of_a_config_map(&made, object)?;
            } else {
                every_key_of_a_class(&made, object)?;
                served_the_same(&case, &made, object)?;
            }
        }
    }
}
