//! What claims that cannot be served cost everybody else, and what is said of them.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind::crd::{LocalNode, LocalPool};
use latebind_cluster::{Scope, eventually};
use latebind_test_support::local::{PATIENCE, path_of};
use latebind_test_support::objects;
use serde_json::{Value, json};

use super::ground::{Agent, Ground};

/// Requests of everybody that the audit log has from a place on, with this verb, of this resource.
fn requests(scope: &Scope, from: usize, verb: &str, resource: &str) -> Result<Vec<Value>> {
    let log = scope.cluster()?.audit_log()?;
    let wanted = |event: &&Value| {
        event["stage"] == "ResponseComplete" && event["verb"] == verb && event["objectRef"]["resource"] == resource
    };
    Ok(log[from..].iter().filter(wanted).cloned().collect())
}

fn unselected(size: &str) -> Value {
    json!({ "metadata": { "annotations": null }, "spec": { "resources": { "requests": { "storage": size } } } })
}

/// However many Pods the namespace has and however often nodes report, nobody lists the Pods, and one thing is said once.
pub async fn claims_that_cannot_be_served_cost_no_list_and_one_event_each(scope: &Scope) -> Result<()> {
    const CLAIMS: usize = 4;
    const REPORTS: usize = 12;
    let ground = Ground::new(scope, json!({ "volumeBindingMode": "Immediate" })).await?;
    for number in 0..20 {
        let pod = objects::pod(&format!("done-{number}"), &[objects::named("v", "other")]);
        scope.create::<Pod>(objects::with(pod, &json!({ "spec": { "nodeName": ground.node.name() } }))).await?;
    }
    let from = scope.cluster()?.audit_log()?.len();
    for number in 0..CLAIMS {
        ground.claim(&format!("large-{number}"), unselected("1Ei")).await?;
    }
    for number in 0..CLAIMS {
        scope.event(&format!("large-{number}"), "ProvisioningFailed", "not enough room", PATIENCE).await?;
    }
    let reports = scope.all::<LocalNode>();
    for number in 0..REPORTS {
        let patch = json!({ "metadata": { "annotations": { "test": number.to_string() } } });
        reports.patch(ground.node.name(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let lists = requests(scope, from, "list", "pods")?;
    let own = lists.iter().filter(|event| event["objectRef"]["namespace"] == scope.namespace());
    ensure!(own.count() == 0, "Pods of the namespace were listed");
    for number in 0..CLAIMS {
        let events = scope.events(&format!("large-{number}")).await?;
        let failed: Vec<_> = events.iter().filter(|it| it.reason.as_deref() == Some("ProvisioningFailed")).collect();
        let counts: Vec<i32> = failed.iter().filter_map(|it| it.series.as_ref()?.count).collect();
        ensure!(failed.len() == 1 && counts.is_empty(), "{failed:?}");
    }
    // What a person changes counts at once, however long they have waited.
    let patch = json!({ "spec": { "room": "Ignore" } });
    scope.all::<LocalPool>().patch(&ground.class, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    for number in 0..CLAIMS {
        ground.bound(&format!("large-{number}")).await?;
    }
    Ok(())
}

/// A policy refuses the volumes of a class: they are tried ever more rarely, one at a time, the claims say why, and all are
/// served when it is gone.
pub async fn volumes_that_a_policy_refuses_are_tried_ever_more_rarely_and_told_of(scope: &Scope) -> Result<()> {
    const CLAIMS: usize = 12;
    const WATCHED: Duration = Duration::from_secs(20);
    let ground = Ground::new(scope, json!({})).await?;
    let (policies, bindings) =
        (scope.all::<ValidatingAdmissionPolicy>(), scope.all::<ValidatingAdmissionPolicyBinding>());
    let expression = format!("object.spec.storageClassName != '{}'", ground.class);
    scope
        .create::<ValidatingAdmissionPolicy>(json!({
            "metadata": { "name": ground.class },
            "spec": {
                "matchConstraints": { "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"],
                    "operations": ["CREATE"], "resources": ["persistentvolumes"] }] },
                "validations": [{ "expression": expression, "message": "no more volumes this quarter" }],
            },
        }))
        .await?;
    let binding = json!({ "policyName": ground.class, "validationActions": ["Deny"] });
    scope
        .create::<ValidatingAdmissionPolicyBinding>(json!({ "metadata": { "name": ground.class }, "spec": binding }))
        .await?;
    // The API server takes a while to know of its own policies.
    eventually("the policy to be in force", PATIENCE, async || {
        let probe = objects::volume(&scope.unique("probe"), &ground.class, ground.node.name(), "1Mi");
        let probe: PersistentVolume = serde_json::from_value(probe)?;
        let dry = kube::api::PostParams { dry_run: true, ..Default::default() };
        Ok(scope.all::<PersistentVolume>().create(&dry, &probe).await.is_err().then_some(()))
    })
    .await?;
    let from = scope.cluster()?.audit_log()?.len();
    let mut names = Vec::new();
    for number in 0..CLAIMS {
        let claim = ground.claim(&format!("data-{number}"), json!({})).await?;
        names.push(format!("pvc-{}", claim.uid().unwrap()));
    }
    for number in 0..CLAIMS {
        let name = format!("data-{number}");
        scope.event(&name, "ProvisioningFailed", "no more volumes this quarter", PATIENCE).await?;
    }
    tokio::time::sleep(WATCHED).await;
    let attempts = requests(scope, from, "create", "persistentvolumes")?;
    let own = |event: &&Value| names.iter().any(|name| event["objectRef"]["name"] == **name);
    let count = attempts.iter().filter(own).count();
    // One attempt of each, and then one of all of them after 1, 2, 4, 8 s and every 10 s. The events may take their time.
    ensure!((CLAIMS..=CLAIMS + 14).contains(&count), "{count} attempts");
    bindings.delete(&ground.class, &DeleteParams::default()).await?;
    policies.delete(&ground.class, &DeleteParams::default()).await?;
    for number in 0..CLAIMS {
        ground.bound(&format!("data-{number}")).await?;
    }
    Ok(())
}

/// Path, marker, LocalVolume, volume and events of a claim with the longest name that the API server takes.
pub async fn a_claim_with_the_longest_name_is_served_like_any_other(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let longest = "a".repeat(253);
    let (volume, file) = ground.filled(&longest).await?;
    let name = file.parent().and_then(|it| it.file_name()).unwrap().to_string_lossy().into_owned();
    ensure!(name.len() <= 255 && name.starts_with(&volume.name_any()), "{name}");
    scope.event(&longest, "ProvisioningSucceeded", &volume.name_any(), PATIENCE).await?;
    let large = "b".repeat(253);
    ground.claim(&large, json!({ "spec": { "resources": { "requests": { "storage": "1Ei" } } } })).await?;
    scope.event(&large, "ProvisioningFailed", "not enough room", PATIENCE).await?;
    ground.delete_claim(&large).await?;
    ground.delete_claim(&longest).await?;
    ground.volume_gone(&volume.name_any()).await?;
    ground.all_clean().await
}

/// Where nobody chooses a node, one without taints is chosen, and one that is kept free for the control plane only where the
/// pool names it.
pub async fn an_immediate_claim_goes_to_an_untainted_node_and_to_a_control_plane_by_name_only(
    scope: &Scope,
) -> Result<()> {
    let ground = Ground::new(scope, json!({ "volumeBindingMode": "Immediate" })).await?;
    let taint = async |node: &str, key: &str| {
        let patch = json!({ "spec": { "taints": [{ "key": key, "effect": "NoSchedule" }] } });
        scope.all::<Node>().patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    };
    taint(ground.node.name(), "team.example.com/only").await?;
    let second = scope.simulated_node("second", &[]).await?;
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let _agent = Agent::start(scope.client(), second.name(), directory.path());
    let elsewhere = directory.path().join("base");
    let set_entries = async |entries: Value| {
        let patch = json!({ "spec": { "nodes": entries } });
        scope.all::<LocalPool>().patch(&ground.class, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    };
    let first_entry = json!({ "names": [ground.node.name()], "paths": [{ "path": ground.base() }] });
    let by_label = json!({ "selector": { "matchLabels": { "kubernetes.io/hostname": second.name() } },
        "paths": [{ "path": elsewhere }] });
    set_entries(json!([first_entry, by_label])).await?;
    let reports = scope.all::<LocalNode>();
    eventually("both reports", PATIENCE, async || {
        let status = reports.get_opt(second.name()).await?.and_then(|report| report.status).unwrap_or_default();
        Ok(status.paths.iter().any(|path| path.usable).then_some(()))
    })
    .await?;
    ground.claim("untainted", unselected("1Mi")).await?;
    ensure!(path_of(&ground.bound("untainted").await?).starts_with(&elsewhere), "it is on the tainted node");

    // Only a tainted node is left beside the control plane: better than none.
    taint(second.name(), "node-role.kubernetes.io/control-plane").await?;
    ground.claim("tainted", unselected("1Mi")).await?;
    ensure!(path_of(&ground.bound("tainted").await?).starts_with(ground.base()), "it is on the control plane");

    set_entries(json!([by_label])).await?;
    ground.claim("refused", unselected("1Mi")).await?;
    let said = scope.event("refused", "ProvisioningFailed", "of the control plane", PATIENCE).await?;
    ensure!(said.contains(second.name()), "{said}");
    set_entries(json!([{ "names": [second.name()], "paths": [{ "path": elsewhere }] }])).await?;
    ensure!(path_of(&ground.bound("refused").await?).starts_with(&elsewhere), "the pool names it now");
    for name in ["untainted", "tainted", "refused"] {
        let volume = ground.bound(name).await?.name_any();
        ground.delete_claim(name).await?;
        ground.volume_gone(&volume).await?;
    }
    Ok(())
}
