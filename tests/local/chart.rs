//! What the chart renders for local volumes.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::storage::v1::StorageClass;
use latebind::agent::AgentMetrics;
use latebind::cluster::live::{LiveCluster, WatchedPods};
use latebind::provision::{self, Provisioner};
use latebind::runtime::metrics::ServerMetrics;
use latebind_cluster::{Scope, project_root};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use crate::manifest::{NAMESPACE, chart, helm, render};

const ON: [&str; 3] = ["--set=namespace.create=true", "--skip-tests", "--set=provisioner.enabled=true"];

/// The manifest for one command, as it must be.
pub fn provisioner() -> Result<String> {
    let text = render(&ON)?;
    let head = "# Rendered from webhook-manifests/chart by `make update`; change the chart, not this file.\n\
                # All of install.yaml, and local volumes.\n";
    let lines = text.lines().filter(|line| !line.starts_with("# Source: "));
    Ok(format!("{head}{}\n", lines.collect::<Vec<_>>().join("\n").replace("managed-by: Helm", "managed-by: latebind")))
}

pub async fn the_rendered_manifest_is_current(_: &Scope) -> Result<()> {
    let (path, expected) = (project_root().join("webhook-manifests/provisioner.yaml"), provisioner()?);
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        std::fs::write(&path, &expected)?;
    }
    let actual = std::fs::read_to_string(&path)?;
    ensure!(
        actual == expected,
        "webhook-manifests/provisioner.yaml is not what the chart renders: LATEBIND_UPDATE=1 cargo test --test local"
    );
    Ok(())
}

pub async fn values_are_checked(_: &Scope) -> Result<()> {
    for wrong in [
        "provisioner.enable=true",
        "provisioner.adopt={example.org/other}",
        "provisioner.agentPatience=soon",
        "provisioner.pool.path=relative",
        "provisioner.pool.path=/",
        "provisioner.pool.path=/a/../b",
        "provisioner.storageClass.default=maybe",
        "provisioner.storageClass.reclaimPolicy=Recycle",
        "provisioner.storageClass.parameters.mode=rwx",
        "provisioner.storageClass.parameters.pathPatern=x",
        "agent.basePaths=null",
        "agent.basePaths={/}",
        "agent.basePaths={/a,/a}",
        "agent.unlinksPerSecond=0",
        "agent.removeOrphans=maybe",
        "provisioner.claimHook.enabled=often",
        "provisioner.claimHook.classes={A B}",
        "provisioner.claimHook.class=a",
        "provisioner.markBound=sometimes",
    ] {
        ensure!(render(&["--set", wrong]).is_err(), "{wrong} was accepted");
    }
    ensure!(!render(&[])?.contains("latebind-agent"), "off means that nothing of it is rendered");
    Ok(())
}

/// Each variant goes to a real API server, which checks every field; what it does not know is an error.
pub async fn every_variant_renders_and_is_accepted(scope: &Scope) -> Result<()> {
    let everything = [
        "--set=provisioner.adopt={rancher.io/local-path,microk8s.io/hostpath}",
        "--set=provisioner.storageClass.default=true",
        "--set=provisioner.storageClass.reclaimPolicy=Retain",
        "--set=provisioner.storageClass.mountOptions={noatime}",
        "--set=provisioner.storageClass.allowedTopologies[0].matchLabelExpressions[0].key=zone",
        "--set=provisioner.storageClass.allowedTopologies[0].matchLabelExpressions[0].values={a}",
        "--set=provisioner.storageClass.parameters.onDelete=archive",
        "--set=provisioner.storageClass.parameters.pathPattern=\\{namespace\\}/\\{uid\\}",
        "--set=agent.basePaths={/mnt/disks,/var/lib/latebind}",
        "--set=agent.nodeSelector.disk=fast",
        "--set=agent.seLinuxOptions.type=spc_t",
        "--set=agent.removeOrphans=true",
        "--set=provisioner.claimHook.enabled=true",
        "--set=provisioner.claimHook.classes={a,b}",
        "--set=provisioner.markBound=true",
        "--set=imagePullSecrets[0].name=registry",
    ];
    let text = render(&[&ON[..], &everything].concat())?;
    let plain = render(&ON)?;
    for said in [
        "--remove-orphans",
        "--adopt=rancher.io/local-path",
        // The claim hook; another webhook, which is always there, has the same name.
        r#"in ["a","b"]"#,
        "--mark-bound",
        "persistentvolumes/status",
    ] {
        ensure!(text.contains(said), "no {said}");
    }
    for asked in ["--remove-orphans", "--mark-bound", "persistentvolumes/status"] {
        ensure!(!plain.contains(asked), "{asked} although nobody asked for it");
    }
    let less = ["--set=provisioner.storageClass.create=false", "--set=provisioner.pool.create=false"];
    for variant in [&[][..], &everything, &less] {
        let text = render(&[&ON[..], variant].concat())?;
        // Namespaces that are not there yet refuse what is tried in them.
        let text = ["latebind-system", "latebind-agent"].into_iter().fold(text, |text, name| {
            text.replace(&format!("namespace: {name}\n"), &format!("namespace: {}\n", scope.namespace()))
        });
        let arguments = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = scope.cluster()?.kubectl_with_input(&arguments, &text).await?;
        // The agents' namespace is privileged, this test's is not named so.
        let warnings = output.stderr.lines().filter(|line| line.contains("Warning") && !line.contains("PodSecurity"));
        ensure!(warnings.count() == 0, "{variant:?}: {}", output.stderr);
        output.success()?;
    }
    Ok(())
}

