//! What users of such provisioners have, one kind a test: kept and served, or named.

use std::collections::BTreeSet;

use latebind::crd::VolumeType;
use latebind::model::{Class, Node};
use latebind::rancher::{Import, Input, Loss, Outcome, Product, import_all};
use latebind::volumes::ClassParameters;
use serde_json::{Value, json};

pub const STOCK_SETUP: &str = "#!/bin/sh\nset -eu\nmkdir -m 0777 -p \"$VOL_DIR\"\n";
pub const STOCK_TEARDOWN: &str = "#!/bin/sh\nset -eu\nrm -rf \"$VOL_DIR\"\n";

pub fn class(name: &str, provisioner: &str) -> Value {
    json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": name },
        "provisioner": provisioner, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer" })
}

pub fn config_map(namespace: &str, name: &str, config: &Value, more: &Value) -> Value {
    let mut map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": namespace, "name": name },
        "data": { "config.json": config.to_string(), "setup": STOCK_SETUP, "teardown": STOCK_TEARDOWN } });
    for (key, value) in more.as_object().into_iter().flatten() {
        map["data"][key] = value.clone();
    }
    map
}

pub fn everywhere(paths: &[&str]) -> Value {
    json!({ "nodePathMap": [{ "node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": paths }] })
}

fn imported(objects: &[Value]) -> Import {
    imported_as(&[], objects)
}

fn imported_as(adopt: &[&str], objects: &[Value]) -> Import {
    let mut input = Input::adopting(adopt.iter().map(|name| (*name).to_owned()));
    for object in objects {
        input.add(object.clone()).unwrap();
    }
    import_all(&input)
}

fn lost(made: &Import) -> Vec<String> {
    made.lost(&BTreeSet::new()).map(ToString::to_string).collect()
}

