//! README's quick start, word for word, on real nodes.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use latebind_cluster::{Scope, project_root};
use serde_json::json;

use crate::manifest::NAMESPACE;
use crate::nodes::nothing_is_left;
use crate::provisioner::{PROVISIONER, Provisioner};
use crate::stage::{claim, class, import, pinned, runs_on, uninstall};

/// The `sh` blocks of a chapter of a page.
fn blocks(page: &str, chapter: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(project_root().join(page))?;
    let chapter = text.split("\n## ").find(|part| part.starts_with(chapter)).context("the chapter")?;
    let blocks = chapter.split("```sh\n").skip(1).filter_map(|part| part.split("```").next());
    Ok(blocks.map(str::to_owned).collect())
}

/// What a person types in the project's directory.
async fn typed(scope: &Scope, script: &str) -> Result<String> {
    let cluster = scope.cluster()?;
    let binaries = cluster.binaries();
    let helm = binaries.helm().parent().context("a directory")?.display().to_string();
    let script = format!(
        "set -euxo pipefail; cd {}; export KUBECONFIG={} PATH={}:{helm}:$PATH\n{script}",
        project_root().display(),
        cluster.kubeconfig().display(),
        binaries.directory().display()
    );
    cluster.run(&["bash", "-c", &script]).await?.success()
}

/// A Pod of before, which is stuck, and one of after.
async fn both_run(scope: &Scope, install: &str, stem: &str) -> Result<()> {
    let node = scope.cluster()?.nodes()[1].name().to_owned();
    let class = class(scope, stem, PROVISIONER).await?;
    let (before, after) = (format!("{stem}-before"), format!("{stem}-after"));
    let pod =
        |name: &str| pinned(name, &node, &json!([{"name": "data", "persistentVolumeClaim": {"claimName": name}}]));
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
