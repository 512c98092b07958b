//! The chart and what is rendered from it.

use anyhow::{Context, Result, ensure};
use latebind_cluster::{Scope, project_root};
use serde_json::Value;

use crate::manifest::{install, render};

pub async fn the_rendered_manifest_is_current(_: &Scope) -> Result<()> {
    is_current("webhook-manifests/install.yaml", &install()?)
}

/// `parts/rescue-rbac.yaml` is what the rescue loop is tested with, down to the last verb; the chart must grant the same.
pub async fn the_controller_may_do_what_it_was_tested_with(_: &Scope) -> Result<()> {
    let rules = |text: &str| -> Result<Value> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(text)?;
        let role = objects
            .into_iter()
            .find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "latebind-controller");
        Ok(role.context("no ClusterRole latebind-controller")?["rules"].clone())
    };
    let parts = std::fs::read_to_string(project_root().join("webhook-manifests/parts/rescue-rbac.yaml"))?;
    let (tested, granted) = (rules(&parts)?, rules(&install()?)?);
    ensure!(tested == granted, "the chart grants {granted:#}\nbut the tests use {tested:#}");
    Ok(())
}

/// `certs/cert-manager.yaml` is for those who install without helm.
pub async fn the_page_for_cert_manager_is_current(_: &Scope) -> Result<()> {
    let text = render(&["--set=tls.mode=cert-manager", "--show-only=templates/certificates.yaml"])?;
    let head = "# An authority and the webhook's certificate, for cert-manager. Rendered from webhook-manifests/chart with \
                tls.mode=cert-manager.\n";
    let lines = text.lines().filter(|line| !line.starts_with("# Source: "));
    let text = lines.collect::<Vec<_>>().join("\n").replace("managed-by: Helm", "managed-by: latebind");
    is_current("certs/cert-manager.yaml", &format!("{head}{text}\n"))
}

/// A rendered file is as it must be, or becomes so where files are to be written anew.
fn is_current(path: &str, expected: &str) -> Result<()> {
    let file = project_root().join(path);
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        std::fs::write(&file, expected)?;
    }
    let actual = std::fs::read_to_string(&file)?;
    ensure!(actual == expected, "{path} is not what the chart renders: run `make update`");
    Ok(())
}

pub async fn values_are_checked(_: &Scope) -> Result<()> {
    for wrong in [
        "mode=sometimes",
        "pin=label",
        "webhook.timeoutSeconds=31",
        "webhook.failurePolicy=Maybe",
        "tls.mode=none",
        "tls.certificateLife=90days",
        "image.digest=latest",
        "webhok.replicas=3",
        "tls.mode=secret",
    ] {
        ensure!(render(&["--set", wrong]).is_err(), "{wrong} was accepted");
    }
    Ok(())
}

/// Each variant goes to a real API server, which checks every field; what it does not know is an error.
pub async fn every_variant_renders_and_is_accepted(scope: &Scope) -> Result<()> {
    let everything = [
        "--set=webhook.failurePolicy=Fail",
        "--set=webhook.exemptNamespaces={build,ci}",
        "--set=webhook.clientCA.secretName=api-server-ca",
        "--set=webhook.clientCA.allowedNames={kube-apiserver}",
        "--set=webhook.priorityClassName=system-cluster-critical",
        "--set=webhook.matchConditions[0].name=extra",
        "--set-string=webhook.matchConditions[0].expression=true",
        "--set-string=webhook.annotations.admissions\\.enforcer/disabled=true",
        "--set=controller.replicas=2",
        "--set=networkPolicy.enabled=true",
        "--set=networkPolicy.apiServerCIDRs={192.0.2.0/24}",
        "--set=imagePullSecrets[0].name=registry",
    ];
    let variants: [&[&str]; 4] = [
        &[],
        &everything,
        &["--set=tls.mode=secret", "--set=tls.caBundle=pem", "--set=webhook.validateWorkloads=false"],
        &["--set=webhook.validateClaims=false", "--set=podDisruptionBudget.enabled=false"],
    ];
    for variant in variants {
        let text = render(&[&["--set=namespace.create=true", "--skip-tests"], variant].concat())?;
        // The namespace is not there yet when the objects in it are tried, so they are tried in one that is.
        let text = text.replace("namespace: latebind-system", &format!("namespace: {}", scope.namespace()));
        let text = text.replace("caBundle: cGVt", "caBundle: ''");
        let arguments = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = scope.cluster()?.kubectl_with_input(&arguments, &text).await?;
        ensure!(!output.stderr.contains("Warning"), "{variant:?}: {}", output.stderr);
        output.success()?;
    }
    // Kinds that this API server does not know render at least.
    let monitored = render(&[
        "--set=tls.mode=cert-manager",
        "--set=metrics.serviceMonitor.enabled=true",
        "--set=metrics.prometheusRule.enabled=true",
    ])?;
    for kind in ["Issuer", "Certificate", "ServiceMonitor", "PodMonitor", "PrometheusRule"] {
        ensure!(monitored.contains(&format!("kind: {kind}\n")), "no {kind}");
    }
    ensure!(monitored.contains("cert-manager.io/inject-ca-from: latebind-system/latebind-webhook"));
    ensure!(!monitored.contains("latebind-certificates"), "with cert-manager nobody else may write caBundle");
    let given = render(&["--set=tls.mode=cert-manager", "--set=tls.issuerRef.name=mine"])?;
    ensure!(given.contains("name: mine") && !given.contains("kind: Issuer"));
    Ok(())
}