/// The alerts of a rendered rule.
fn alerts(text: &str) -> Result<Vec<Value>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(text)?;
    let rule = objects.into_iter().find(|object| object["kind"] == "PrometheusRule").context("a PrometheusRule")?;
    let groups = rule["spec"]["groups"].as_array().context("groups")?;
    Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
}

/// Names of ours in an expression.
fn named(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("latebind_"))
}

pub async fn alerts_are_about_metrics_that_there_are(_: &Scope) -> Result<()> {
    let mut registry = Registry::with_prefix("latebind");
    ServerMetrics::default().register(&mut registry);
    AgentMetrics::default().register(&mut registry);
    let mut exported = String::new();
    prometheus_client::encoding::text::encode(&mut exported, &registry)?;
    let exported: BTreeSet<&str> = exported
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();

    let monitored = ["--set=metrics.serviceMonitor.enabled=true", "--set=metrics.prometheusRule.enabled=true"];
    let text = render(&[&ON[..], &monitored].concat())?;
    ensure!(text.contains("name: latebind-agent\n  namespace: latebind-system"), "nobody asks the agents");
    let alerts = alerts(&text)?;
    let mut about = BTreeSet::new();
    for alert in &alerts {
        let name = alert["alert"].as_str().context("a name")?;
        let expression = alert["expr"].as_str().with_context(|| format!("{name} has no expression"))?;
        ensure!(expression.matches('(').count() == expression.matches(')').count(), "{name}: {expression}");
        for metric in named(expression) {
            ensure!(exported.contains(metric), "{name}: nobody exports {metric}");
            about.insert(metric);
        }
        let severity = alert["labels"]["severity"].as_str();
        ensure!(matches!(severity, Some("info" | "warning" | "critical")), "{name}: {severity:?}");
        for key in ["summary", "description"] {
            ensure!(alert["annotations"][key].as_str().is_some_and(|said| said.len() > 20), "{name} has no {key}");
        }
    }
    for metric in ["latebind_agent_orphans", "latebind_agent_orphans_held", "latebind_agent_node_replaced"] {
        ensure!(about.contains(metric), "no alert is about {metric}");
    }
    // Without local volumes nothing is said about them.
    let less = self::alerts(&render(&monitored)?)?;
    ensure!(
        !less.is_empty() && less.iter().all(|alert| !alert["expr"].as_str().unwrap_or_default().contains("_agent_"))
    );
    Ok(())
}

pub async fn a_second_default_class_is_refused(scope: &Scope) -> Result<()> {
    let first = scope.unique("first-default");
    let annotations = json!({ "storageclass.kubernetes.io/is-default-class": "true" });
    scope
        .create::<StorageClass>(json!({
            "metadata": { "name": first, "annotations": annotations }, "provisioner": "example.org/none" }))
        .await?;
    let attempt = || {
        let mut command = helm()?;
        command.args(["install", "latebind"]).arg(chart()).args(["--namespace", NAMESPACE, "--dry-run=server"]);
        command.args(["--set=provisioner.enabled=true", "--set=provisioner.storageClass.default=true"]);
        command.arg("--kubeconfig").arg(scope.cluster()?.kubeconfig());
        anyhow::Ok(command.output()?)
    };
    let output = attempt()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains(&first) && said.contains("default already"), "{said}");
    scope.all::<StorageClass>().delete(&first, &kube::api::DeleteParams::default()).await?;
    let output = attempt()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(String::from_utf8_lossy(&output.stdout).contains("is-default-class: \"true\""));
    Ok(())
}

pub async fn the_page_names_metrics_that_there_are(scope: &Scope) -> Result<()> {
    let mut registry = Registry::with_prefix("latebind");
    let live = LiveCluster::new(WatchedPods::None);
    let options = provision::Options::default();
    Provisioner::new(scope.client(), live, options, None, &mut registry).register_watches(&mut registry);
    AgentMetrics::default().register(&mut registry);
    let mut exported = String::new();
    prometheus_client::encoding::text::encode(&mut exported, &registry)?;
    let exported: BTreeSet<&str> =
        exported.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();

    let page = std::fs::read_to_string(latebind_cluster::project_root().join("docs/provisioner.md"))?;
    let (_, section) = page.split_once("## Metrics").context("a section about metrics")?;
    let (section, _) = section.split_once("\n## ").context("an end of it")?;
    let told: BTreeSet<&str> = named(section).map(|name| name.trim_end_matches("_total")).collect();
    let unknown: Vec<_> = told.difference(&exported).collect();
    ensure!(unknown.is_empty(), "nobody exports {unknown:?}");
    let untold: Vec<_> = exported.difference(&told).filter(|name| !name.starts_with("latebind_watch_")).collect();
    ensure!(untold.is_empty(), "the page does not tell of {untold:?}");
    Ok(())
}
