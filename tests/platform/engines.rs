//! The examples for Kyverno and Gatekeeper: their expressions, in policies of the API server's own.
//!
//! The engines themselves are not run. What they evaluate is the same CEL, with the few variables that they add.

use anyhow::{Context, Result, ensure};
use latebind_cluster::{Scope, eventually, project_root};
use latebind_test_support::policies::{create_policy, served};
use serde_json::{Value, json};

use crate::objects::{PATIENCE, pod, pod_on};
use crate::policies::{admitted, stored};

/// The objects of a file in `examples/policies`.
fn objects(file: &str) -> Result<Vec<Value>> {
    let path = project_root().join("examples/policies").join(file);
    Ok(serde_saphyr::from_multiple(&std::fs::read_to_string(&path).with_context(|| path.display().to_string())?)?)
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind).with_context(|| format!("no {kind}"))
}

/// Kyverno's MutatingPolicy takes the fields of a MutatingAdmissionPolicy as they are.
pub async fn the_example_for_kyverno_rewrites_a_pinned_pod_with_a_claim(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let objects = objects("kyverno.yaml")?;
    let example = of_kind(&objects, "MutatingPolicy")?;
    ensure!(example["apiVersion"] == "policies.kyverno.io/v1", "{}", example["apiVersion"]);
    let mut policy = example["spec"].clone();
    // The namespace of this test has no label; the binding is for it alone.
    let selector = policy["matchConstraints"].as_object_mut().and_then(|fields| fields.remove("namespaceSelector"));
    ensure!(selector.is_some(), "the example would be for every namespace");
    create_policy(scope, "MutatingAdmissionPolicy", "kyverno", policy, json!({})).await?;
    let rewritten = eventually("the example to be in force", PATIENCE, async || {
        let pod = stored(scope, pod_on("node-a", "pod", "data")).await?;
        Ok(pod["spec"]["nodeName"].is_null().then_some(pod))
    })
    .await?;
    ensure!(rewritten["spec"]["nodeSelector"] == json!({ "kubernetes.io/hostname": "node-a" }), "{rewritten}");
    ensure!(rewritten["metadata"]["annotations"]["latebind.dev/original-node-name"] == "node-a", "{rewritten}");
    let mut more = pod_on("node-a", "pod", "data");
    more["spec"]["nodeSelector"] = json!({ "disk": "fast" });
    more["metadata"]["annotations"] = json!({ "a": "b" });
    let more = stored(scope, more).await?;
    let selector = json!({ "disk": "fast", "kubernetes.io/hostname": "node-a" });
    ensure!(more["spec"]["nodeSelector"] == selector && more["metadata"]["annotations"]["a"] == "b", "{more}");
    let ordinary = stored(scope, pod("pod", "data")).await?;
    ensure!(ordinary["spec"]["nodeSelector"].is_null() && ordinary["metadata"]["annotations"].is_null(), "{ordinary}");
    let mut without = pod_on("node-a", "pod", "data");
    without["spec"]["volumes"] = json!([{ "name": "data", "emptyDir": {} }]);
    let mut repelled = pod_on("node-a", "pod", "data");
    repelled["spec"]["affinity"] = json!({ "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
        { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "a": "b" } } },
    ] } });
    for left_alone in [without, repelled] {
        let seen = stored(scope, left_alone).await?;
        ensure!(seen["spec"]["nodeName"] == "node-a" && seen["spec"]["nodeSelector"].is_null(), "{seen}");
    }
    Ok(())
}

/// What Gatekeeper makes of a template of the engine K8sNativeValidation: two variables more, then those of the template.
fn translated(source: &Value, parameters: &Value) -> Result<Value> {
    let any = "has(request.operation) && request.operation == \"DELETE\" && object == null ? oldObject : object";
    let mut variables = vec![
        json!({ "name": "anyObject", "expression": any }),
        // Gatekeeper has the constraint as its parameter. The expression is a literal here.
        json!({ "name": "params", "expression": format!("dyn({parameters})") }),
    ];
    variables.extend(source["variables"].as_array().context("variables")?.iter().cloned());
    Ok(json!({
        "failurePolicy": "Ignore",
        "matchConstraints": { "resourceRules": [
            { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] },
        ] },
        "variables": variables,
        "validations": source["validations"],
    }))
}

pub async fn the_example_for_gatekeeper_refuses_a_pinned_pod_with_a_claim(scope: &Scope) -> Result<()> {
    let objects = objects("gatekeeper.yaml")?;
    let template = of_kind(&objects, "ConstraintTemplate")?;
    ensure!(template["apiVersion"] == "templates.gatekeeper.sh/v1", "{}", template["apiVersion"]);
    let kind = template["spec"]["crd"]["spec"]["names"]["kind"].as_str().context("a kind")?;
    ensure!(template["metadata"]["name"] == kind.to_lowercase(), "a template is named after its kind");
    let constraint = of_kind(&objects, kind)?;
    ensure!(constraint["spec"]["enforcementAction"] == "warn", "{constraint}");
    let code = &template["spec"]["targets"][0]["code"][0];
    ensure!(code["engine"] == "K8sNativeValidation", "{code}");
    // A node of the parameters besides, to see that they are heeded.
    let mut parameters = constraint["spec"]["parameters"].clone();
    parameters["allowedNodes"] = json!(["node-b"]);
    let policy = translated(&code["source"], &parameters)?;
    create_policy(scope, "ValidatingAdmissionPolicy", "gatekeeper", policy, json!({ "validationActions": ["Deny"] }))
        .await?;
    let message = eventually("the example to be in force", PATIENCE, async || {
        Ok(admitted(scope, pod_on("node-a", "pod", "data")).await?.err().map(|status| status.message))
    })
    .await?;
    ensure!(message.contains("nodeName node-a bypasses the scheduler"), "{message}");
    let mut without = pod_on("node-a", "pod", "data");
    without["spec"]["volumes"] = json!([{ "name": "data", "emptyDir": {} }]);
    for left_alone in [pod("pod", "data"), without, pod_on("node-b", "pod", "data")] {
        stored(scope, left_alone).await?;
    }
    Ok(())
}
