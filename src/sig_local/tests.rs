use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kube::CustomResourceExt;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::crd::{AccessMode, DiskRule, VolumeMode};
use crate::rancher::{Loss, Outcome, lost};

const ONE_CLASS: &str = "\
fast-disks:
  hostDir: /mnt/fast-disks
  mountDir: /mnt/fast-disks
";
/// As the chart writes it for devices that are shredded.
const SHREDDED: &str = "\
local-block:
   hostDir: /dev/disks/block/
   mountDir: /mnt/block
   blockCleanerCommand:
      - \"/scripts/shred.sh\"
      - 2
   volumeMode: Block
   namePattern: \"nvme*,sd[^a]\"
";

fn config_map(data: Value) -> Value {
    let metadata = json!({ "name": "local-provisioner-config", "namespace": "disks" });
    let mut map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
    map["data"] = data;
    map
}

fn with_classes(classes: &str) -> Value {
    config_map(json!({ "storageClassMap": classes }))
}

fn class(name: &str) -> Value {
    json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": name, "uid": "u" },
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete" })
}

fn daemon_set(pod: Value) -> Value {
    let mut pod = pod;
    pod["volumes"] = json!([{ "name": "config", "configMap": { "name": "local-provisioner-config" } }]);
    json!({ "kind": "DaemonSet", "metadata": { "name": "provisioner", "namespace": "disks" },
        "spec": { "template": { "spec": pod } } })
}

fn try_import(objects: impl IntoIterator<Item = Value>) -> Result<Import, Problems> {
    let mut input = Input::default();
    objects.into_iter().for_each(|object| input.add(object));
    import(&input)
}

fn imported(objects: impl IntoIterator<Item = Value>) -> Import {
    let made = try_import(objects).unwrap();
    let schema = serde_json::to_value(crate::crd::LocalPool::crd()).unwrap();
    let schema = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for pool in &made.pools {
        let pool = serde_json::to_value(pool).unwrap();
        jsonschema::validate(schema, &pool).unwrap_or_else(|error| panic!("{error}: {pool}"));
    }
    made
}

fn rules(made: &Import) -> &[DiskRule] {
    &made.pools[0].spec.nodes[0].discover
}

/// What is said of the only thing whose place ends like this.
fn outcome(made: &Import, place: &str) -> (Outcome, String) {
    let mut found = made.accounts.iter().filter(|account| account.place.ends_with(place));
    let account = found.next().unwrap_or_else(|| panic!("{place} is not in {:#?}", made.accounts));
    (account.outcome, account.note.clone())
}

fn problem(objects: impl IntoIterator<Item = Value>) -> String {
    try_import(objects).unwrap_err().to_string()
}

#[test]
fn one_class_becomes_one_rule_for_every_node() {
    let made = imported([with_classes(ONE_CLASS), class("fast-disks")]);
    assert_eq!(made.pools[0].metadata.name.as_deref(), Some("local-provisioner-config"));
    let expected = DiskRule {
        storage_class_name: "fast-disks".to_owned(),
        directory: "/mnt/fast-disks".to_owned(),
        adopt_volumes: true,
        ..DiskRule::default()
    };
    assert_eq!(rules(&made), [expected]);
    assert!(made.pools[0].spec.nodes[0].selector.is_none());
    let mut kept = class("fast-disks");
    kept["metadata"].as_object_mut().unwrap().remove("uid");
    assert_eq!(made.classes, [kept], "but for what the API server writes it is unchanged");
    assert_eq!((made.disk_paths(), made.needs_devices()), (BTreeSet::from(["/mnt/fast-disks"]), false));
    assert_eq!(lost(&made.accounts, &BTreeSet::new()).count(), 0);
}

#[test]
fn devices_are_offered_whatever_is_on_them_and_their_script_is_named() {
    let made = imported([with_classes(SHREDDED), class("local-block")]);
    let [rule] = rules(&made) else { panic!("{made:?}") };
    assert_eq!((rule.volume_mode, rule.allow_data), (VolumeMode::Block, true));
    assert_eq!(
        (rule.directory.as_str(), &rule.names[..]),
        ("/dev/disks/block", &["nvme*".to_owned(), "sd[!a]".into()][..])
    );
    assert!(made.needs_devices());
    let (changed, note) = outcome(&made, "blockCleanerCommand");
    assert!(changed == Outcome::Changed && note.contains("shred.sh"), "{note}");
    assert!(outcome(&made, "mountDir").1.contains("/mnt/block"));
    assert_eq!(outcome(&made, "devices with something on them").0, Outcome::Kept);

    let quick = "b: {hostDir: /b, mountDir: /b, volumeMode: Block}";
    let (_, note) = outcome(&imported([with_classes(quick)]), "blockCleanerCommand (not given)");
    assert!(note.contains("quick_reset.sh"), "{note}");
    let own = "b: {hostDir: /b, mountDir: /b, volumeMode: Block, blockCleanerCommand: [sh, -c, wipe]}";
    let (is_lost, note) = outcome(&imported([with_classes(own)]), "blockCleanerCommand");
    assert!(is_lost == Outcome::Lost(Loss::Scripts) && note.contains("`sh -c wipe`"), "{note}");
}

