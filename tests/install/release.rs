//! What a release holds, installed on a cluster: the image, krew's manifest with the archive, the chart, the manifest.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use latebind_cluster::Scope;
use latebind_test_support::chart::NAMESPACE;
use latebind_test_support::installed::{claim, class, pinned, rolled_out, runs_on, uninstall};
use latebind_test_support::objects;
use latebind_test_support::provisioner::{PROVISIONER, Provisioner};
use latebind_test_support::release::Packed;

use crate::nodes::nothing_is_left;
use crate::quickstart::typed;

/// A Pod that names its node is rewritten and runs.
async fn mends(scope: &Scope, name: &str, class: &str) -> Result<()> {
    let node = scope.cluster()?.nodes()[1].name().to_owned();
    claim(scope, name, class).await?;
    scope.create::<Pod>(pinned(name, &node, &[objects::named("data", name)])).await?;
    let pod = runs_on(scope, name, &node).await?;
    let annotations = pod.metadata.annotations.unwrap_or_default();
    ensure!(annotations.contains_key("latebind.dev/original-node-name"), "{name} was not rewritten");
    Ok(())
}

pub async fn every_part_of_a_release_works_on_a_cluster(scope: &Scope) -> Result<()> {
    uninstall(scope).await?;
    let binary = Path::new(env!("CARGO_BIN_EXE_latebind"));
    let packed = tokio::task::spawn_blocking(move || Packed::from(binary)).await??;
    let cluster = scope.cluster()?;
    for node in cluster.nodes() {
        node.import(&packed.file("latebind-", "-image.tar")?).await?;
    }
    let _provisioner = Provisioner::start(scope.client());
    let class = class(scope, "released", PROVISIONER).await?;

    let krew = tokio::task::spawn_blocking(latebind_cluster::krew).await??;
    let archive = packed.file(concat!("latebind-", env!("CARGO_PKG_VERSION"), "-linux-"), ".tar.gz")?;
    let root = cluster.directory().join("krew");
    let folder = packed.folder().display();
    let plugin = format!(
        "export KREW_ROOT={root}; {krew} install --manifest={folder}/krew.yaml --archive={archive}\n\
         export PATH={root}/bin:$PATH; kubectl plugin list 2>/dev/null | grep kubectl-latebind\nkubectl latebind --version",
        root = root.display(),
        krew = krew.display(),
        archive = archive.display(),
    );
    let said = typed(scope, &plugin).await?;
    ensure!(said.contains(&format!("{}/bin/kubectl-latebind", root.display())), "{said}");
    ensure!(said.ends_with(&format!("latebind {}\n", env!("CARGO_PKG_VERSION"))), "{said}");

    let chart = packed.file("latebind-chart-", ".tgz")?;
    let chart = format!(
        "helm install latebind {} --namespace {NAMESPACE} --create-namespace --wait --timeout 90s",
        chart.display()
    );
    typed(scope, &chart).await?;
    mends(scope, "by-chart", &class).await.context("with the release's chart")?;
    let away = format!(
        "helm uninstall latebind --namespace {NAMESPACE} --wait --timeout 90s\n\
         kubectl delete namespace {NAMESPACE} --timeout=90s"
    );
    typed(scope, &away).await?;
    nothing_is_left(scope).await?;

    typed(scope, &format!("kubectl apply -f {folder}/install.yaml")).await?;
    for deployment in ["deployment/latebind-controller", "deployment/latebind-webhook"] {
        rolled_out(scope, deployment).await?;
    }
    mends(scope, "by-manifest", &class).await.context("with the release's manifest")?;
    typed(scope, &format!("kubectl delete -f {folder}/install.yaml --timeout=90s")).await?;
    nothing_is_left(scope).await
}
