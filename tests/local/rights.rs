//! The accounts of the manifest: what they need works, and what they must not do is refused.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use latebind::agent::{self, AgentMetrics, AllowedBases, Base, Order};
use latebind::controllers::volumes as provision;
use latebind::crd::{LocalNode, LocalVolume, VolumePath};
use latebind::facts::live::{LiveCluster, WatchedPods};
use latebind_cluster::{Cluster, Scope, SimulatedNode, eventually};
use latebind_test_support::objects;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::disk_rights::{an_agent_calls_no_disk_clean_that_is_not, disks_are_the_controllers_within_its_paths};
use latebind_test_support::chart::{NAMESPACE, render};
use latebind_test_support::local::{PATIENCE, definitions_are_gone, no_local_volume_is_left, path_of};

const AGENTS: &str = "latebind-agent";

/// A client with the token that a kubelet would give to the agent's Pod on this node.
async fn agent_client(scope: &Scope, node: &str) -> Result<Client> {
    let pods: Api<Pod> = Api::namespaced(scope.client(), AGENTS);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": format!("agent-of-{node}") },
        "spec": { "nodeName": node, "serviceAccountName": AGENTS, "containers": [{ "name": "c", "image": "x" }] },
    }))?;
    let pod = pods.create(&PostParams::default(), &pod).await?;
    let bound = json!({ "kind": "Pod", "apiVersion": "v1", "name": pod.name_any(), "uid": pod.uid() });
    let request: TokenRequest =
        serde_json::from_value(json!({ "spec": { "audiences": [], "boundObjectRef": bound } }))?;
    let accounts: Api<ServiceAccount> = Api::namespaced(scope.client(), AGENTS);
    let answer = accounts.create_token_request(AGENTS, &PostParams::default(), &request).await?;
    let mut config = bare_config(scope.cluster()?).await?;
    config.auth_info.token = Some(answer.status.context("no token")?.token.into());
    Ok(Client::try_from(config)?)
}

/// The way to the cluster, without anybody's rights.
async fn bare_config(cluster: &Cluster) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let auth = &mut config.auth_info;
    (auth.client_certificate, auth.client_key) = (None, None);
    (auth.client_certificate_data, auth.client_key_data) = (None, None);
    Ok(config)
}

async fn claim(scope: &Scope, name: &str, node: &SimulatedNode) -> Result<()> {
    let claim = objects::selected(objects::claim(name, "latebind-local", "1Mi"), node.name());
    scope.create::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(claim).await.map(drop)
}

pub async fn are_enough_and_an_agent_reaches_its_node_only(scope: &Scope) -> Result<()> {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    // A policy holds the controller to the agents' base paths.
    let bases = format!("--set=agent.basePaths={{{}}}", directory.path().display());
    let on = ["--set=namespace.create=true", "--skip-tests", "--set=provisioner.enabled=true", bases.as_str()];
    let (manifest, stop) = (render(&on)?, CancellationToken::new());
    while_installed(scope, &manifest, async || {
        let outcome = serve_and_are_refused(scope, directory.path(), &stop).await;
        stop.cancel();
        outcome
    })
    .await
}

