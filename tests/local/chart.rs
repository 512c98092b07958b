//! What the chart renders for local volumes.

use anyhow::{Result, ensure};
use k8s_openapi::api::storage::v1::StorageClass;
use latebind_cluster::{Scope, project_root};
use serde_json::json;

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
        "name: claims.latebind.dev",
        r#"in ["a","b"]"#,
        "--mark-bound",
        "persistentvolumes/status",
    ] {
        ensure!(text.contains(said), "no {said}");
        ensure!(!plain.contains(said), "{said} although nobody asked for it");
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
