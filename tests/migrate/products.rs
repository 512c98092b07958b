//! The way over from what products ship. rancher's real provisioner plays each of them, with that product's namespace, names,
//! directory and class; MicroK8s' is played by the objects that it leaves.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{ApiResource, DeleteParams};
use latebind_cluster::{Cluster, Scope};
use latebind_test_support::objects;
use latebind_test_support::rancher::{self, Shape};
use serde_json::json;

use crate::page::{Person, commands};
use crate::way::{LATEBIND, delete, import_latebind, maker, pod_with_claim, removed, unharmed, volume_of};

const K3S: Shape = Shape {
    namespace: "kube-system",
    provisioner: None,
    class: "local-path",
    base: "/var/lib/rancher/k3s/storage",
    labels: &[("objectset.rio.cattle.io/hash", "183f35c65ffbc3064603f43f1580d8c68a2dabd4")],
    setup: "chmod 700 \"$VOL_DIR/..\"\n",
};
const KIND: Shape = Shape {
    namespace: rancher::NAMESPACE,
    provisioner: None,
    class: "standard",
    base: "/var/local-path-provisioner",
    labels: &[],
    setup: "",
};
const CHART: Shape = Shape {
    namespace: rancher::NAMESPACE,
    provisioner: Some("cluster.local/local-path-provisioner"),
    class: "local-path",
    base: rancher::BASE,
    labels: &[
        ("app.kubernetes.io/name", "local-path-provisioner"),
        ("app.kubernetes.io/instance", "local-path-provisioner"),
    ],
    setup: "",
};
const MICROK8S: &str = "/var/snap/microk8s/common/default-storage";

/// Installs the product's provisioner, and has it make a volume for a Pod that names its node.
async fn install(scope: &Scope, shape: &Shape, in_release: bool) -> Result<(PersistentVolume, String)> {
    let cluster = scope.cluster()?;
    import_latebind(cluster).await?;
    rancher::import_image(cluster).await?;
    rancher::apply(cluster, shape.surroundings()).await?;
    if !in_release {
        rancher::apply(cluster, shape.objects()).await?;
    }
    rancher::running(cluster, shape.namespace).await?;
    pod_with_claim(scope, "old", shape.class, cluster.nodes()[0].name(), json!({})).await?;
    let (volume, path) = volume_of(scope, "old").await?;
    ensure!(maker(&volume) == Some(shape.provisioner()) && path.starts_with(&format!("{}/", shape.base)), "{path}");
    Ok((volume, path))
}

/// A volume and its directory.
type Made = (PersistentVolume, String);

/// After the commands: the old volume goes on, new ones are latebind's, and both go with their directories.
async fn taken_over(scope: &Scope, class: &str, base: &str, old: &Made) -> Result<()> {
    let new = goes_on(scope, class, base, old).await?;
    go(scope, &[("old", old), ("new", &new)]).await
}

/// The old volume goes on, and a new one, of a Pod `new`, is latebind's.
async fn goes_on(scope: &Scope, class: &str, base: &str, old: &Made) -> Result<Made> {
    let cluster = scope.cluster()?;
    let node = &cluster.nodes()[0];
    unharmed(scope, "old", node, &old.1).await?;
    // The volume of a class that binds at once is anywhere, and its Pod goes there.
    let mode = scope.all::<StorageClass>().get(class).await?.volume_binding_mode;
    let wanted = (mode.as_deref() == Some("WaitForFirstConsumer")).then_some(node.name());
    pod_with_claim(scope, "new", class, wanted, json!({})).await?;
    let new = volume_of(scope, "new").await?;
    ensure!(maker(&new.0) == Some(LATEBIND) && new.1.starts_with(&format!("{base}/")), "{} {:?}", new.1, maker(&new.0));
    Ok(new)
}