async fn serve_and_are_refused(scope: &Scope, directory: &Path, stop: &CancellationToken) -> Result<()> {
    let (node, other) = (scope.simulated_node("node", &[]).await?, scope.simulated_node("other", &[]).await?);
    let base = directory.join("volumes");
    let account = format!("system:serviceaccount:{NAMESPACE}:latebind-controller");
    let controller = scope.cluster()?.client_as(&account, &["system:serviceaccounts", "system:authenticated"]).await?;
    let options = provision::Options {
        pool: Some(("latebind-local".to_owned(), base.to_str().unwrap().to_owned())),
        ..provision::Options::default()
    };
    let live = LiveCluster::new(WatchedPods::Pending);
    let provisioner =
        provision::Provisioner::new(controller.clone(), live.clone(), options, None, &mut Registry::default());
    let (observer, watching) = (provisioner.observer(), stop.clone());
    tokio::spawn(async move { live.run(controller, observer, watching).await });
    tokio::spawn(provisioner.run(|| {}, stop.clone()));
    let mine = agent_client(scope, node.name()).await?;
    let options = agent::Options {
        disks: None,
        node_name: node.name().to_owned(),
        bases: AllowedBases::new([directory.to_str().unwrap()])?,
        unlinks_per_second: 1000,
        remove_orphans: Some(std::time::Duration::from_secs(1)),
        disk_timeout: agent::DISK_TIMEOUT,
    };
    tokio::spawn(agent::run(
        mine.clone(),
        options,
        std::sync::Arc::default(),
        AgentMetrics::default(),
        || {},
        stop.clone(),
    ));

    claim(scope, "data", &node).await?;
    let bound = scope.claim_phase("data", "Bound", PATIENCE).await?;
    let volumes = scope.all::<PersistentVolume>();
    let volume = volumes.get(&bound.spec.and_then(|spec| spec.volume_name).context("bound")?).await?;
    fs::write(path_of(&volume).join("file"), "x")?;

    refused(scope, &mine, &other).await?;
    let controller = scope.cluster()?.client_as(&account, &["system:serviceaccounts", "system:authenticated"]).await?;
    an_agent_calls_no_disk_clean_that_is_not(scope, &controller, &mine, node.name(), other.name()).await?;

    scope.api::<k8s_openapi::api::core::v1::PersistentVolumeClaim>().delete("data", &DeleteParams::default()).await?;
    eventually("volume and directory to go", PATIENCE, async || {
        let gone = volumes.get_opt(&volume.name_any()).await?.is_none() && !path_of(&volume).exists();
        let trash = fs::read_dir(base.join(".trash"))?.count();
        Ok((gone && trash == 0).then_some(()))
    })
    .await?;
    orphan_goes(scope, directory, &base).await?;
    no_local_volume_is_left(&scope.client()).await
}

/// Does something while the manifest is installed, and takes it away after a failure too: its policies would hold back the
/// controllers of the tests after this one.
pub async fn while_installed(scope: &Scope, manifest: &str, body: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let applied = scope.cluster()?.kubectl_with_input(&["apply", "-f", "-"], manifest).await?.success();
    let outcome = match applied {
        Ok(_) => body().await,
        Err(error) => Err(error),
    };
    let cleaned = uninstalled(scope, manifest).await;
    outcome.and(cleaned)
}

/// Takes the manifest away; the tests after this one install the definitions anew.
async fn uninstalled(scope: &Scope, manifest: &str) -> Result<()> {
    let arguments = ["delete", "--ignore-not-found", "--wait=false", "-f", "-"];
    scope.cluster()?.kubectl_with_input(&arguments, manifest).await?.success()?;
    eventually("the namespaces to go", PATIENCE, async || {
        // What was placed on a simulated node would wait for a kubelet to end it, and then for its node to be found gone.
        let at_once = DeleteParams::default().grace_period(0);
        for namespace in [NAMESPACE, AGENTS] {
            let pods: Api<Pod> = Api::namespaced(scope.client(), namespace);
            pods.delete_collection(&at_once, &ListParams::default()).await?;
        }
        let namespaces = scope.all::<Namespace>();
        let gone = namespaces.get_opt(NAMESPACE).await?.is_none() && namespaces.get_opt(AGENTS).await?.is_none();
        Ok(gone.then_some(()))
    })
    .await?;
    definitions_are_gone(&scope.client()).await
}

/// A directory that no volume names: agent and controller may do all that it takes to remove it.
async fn orphan_goes(scope: &Scope, allowed: &Path, base: &Path) -> Result<()> {
    let cluster = scope.all::<Namespace>().get("kube-system").await?.uid().context("a UID")?;
    let opened = Base::open(&AllowedBases::new([allowed.to_str().unwrap()])?, base.to_str().unwrap(), false)?;
    let claim = scope.unique("gone");
    let order = Order {
        cluster,
        volume: "v".to_owned(),
        owner: None,
        same_claim: None,
        path: VolumePath::parse(&claim)?,
        claim,
        mode: 0o777,
        uid: None,
        gid: None,
        base_id: None,
        persistent_volume: None,
    };
    opened.make(&order, false)?;
    eventually("the orphan and its order to go", PATIENCE, async || {
        let ordered = scope.all::<LocalVolume>().list(&ListParams::default()).await?.items;
        let ordered = ordered.iter().any(|local| local.spec.claim.uid == order.claim);
        Ok((!base.join(order.path.as_str()).exists() && !ordered).then_some(()))
    })
    .await
}

