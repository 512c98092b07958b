use serde_json::{Value, json};

use super::*;
use crate::binding::Lookup;
use crate::crd::{
    CleanOrder, CleanReason, DiskIdentity, DiskRelease, DiskReport, DiskRule, LocalDisk, LocalDiskStatus, Presence,
    VolumeMode,
};
use crate::model::{Claim, Class, Node, Volume};
use crate::volumes::VolumeSet;

pub(super) fn identity(mark: &str) -> DiskIdentity {
    let marks = if mark.is_empty() { json!({}) } else { json!({ "fs": mark }) };
    serde_json::from_value(marks).unwrap()
}

pub(super) fn found(path: &str, mark: &str) -> DiskReport {
    DiskReport {
        pool: "disks".to_owned(),
        storage_class_name: "fast".to_owned(),
        path: path.to_owned(),
        usable: true,
        identity: identity(mark),
        capacity_bytes: (5 << 30) + 12_345,
        ..DiskReport::default()
    }
}

pub(super) fn rule() -> DiskRule {
    DiskRule { storage_class_name: "fast".to_owned(), directory: "/mnt".to_owned(), ..DiskRule::default() }
}

/// The LocalDisk of a find, with what the agent says of it.
fn disk(path: &str, mark: &str, presence: Presence) -> LocalDisk {
    let mut disk = new_disk(&found(path, mark), &rule(), ("node-a", Some(&"n-1".into())));
    disk.status = Some(LocalDiskStatus { presence, capacity_bytes: 5 << 30, ..LocalDiskStatus::default() });
    disk
}

pub(super) fn node() -> Node {
    serde_json::from_value(json!({ "metadata": { "name": "node-a", "uid": "n-1",
        "labels": { "kubernetes.io/hostname": "host-a", "zone": "z1" } } }))
    .unwrap()
}

pub(super) fn class() -> Class {
    serde_json::from_value(json!({ "metadata": { "name": "fast" }, "provisioner": "kubernetes.io/no-provisioner",
        "mountOptions": ["noatime"] }))
    .unwrap()
}

/// The volume of a disk as the API server would have it, changed.
fn volume(disk: &LocalDisk, change: &Value) -> Volume {
    let mut whole = serde_json::to_value(disk_volume(disk, &class(), &node()).unwrap()).unwrap();
    whole["metadata"]["uid"] = json!("v-1");
    whole["status"] = json!({ "phase": "Available" });
    json_patch::merge(&mut whole, change);
    serde_json::from_value(whole).unwrap()
}

fn claimed(phase: &str) -> Value {
    json!({ "spec": { "claimRef": { "namespace": "shop", "name": "cart", "uid": "c-1" } }, "status": { "phase": phase } })
}

fn step(disk: &LocalDisk, volume: Option<&Volume>) -> DiskStep {
    let volume = Lookup::found_or(volume.cloned(), Lookup::Absent);
    let facts = DiskFacts {
        volume: &volume,
        class: &Lookup::Found(class()),
        node: &Lookup::Found(node()),
        rule: &Lookup::Found(()),
        neighbour: None,
        beside_volume: false,
    };
    plan(disk, &facts)
}

/// As it is once what is seen of the volume is written down.
fn recorded(disk: &LocalDisk, volume: &Volume) -> LocalDisk {
    let mut disk = disk.clone();
    let DiskRecord { volume, claim, unclean } = record_of(&disk, volume);
    (disk.spec.persistent_volume, disk.spec.claim, disk.spec.unclean) = (Some(volume), claim, unclean);
    disk
}

