//! `latebind simulate --server` and `lint --server`: facts of a running cluster, read once.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use latebind_cluster::{Cluster, Scope};
use latebind_test_support::objects;
use serde_json::{Value, json};

use crate::apply;

/// Runs latebind without anything of this process's environment that names a cluster.
fn latebind(arguments: &[&str], kubeconfig: Option<&Path>, home: &Path) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latebind"));
    command.args(arguments).env("HOME", home).env_remove("KUBECONFIG").env("NO_COLOR", "1");
    if let Some(kubeconfig) = kubeconfig {
        command.env("KUBECONFIG", kubeconfig);
    }
    Ok(command.output()?)
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A Pod that names a node and mounts a claim.
fn pod(namespace: &str, node: &str, claim: &str) -> Value {
    let pod = objects::on_node(objects::pod("p", &[objects::named("data", claim)]), node);
    objects::with(pod, &json!({"metadata": {"namespace": namespace}}))
}

/// A kubeconfig of somebody who may do nothing.
fn powerless(cluster: &Cluster, folder: &Path) -> Result<std::path::PathBuf> {
    let admin = std::fs::read_to_string(cluster.kubeconfig())?;
    let mut config: Value = serde_saphyr::from_str(&admin)?;
    for user in config["users"].as_array_mut().context("users")? {
        user["user"]["as"] = json!("system:serviceaccount:default:nobody");
    }
    let path = folder.join("powerless");
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

pub async fn commands_take_facts_from_the_cluster(scope: &Scope) -> Result<()> {
    let (cluster, folder) = (scope.cluster()?, tempfile::tempdir()?);
    let (namespace, node) = (scope.namespace(), scope.simulated_node("server", &[]).await?);
    let class = scope.unique("server");
    apply(
        cluster,
        &format!(
            "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: {class}}}\nprovisioner: a.example\n\
             volumeBindingMode: WaitForFirstConsumer\n---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: \
             {{name: data, namespace: {namespace}}}\nspec: {{storageClassName: {class}, accessModes: [ReadWriteOnce], \
             resources: {{requests: {{storage: 1Gi}}}}}}\n"
        ),
    )
    .await?;
    let file = folder.path().join("pod.json");
    let name = file.display().to_string();
    let write = |pod: &Value| std::fs::write(&file, pod.to_string());
    let run = |command: &str, more: &[&str]| {
        latebind(&[&[command, "-f", &name], more].concat(), Some(cluster.kubeconfig()), folder.path())
    };

    // Everything is known: rewritten, and nothing is assumed.
    write(&pod(namespace, node.name(), "data"))?;
    let output = run("simulate", &["--server", "-o", "json"])?;
    ensure!(output.status.code() == Some(0), "{}", told(&output));
    let list: Value = serde_json::from_slice(&output.stdout)?;
    let text = list.to_string();
    ensure!(text.contains("\"nodeSelector\"") && !text.contains("assumed"), "{list:#}");
    let output = run("lint", &["--server"])?;
    ensure!(output.status.code() == Some(1) && told(&output).contains("LB001"), "{}", told(&output));
    ensure!(!told(&output).contains("Assumed"), "{}", told(&output));

    // Without the cluster the claim is not known, and with it a node that does not exist is known not to.
    let without = told(&run("simulate", &[])?);
    ensure!(!without.contains("rewritten: the scheduler"), "{without}");
    write(&pod(namespace, "never-was", "data"))?;
    let gone = told(&run("simulate", &["--server"])?);
    ensure!(gone.contains("never-was") && !gone.contains("assumed"), "{gone}");
    ensure!(!gone.contains("rewritten: the scheduler"), "{gone}");

    // What the cluster has counts more than what the input says of it.
    let immediate = json!({"apiVersion": "v1", "kind": "List", "items": [
        pod(namespace, node.name(), "data"),
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class},
            "provisioner": "a.example", "volumeBindingMode": "Immediate"}]});
    write(&immediate)?;
    let live = told(&run("simulate", &["--server"])?);
    ensure!(live.contains("rewritten: the scheduler"), "{live}");

    // A recorded review says itself which namespace it is about.
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "1", "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"}, "name": "p", "namespace": namespace,
        "operation": "CREATE", "userInfo": {"username": "somebody"}, "dryRun": false,
        "object": pod(namespace, node.name(), "data")}});
    write(&review)?;
    let arguments = ["simulate", "--review", &name, "--server", "-o", "json"];
    let output = latebind(&arguments, Some(cluster.kubeconfig()), folder.path())?;
    ensure!(told(&output).contains("\"patch\""), "{}", told(&output));
    Ok(())
}