/// The agent of one node tries everything that could hurt another, or lose data of its own.
async fn refused(scope: &Scope, mine: &Client, other: &SimulatedNode) -> Result<()> {
    let own = scope.all::<LocalVolume>().list(&ListParams::default()).await?.items.remove(0);
    let spec = json!({ "nodeName": other.name(), "base": "/base", "path": "p", "claim": {
        "namespace": scope.namespace(), "name": "x", "uid": "11111111-2222-3333-4444-555555555555" } });
    let foreign = json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalVolume", "metadata": { "name": scope.unique("foreign"), "finalizers": ["latebind.dev/directory"] }, "spec": spec });
    // The one whose claim is gone is the controller's to remove; it lasts, since no agent is on that node.
    let foreign: LocalVolume = serde_json::from_value(foreign)?;
    let foreign = scope.all::<LocalVolume>().create(&PostParams::default(), &foreign).await?;
    let volumes: Api<LocalVolume> = Api::all(mine.clone());
    let ready = json!({ "status": { "conditions": [] } });
    let none = json!({ "metadata": { "finalizers": null } });
    let merge = PatchParams::default();
    let mut outcomes: Vec<(&str, Result<(), kube::Error>)> = Vec::new();
    let foreign_status = volumes.patch_status(&foreign.name_any(), &merge, &Patch::Merge(&ready)).await;
    outcomes.push(("status of another node's volume", foreign_status.map(drop)));
    let lifted = volumes.patch(&foreign.name_any(), &merge, &Patch::Merge(&none)).await;
    outcomes.push(("finalizer of another node's volume", lifted.map(drop)));
    let lifted = volumes.patch(&own.name_any(), &merge, &Patch::Merge(&none)).await;
    outcomes.push(("finalizer without an order", lifted.map(drop)));
    for change in [
        json!({ "spec": { "disposal": "Delete" } }),
        json!({ "spec": { "reclaim": "Retain" } }),
        json!({ "metadata": { "labels": { "a": "b" } } }),
        json!({ "metadata": { "finalizers": ["latebind.dev/directory", "example.org/own"] } }),
    ] {
        outcomes
            .push(("spec or metadata", volumes.patch(&own.name_any(), &merge, &Patch::Merge(&change)).await.map(drop)));
    }
    let deleted = volumes.delete(&own.name_any(), &DeleteParams::default()).await;
    outcomes.push(("deletion", deleted.map(drop)));
    let reports: Api<LocalNode> = Api::all(mine.clone());
    let report: Value = json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalNode",
        "metadata": { "name": other.name() }, "spec": { "nodeUID": "x" } });
    let report: LocalNode = serde_json::from_value(report)?;
    outcomes.push(("report of another node", reports.create(&PostParams::default(), &report).await.map(drop)));
    let volumes: Api<PersistentVolume> = Api::all(mine.clone());
    outcomes.push(("volumes", volumes.list(&ListParams::default()).await.map(drop)));
    for (what, outcome) in outcomes {
        let refused = matches!(&outcome, Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422));
        ensure!(refused, "{what}: {outcome:?}");
    }
    // A token that no kubelet asked for names no node.
    let bare = scope
        .cluster()?
        .client_as(&format!("system:serviceaccount:{AGENTS}:{AGENTS}"), &["system:authenticated"])
        .await?;
    let volumes: Api<LocalVolume> = Api::all(bare);
    let outcome = volumes.patch_status(&own.name_any(), &merge, &Patch::Merge(&ready)).await;
    let told = outcome.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(told.contains("names no node"), "{told}");
    let patch = json!({ "metadata": { "finalizers": null } });
    scope.all::<LocalVolume>().patch(&foreign.name_any(), &merge, &Patch::Merge(&patch)).await?;
    Ok(())
}

/// Everything that RBAC lets the controller do with objects of others, tried by whoever holds its token.
pub async fn a_stolen_token_of_the_controller_reaches_no_further_than_its_work(scope: &Scope) -> Result<()> {
    let arguments = [
        "--set=exemptionPolicy.enabled=true",
        "--set=provisioner.markBound=true",
        "--set=agent.diskPaths={/mnt/disks}",
    ];
    let manifest = render(
        &[&["--set=namespace.create=true", "--skip-tests", "--set=provisioner.enabled=true"], &arguments[..]].concat(),
    )?;
    let account = format!("system:serviceaccount:{NAMESPACE}:latebind-controller");
    let thief = scope.cluster()?.client_as(&account, &["system:serviceaccounts", "system:authenticated"]).await?;
    while_installed(scope, &manifest, async || reaches_no_further(scope, &thief).await).await
}