#[test]
fn the_volume_is_what_an_administrator_would_have_made() {
    let mut disk = disk("/mnt/disk1", "u1", Presence::Present);
    disk.spec.labels = [("tier".to_owned(), "gold".to_owned())].into();
    disk.spec.node_labels = vec!["zone".to_owned(), "none".to_owned()];
    disk.spec.selector =
        serde_json::from_value(json!([{ "matchExpressions": [{ "key": "shared", "operator": "Exists" }] }])).unwrap();
    let volume = serde_json::to_value(disk_volume(&disk, &class(), &node()).unwrap()).unwrap();
    let spec = &volume["spec"];
    assert_eq!(spec["local"], json!({ "path": "/mnt/disk1" }));
    assert_eq!(spec["capacity"]["storage"], json!("5Gi"));
    assert_eq!((&spec["storageClassName"], &spec["persistentVolumeReclaimPolicy"]), (&json!("fast"), &json!("Delete")));
    assert_eq!((&spec["mountOptions"], &spec["volumeMode"]), (&json!(["noatime"]), &json!("Filesystem")));
    let terms = spec["nodeAffinity"]["required"]["nodeSelectorTerms"].as_array().unwrap();
    assert_eq!(terms[0]["matchExpressions"][0]["values"], json!(["host-a"]));
    assert_eq!(terms.len(), 2, "a shared disk is reached by more than the node on which it was found");
    assert_eq!(volume["metadata"]["labels"], json!({ "tier": "gold", "zone": "z1" }));
    disk.spec.volume_mode = VolumeMode::Block;
    let block = disk_volume(&disk, &class(), &node()).unwrap().spec.unwrap();
    assert!(block.mount_options.is_none(), "a device is not mounted");
    let recycle: Class =
        serde_json::from_value(json!({ "metadata": { "name": "fast" }, "reclaimPolicy": "Recycle" })).unwrap();
    assert!(disk_volume(&disk, &recycle, &node()).unwrap_err().contains("Recycle"));
    assert!(disk_volume(&disk, &class(), &Node::default()).unwrap_err().contains("kubernetes.io/hostname"));
}

#[test]
fn a_find_is_the_disk_that_is_known_there_or_another_or_nobody_knows() {
    let known = disk("/mnt/disk1", "u1", Presence::Present);
    let decide = |report: &DiskReport, here: &[&LocalDisk], alike: &[&LocalDisk]| {
        let new = || new_disk(report, &rule(), ("node-a", None));
        offer(report, "node-a", new, here.iter().copied(), alike.iter().copied())
    };
    assert_eq!(decide(&found("/mnt/disk1", "u1"), &[&known], &[&known]), Offer::Known);
    assert!(matches!(decide(&found("/mnt/disk2", "u2"), &[&known], &[]), Offer::Create(_)));
    // Another disk at the same path is another object; whether it gets a volume is decided by what names the path.
    assert!(matches!(decide(&found("/mnt/disk1", "u2"), &[&known], &[]), Offer::Create(_)));
    assert!(matches!(decide(&found("/mnt/disk1", ""), &[&known], &[]), Offer::Refuse(_)), "not read is not the same");
    // The same disk at a second path, or on another node.
    assert!(matches!(decide(&found("/mnt/again", "u1"), &[&known], &[&known]), Offer::Refuse(_)));
    let mut moved = disk("/mnt/disk1", "u1", Presence::Absent);
    assert_eq!(decide(&found("/mnt/new", "u1"), &[], &[&moved]), Offer::Replace(moved.name().to_owned()));
    moved.spec.unclean = true;
    let Offer::Refuse(why) = decide(&found("/mnt/new", "u1"), &[], &[&moved]) else { panic!("it holds data") };
    assert!(why.contains("latebind release disk"), "{why}");
    let claim = crate::crd::ClaimIdentity { name: "cart".to_owned(), ..Default::default() };
    let mut used = known.clone();
    used.spec.claim = Some(claim.clone());
    assert_eq!(neighbour(&disk("/mnt/disk1", "u2", Presence::Present), [&used]), None, "it has no volume");
    used.spec.persistent_volume = Some(crate::crd::SeenVolume { claim_uid: "c-1".to_owned(), ..Default::default() });
    let other = disk("/mnt/disk1/", "u2", Presence::Present);
    assert_eq!(
        neighbour(&other, [&used, &other]),
        Some(&claim),
        "the kubelet may have mounted it in place of the other"
    );
    assert_eq!(neighbour(&used, [&used]), None);
    let mut more = found("/mnt/disk1", "u1");
    more.identity.0.insert("wwn".to_owned(), "w".to_owned());
    assert!(matches!(decide(&more, &[&known], &[&known]), Offer::Learn { identity, .. } if identity.0.len() == 2));
}

