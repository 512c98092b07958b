//! The chart and what is rendered from it.

use anyhow::{Context, Result, ensure};
use latebind_cluster::{Scope, project_root};
use serde_json::Value;

use latebind_test_support::chart::{chart, helm, install, objects_of, render, sets, variants};
use latebind_test_support::policies::served;

pub async fn the_rendered_manifest_is_current(_: &Scope) -> Result<()> {
    is_current("webhook-manifests/install.yaml", &install()?)
}

/// What the binary prints comes from the chart, whatever is installed and under whatever names.
pub async fn the_binary_prints_what_the_chart_renders(_: &Scope) -> Result<()> {
    is_current("webhook-manifests/variants.yaml", &variants()?)?;
    let settings = [
        "--set=image.repository=r.example/mine",
        "--set-string=image.tag=7",
        "--set=mode=deny",
        "--set=webhook.port=9443",
        "--namespace=apart",
    ];
    for (set, flags) in sets() {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_latebind"));
        command.arg("install").args(&flags).args(["--image=r.example/mine:7", "--mode=deny", "--webhook-port=9443"]);
        let output = command.arg("--namespace=apart").output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout)?;
        let printed: Vec<&str> = printed.split("\n---\n").skip(1).map(str::trim_end).collect();
        let rendered = objects_of(set, &settings)?;
        ensure!(printed == rendered, "{flags:?}:\n{printed:#?}\n{rendered:#?}");
    }
    Ok(())
}

/// The files of `ci` are for whoever tests the chart, with the objects that they are to give.
fn ci_values() -> Result<Vec<String>> {
    let folder = std::fs::read_dir(chart().join("ci"))?;
    let paths = folder.map(|entry| Ok(format!("--values={}", entry?.path().display())));
    paths.collect()
}

/// What a package of the chart holds: everything to install with, and nothing that is for its makers.
pub async fn the_chart_can_be_packed(_: &Scope) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let lint = helm()?.args(["lint", "--strict"]).arg(chart()).output()?;
    ensure!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
    let output = helm()?.arg("package").arg(chart()).arg("--destination").arg(folder.path()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let archive = std::fs::read_dir(folder.path())?.next().context("an archive")??.path();
    let listed = std::process::Command::new("tar").arg("tzf").arg(&archive).output()?;
    let files = String::from_utf8(listed.stdout)?;
    for needed in ["latebind/Chart.yaml", "latebind/README.md", "latebind/values.schema.json", "latebind/files/crds/"] {
        ensure!(files.contains(needed), "no {needed} in {files}");
    }
    ensure!(!files.contains("latebind/ci/"), "{files}");
    Ok(())
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
        "webhook.hostNetwork=true",
        "webhook.port=80",
        "rescue.enabled=maybe",
        "rescue.taintedNodesFor={A B}",
        "rescue.mode=warn",
        "exemptionPolicy.groups=admins",
        "networkPolicy.enabled=often",
        "metrics.prometheusRule.runbooks=pages",
        "profile=sometimes",
        // Helm says here that the cluster is older than the first that serves such policies.
        "profile=policy",
        "profile=rescue,rescue.enabled=false",
    ] {
        ensure!(render(&["--set", wrong]).is_err(), "{wrong} was accepted");
    }
    for wrong in ["pin=name", "rescue.enabled=false"] {
        let policy = ["--kube-version=1.36.0", "--set=profile=policy"];
        ensure!(render(&policy).is_ok(), "the profile does not render");
        ensure!(render(&[&policy[..], &["--set", wrong]].concat()).is_err(), "{wrong} was accepted");
    }
    Ok(())
}

/// Pods alone are refused while no replica answers: what rescue writes, and what other schedulers and controllers write, is
/// claims and workloads.
pub async fn the_policy_fail_covers_pods_only(_: &Scope) -> Result<()> {
    let everything = [
        "--set=webhook.failurePolicy=Fail",
        "--set=provisioner.enabled=true",
        "--set=provisioner.claimHook.enabled=true",
    ];
    let objects: Vec<Value> = serde_saphyr::from_multiple(&render(&everything)?)?;
    let (mut strict, mut lenient) = (Vec::new(), 0);
    for object in &objects {
        for webhook in object["webhooks"].as_array().into_iter().flatten() {
            if webhook["failurePolicy"] == "Ignore" {
                lenient += 1;
                continue;
            }
            ensure!(
                webhook["rules"]
                    .as_array()
                    .is_some_and(|rules| rules.iter().all(|rule| rule["resources"] == serde_json::json!(["pods"]))),
                "{webhook}"
            );
            strict.push(object["kind"].as_str().unwrap_or_default());
        }
    }
    ensure!(
        strict == ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] && lenient == 7,
        "{strict:?}, {lenient}"
    );
    Ok(())
}

/// One for each of webhook, controller and agents, without anybody's asking.
pub async fn every_part_has_a_network_policy(_: &Scope) -> Result<()> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&render(&["--set=provisioner.enabled=true"])?)?;
    let policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy");
    let mut parts: Vec<&str> = policies
        .map(|policy| {
            policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"].as_str().unwrap_or_default()
        })
        .collect();
    parts.sort_unstable();
    ensure!(parts == ["agent", "controller", "webhook"], "{parts:?}");
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
    let ci = ci_values()?;
    let ci: Vec<[&str; 1]> = ci.iter().map(|file| [file.as_str()]).collect();
    ensure!(ci.len() > 3, "{ci:?}");
    let variants: [&[&str]; 4] = [
        &[],
        &everything,
        &["--set=tls.mode=secret", "--set=tls.caBundle=pem", "--set=webhook.validateWorkloads=false"],
        &[
            "--set=webhook.validateClaims=false",
            "--set=webhook.drainWarnings=false",
            "--set=podDisruptionBudget.enabled=false",
        ],
    ];
    let policies = served(scope).await?;
    for variant in variants.into_iter().chain(ci.iter().map(<[&str; 1]>::as_slice)) {
        let needs_policies = variant.iter().any(|argument| argument.ends_with("policy-values.yaml"));
        if needs_policies && !policies {
            continue;
        }
        let variant: &[&str] = if needs_policies { &[variant, &["--kube-version=1.36.0"]].concat() } else { variant };
        let text = render(&[&["--set=namespace.create=true", "--skip-tests"], variant].concat())?;
        // The namespace is not there yet when the objects in it are tried, so they are tried in one that is.
        let here = format!("namespace: {}", scope.namespace());
        // An object of the user's own may have it in quotes.
        let text = text.replace("namespace: 'latebind-system'", "namespace: latebind-system");
        let text = text.replace("namespace: latebind-system", &here).replace("namespace: latebind-agent", &here);
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