async fn reaches_no_further(scope: &Scope, thief: &Client) -> Result<()> {
    let names = Victims::create(scope).await?;
    claims_keep_all_but_our_marks(scope, thief).await?;
    volumes_stay_whose_they_are(scope, thief, &names).await?;
    no_volume_is_made_elsewhere(scope, thief).await?;
    nobody_else_orders_disposal(scope).await?;
    disks_are_the_controllers_within_its_paths(scope, thief).await?;
    exemptions_are_for_administrators(scope).await
}

/// A claim and volumes of somebody else.
struct Victims {
    free: String,
    taken: String,
    reserved: String,
}

type Volumes = Api<PersistentVolume>;
type Claims = Api<k8s_openapi::api::core::v1::PersistentVolumeClaim>;

fn volume_of(name: &str, claim: &Value) -> Value {
    json!({ "metadata": { "name": name, "labels": { "a": "b" } }, "spec": {
        "storageClassName": "somebody", "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" },
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": { "path": "/srv/data" }, "claimRef": claim } })
}

impl Victims {
    async fn create(scope: &Scope) -> Result<Self> {
        let names =
            Self { free: scope.unique("free"), taken: scope.unique("taken"), reserved: scope.unique("reserved") };
        let of = |uid: Value| json!({ "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": scope.namespace(), "name": "other", "uid": uid });
        scope.create::<PersistentVolume>(volume_of(&names.free, &Value::Null)).await?;
        scope
            .create::<PersistentVolume>(volume_of(&names.taken, &of(json!("11111111-2222-3333-4444-555555555555"))))
            .await?;
        scope.create::<PersistentVolume>(volume_of(&names.reserved, &of(Value::Null))).await?;
        let claim = json!({ "metadata": { "name": "victim", "annotations": { "example.org/own": "x" } },
            "spec": { "storageClassName": "nobody-has-this", "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": "1Mi" } } } });
        scope.create::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(claim).await?;
        Ok(names)
    }
}

/// Each new policy holds after a moment of its own. What is tried meanwhile is to change nothing.
pub async fn until_denied<T>(what: &str, attempt: impl AsyncFn() -> Result<T, kube::Error>) -> Result<()> {
    eventually(what, PATIENCE, async || Ok(is_denied(&attempt().await).then_some(()))).await
}

/// For a patch that changes nothing.
pub fn only_tried() -> PatchParams {
    PatchParams { dry_run: true, ..PatchParams::default() }
}

fn is_denied<T>(outcome: &Result<T, kube::Error>) -> bool {
    // An expression that fails denies too, and whatever is tried: that would prove nothing.
    let by_policy = |text: &str| text.contains("ValidatingAdmissionPolicy") && !text.contains("resulted in error");
    matches!(outcome, Err(kube::Error::Api(status)) if by_policy(&status.message))
}

pub fn ensure_denied<T: std::fmt::Debug>(what: &Value, outcome: &Result<T, kube::Error>) -> Result<()> {
    ensure!(is_denied(outcome), "{what}: {outcome:?}");
    Ok(())
}

async fn claims_keep_all_but_our_marks(scope: &Scope, thief: &Client) -> Result<()> {
    let claims: Claims = Api::namespaced(thief.clone(), scope.namespace());
    let merge = PatchParams::default();
    let label = Patch::Merge(json!({ "metadata": { "labels": { "now": "x" } } }));
    until_denied("the policy for claims to hold", async || claims.patch("victim", &only_tried(), &label).await).await?;
    for change in [
        json!({ "metadata": { "annotations": { "example.org/own": "y" } } }),
        json!({ "metadata": { "annotations": { "example.org/own": null } } }),
        json!({ "metadata": { "annotations": { "example.org/new": "y" } } }),
        json!({ "metadata": { "annotations": { "latebind.dev/other": "y" } } }),
        json!({ "metadata": { "labels": { "a": "b" } } }),
        json!({ "metadata": { "finalizers": [] } }),
        json!({ "spec": { "volumeName": "any" } }),
        json!({ "spec": { "resources": { "requests": { "storage": "1Gi" } } } }),
    ] {
        let outcome = claims.patch("victim", &merge, &Patch::Merge(&change)).await;
        // What the API server refuses by itself is refused too.
        let refused = matches!(&outcome, Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422));
        ensure!(refused, "{change}: {outcome:?}");
    }
    let marks = json!({ "metadata": { "annotations": { "volume.kubernetes.io/selected-node": "n",
        "latebind.dev/selected-node-by": "u", "volume.kubernetes.io/storage-provisioner": "p" } } });
    claims.patch("victim", &merge, &Patch::Merge(&marks)).await.context("its work")?;
    let back = json!({ "metadata": { "annotations": { "volume.kubernetes.io/selected-node": null } } });
    claims.patch("victim", &merge, &Patch::Merge(&back)).await.context("its work")?;
    Ok(())
}