/// Each Pod and its claim go, and the volume with its directory.
async fn go(scope: &Scope, made: &[(&str, &Made)]) -> Result<()> {
    for (name, (volume, path)) in made {
        let runs_on = scope.pod(name).await?.spec.and_then(|spec| spec.node_name).context("a node")?;
        delete(scope, name).await?;
        removed(scope, name, volume, scope.cluster()?.node(&runs_on)?, path).await?;
    }
    Ok(())
}

/// The old provisioner is back: it serves its own volumes as before and makes new ones; what latebind made stays latebind's.
async fn back_again(scope: &Scope, shape: &Shape, old: &Made, new: &Made) -> Result<()> {
    let cluster = scope.cluster()?;
    let node = &cluster.nodes()[0];
    rancher::running(cluster, shape.namespace).await?;
    for (name, (_, path)) in [("old", old), ("new", new)] {
        unharmed(scope, name, node, path).await?;
    }
    pod_with_claim(scope, "again", shape.class, node.name(), json!({})).await?;
    let again = volume_of(scope, "again").await?;
    ensure!(maker(&again.0) == Some(shape.provisioner()), "{:?}", maker(&again.0));
    go(scope, &[("old", old), ("new", new), ("again", &again)]).await
}

/// Leaves the cluster as it was.
pub async fn clean_up(person: &Person<'_>, scope: &Scope, shape: &Shape) -> Result<()> {
    for line in [
        "kubectl delete localpools --all --timeout=60s",
        "helm uninstall latebind --namespace latebind-system --wait --timeout 90s",
    ] {
        let output = person.types(line).await?;
        ensure!(output.code == Some(0), "{line}: {}{}", output.stdout, output.stderr);
    }
    for mut object in shape.objects() {
        object["metadata"]["labels"] = json!({});
        let cluster = scope.cluster()?;
        let arguments = ["delete", "--ignore-not-found", "--wait", "--timeout=60s", "-f", "-"];
        cluster.kubectl_with_input(&arguments, &object.to_string()).await?.success()?;
    }
    if shape.namespace != "kube-system" {
        scope.remember(ApiResource::erase::<Namespace>(&()), shape.namespace.to_owned());
    }
    for class in ["local-path-key", "local-path-pattern"] {
        drop(scope.all::<StorageClass>().delete(class, &DeleteParams::default()).await);
    }
    Ok(())
}

/// What k3s does when it is started with `--disable=local-storage`: what it applied it removes, known by its label.
async fn disable_local_storage(cluster: &Cluster) -> Result<()> {
    let (label, value) = K3S.labels[0];
    let kinds = "deployments.apps,configmaps,storageclasses.storage.k8s.io";
    let selector = format!("{label}={value}");
    let arguments = ["--namespace", "kube-system", "delete", kinds, "--selector", &selector, "--wait", "--timeout=60s"];
    cluster.kubectl(&arguments).await?.success().map(drop)
}

async fn k3s(scope: &Scope, disabled_first: bool) -> Result<()> {
    let cluster = scope.cluster()?;
    let person = Person::new(cluster, if disabled_first { "k3s-disabled" } else { "k3s" })?;
    let old = install(scope, &K3S, false).await?;
    let [read, rest] = &commands("k3s")?[..] else { bail!("two blocks") };
    if disabled_first {
        disable_local_storage(cluster).await?;
        person.follows(read).await?;
    } else {
        person.follows(read).await?;
        disable_local_storage(cluster).await?;
    }
    person.follows(rest).await?;
    if disabled_first {
        taken_over(scope, K3S.class, K3S.base, &old).await?;
    } else {
        let new = goes_on(scope, K3S.class, K3S.base, &old).await?;
        person.follows(&commands("Back again on k3s")?[0]).await?;
        // What k3s does when its server is started without `disable`.
        rancher::apply(cluster, K3S.objects()).await?;
        back_again(scope, &K3S, &old, &new).await?;
    }
    clean_up(&person, scope, &K3S).await
}