#[test]
fn a_disk_goes_from_free_to_free() {
    let free = disk("/mnt/disk1", "u1", Presence::Present);
    assert_eq!(step(&free, None), DiskStep::Publish);
    let available = volume(&free, &json!({}));
    assert!(matches!(step(&free, Some(&available)), DiskStep::Record(DiskRecord { unclean: false, .. })));
    let offered = recorded(&free, &available);
    assert_eq!(step(&offered, Some(&available)), DiskStep::Nothing);
    let bound = volume(&free, &claimed("Bound"));
    assert!(matches!(step(&offered, Some(&bound)), DiskStep::Record(DiskRecord { unclean: true, .. })));
    let used = recorded(&offered, &bound);
    assert_eq!(step(&used, Some(&bound)), DiskStep::Nothing);
    let released = volume(&free, &claimed("Released"));
    assert_eq!(step(&used, Some(&released)), DiskStep::Release);
    let mut change = claimed("Released");
    change["metadata"] = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
    let going = volume(&free, &change);
    let order = CleanOrder { id: "v-1".to_owned(), why: CleanReason::Released };
    assert_eq!(step(&used, Some(&going)), DiskStep::Order(order.clone()));
    let mut ordered = used.clone();
    ordered.spec.clean = Some(order);
    assert_eq!(step(&ordered, Some(&going)), DiskStep::Nothing, "the agent has not asked");
    ordered.status.as_mut().unwrap().attempt = Some("a".to_owned());
    assert_eq!(step(&ordered, Some(&going)), DiskStep::Confirm("a".to_owned()));
    ordered.spec.confirmed_attempt = Some("a".to_owned());
    assert_eq!(step(&ordered, Some(&going)), DiskStep::Nothing);
    ordered.status.as_mut().unwrap().cleaned = Some("v-1".to_owned());
    assert_eq!(step(&ordered, Some(&going)), DiskStep::Let);
    assert_eq!(step(&ordered, None), DiskStep::Settle);
}

#[test]
fn what_is_not_known_takes_nothing_and_makes_nothing() {
    let unknown = disk("/mnt/disk1", "u1", Presence::Unknown);
    assert_eq!(step(&unknown, None), DiskStep::Nothing);
    let available = volume(&unknown, &json!({}));
    assert_eq!(step(&recorded(&unknown, &available), Some(&available)), DiskStep::Nothing);
    let present = disk("/mnt/disk1", "u1", Presence::Present);
    let (class, node) = (Lookup::Found(class()), Lookup::Found(node()));
    let facts = DiskFacts {
        volume: &Lookup::Unknown,
        class: &class,
        node: &node,
        rule: &Lookup::Found(()),
        neighbour: None,
        beside_volume: false,
    };
    assert_eq!(plan(&present, &facts), DiskStep::Nothing);
    let facts = DiskFacts { volume: &Lookup::Absent, rule: &Lookup::Unknown, ..facts };
    assert_eq!(plan(&present, &facts), DiskStep::Nothing, "the pool is not known");
    // What is known: the disk is elsewhere, or nobody wants it any more.
    for presence in [Presence::Absent, Presence::Another] {
        let away = disk("/mnt/disk1", "u1", presence);
        assert_eq!(step(&recorded(&away, &available), Some(&available)), DiskStep::Withdraw);
        assert_eq!(step(&away, None), DiskStep::Forget);
    }
    let facts = DiskFacts { volume: &Lookup::Found(available.clone()), rule: &Lookup::Absent, ..facts };
    assert_eq!(plan(&recorded(&present, &available), &facts), DiskStep::Withdraw);
}

#[test]
fn data_of_a_claim_is_kept_back_until_somebody_says_what_becomes_of_it() {
    let free = disk("/mnt/disk1", "u1", Presence::Present);
    let keep = json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } });
    let with = |phase: &str, deleted: bool| {
        let mut change = claimed(phase);
        json_patch::merge(&mut change, &keep);
        if deleted {
            change["metadata"] = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
        }
        volume(&free, &change)
    };
    let used = recorded(&free, &with("Released", false));
    assert!(matches!(step(&used, Some(&with("Released", false))), DiskStep::Tell(_)));
    assert_eq!(step(&used, Some(&with("Released", true))), DiskStep::Let, "it goes, and the disk is kept back");
    let DiskStep::Tell(why) = step(&used, None) else { panic!("it is told") };
    assert!(why.contains("shop/cart") && why.contains("--wipe"), "{why}");
    let released = |how: DiskRelease| {
        let mut disk = used.clone();
        disk.spec.release = Some(how);
        disk
    };
    assert_eq!(step(&released(DiskRelease::Keep), None), DiskStep::Settle);
    assert_eq!(step(&released(DiskRelease::Forget), None), DiskStep::Forget);
    assert!(matches!(
        step(&released(DiskRelease::Wipe), None),
        DiskStep::Order(CleanOrder { why: CleanReason::Asked, .. })
    ));
    // The volume has vanished while its disk was cleaned: what permitted it is gone.
    let mut ordered = used.clone();
    ordered.spec.clean = Some(CleanOrder { id: "v-1".to_owned(), why: CleanReason::Released });
    assert!(matches!(step(&ordered, None), DiskStep::TakeBack(_)));
    // A volume that somebody has given free again is not cleaned.
    let again = volume(&free, &claimed("Bound"));
    assert!(matches!(
        step(
            &{
                let mut it = recorded(&free, &again);
                it.spec.clean.clone_from(&ordered.spec.clean);
                it
            },
            Some(&again)
        ),
        DiskStep::TakeBack(_)
    ));
    assert!(
        matches!(
            step(
                &{
                    let mut it = used.clone();
                    it.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                        k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
                    ));
                    it
                },
                None
            ),
            DiskStep::Tell(_)
        ),
        "a LocalDisk that remembers data is not let go because it was deleted"
    );
}

