//! README's quick start, word for word, on real nodes.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::DeleteParams;
use latebind_cluster::{Scope, eventually, project_root};
use latebind_test_support::objects;
use serde_json::{Value, json};

use crate::nodes::nothing_is_left;
use latebind_test_support::chart::NAMESPACE;
use latebind_test_support::installed::{PATIENCE, claim, class, import, pinned, rolled_out, runs_on, uninstall};
use latebind_test_support::local::definitions_are_gone;
use latebind_test_support::provisioner::{PROVISIONER, Provisioner};

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

/// The `sh` blocks of a chapter of a page.
fn blocks(page: &str, chapter: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(project_root().join(page))?;
    let chapter = text.split("\n## ").find(|part| part.starts_with(chapter)).context("the chapter")?;
    let blocks = chapter.split("```sh\n").skip(1).filter_map(|part| part.split("```").next());
    Ok(blocks.map(str::to_owned).collect())
}

/// What a person types in the project's directory.
pub async fn typed(scope: &Scope, script: &str) -> Result<String> {
    let cluster = scope.cluster()?;
    let binaries = cluster.binaries();
    let helm = latebind_cluster::helm()?.parent().context("a directory")?.display().to_string();
    let latebind = std::path::Path::new(env!("CARGO_BIN_EXE_latebind")).parent().context("a directory")?;
    let script = format!(
        "set -euxo pipefail; cd {}; export KUBECONFIG={} PATH={}:{}:{helm}:$PATH\n{script}",
        project_root().display(),
        cluster.kubeconfig().display(),
        latebind.display(),
        binaries.directory().display()
    );
    cluster.run(&["bash", "-c", &script]).await?.success()
}

/// A Pod of before, which is stuck, and one of after.
async fn both_run(scope: &Scope, install: &str, stem: &str) -> Result<()> {
    let node = scope.cluster()?.nodes()[1].name().to_owned();
    let class = class(scope, stem, PROVISIONER).await?;
    let (before, after) = (format!("{stem}-before"), format!("{stem}-after"));
    let pod = |name: &str| pinned(name, &node, &[objects::named("data", name)]);
    claim(scope, &before, &class).await?;
    scope.create::<Pod>(pod(&before)).await?;
    typed(scope, install).await?;
    claim(scope, &after, &class).await?;
    scope.create::<Pod>(pod(&after)).await?;
    let (before, after) = (runs_on(scope, &before, &node).await?, runs_on(scope, &after, &node).await?);
    ensure!(after.annotations().contains_key("latebind.dev/original-node-name"), "it was not rewritten");
    ensure!(!before.annotations().contains_key("latebind.dev/original-node-name"));
    Ok(())
}

/// The first screen: why it waits, what starts it, typed at a terminal, and the installation.
pub async fn a_stuck_pod_starts_as_it_stands_in_readme(scope: &Scope) -> Result<()> {
    import(scope.cluster()?).await?;
    uninstall(scope).await?;
    let _provisioner = Provisioner::start(scope.client());
    let blocks = blocks("README.md", "A Pod is stuck")?;
    let [first] = blocks.as_slice() else { anyhow::bail!("one block of commands, not {}", blocks.len()) };
    // A person has a namespace in the context.
    let line = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    let commands: Vec<String> = first.lines().map(line).collect();
    let [diagnose, fix, install] = commands.as_slice() else { anyhow::bail!("three commands, not {commands:?}") };
    let here = |command: &str| format!("{command} -n {}", scope.namespace());
    let node = scope.cluster()?.nodes()[1].name().to_owned();
    let class = class(scope, "first-screen", PROVISIONER).await?;
    claim(scope, "web", &class).await?;
    scope.create::<Pod>(pinned("web", &node, &[objects::named("data", "web")])).await?;
    eventually("the kubelet to have seen the Pod", PATIENCE, async || {
        Ok(scope.pod("web").await?.status.and_then(|status| status.start_time).map(drop))
    })
    .await?;
    // It ends with 1, since there is something to say.
    let told = typed(scope, &format!("{} || [ $? = 1 ]", here(diagnose))).await?;
    ensure!(told.contains("blocked, Deadlock"), "{told}");
    let told = typed(scope, "latebind audit -A || [ $? = 1 ]").await?;
    let words = told.split_whitespace().collect::<Vec<_>>().join(" ");
    let command = format!("kubectl annotate pvc web -n {} ", scope.namespace());
    ensure!(words.contains(&command), "{command:?} is not in {told}");
    // It asks, and `script` is its terminal.
    let told = typed(scope, &format!("echo yes | script -qec {:?} /dev/null", here(fix))).await?;
    runs_on(scope, "web", &node).await.with_context(|| told)?;

    typed(scope, install).await?;
    for deployment in ["deployment/latebind-controller", "deployment/latebind-webhook"] {
        rolled_out(scope, deployment).await?;
    }
    claim(scope, "later", &class).await?;
    scope.create::<Pod>(pinned("later", &node, &[objects::named("data", "later")])).await?;
    runs_on(scope, "later", &node).await?;
    typed(scope, "latebind install | kubectl delete -f - --timeout=90s").await?;
    nothing_is_left(scope).await
}