pub async fn k3s_with_its_bundled_class(scope: &Scope) -> Result<()> {
    k3s(scope, false).await
}

pub async fn k3s_whose_local_storage_is_disabled_already(scope: &Scope) -> Result<()> {
    k3s(scope, true).await
}

async fn by_three_commands(scope: &Scope, heading: &str, shape: &Shape) -> Result<()> {
    let person = Person::new(scope.cluster()?, heading)?;
    let old = install(scope, shape, false).await?;
    let [three] = &commands(heading)?[..] else { bail!("one block") };
    person.follows(three).await?;
    taken_over(scope, shape.class, shape.base, &old).await?;
    clean_up(&person, scope, shape).await
}

pub async fn rke2(scope: &Scope) -> Result<()> {
    by_three_commands(scope, "RKE2", &rancher::MANIFEST).await
}

pub async fn kind(scope: &Scope) -> Result<()> {
    by_three_commands(scope, "kind", &KIND).await
}

pub async fn minikube(scope: &Scope) -> Result<()> {
    by_three_commands(scope, "minikube", &rancher::MANIFEST).await
}

pub async fn a_helm_release_with_its_default_values(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let person = Person::new(cluster, "chart")?;
    // A release with the objects of the chart.
    let chart = cluster.directory().join("migrate-chart/deploy/chart/local-path-provisioner");
    std::fs::create_dir_all(chart.join("templates"))?;
    std::fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: local-path-provisioner\nversion: 0.0.30\n")?;
    for (place, object) in CHART.objects().iter().enumerate() {
        std::fs::write(chart.join(format!("templates/{place}.yaml")), object.to_string())?;
    }
    rancher::apply(cluster, CHART.surroundings()).await?;
    rancher::import_image(cluster).await?;
    let release =
        "helm install local-path-provisioner deploy/chart/local-path-provisioner --namespace local-path-storage";
    let output = person.types(release).await?;
    ensure!(output.code == Some(0), "{}{}", output.stdout, output.stderr);
    let old = install(scope, &CHART, true).await?;
    let [read, three] = &commands("rancher's Helm chart")?[..] else { bail!("two blocks") };
    person.follows(read).await?;
    person.follows(three).await?;
    let new = goes_on(scope, CHART.class, CHART.base, &old).await?;
    person.follows(&commands("Back again with the chart")?[0]).await?;
    back_again(scope, &CHART, &old, &new).await?;
    let output = person.types("helm uninstall local-path-provisioner --namespace local-path-storage --wait").await?;
    ensure!(output.code == Some(0), "{}{}", output.stdout, output.stderr);
    clean_up(&person, scope, &CHART).await
}

/// MicroK8s' provisioner is not built here: its Deployment without a Pod, its class, and a volume as it makes them.
pub async fn microk8s(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let person = Person::new(cluster, "microk8s")?;
    let node = &cluster.nodes()[0];
    import_latebind(cluster).await?;
    let labels = json!({ "k8s-app": "hostpath-provisioner" });
    let class = "microk8s-hostpath";
    let volume = scope.unique("pvc");
    let path = format!("{MICROK8S}/{}-old-{volume}", scope.namespace());
    node.shell(&format!("mkdir -p {path} && chmod 777 {path}")).await?;
    rancher::apply(cluster, vec![
        json!({ "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "hostpath-provisioner", "namespace": "kube-system", "labels": labels },
            "spec": { "replicas": 0, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "hostpath-provisioner", "image": "cdkbot/hostpath-provisioner:1.5.0",
                    "env": [{ "name": "PV_DIR", "value": MICROK8S }] }] } } } }),
        json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": { "name": class, "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
            "provisioner": "microk8s.io/hostpath", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate" }),
        json!({ "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": { "name": volume, "annotations": { "pv.kubernetes.io/provisioned-by": "microk8s.io/hostpath",
                "hostPathProvisionerIdentity": "elsewhere" } },
            "spec": { "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Mi" }, "storageClassName": class,
                "persistentVolumeReclaimPolicy": "Delete", "hostPath": { "path": path, "type": "DirectoryOrCreate" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": [node.name()] }] }] } } } }),
    ])
    .await?;
    scope
        .create::<PersistentVolumeClaim>(objects::with(
            objects::claim("old", class, "1Mi"),
            &json!({ "spec": { "volumeName": volume } }),
        ))
        .await?;
    let pod = objects::pinned_to(objects::pod("old", &[objects::named("data", "old")]), node.name());
    scope.create::<Pod>(objects::running(pod, "hostname > /data/name && sleep 3600")).await?;
    let old = volume_of(scope, "old").await?;
    let looked = person.types("latebind import --check").await?;
    ensure!(looked.code == Some(0) && looked.stdout.contains("volumes that are there: 1"), "{}", looked.stdout);
    let [three] = &commands("MicroK8s")?[..] else { bail!("one block") };
    person.follows(three).await?;
    taken_over(scope, class, MICROK8S, &old).await?;
    clean_up(&person, scope, &rancher::MANIFEST).await?;
    scope.all::<StorageClass>().delete(class, &DeleteParams::default()).await.context("its class")?;
    Ok(())
}