async fn volumes_stay_whose_they_are(scope: &Scope, thief: &Client, names: &Victims) -> Result<()> {
    let volumes: Volumes = Api::all(thief.clone());
    let merge = PatchParams::default();
    let label = Patch::Merge(json!({ "metadata": { "labels": { "now": "x" } } }));
    until_denied("the policy for volumes to hold", async || volumes.patch(&names.free, &only_tried(), &label).await)
        .await?;
    let reference = |name: &str| {
        json!({ "spec": { "claimRef": { "kind": "PersistentVolumeClaim", "apiVersion": "v1",
        "namespace": scope.namespace(), "name": name, "uid": "99999999-2222-3333-4444-555555555555" } } })
    };
    for (name, change) in [
        (&names.free, json!({ "spec": { "persistentVolumeReclaimPolicy": "Delete" } })),
        (&names.free, json!({ "spec": { "storageClassName": "mine" } })),
        (&names.free, json!({ "spec": { "mountOptions": ["suid"] } })),
        (&names.free, json!({ "spec": { "accessModes": ["ReadWriteMany"] } })),
        (&names.free, json!({ "spec": { "capacity": { "storage": "9Gi" } } })),
        (&names.free, json!({ "metadata": { "labels": { "a": "c" } } })),
        (&names.free, json!({ "metadata": { "finalizers": [] } })),
        (
            &names.free,
            json!({ "metadata": { "annotations": { "pv.kubernetes.io/provisioned-by": "local.latebind.dev" } } }),
        ),
        (&names.taken, reference("mine")),
        (&names.taken, json!({ "spec": { "claimRef": null } })),
        (&names.reserved, reference("mine")),
    ] {
        ensure_denied(&change, &volumes.patch(name, &merge, &Patch::Merge(&change)).await)?;
    }
    for name in [&names.free, &names.taken] {
        ensure_denied(&json!("delete"), &volumes.delete(name, &DeleteParams::default()).await.map(drop))?;
        let phase = json!({ "status": { "phase": "Bound" } });
        ensure_denied(&phase, &volumes.patch_status(name, &merge, &Patch::Merge(&phase)).await)?;
    }
    let mut bind = reference("wanted");
    bind["metadata"] = json!({ "annotations": { "pv.kubernetes.io/bound-by-controller": "yes" } });
    volumes.patch(&names.free, &merge, &Patch::Merge(&bind)).await.context("its work")?;
    volumes.patch(&names.reserved, &merge, &Patch::Merge(&reference("other"))).await.context("its work")?;
    Ok(())
}

async fn no_volume_is_made_elsewhere(scope: &Scope, thief: &Client) -> Result<()> {
    let volumes: Volumes = Api::all(thief.clone());
    let uid = "77777777-2222-3333-4444-555555555555";
    let claim = json!({ "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": scope.namespace(), "name": "c", "uid": uid });
    let volume = |name: &str, by: &str, path: &str, claimed: bool| {
        let mut volume = volume_of(name, if claimed { &claim } else { &Value::Null });
        volume["metadata"] = json!({ "name": name, "annotations": { "pv.kubernetes.io/provisioned-by": by } });
        volume["spec"]["hostPath"]["path"] = json!(path);
        serde_json::from_value::<PersistentVolume>(volume)
    };
    let ours = "local.latebind.dev";
    let good = format!("pvc-{uid}");
    for (name, by, path, claimed) in [
        (good.as_str(), ours, "/", true),
        (good.as_str(), ours, "/etc", true),
        (good.as_str(), ours, "/var/lib/latebind", true),
        (good.as_str(), ours, "/var/lib/latebind-other/x", true),
        (good.as_str(), "example.org/other", "/var/lib/latebind/volumes/x", true),
        (good.as_str(), ours, "/var/lib/latebind/volumes/x", false),
        ("any-name", ours, "/var/lib/latebind/volumes/x", true),
    ] {
        let outcome = volumes.create(&PostParams::default(), &volume(name, by, path, claimed)?).await;
        ensure_denied(&json!([name, by, path, claimed]), &outcome)?;
    }
    // The API server refuses a way up by itself.
    let climbs = volume(&good, ours, "/var/lib/latebind/../../../etc", true)?;
    ensure!(volumes.create(&PostParams::default(), &climbs).await.is_err());
    let made = volumes.create(&PostParams::default(), &volume(&good, ours, "/var/lib/latebind/volumes/x", true)?).await;
    made.context("its work")?;
    let merge = PatchParams::default();
    // The API server gives every volume one of its own, which is not the controller's to lift.
    let others = "kubernetes.io/pv-protection";
    for finalizers in [json!([others, "external-provisioner.volume.kubernetes.io/finalizer"]), json!([others])] {
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": finalizers } }));
        volumes.patch(&good, &merge, &patch).await.context("its work")?;
    }
    let none = json!({ "metadata": { "finalizers": null } });
    ensure_denied(&none, &volumes.patch(&good, &merge, &Patch::Merge(&none)).await)?;
    volumes.delete(&good, &DeleteParams::default()).await.context("its work")?;
    Ok(())
}

