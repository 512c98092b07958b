//! `--report`: what was found, as reports in the cluster.

use std::collections::BTreeSet;
use std::io::Write as _;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

use crate::kubernetes::api::{ApiError, in_time};
use crate::report::style::{Style, clean};
use crate::report::{Report, ReportKinds};

/// Results of one report. Each takes less than 1 KiB unless names are at their longest, and the API server takes 1.5 MiB of an
/// object.
const MOST_RESULTS: usize = 1_000;
/// Who the fields belong to that are written here.
const FIELD_OWNER: &str = "latebind-audit";

/// Writes the reports of what was audited. One of an earlier audit, of a namespace in which nothing is left to look at, is
/// emptied; none is deleted.
pub(super) async fn publish(
    client: &Client,
    report: &Report,
    kinds: ReportKinds,
    namespace: Option<&str>,
) -> anyhow::Result<()> {
    let mut objects = report.policy_reports(kinds, MOST_RESULTS);
    // What an audit of all namespaces found about the whole cluster is not for that of one to overwrite.
    objects.retain(|object| namespace.is_none() || !namespace_of(object).is_empty());
    let written: BTreeSet<String> = objects.iter().map(namespace_of).collect();
    let (version, kind, cluster_kind) = kinds.names();
    let of_namespaces = resource(version, kind);
    let earlier: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &of_namespaces),
        None => Api::all_with(client.clone(), &of_namespaces),
    };
    let ours = ListParams::default().labels(&format!("app.kubernetes.io/managed-by={}", Report::REPORTER));
    let found = in_time(earlier.list_metadata(&ours)).await.map_err(|error| explained(error, version))?;
    let of_cluster = resource(version, cluster_kind);
    let emptied = found.items.iter().filter(|found| found.name_any() == Report::REPORTER);
    for namespace in emptied.filter_map(kube::ResourceExt::namespace).filter(|namespace| !written.contains(namespace)) {
        objects.push(Report::nothing_found(kinds, &namespace));
    }
    for object in objects {
        let namespace = namespace_of(&object);
        let api: Api<DynamicObject> = if namespace.is_empty() {
            Api::all_with(client.clone(), &of_cluster)
        } else {
            Api::namespaced_with(client.clone(), &namespace, &of_namespaces)
        };
        let params = PatchParams::apply(FIELD_OWNER).force();
        match in_time(api.patch(Report::REPORTER, &params, &Patch::Apply(&object))).await {
            // The kind is served, as the list above says.
            Err(error) if error.is_not_found() || is_of_ending_namespace(&error) => {
                let style = Style::of_stderr();
                let told = format!("namespace {namespace} is going, so its report is not written");
                writeln!(anstream::stderr(), "{} {}", style.info("note:"), clean(&told))?;
            }
            written => drop(written.map_err(|error| explained(error, version))?),
        }
    }
    Ok(())
}

/// Source: `plugin/pkg/admission/namespace/lifecycle`, which answers 403 with this cause.
fn is_of_ending_namespace(error: &ApiError) -> bool {
    let ApiError::Kube(error) = error else { return false };
    let kube::Error::Api(status) = error.as_ref() else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

fn namespace_of(object: &Value) -> String {
    object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn resource(version: &str, kind: &str) -> ApiResource {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

fn explained(error: ApiError, version: &str) -> anyhow::Error {
    let hint = if error.is_not_found() {
        format!("the cluster does not serve {version}: install its definitions first, or print the reports with -o")
    } else if error.code() == Some(403) {
        format!("the right to list and patch reports of {version} is missing")
    } else {
        format!("reports of {version}")
    };
    anyhow::Error::new(error).context(hint)
}