/// What is lost is said before anything is done, and adoption leaves such classes and volumes alone until it is accepted.
pub async fn a_script_that_archives_holds_its_class_back(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let person = Person::new(cluster, "scripts")?;
    let node = &cluster.nodes()[0];
    let shape = rancher::MANIFEST;
    let old = install(scope, &shape, false).await?;
    let mut map = shape.objects().remove(0);
    map["data"]["teardown"] = "#!/bin/sh\nset -eu\nmv \"$VOL_DIR\" \"$VOL_DIR.kept\"\n".into();
    rancher::apply(cluster, vec![map]).await?;
    let looked = person.types("latebind import --check").await?;
    ensure!(
        looked.code == Some(1) && looked.stdout.contains("onDelete: archive"),
        "{}{}",
        looked.stdout,
        looked.stderr
    );
    let [_, three] = &commands("rancher's manifest")?[..] else { bail!("two blocks") };
    person.follows(&three[..2]).await?;
    // Adopted, not imported: the class is the old one still.
    scope.create::<PersistentVolumeClaim>(objects::claim("held", shape.class, "1Mi")).await?;
    let pod = objects::pinned_to(objects::pod("held", &[objects::named("data", "held")]), node.name());
    scope.create::<Pod>(objects::running(pod, "sleep 3600")).await?;
    let patience = std::time::Duration::from_secs(90);
    scope.event("held", "ProvisioningFailed", "accept-lost scripts", patience).await?;
    delete(scope, "old").await?;
    let volume = old.0.name_any();
    latebind_cluster::eventually("the volume to be told why it stays", patience, async || {
        let output = cluster
            .kubectl(&["get", "events", "-A", "--field-selector", &format!("involvedObject.name={volume}")])
            .await?;
        Ok(output.stdout.contains("onDelete: archive").then_some(()))
    })
    .await?;
    ensure!(node.shell(&format!("cat {}/name", old.1)).await?.trim() == "old", "the data is gone");
    let accept = "helm upgrade latebind webhook-manifests/chart --namespace latebind-system --reuse-values --set provisioner.acceptLost={scripts} --wait --timeout 100s";
    let output = person.types(accept).await?;
    ensure!(output.code == Some(0), "{}{}", output.stdout, output.stderr);
    let output = person.types("latebind import --accept-lost scripts | kubectl replace --force -f -").await?;
    ensure!(output.code == Some(0), "{}{}", output.stdout, output.stderr);
    removed(scope, "old", &old.0, node, &old.1).await?;
    let (held, path) = volume_of(scope, "held").await?;
    delete(scope, "held").await?;
    removed(scope, "held", &held, node, &path).await?;
    clean_up(&person, scope, &shape).await
}