/// With kubectl, and then with helm; each goes without a trace.
pub async fn works_as_it_stands_in_readme(scope: &Scope) -> Result<()> {
    import(scope.cluster()?).await?;
    uninstall(scope).await?;
    let _provisioner = Provisioner::start(scope.client());
    let blocks = blocks("README.md", "Quick start")?;
    let [kubectl, helm] = blocks.as_slice() else { anyhow::bail!("two ways to install, not {}", blocks.len()) };
    both_run(scope, kubectl, "kubectl").await?;
    typed(scope, "kubectl delete -f webhook-manifests/install.yaml --timeout=90s").await?;
    nothing_is_left(scope).await?;

    both_run(scope, helm, "helm").await?;
    // A release can be changed, and what the controller has written stays.
    let before = typed(scope, "kubectl get mutatingwebhookconfiguration zz-latebind -o jsonpath={..caBundle}").await?;
    ensure!(!before.is_empty());
    let upgrade = "helm upgrade latebind webhook-manifests/chart --namespace latebind-system --set mode=warn --wait";
    typed(scope, upgrade).await?;
    let after = typed(scope, "kubectl get mutatingwebhookconfiguration zz-latebind -o jsonpath={..caBundle}").await?;
    ensure!(before == after, "the upgrade changed caBundle");
    typed(scope, "helm uninstall latebind --namespace latebind-system --wait --timeout 90s").await?;
    // helm made the namespace for the user, who deletes it.
    typed(scope, &format!("kubectl delete namespace {NAMESPACE} --timeout=90s")).await?;
    nothing_is_left(scope).await
}

/// A Pod that the scheduler places gets a volume of latebind's; then both go, and the directory with them.
async fn serves(scope: &Scope, name: &str, class: Option<&str>) -> Result<()> {
    let mut spec = objects::claim_spec("", "1Mi");
    spec["storageClassName"] = json!(class);
    scope.create::<PersistentVolumeClaim>(json!({ "metadata": { "name": name }, "spec": spec })).await?;
    let mut pod = pinned(name, "", &[objects::named("data", name)]);
    pod["spec"]["nodeName"] = Value::Null;
    pod["spec"]["containers"][0]["command"] = json!(["/bin/sh", "-c", "hostname > /data/name && sleep 3600"]);
    scope.create::<Pod>(pod).await?;
    // README's command does not wait for anything, so this is the whole installation.
    let pod = scope.pod_phase(name, "Running", 2 * PATIENCE).await?;
    let claim = scope.claim(name).await?.spec.context("a spec")?;
    ensure!(claim.storage_class_name.as_deref() == Some("latebind-local"), "{:?}", claim.storage_class_name);
    let (volumes, volume) = (scope.all::<PersistentVolume>(), claim.volume_name.context("bound")?);
    let source = volumes.get(&volume).await?.spec.and_then(|spec| spec.local).context("a local volume")?;
    let node = scope.cluster()?.node(&pod.spec.and_then(|spec| spec.node_name).context("a node")?)?;
    eventually("the file on the node", PATIENCE, async || {
        Ok((node.shell(&format!("cat {}/name || true", source.path)).await?.trim() == name).then_some(()))
    })
    .await?;
    scope.api::<Pod>().delete(name, &DeleteParams::default()).await?;
    scope.api::<PersistentVolumeClaim>().delete(name, &DeleteParams::default()).await?;
    eventually("volume and directory to go", PATIENCE, async || {
        let there = node.shell(&format!("ls -d {} 2>/dev/null || true", source.path)).await?;
        Ok((volumes.get_opt(&volume).await?.is_none() && there.trim().is_empty()).then_some(()))
    })
    .await
}

/// One command, and there is a class that works; the default only if asked for, and only if there is no other.
pub async fn local_volumes_work_as_they_stand_in_readme(scope: &Scope) -> Result<()> {
    import(scope.cluster()?).await?;
    uninstall(scope).await?;
    let install = blocks("README.md", "Local volumes")?;
    let [kubectl, helm] = install.as_slice() else { anyhow::bail!("two ways to install, not {}", install.len()) };
    ensure!(kubectl.trim().lines().count() == 1, "one command: {kubectl}");
    typed(scope, kubectl).await?;
    let marked = scope.all::<StorageClass>().get("latebind-local").await?;
    ensure!(marked.annotations().get(DEFAULT).is_none_or(|value| value != "true"), "nobody asked for a default");
    serves(scope, "one-command", Some("latebind-local")).await?;
    let uninstall = blocks("docs/provisioner.md", "Uninstall")?;
    let [with_kubectl, with_helm] = uninstall.as_slice() else { anyhow::bail!("two ways, not {}", uninstall.len()) };
    typed(scope, with_kubectl).await?;
    nothing_is_left(scope).await?;

    let other = class(scope, "other-default", PROVISIONER).await?;
    let set = |value: &str| format!("kubectl annotate --overwrite storageclass {other} {DEFAULT}={value}");
    typed(scope, &set("true")).await?;
    let refused = typed(scope, helm).await.err().context("a second default was accepted")?.to_string();
    ensure!(refused.contains(&other) && refused.contains("is the default already"), "{refused}");
    typed(scope, &set("false")).await?;
    typed(scope, helm).await?;
    serves(scope, "by-default", None).await?;
    typed(scope, with_helm).await?;
    definitions_are_gone(&scope.client()).await?;
    nothing_is_left(scope).await
}