async fn nobody_else_orders_disposal(scope: &Scope) -> Result<()> {
    let locals = scope.all::<LocalVolume>();
    let local = |disposal: Value| -> Result<LocalVolume> {
        let spec = json!({ "nodeName": "nowhere", "base": "/base", "path": "p", "disposal": disposal, "claim": {
            "namespace": scope.namespace(), "name": "x", "uid": "11111111-2222-3333-4444-555555555555" } });
        let metadata = json!({ "name": scope.unique("local") });
        let object =
            json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalVolume", "metadata": metadata, "spec": spec });
        Ok(serde_json::from_value(object)?)
    };
    let ordered = local(json!("Delete"))?;
    let only_tried = PostParams { dry_run: true, ..PostParams::default() };
    until_denied("the policy for orders to hold", async || locals.create(&only_tried, &ordered).await).await?;
    let ordered = locals.create(&PostParams::default(), &ordered).await;
    ensure_denied(&json!("created with an order"), &ordered)?;
    let made = locals.create(&PostParams::default(), &local(Value::Null)?).await?;
    let order = json!({ "spec": { "disposal": "Delete" } });
    let patched = locals.patch(&made.name_any(), &PatchParams::default(), &Patch::Merge(&order)).await;
    ensure_denied(&order, &patched)?;
    locals.delete(&made.name_any(), &DeleteParams::default()).await?;
    Ok(())
}

async fn exemptions_are_for_administrators(scope: &Scope) -> Result<()> {
    let tenant = scope.cluster()?.client_as("tenant", &["system:masters-of-nothing", "system:authenticated"]).await?;
    let name = scope.unique("may-label");
    let rule = json!({ "apiGroups": [""], "resources": ["namespaces"], "verbs": ["patch"] });
    scope
        .create::<k8s_openapi::api::rbac::v1::ClusterRole>(json!({ "metadata": { "name": name }, "rules": [rule] }))
        .await?;
    scope
        .create::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>(json!({ "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tenant" }] }))
        .await?;
    let label = |key: &str| Patch::Merge(json!({ "metadata": { "labels": { key: "disabled" } } }));
    let namespaces: Api<Namespace> = Api::all(tenant);
    eventually("the tenant's right", PATIENCE, async || {
        Ok(namespaces
            .patch(scope.namespace(), &PatchParams::default(), &label("example.org/x"))
            .await
            .is_ok()
            .then_some(()))
    })
    .await?;
    let exempt = label("latebind.dev/webhook");
    until_denied("the policy for exemptions to hold", async || {
        namespaces.patch(scope.namespace(), &only_tried(), &exempt).await
    })
    .await?;
    for key in ["latebind.dev/webhook", "latebind.dev/rescue", "latebind.dev/mode"] {
        let outcome = namespaces.patch(scope.namespace(), &PatchParams::default(), &label(key)).await;
        ensure_denied(&json!(key), &outcome)?;
    }
    let admin: Api<Namespace> = scope.all();
    admin
        .patch(scope.namespace(), &PatchParams::default(), &label("latebind.dev/rescue"))
        .await
        .context("an administrator")?;
    Ok(())
}