#[test]
fn only_live_facts_permit_to_clean() {
    let free = disk("/mnt/disk1", "u1", Presence::Present);
    let mut change = claimed("Released");
    change["metadata"] = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
    let going = volume(&free, &change);
    let mut ordered = recorded(&free, &going);
    ordered.spec.clean = Some(CleanOrder { id: "v-1".to_owned(), why: CleanReason::Released });
    let node = node();
    let permits = |disk: &LocalDisk, volumes: &[&Volume], owner: &Lookup<Claim>, node: Option<&Node>| {
        let volumes: VolumeSet = volumes.iter().map(|volume| (*volume).clone()).collect();
        permits_cleaning(disk, &LiveFacts { volumes: &volumes, owner, node, alike: &[] }).is_ok()
    };
    let gone = Lookup::Absent;
    assert!(permits(&ordered, &[&going], &gone, Some(&node)));
    assert!(!permits(&ordered, &[&going], &gone, None), "the Node is not known");
    assert!(!permits(&ordered, &[&going], &Lookup::Unknown, Some(&node)));
    assert!(!permits(&ordered, &[&going], &Lookup::Found(Claim::default()), Some(&node)));
    assert!(!permits(&ordered, &[], &gone, Some(&node)), "no volume permits it");
    assert!(!permits(&free, &[&going], &gone, Some(&node)), "nobody has ordered it");
    for change in [
        json!({ "metadata": { "deletionTimestamp": null } }),
        json!({ "metadata": { "uid": "v-2" } }),
        json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } }),
        json!({ "status": { "phase": "Bound" } }),
        json!({ "status": { "phase": "Available" } }),
        json!({ "spec": { "claimRef": { "uid": null } } }),
    ] {
        let mut whole = claimed("Released");
        whole["metadata"] = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
        json_patch::merge(&mut whole, &change);
        let other = volume(&free, &whole);
        assert!(!permits(&ordered, &[&other], &gone, Some(&node)), "{change}");
    }
    for path in ["/mnt/disk1", "/mnt/disk1/sub", "/mnt"] {
        let spec = json!({ "local": { "path": path }, "nodeAffinity": null });
        let rival: Volume = serde_json::from_value(json!({ "metadata": { "name": "other" }, "spec": spec })).unwrap();
        assert!(!permits(&ordered, &[&going, &rival], &gone, Some(&node)), "{path}");
    }
    let sibling: Volume =
        serde_json::from_value(json!({ "metadata": { "name": "o" }, "spec": { "local": { "path": "/mnt/disk10" } } }))
            .unwrap();
    assert!(permits(&ordered, &[&going, &sibling], &gone, Some(&node)), "a longer name is another path");
}

