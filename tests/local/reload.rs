//! Pools, classes and definitions that are edited while controller and agent run. An older provisioner ended when its
//! configuration could not be read.

use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use latebind::crd::{LocalPool, definitions};
use latebind_cluster::{Scope, eventually};
use latebind_test_support::objects;
use serde_json::{Value, json};

use crate::crash::Victim;
use latebind_test_support::local::{PATIENCE, install, path_of};

/// What goes on while the edits happen.
struct Stage<'a> {
    scope: &'a Scope,
    node: String,
    pool: String,
    processes: [Victim; 2],
}

impl Stage<'_> {
    fn alive(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Victim::ensure_alive)
    }

    async fn claim(&self, name: &str, class: &str) -> Result<()> {
        let claim = objects::selected(objects::claim(name, class, "1Mi"), &self.node);
        self.scope.create::<PersistentVolumeClaim>(claim).await.map(drop)
    }

    async fn served(&self, name: &str) -> Result<PersistentVolume> {
        self.claim(name, &self.pool).await?;
        let bound = self.scope.claim_phase(name, "Bound", PATIENCE).await?;
        let volume = bound.spec.and_then(|spec| spec.volume_name).context("bound without a volume")?;
        Ok(self.scope.all::<PersistentVolume>().get(&volume).await?)
    }

    /// A claim that goes again; its volume, unless its node was given back.
    async fn served_or_given_up(&self, name: &str) -> Result<Option<PersistentVolume>> {
        self.claim(name, &self.pool).await?;
        let volume = eventually("an outcome of the claim", PATIENCE / 2, async || {
            let claim = self.scope.claim(name).await?;
            let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
            let given_up = !claim.annotations().contains_key("volume.kubernetes.io/selected-node");
            let volume = claim.spec.and_then(|spec| spec.volume_name).filter(|_| bound);
            Ok(if volume.is_some() { Some(volume) } else { given_up.then_some(None) })
        })
        .await?;
        let volume = match volume {
            Some(name) => Some(self.scope.all::<PersistentVolume>().get(&name).await?),
            None => None,
        };
        self.scope.api::<PersistentVolumeClaim>().delete(name, &DeleteParams::default()).await?;
        Ok(volume)
    }

    async fn set_pool(&self, nodes: &Value) -> Result<()> {
        let patch = json!({ "spec": { "nodes": nodes } });
        let pools = self.scope.all::<LocalPool>();
        pools.patch(&self.pool, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)?;
        Ok(())
    }

    /// A pool that nobody can read, which the definition would not let in.
    async fn nonsense(&self) -> Result<Api<DynamicObject>> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("latebind.dev", "v1alpha1", "LocalPool"));
        let loose = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        let schema = json!({ "openAPIV3Schema": { "type": "object", "properties": { "spec": loose } } });
        let patch = json!([{ "op": "replace", "path": "/spec/versions/0/schema", "value": schema }]);
        let patch: json_patch::Patch = serde_json::from_value(patch)?;
        let all = self.scope.all::<CustomResourceDefinition>();
        let name = definitions()[0].name_any();
        all.patch(&name, &PatchParams::default(), &Patch::<()>::Json(patch)).await?;
        let pools: Api<DynamicObject> = Api::all_with(self.scope.client(), &kind);
        for (number, spec) in
            [json!({ "nodes": "nonsense" }), json!({ "nodes": [{ "paths": [null, { "path": "" }] }], "placement": 7 })]
                .iter()
                .enumerate()
        {
            let name = self.scope.unique(&format!("nonsense{number}"));
            let object = json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalPool",
                "metadata": { "name": name }, "spec": spec });
            let object: DynamicObject = serde_json::from_value(object)?;
            eventually("the looser definition to be served", PATIENCE, async || {
                match pools.create(&PostParams::default(), &object).await {
                    Ok(_) => Ok(Some(())),
                    Err(kube::Error::Api(status)) if status.code == 422 => Ok(None),
                    Err(error) => Err(error.into()),
                }
            })
            .await?;
            self.scope.remember(kind.clone(), name);
        }
        Ok(pools)
    }
}