#[test]
fn labels_selectors_and_modes_go_along() {
    let text = "\
shared:
  hostDir: /mnt/shared
  mountDir: /mnt/shared
  accessMode: ReadWriteMany
  fsType: xfs
  namePattern: '*'
  selector:
  - matchExpressions:
    - {key: shared, operator: In, values: [\"y\"]}
";
    let data = json!({ "storageClassMap": text, "labelsForPV": "{team: storage, size: 4, zone: here}",
        "nodeLabelsForPV": "[topology.kubernetes.io/zone, zone]" });
    let made = imported([config_map(data), class("shared")]);
    let [rule] = rules(&made) else { panic!("{made:?}") };
    assert_eq!((rule.access_mode, rule.fs_type.as_deref()), (AccessMode::ReadWriteMany, Some("xfs")));
    assert!(rule.allow_data && rule.names.is_empty());
    let wanted = &rule.selector[0].match_expressions.as_ref().unwrap()[0];
    assert_eq!((wanted.key.as_str(), wanted.values.as_deref()), ("shared", Some(&["y".to_owned()][..])));
    let labels = [("size", "4"), ("team", "storage"), ("zone", "here")];
    assert_eq!(rule.labels, BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value.to_owned()))));
    assert_eq!(rule.node_labels, ["topology.kubernetes.io/zone"], "the other label wins");
}

#[test]
fn what_says_nothing_for_a_class_is_named() {
    let text = "c: {hostDir: /c, mountDir: /c, volumeMode: Block, fsType: ext4, accessMode: ReadWriteMany}";
    let made = imported([with_classes(text)]);
    assert_eq!(rules(&made)[0].fs_type, None, "the API server refuses it");
    assert_eq!(outcome(&made, "c: fsType").0, Outcome::NotNeeded);
    let (changed, note) = outcome(&made, "c: accessMode");
    assert!(changed == Outcome::Changed && note.contains("selector"), "{note}");
}

#[test]
fn what_cannot_be_used_is_named_by_its_key_and_all_of_it_at_once() {
    for (classes, words) in [
        ("c: {hostDir: /c, mountDir: /c, accessMode: ReadWriteOften}", "c: accessMode is `ReadWriteOften`"),
        ("c: {hostDir: /c, mountDir: /c, volumeMode: Tape}", "c: volumeMode is `Tape`"),
        ("c: {hostDir: c, mountDir: /c}", "c: hostDir is `c`"),
        ("c: {hostDir: /c}", "c: mountDir is missing"),
        ("c: {hostDir: /c, mountDir: null}", "c: mountDir is missing"),
        ("c: {hostDir: /c, mountDir: /c, blockCleanerCommand: []}", "c: blockCleanerCommand is `[]`"),
        ("c: {hostDir: /c, mountDir: /c, namePattern: 'a,[b'}", "c: namePattern is `a,[b`"),
        ("c: {hostDir: /c, mountDir: /c, selector: [{matchExpressions: 1}]}", "c: selector[0] is"),
        ("c: {hostDir: /c, mountDir: /c, hostdir: /d}", "is given twice"),
        ("c: [", "storageClassMap is not YAML"),
        ("[]", "storageClassMap is `[]`"),
        ("C_D: {hostDir: /c, mountDir: /c}", "the name of a class"),
    ] {
        let said = problem([with_classes(classes)]);
        assert!(said.contains(words), "{words:?} is not in {said:?}");
    }
    let both = problem([with_classes("c: {hostDir: c, accessMode: x}")]);
    assert_eq!(both.lines().count(), 3, "{both}");
    let setting = problem([config_map(json!({ "storageClassMap": ONE_CLASS, "setPVOwnerRef": "maybe" }))]);
    assert!(setting.contains("setPVOwnerRef is `maybe`, and should be true or false"), "{setting}");
    let many: Vec<String> = (0..17).map(|at| format!("c{at}: {{hostDir: /mnt/{at}, mountDir: /c}}")).collect();
    assert!(problem([with_classes(&many.join("\n"))]).contains("17 entries"));
}