fn is_lost(made: &Import, words: &[&str]) {
    let lost = lost(made);
    assert!(lost.iter().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} is not in {lost:#?}");
}

fn bases(made: &Import, class: &str, node: &str) -> Vec<String> {
    let node: Node = serde_json::from_value(json!({ "metadata": { "name": node } })).unwrap();
    let pool = made.pools.iter().find(|pool| pool.metadata.name.as_deref() == Some(class));
    pool.map_or_else(Vec::new, |pool| pool.spec.paths_on(&node).iter().map(|path| path.path.clone()).collect())
}

fn read(made: &Import, class: &str) -> ClassParameters {
    let class = made.classes.iter().find(|it| it.metadata.name.as_deref() == Some(class)).unwrap();
    let class: Class = serde_json::from_value(serde_json::to_value(class).unwrap()).unwrap();
    ClassParameters::of(&class).unwrap()
}

#[test]
fn scripts_that_keep_data_are_named_with_what_keeps_it_here() {
    let config = everywhere(&["/opt/lpp"]);
    for (teardown, instead) in [
        ("mv \"$VOL_DIR\" \"$VOL_DIR.kept\"", "onDelete: archive"),
        ("case $VOL_DIR in *_prod_*) exit 0;; esac; rm -rf \"$VOL_DIR\"", "onDelete: archive"),
        ("echo nothing is removed", "Retain"),
        ("tar czf /backup/$(basename $VOL_DIR).tgz $VOL_DIR && rm -rf $VOL_DIR", "onDelete: archive"),
    ] {
        let map = config_map("local-path-storage", "local-path-config", &config, &json!({ "teardown": teardown }));
        let made = imported(&[map, class("local-path", "rancher.io/local-path")]);
        is_lost(&made, &["local-path-storage/local-path-config", "teardown", instead]);
        assert_eq!(made.lost(&BTreeSet::from([Loss::Scripts])).count(), 0, "it can be accepted");
        assert_eq!(made.pools.len(), 1, "what can be kept is");
    }
    let mut with_command = config;
    with_command["teardownCommand"] = "/manager".into();
    let map = config_map("ns", "c", &with_command, &json!({}));
    is_lost(&imported(&[map, class("local-path", "rancher.io/local-path")]), &["teardownCommand", "/manager"]);
}

#[test]
fn scripts_that_set_up_more_than_a_directory_are_named_with_the_nearest_parameter() {
    let template = "kind: Pod\nspec: {containers: [{name: helper-pod, image: my/quota-tools:3}]}\n";
    for (key, text, instead) in [
        ("setup", "mkdir -p $VOL_DIR; chown 1000:1000 $VOL_DIR", "uid"),
        ("setup", "mkdir -m 0750 -p $VOL_DIR", "mode"),
        ("setup", "xfs_quota -x -c \"limit -p bhard=$VOL_SIZE_BYTES 7\" /mnt", "room: Reserve"),
        ("setup", "zfs create -o mountpoint=$VOL_DIR tank/$(basename $VOL_DIR)", "requireMount"),
        ("helperPod.yaml", template, "my/quota-tools"),
        ("prepare.sh", "echo", "runs none"),
    ] {
        let map = config_map("ns", "local-path-config", &everywhere(&["/mnt"]), &json!({ key: text }));
        is_lost(&imported(&[map, class("c", "rancher.io/local-path")]), &[key, instead]);
    }
    let stock = config_map("ns", "local-path-config", &everywhere(&["/mnt"]), &json!({}));
    assert_eq!(lost(&imported(&[stock, class("c", "rancher.io/local-path")])), Vec::<String>::new());
}

#[test]
fn every_entry_and_every_config_map_is_kept_with_its_class_or_named() {
    let entry = |path: &str| json!({ "nodePathMap": [{ "node": "n", "paths": [path] }] });
    let config = json!({ "storageClassConfigs": { "fast": entry("/ssd"), "slow": entry("/hdd") } });
    let map = config_map("ns", "local-path-config", &config, &json!({}));
    let made = imported(&[map.clone(), class("fast", "rancher.io/local-path")]);
    assert_eq!(bases(&made, "fast", "n"), ["/ssd"]);
    is_lost(&made, &["storageClassConfigs: slow"]);
    let made = imported(&[map, class("fast", "rancher.io/local-path"), class("slow", "rancher.io/local-path")]);
    assert_eq!((bases(&made, "slow", "n"), lost(&made).len()), (vec!["/hdd".to_owned()], 0));

    // Two ConfigMaps: which class has which is told by entries, by the workloads that mount them, or by the labels of a chart.
    let (a, b) = (
        config_map("one", "local-path-config", &everywhere(&["/one"]), &json!({})),
        config_map("two", "local-path-config", &everywhere(&["/two"]), &json!({})),
    );
    let classes = [class("first", "rancher.io/local-path"), class("second", "rancher.io/local-path-big")];
    let unknown = imported(&[a.clone(), b.clone(), classes[0].clone(), classes[1].clone()]);
    is_lost(&unknown, &["class first", "one/local-path-config", "two/local-path-config"]);
    is_lost(&unknown, &["class second"]);
    assert!(unknown.pools.is_empty(), "no class gets another's disk");

    let deployment = |namespace: &str, name: &str| {
        json!({ "kind": "Deployment", "metadata": { "name": "p", "namespace": namespace }, "spec": { "template": { "spec": {
            "containers": [{ "name": "p", "image": "rancher/local-path-provisioner:v0.0.30",
                "command": ["local-path-provisioner", "start", "--config", "/etc/config/config.json", "--provisioner-name", name] }],
            "volumes": [{ "name": "c", "configMap": { "name": "local-path-config" } }] } } } })
    };
    let all = [
        a.clone(),
        b.clone(),
        classes[0].clone(),
        classes[1].clone(),
        deployment("one", "rancher.io/local-path"),
        deployment("two", "rancher.io/local-path-big"),
    ];
    let made = imported(&all);
    assert_eq!((bases(&made, "first", "x"), bases(&made, "second", "x")), (vec!["/one".into()], vec!["/two".into()]));
    assert_eq!(lost(&made), Vec::<String>::new());

    let labelled = |mut object: Value, instance: &str| {
        object["metadata"]["labels"] = json!({ "app.kubernetes.io/instance": instance });
        object
    };
    let [first, second] = classes;
    let made =
        imported(&[labelled(a.clone(), "a"), labelled(b.clone(), "b"), labelled(first, "a"), labelled(second, "b")]);
    assert_eq!((bases(&made, "first", "x"), bases(&made, "second", "x")), (vec!["/one".into()], vec!["/two".into()]));

    // A ConfigMap that no class of the input uses is no reason to be silent, nor one that cannot be read.
    is_lost(&imported(&[a.clone(), class("ebs", "ebs.csi.aws.com")]), &["ConfigMap one/local-path-config", "no class"]);
    let mut broken = a;
    broken["data"]["config.json"] = "{".into();
    is_lost(&imported(&[broken, class("c", "rancher.io/local-path")]), &["one/local-path-config", "not JSON"]);
    let twice = imported(&[b.clone(), b, class("c", "rancher.io/local-path")]);
    assert_eq!(
        (bases(&twice, "c", "x"), lost(&twice).len()),
        (vec!["/two".to_owned()], 0),
        "given twice is given once"
    );
}

#[test]
fn labels_and_annotations_stay_and_marks_of_owners_do_not() {
    let mut given = class("local-path", "rancher.io/local-path");
    given["metadata"]["labels"] = json!({ "team": "storage", "app.kubernetes.io/managed-by": "Helm",
        "objectset.rio.cattle.io/hash": "x", "app.kubernetes.io/name": "local-path-provisioner" });
    given["metadata"]["annotations"] = json!({ "storageclass.kubernetes.io/is-default-class": "true", "note": "ours",
        "meta.helm.sh/release-name": "lpp", "kubectl.kubernetes.io/last-applied-configuration": "{}" });
    let map = config_map("ns", "local-path-config", &everywhere(&["/opt/lpp/", "/opt//second/."]), &json!({}));
    let made = imported(&[map, given]);
    let metadata = serde_json::to_value(&made.classes[0].metadata).unwrap();
    assert_eq!(metadata["labels"], json!({ "team": "storage", "app.kubernetes.io/name": "local-path-provisioner" }));
    assert_eq!(
        metadata["annotations"],
        json!({ "storageclass.kubernetes.io/is-default-class": "true", "note": "ours" })
    );
    for left_out in ["managed-by", "objectset.rio.cattle.io/hash", "meta.helm.sh/release-name", "last-applied"] {
        assert!(made.notes.iter().any(|note| note.contains(left_out)), "{left_out}: {:?}", made.notes);
    }
    assert_eq!(bases(&made, "local-path", "x"), ["/opt/lpp", "/opt/second"], "in their shortest form");
    assert_eq!(lost(&made), Vec::<String>::new());
}

#[test]
fn a_class_of_microk8s_keeps_its_directory_without_any_config() {
    let mut given = class("microk8s-hostpath", "microk8s.io/hostpath");
    given["parameters"] = json!({ "pvDir": "/mnt/data//k8s/" });
    given["volumeBindingMode"] = "Immediate".into();
    let made = imported(&[given]);
    assert_eq!(bases(&made, "microk8s-hostpath", "any"), ["/mnt/data/k8s"]);
    let read = read(&made, "microk8s-hostpath");
    assert_eq!(read.volume_type, VolumeType::HostPath);
    assert_eq!(made.classes[0].volume_binding_mode.as_deref(), Some("Immediate"));
    assert!(lost(&made).is_empty() && made.adopt.contains("microk8s.io/hostpath"), "{:?}", made.accounts);
    // Without one, the directory that its Deployment was told, else that of the product.
    let plain = || class("microk8s-hostpath", "microk8s.io/hostpath");
    let deployment = json!({ "kind": "Deployment", "metadata": { "name": "hostpath-provisioner", "namespace": "kube-system" },
        "spec": { "template": { "spec": { "containers": [{ "image": "cdkbot/hostpath-provisioner:1.5.0",
            "env": [{ "name": "PV_DIR", "value": "/srv" }] }] } } } });
    assert_eq!(bases(&imported(&[plain(), deployment]), "microk8s-hostpath", "n"), ["/srv"]);
    assert_eq!(bases(&imported(&[plain()]), "microk8s-hostpath", "n"), ["/var/snap/microk8s/common/default-storage"]);
    let mut wrong = plain();
    wrong["parameters"] = json!({ "pvDir": "data" });
    is_lost(&imported(&[wrong]), &["microk8s-hostpath", "pvDir", "`data`"]);
}

#[test]
fn a_provisioner_of_any_name_is_known_by_the_config_that_it_uses() {
    let map = || config_map("ns", "local-path-config", &everywhere(&["/opt/lpp"]), &json!({}));
    for name in [
        "cluster.local/prod-local-path-provisioner",
        "rancher.io/local-path-big",
        "cluster.local/local-path-provisioner",
    ] {
        let made = imported(&[map(), class("c", name)]);
        assert_eq!((made.pools.len(), made.adopt.first().map(String::as_str)), (1, Some(name)));
    }
    let entries = json!({ "storageClassConfigs": { "c": everywhere(&["/x"]) } });
    let listed = config_map("ns", "any", &entries, &json!({}));
    assert_eq!(bases(&imported(&[listed, class("c", "example.com/disks")]), "c", "n"), ["/x"]);
    let deployment = json!({ "kind": "Deployment", "metadata": { "name": "p", "namespace": "ns" }, "spec": { "template": { "spec": {
        "containers": [{ "name": "p", "image": "mirror/lpp:1", "env": [{ "name": "PROVISIONER_NAME", "value": "example.com/disks" }] }],
        "volumes": [{ "name": "c", "configMap": { "name": "local-path-config" } }] } } } });
    assert_eq!(imported(&[map(), class("c", "example.com/disks"), deployment]).pools.len(), 1);
    assert_eq!(imported_as(&["example.com/disks"], &[map(), class("c", "example.com/disks")]).pools.len(), 1);
    let mut labelled = class("c", "example.com/disks");
    labelled["metadata"]["labels"] = json!({ "app.kubernetes.io/name": "local-path-provisioner" });
    assert_eq!(imported(&[map(), labelled]).pools.len(), 1);

    // Nothing speaks for these.
    for name in ["example.com/disks", "nfs.csi.k8s.io", "kubernetes.io/no-provisioner", "local.latebind.dev"] {
        let made = imported(&[map(), class("c", name)]);
        assert!(made.pools.is_empty(), "{name}");
        assert!(made.accounts.iter().any(|it| it.outcome == Outcome::LeftAlone && it.place == "class c"), "{name}");
    }
}

#[test]
fn what_a_product_ships_is_known_where_it_is_gone_already() {
    for (product, class, base) in [
        (Product::K3s, "local-path", "/var/lib/rancher/k3s/storage"),
        (Product::Kind, "standard", "/var/local-path-provisioner"),
        (Product::Minikube, "local-path", "/opt/local-path-provisioner"),
        (Product::Microk8s, "microk8s-hostpath", "/var/snap/microk8s/common/default-storage"),
    ] {
        let made = imported(&product.objects(None));
        assert_eq!((bases(&made, class, "n"), lost(&made).len()), (vec![base.to_owned()], 0), "{product:?}");
        assert_eq!(bases(&imported(&product.objects(Some("/elsewhere/"))), class, "n"), ["/elsewhere"]);
    }
}

#[test]
fn volumes_that_no_pool_would_take_away_are_named() {
    let volume = |name: &str, path: &str| {
        json!({ "kind": "PersistentVolume", "metadata": { "name": name,
            "annotations": { "pv.kubernetes.io/provisioned-by": "rancher.io/local-path" } },
            "spec": { "hostPath": { "path": path } } })
    };
    let map = config_map("ns", "local-path-config", &everywhere(&["/opt/lpp"]), &json!({}));
    let objects = [
        map,
        class("c", "rancher.io/local-path"),
        volume("inside", "/opt/lpp/pvc-1"),
        volume("outside", "/old/lpp/pvc-2"),
        volume("beside", "/opt/lpp-2/pvc-3"),
    ];
    let made = imported(&objects);
    let named = |word: &str| made.notes.iter().any(|note| note.contains(word));
    assert!(named("volume outside") && named("volume beside") && !named("volume inside"), "{:?}", made.notes);
}