pub async fn what_is_edited_while_they_run_crashes_nobody(scope: &Scope) -> Result<()> {
    install(&scope.client(), latebind::crd::definitions()).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let (base, pool) = (directory.path().join("base"), scope.unique("pool"));
    let good = json!([{ "names": [node.name()], "paths": [{ "path": base }] }]);
    scope.create::<LocalPool>(json!({ "metadata": { "name": pool }, "spec": { "nodes": good } })).await?;
    scope.create::<StorageClass>(class_with(&pool, &json!({}))).await?;
    let cluster = scope.cluster()?;
    let log = |of: &str| cluster.directory().join("logs").join(format!("latebind-reload-{of}.log"));
    let processes = [
        // Claims that wait for a path that no agent has looked at yet are refused soon.
        Victim::controller(cluster.kubeconfig(), &log("controller"), &["--agent-patience=3s"])?,
        Victim::agent(cluster.kubeconfig(), &log("agent"), node.name(), directory.path())?,
    ];
    let mut stage = Stage { scope, node: node.name().to_owned(), pool: pool.clone(), processes };
    stage.served("first").await?;

    bad_pools(&mut stage, &base).await?;
    stage.set_pool(&good).await?;
    bad_classes(&mut stage).await?;
    // What cannot be read at all: what was known before goes on to be served.
    let pools = stage.nonsense().await?;
    stage.served("meanwhile").await?;
    stage.alive()?;
    for number in 0..2 {
        pools.delete(&scope.unique(&format!("nonsense{number}")), &DeleteParams::default()).await?;
    }
    install(&scope.client(), latebind::crd::definitions()).await?;
    // And what is changed afterwards is seen again, by both.
    let moved = directory.path().join("moved");
    stage.set_pool(&json!([{ "names": [node.name()], "paths": [{ "path": moved }] }])).await?;
    // Both watches broke off with the definition, and each comes back in its own time. Meanwhile agent and controller mean
    // different paths, and claims are given up.
    let mut attempt = 0;
    // A watch that broke off often comes back after half a minute.
    eventually("the pool to be read again", 2 * PATIENCE, async || {
        attempt += 1;
        stage.alive()?;
        let volume = stage.served_or_given_up(&format!("again{attempt}")).await?;
        Ok(volume.is_some_and(|volume| path_of(&volume).starts_with(&moved)).then_some(()))
    })
    .await?;
    stage.alive()
}

fn class_with(name: &str, parameters: &Value) -> Value {
    objects::with(objects::class(name, "local.latebind.dev"), &json!({ "parameters": parameters }))
}

/// Pools that the definition lets in, and that serve nobody.
async fn bad_pools(stage: &mut Stage<'_>, base: &Path) -> Result<()> {
    let scope = stage.scope;
    let odd = json!({ "matchExpressions": [{ "key": "", "operator": "Nonsense", "values": [""] }] });
    let deep = format!("/{}", "a".repeat(1_000));
    for (number, nodes) in [
        json!([{ "paths": [{ "path": "/etc" }] }]),
        json!([{ "selector": odd, "paths": [{ "path": base }] }]),
        json!([{ "names": ["../x", "y z"], "paths": [{ "path": base }] }]),
        json!([{ "names": [stage.node], "paths": [] }]),
        json!([{ "names": [stage.node], "paths": [{ "path": deep }, { "path": deep }] }]),
    ]
    .iter()
    .enumerate()
    {
        stage.set_pool(nodes).await?;
        let name = format!("pool{number}");
        // The first look may still be at the pool as it was.
        eventually("a claim to be refused", PATIENCE, async || {
            let attempt = scope.unique(&name);
            stage.claim(&attempt, &stage.pool).await?;
            let outcome = eventually("an outcome", PATIENCE, async || {
                let events = scope.events(&attempt).await?;
                let reason = |wanted: &str| events.iter().any(|it| it.reason.as_deref() == Some(wanted));
                Ok(if reason("ProvisioningFailed") {
                    Some(true)
                } else {
                    reason("ProvisioningSucceeded").then_some(false)
                })
            })
            .await?;
            scope.api::<PersistentVolumeClaim>().delete(&attempt, &DeleteParams::default()).await?;
            eventually("the claim to go", PATIENCE, async || {
                Ok(scope.api::<PersistentVolumeClaim>().get_opt(&attempt).await?.is_none().then_some(()))
            })
            .await?;
            Ok(outcome.then_some(()))
        })
        .await
        .with_context(|| nodes.to_string())?;
        stage.alive()?;
    }
    Ok(())
}

async fn bad_classes(stage: &mut Stage<'_>) -> Result<()> {
    let scope = stage.scope;
    for (number, parameters) in [
        json!({ "pathPattern": "{{ .PVC.Name" }),
        json!({ "pathPattern": "{uid}/../.." }),
        json!({ "mode": "rwx" }),
        json!({ "pool": "" }),
        json!({ "nodePath": "" }),
        json!({ "uid": "-1" }),
        json!({ "unknown": "x" }),
    ]
    .into_iter()
    .enumerate()
    {
        let name = scope.unique(&format!("class{number}"));
        scope.create::<StorageClass>(class_with(&name, &parameters)).await?;
        stage.claim(&name, &name).await?;
        scope.event(&name, "ProvisioningFailed", "class", PATIENCE).await?;
        stage.alive()?;
    }
    Ok(())
}