pub async fn a_cluster_that_is_not_there_or_refuses_is_told(scope: &Scope) -> Result<()> {
    let (cluster, folder) = (scope.cluster()?, tempfile::tempdir()?);
    let file = folder.path().join("pod.json");
    std::fs::write(&file, pod("default", "a", "data").to_string())?;
    let name = file.display().to_string();
    let arguments = ["simulate", "-f", &name, "--server"];
    let none = latebind(&arguments, None, folder.path())?;
    ensure!(none.status.code() == Some(3) && told(&none).contains("kubeconfig"), "{}", told(&none));
    let missing = folder.path().join("no-such-file");
    let missing =
        latebind(&[&arguments[..], &["--kubeconfig", &missing.display().to_string()]].concat(), None, folder.path())?;
    ensure!(missing.status.code() == Some(3) && told(&missing).contains("no-such-file"), "{}", told(&missing));

    let powerless = powerless(cluster, folder.path())?;
    let refused = latebind(&arguments, Some(&powerless), folder.path())?;
    let text = told(&refused);
    ensure!(refused.status.code() == Some(3), "{text}");
    ensure!(text.contains("refuses to list nodes") && text.contains("--objects"), "{text}");

    // Nobody listens there.
    let nowhere = folder.path().join("nowhere");
    std::fs::write(
        &nowhere,
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "a", "user": {}}]})
        .to_string(),
    )?;
    let away =
        latebind(&[&arguments[..], &["--kubeconfig", &nowhere.display().to_string()]].concat(), None, folder.path())?;
    ensure!(away.status.code() == Some(3) && told(&away).contains("cannot be reached"), "{}", told(&away));
    // Which cluster without --server is a slip.
    let slip = latebind(&["lint", "-f", &name, "--context", "a"], None, folder.path())?;
    ensure!(slip.status.code() == Some(2) && told(&slip).contains("--server"), "{}", told(&slip));
    Ok(())
}

/// More objects than one page holds.
pub async fn lists_are_read_page_by_page(scope: &Scope) -> Result<()> {
    use latebind::facts::Fact;
    use latebind::facts::server::{ClaimsOf, ServerFacts};

    const CLAIMS: usize = 620;
    let claims = (0..CLAIMS).map(|number| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": format!("claim-{number}"), "namespace": scope.namespace()},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    });
    let api: kube::Api<k8s_openapi::api::core::v1::PersistentVolumeClaim> = scope.api();
    let made = futures::future::join_all(claims.map(|claim| {
        let api = api.clone();
        async move {
            api.create(&kube::api::PostParams::default(), &serde_json::from_value(claim)?)
                .await
                .map_err(anyhow::Error::from)
        }
    }));
    made.await.into_iter().collect::<Result<Vec<_>>>()?;
    let namespaces = ClaimsOf::Namespaces([scope.namespace().to_owned()].into());
    let read = ServerFacts::read(&scope.client(), &namespaces).await?;
    let claims = read.facts.iter().filter(|fact| matches!(fact, Fact::Claim(_))).count();
    ensure!(claims == CLAIMS, "{claims} of {CLAIMS}");
    ensure!(read.facts.iter().any(|fact| matches!(fact, Fact::Namespace(_))) && read.malformed.is_empty());
    Ok(())
}