#[test]
fn a_volume_of_another_static_provisioner_is_taken_over_under_its_name() {
    let mut disk = disk("/mnt/disk1", "u1", Presence::Present);
    disk.spec.adopted_volume = Some("local-pv-1".to_owned());
    let theirs = |by: &str, path: &str| -> Volume {
        let spec = json!({ "storageClassName": "fast", "persistentVolumeReclaimPolicy": "Delete", "local": { "path": path },
            "claimRef": { "namespace": "shop", "name": "cart", "uid": "c-1" } });
        let metadata =
            json!({ "name": "local-pv-1", "uid": "v-9", "annotations": { "pv.kubernetes.io/provisioned-by": by } });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec, "status": { "phase": "Released" } }))
            .unwrap()
    };
    let good = theirs("local-volume-provisioner-node-a-1", "/mnt/disk1/");
    assert!(is_of(&good, &disk));
    assert!(!is_of(&theirs("local-volume-provisioner-node-a-1", "/mnt/disk2"), &disk));
    assert!(!is_of(&theirs("rancher.io/local-path", "/mnt/disk1"), &disk));
    let DiskStep::Record(record) = step(&disk, Some(&good)) else { panic!("it is written down") };
    assert!(record.unclean);
    let known = recorded(&disk, &good);
    assert_eq!(step(&known, Some(&good)), DiskStep::Hold, "nobody deletes it before its disk is clean");
    let volumes: VolumeSet = [good].into_iter().collect();
    let node = node();
    let facts = LiveFacts { volumes: &volumes, owner: &Lookup::Absent, node: Some(&node), alike: &[] };
    assert!(permits_publication(&disk, &facts).is_ok(), "its own volume is no rival");
}

fn going(disk: &LocalDisk) -> Volume {
    let mut change = claimed("Released");
    change["metadata"] = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
    volume(disk, &change)
}

#[test]
fn a_disk_that_nothing_tells_from_others_is_cleaned_where_a_person_says_so_alone() {
    let unmarked = disk("/mnt/disk1", "", Presence::Present);
    let going = going(&unmarked);
    let permits = |disk: &LocalDisk, volumes: &[&Volume]| {
        let volumes: VolumeSet = volumes.iter().map(|volume| (*volume).clone()).collect();
        let node = node();
        permits_cleaning(disk, &LiveFacts { volumes: &volumes, owner: &Lookup::Absent, node: Some(&node), alike: &[] })
    };
    let mut ordered = recorded(&unmarked, &going);
    ordered.spec.clean = Some(CleanOrder { id: "v-1".to_owned(), why: CleanReason::Released });
    let why = permits(&ordered, &[&going]).unwrap_err().to_string();
    assert!(why.contains("latebind release disk/"), "{why}");
    ordered.spec.release = Some(DiskRelease::Wipe);
    ordered.spec.clean = Some(CleanOrder { id: "asked-1".to_owned(), why: CleanReason::Asked });
    assert!(permits(&ordered, &[]).is_ok());
    let mut first = unmarked;
    (first.spec.unclean, first.spec.clean) =
        (true, Some(CleanOrder { id: "f".to_owned(), why: CleanReason::FirstUse }));
    assert!(permits(&first, &[]).is_ok(), "the pool says so, of whatever is there");
    first.spec.node_uid = "n-0".to_owned();
    assert!(permits(&first, &[]).is_err(), "another machine may have that name");
}

#[test]
fn one_disk_under_two_names_is_neither_offered_twice_nor_cleaned_while_the_other_holds_something() {
    let one = disk("/mnt/disk1", "u1", Presence::Present);
    let mut two = disk("/mnt/disk2", "u1", Presence::Present);
    two.spec.node_name = "node-b".to_owned();
    let (volumes, node) = (VolumeSet::default(), node());
    let offered = |disk: &LocalDisk, other: &LocalDisk| {
        let alike = [other];
        let facts = LiveFacts { volumes: &volumes, owner: &Lookup::Unknown, node: Some(&node), alike: &alike };
        permits_publication(disk, &facts).is_ok()
    };
    assert!(offered(&one, &two) != offered(&two, &one), "one of them");
    two.spec.unclean = true;
    assert!(!offered(&one, &two));
    let going = going(&one);
    let mut ordered = recorded(&one, &going);
    ordered.spec.clean = Some(CleanOrder { id: "v-1".to_owned(), why: CleanReason::Released });
    let volumes: VolumeSet = [going].into_iter().collect();
    let alike = [&two];
    let facts = LiveFacts { volumes: &volumes, owner: &Lookup::Absent, node: Some(&node), alike: &alike };
    assert!(permits_cleaning(&ordered, &facts).is_err());
    // A file behind a loop device is another on each node.
    let file =
        |disk: &mut LocalDisk| disk.spec.identity = serde_json::from_value(json!({ "loop": "/disk.img" })).unwrap();
    let (mut one, mut two) = (one, two);
    two.spec.unclean = false;
    file(&mut one);
    file(&mut two);
    assert!(offered(&one, &two) && offered(&two, &one));
}