#[test]
fn directories_of_two_classes_are_apart() {
    for (one, other) in
        [("/mnt/disks", "/mnt//disks/"), ("/mnt/disks", "/mnt/disks/fast"), ("/mnt/disks/fast", "/mnt/disks")]
    {
        let text = format!("a: {{hostDir: {one}, mountDir: /a}}\nb: {{hostDir: {other}, mountDir: /b}}");
        let said = problem([with_classes(&text)]);
        assert!(said.contains("storageClassMap: a: hostDir") && said.contains("storageClassMap: b: hostDir"), "{said}");
    }
    let apart = "a: {hostDir: /mnt/disks, mountDir: /a}\nb: {hostDir: /mnt/disks-2, mountDir: /b}";
    assert_eq!(rules(&imported([with_classes(apart)])).len(), 2);
}

#[test]
fn keys_that_nobody_read_are_named() {
    let text = "c: {hostDir: /c, mountDir: /c, fsTyp: xfs, VolumeMode: Block, selector: [{matchLabels: {}}]}";
    let made = imported([config_map(json!({ "storageClassMap": text, "useJobsForCleaning": "yes" }))]);
    for place in ["c: fsTyp", "useJobsForCleaning", "selector[0]: matchLabels"] {
        let (not_needed, note) = outcome(&made, place);
        assert!(not_needed == Outcome::NotNeeded && note.contains("knows no such key"), "{place}: {note}");
    }
    assert_eq!(rules(&made)[0].volume_mode, VolumeMode::Block, "keys match in any case");
}

#[test]
fn booleans_are_those_of_yaml_1_1() {
    for (text, is_on) in [("yes", true), ("true", true), ("on", true), ("\"yes\"", true), ("no", false), ("Off", false)]
    {
        let made = imported([config_map(json!({ "storageClassMap": ONE_CLASS, "setPVOwnerRef": text }))]);
        let (found, _) = outcome(&made, &format!("setPVOwnerRef: {is_on}"));
        assert_eq!(found, if is_on { Outcome::Lost(Loss::Entries) } else { Outcome::NotNeeded }, "{text}");
    }
}

#[test]
fn the_nodes_are_those_of_the_daemon_set() {
    let map = || with_classes(ONE_CLASS);
    let selected = daemon_set(json!({ "nodeSelector": { "disk": "fast" }, "tolerations": [{ "operator": "Exists" }] }));
    let made = imported([map(), selected.clone()]);
    let labels = |made: &Import| {
        made.pools[0].spec.nodes.iter().map(|it| it.selector.clone().and_then(|it| it.match_labels)).collect::<Vec<_>>()
    };
    assert_eq!(labels(&made), [Some(BTreeMap::from([("disk".to_owned(), "fast".to_owned())]))]);
    assert_eq!(outcome(&made, "tolerations").0, Outcome::NotNeeded);
    // One that runs everywhere leaves nothing for the other.
    let mut everywhere = daemon_set(json!({ "affinity": { "nodeAffinity": {} } }));
    everywhere["metadata"]["name"] = "second".into();
    let made = imported([map(), selected, everywhere]);
    assert_eq!(labels(&made), [None]);
    assert_eq!(outcome(&made, "second: affinity").0, Outcome::Lost(Loss::Entries));

    let windows = imported([map(), daemon_set(json!({ "nodeSelector": { "kubernetes.io/os": "windows" } }))]);
    assert!(windows.pools.is_empty());
    assert_eq!(outcome(&windows, "DaemonSet disks/provisioner").0, Outcome::Lost(Loss::Entries));
    let mut of_another = daemon_set(json!({ "nodeSelector": { "a": "b" } }));
    of_another["metadata"]["namespace"] = "elsewhere".into();
    assert_eq!(labels(&imported([map(), of_another])), [None]);
}

#[test]
fn classes_are_unchanged_or_named() {
    let (not_known, note) = outcome(&imported([with_classes(ONE_CLASS)]), "class fast-disks");
    assert!(not_known == Outcome::LeftAlone && note.contains("not in the input"), "{note}");
    let mut recycled = class("fast-disks");
    recycled["reclaimPolicy"] = "Recycle".into();
    let made = imported([with_classes(ONE_CLASS), recycled]);
    assert!(made.pools.is_empty() && made.classes.is_empty());
    assert_eq!(outcome(&made, "class fast-disks: reclaimPolicy").0, Outcome::Lost(Loss::Entries));
    let mut dynamic = class("fast-disks");
    dynamic["provisioner"] = "example.com/disks".into();
    let made = imported([with_classes(ONE_CLASS), dynamic.clone(), class("other")]);
    assert_eq!(outcome(&made, "class fast-disks: provisioner").0, Outcome::Changed);
    assert_eq!(outcome(&made, "class other").0, Outcome::LeftAlone);
    assert!(
        problem([with_classes(ONE_CLASS), dynamic, class("fast-disks")]).contains("class fast-disks is given twice")
    );
}

#[test]
fn several_config_maps_are_several_pools() {
    let mut second = with_classes("slow: {hostDir: /mnt/fast-disks/slow, mountDir: /s}");
    second["metadata"]["namespace"] = "elsewhere".into();
    let made = imported([with_classes(ONE_CLASS), second.clone(), second]);
    let names: Vec<&str> = made.pools.iter().filter_map(|pool| pool.metadata.name.as_deref()).collect();
    assert_eq!(names, ["disks-local-provisioner-config", "elsewhere-local-provisioner-config"]);
    let overlap = |account: &&crate::rancher::Account| account.note.contains("overlaps with");
    assert_eq!(made.accounts.iter().filter(overlap).count(), 1, "{:#?}", made.accounts);
    let said = problem([with_classes(ONE_CLASS), with_classes(SHREDDED)]);
    assert!(said.contains("ConfigMap disks/local-provisioner-config is given twice"), "{said}");
}

#[test]
fn names_of_volumes_are_those_that_are_there() {
    assert_eq!(pv_name("mount1", "test-node", "sc1"), "local-pv-aaaafef5");
    assert_eq!(pv_name("vol1", "1node", "sc"), pv_name("vol11", "node", "sc"), "nothing stands between the parts");
}

/// Every key that there is, each so that it says something.
fn with_every_key() -> Value {
    let class = "c: {hostDir: /c, mountDir: /m, blockCleanerCommand: [/scripts/shred.sh], volumeMode: Filesystem, \
                 accessMode: ReadWriteOnce, fsType: ext4, namePattern: 'a*', selector: [{matchExpressions: []}]}";
    config_map(
        json!({ "storageClassMap": class, "nodeLabelsForPV": "[zone]", "labelsForPV": "{a: b}", "useAlphaAPI": "true",
        "useJobForCleaning": "yes", "jobTolerations": "[{operator: Exists}]", "minResyncPeriod": "5m0s",
        "useNodeNameOnly": "true", "setPVOwnerRef": "true", "removeNodeNotReadyTaint": "true",
        "provisionerNotReadyNodeTaintKey": "example.com/not-ready" }),
    )
}

/// The table of docs/disks-import.md: key and what becomes of it, in one word.
fn table() -> BTreeMap<String, String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/disks-import.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (key, rest) = row.split_once('`').unwrap();
        (key.to_owned(), rest.split('|').nth(1).unwrap().trim().to_owned())
    })
    .collect()
}

#[test]
fn the_page_says_of_every_key_what_the_import_does() {
    let made = imported([with_every_key()]);
    let table = table();
    let of_class = CLASS_KEYS.map(|key| format!("storageClassMap.<class>.{key}"));
    let keys: BTreeSet<String> = TOP_KEYS.map(str::to_owned).into_iter().chain(of_class).collect();
    assert_eq!(
        table.keys().cloned().collect::<BTreeSet<_>>(),
        keys,
        "left: docs/disks-import.md, right: src/sig_local"
    );
    for (key, word) in table {
        let key_place = key.replace("storageClassMap.<class>.", "storageClassMap: c: ");
        let place = format!("ConfigMap disks/local-provisioner-config: {key_place}");
        // A setting stands there with its value.
        let is_said =
            |found: &str| found == place || TOP_KEYS[1..].contains(&key.as_str()) && found.starts_with(&place);
        let mut said = made.accounts.iter().filter(|account| is_said(&account.place));
        let account = said.next().unwrap_or_else(|| panic!("nothing is said of {key}: {:#?}", made.accounts));
        assert_eq!(account.outcome.word(), word, "{key}: {}", account.note);
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_every_rule_has_a_plain_directory(
        directory in "[/.a\\x00-\\x1f ]{0,9}|\\PC{0,20}",
        pattern in "[*?a\\[\\]^!,\\\\-]{0,8}",
        other in "\\PC{0,40}",
        key in select(TOP_KEYS.to_vec()),
    ) {
        let class = json!({ "c": { "hostDir": directory, "mountDir": "/c", "namePattern": pattern } });
        let mut data = json!({ "storageClassMap": class.to_string() });
        data[key] = other.into();
        if let Ok(made) = try_import([config_map(data)]) {
            for rule in made.pools.iter().flat_map(|pool| &pool.spec.nodes).flat_map(|nodes| &nodes.discover) {
                prop_assert!(crate::crd::checked_base(&rule.directory).is_ok(), "{}", rule.directory);
                prop_assert!(rule.names.iter().all(|name| glob::Pattern::new(name).is_ok()), "{:?}", rule.names);
            }
        }
    }
}