#[test]
fn what_a_person_has_said_holds_for_what_it_was_said_of() {
    let free = disk("/mnt/disk1", "u1", Presence::Present);
    let available = volume(&free, &json!({}));
    let mut said = recorded(&free, &available);
    said.spec.release = Some(DiskRelease::Keep);
    assert_eq!(step(&said, Some(&available)), DiskStep::Unsay, "it was about an earlier volume");
    // What is kept on purpose is remembered while the disk is away: it would be wiped before its first use otherwise.
    let mut kept = disk("/mnt/disk1", "u1", Presence::Absent);
    assert_eq!(step(&kept, None), DiskStep::Forget);
    let (class_is, node_is) = (Lookup::Found(class()), Lookup::Found(node()));
    let beside = DiskFacts {
        volume: &Lookup::Absent,
        class: &class_is,
        node: &node_is,
        rule: &Lookup::Found(()),
        neighbour: None,
        beside_volume: true,
    };
    assert_eq!(plan(&kept, &beside), DiskStep::Nothing, "a claim that nobody has written down may have got it");
    kept.spec.kept = true;
    assert_eq!(step(&kept, None), DiskStep::Nothing);
    let moved = found("/mnt/new", "u1");
    let new = || new_disk(&moved, &rule(), ("node-b", None));
    assert!(matches!(offer(&moved, "node-b", new, [], [&kept]), Offer::Refuse(_)));
    let (class_of, node_of) = (Lookup::Found(class()), Lookup::Found(node()));
    let unwanted = DiskFacts {
        volume: &Lookup::Absent,
        class: &class_of,
        node: &node_of,
        rule: &Lookup::Absent,
        neighbour: None,
        beside_volume: false,
    };
    assert!(matches!(plan(&kept, &unwanted), DiskStep::Tell(_)));
    // A disk in doubt is not wiped since a pool wants all to be wiped before their first use.
    let claim = crate::crd::ClaimIdentity { uid: "c-1".to_owned(), ..Default::default() };
    let mut first = free;
    (first.spec.unclean, first.spec.clean) =
        (true, Some(CleanOrder { id: "f".to_owned(), why: CleanReason::FirstUse }));
    let (class, node) = (Lookup::Found(class()), Lookup::Found(node()));
    let facts = DiskFacts {
        volume: &Lookup::Absent,
        class: &class,
        node: &node,
        rule: &Lookup::Found(()),
        neighbour: Some(&claim),
        beside_volume: false,
    };
    assert_eq!(plan(&first, &facts), DiskStep::Doubt(claim.clone()));
    // Nor doubted again once a person has spoken.
    let mut used = disk("/mnt/disk1", "u2", Presence::Absent);
    (used.spec.claim, used.spec.unclean) = (Some(claim), true);
    used.spec.persistent_volume = Some(crate::crd::SeenVolume { claim_uid: "c-1".to_owned(), ..Default::default() });
    assert!(neighbour(&first, [&used]).is_some());
    first.spec.cleared_of = Some("c-1".to_owned());
    assert!(neighbour(&first, [&used]).is_none());
}

#[test]
fn an_order_that_no_agent_can_follow_is_told_of() {
    let free = disk("/mnt/disk1", "u1", Presence::Present);
    let going = going(&free);
    let mut ordered = recorded(&free, &going);
    ordered.spec.clean = Some(CleanOrder { id: "v-1".to_owned(), why: CleanReason::Released });
    let class = Lookup::Found(class());
    let facts = DiskFacts {
        volume: &Lookup::Found(going),
        class: &class,
        node: &Lookup::Absent,
        rule: &Lookup::Unknown,
        neighbour: None,
        beside_volume: false,
    };
    let DiskStep::Tell(why) = plan(&ordered, &facts) else { panic!("it is told") };
    assert!(why.contains("node node-a is gone") && why.contains("--forget"), "{why}");
}

#[test]
fn a_disk_that_is_wiped_first_is_not_offered_before() {
    let first = DiskRule { wipe_before_first_use: true, ..rule() };
    let mut disk = new_disk(&found("/mnt/disk1", "u1"), &first, ("node-a", None));
    disk.status = Some(LocalDiskStatus {
        presence: Presence::Present,
        attempt: Some("a".to_owned()),
        ..LocalDiskStatus::default()
    });
    assert_eq!(step(&disk, None), DiskStep::Confirm("a".to_owned()));
    disk.status.as_mut().unwrap().cleaned = Some("first-use".to_owned());
    assert_eq!(step(&disk, None), DiskStep::Settle);
}
