//! Why the webhook did not answer: what the cluster says of each thing that can be in the way.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ServiceReference};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use crate::binding::Lookup;
use crate::kubernetes::api::{ApiError, if_found, in_time};
use crate::model::{MODE_LABEL, WEBHOOK_LABEL};

/// The name of both configurations.
const CONFIGURATION: &str = "zz-latebind";
/// The webhook that reviews Pods.
const WEBHOOK: &str = "pods.latebind.dev";
/// Other configurations that are named in an answer at most; a cluster has a handful.
const MOST_OTHERS: usize = 8;

/// What was found out. Each part is absent where it could not be asked for, and then says nothing.
#[derive(Debug)]
pub(in crate::cli) struct Evidence {
    /// latebind's configuration.
    pub configuration: Lookup<MutatingWebhookConfiguration>,
    /// Labels of the namespace that was tried.
    pub labels: Option<BTreeMap<String, String>>,
    /// Replicas that are ready, and those that are not.
    pub replicas: Option<(usize, usize)>,
    /// What became of a request that the API server passed on to a replica: an error says what it could not reach.
    pub reached: Option<Result<(), String>>,
    /// `--mode` of the webhook.
    pub mode: Option<String>,
    /// Configurations that are called after latebind's and cover Pods.
    pub later: Option<Vec<String>>,
    /// What could not be asked for, and why.
    pub unknown: Vec<String>,
}

/// One reason, or one thing that may be.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) enum Reason {
    NotInstalled,
    Exempt(String),
    NoAuthority,
    NotReady { unready: usize },
    Unreachable { service: String, port: i32, error: String },
    Audit(String),
    MaybeLater(Vec<String>),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled => write!(
                f,
                "not installed: there is no MutatingWebhookConfiguration {CONFIGURATION}; latebind install | kubectl apply -f -"
            ),
            Self::Exempt(why) => write!(f, "exempt: {why}"),
            Self::NoAuthority => f.write_str(
                "not ready: the webhook configuration has no caBundle yet; the controller (or cert-manager) writes it, see \
                 its log",
            ),
            Self::NotReady { unready: 0 } => f.write_str(
                "not ready: the webhook has no replicas; kubectl describe its Deployment says why",
            ),
            Self::NotReady { unready } => write!(
                f,
                "not ready: {unready} replicas of the webhook run and none is ready; /readyz?verbose of a replica says what \
                 is missing"
            ),
            Self::Unreachable { service, port, error } => write!(
                f,
                "unreachable: the API server cannot reach the replicas behind Service {service}, port {port}: {error}. Let \
                 the control plane reach that port on the nodes and Pods (firewall, security group, NetworkPolicy), set \
                 webhook.port to one that it reaches, or set webhook.hostNetwork; docs/compatibility.md says what each \
                 platform needs"
            ),
            Self::Audit(whose) => write!(f, "audit: {whose}, so nothing is changed and nobody is warned"),
            Self::MaybeLater(names) => write!(
                f,
                "maybe another webhook: {} is called after latebind's and may undo what it did",
                names.join(", ")
            ),
        }
    }
}

/// The service and the port of its Pods' webhook.
fn service(configuration: &MutatingWebhookConfiguration) -> Option<&ServiceReference> {
    webhook(configuration)?.client_config.service.as_ref()
}

fn webhook(
    configuration: &MutatingWebhookConfiguration,
) -> Option<&k8s_openapi::api::admissionregistration::v1::MutatingWebhook> {
    configuration.webhooks.iter().flatten().find(|webhook| webhook.name == WEBHOOK)
}

impl Evidence {
    const fn nothing() -> Self {
        Self {
            configuration: Lookup::Unknown,
            labels: None,
            replicas: None,
            reached: None,
            mode: None,
            later: None,
            unknown: Vec::new(),
        }
    }

    /// What is in the way, what is sure before what may be.
    pub(in crate::cli) fn reasons(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let configuration = match &self.configuration {
            Lookup::Absent => return vec![Reason::NotInstalled],
            Lookup::Found(configuration) => Some(configuration),
            Lookup::Unknown => None,
        };
        let hook = configuration.and_then(webhook);
        if let (Some(labels), Some(selector)) = (&self.labels, hook.and_then(|hook| hook.namespace_selector.as_ref())) {
            reasons.extend(left_out(selector, labels).map(Reason::Exempt));
        }
        if hook.is_some_and(|hook| hook.client_config.ca_bundle.as_ref().is_none_or(|bundle| bundle.0.is_empty())) {
            reasons.push(Reason::NoAuthority);
        }
        match (self.replicas, &self.reached) {
            (Some((0, unready)), _) => reasons.push(Reason::NotReady { unready }),
            (_, Some(Err(error))) => {
                let service = configuration.and_then(service);
                reasons.push(Reason::Unreachable {
                    service: service.map_or_else(String::new, |it| format!("{}/{}", it.namespace, it.name)),
                    port: service.and_then(|it| it.port).unwrap_or(443),
                    error: error.clone(),
                });
            }
            _ => {}
        }
        let stricter = self.labels.as_ref().and_then(|labels| labels.get(MODE_LABEL));
        if self.mode.as_deref() == Some("audit") && stricter.is_none_or(|mode| mode == "audit") {
            reasons.push(Reason::Audit("the webhook runs with --mode=audit".to_owned()));
        }
        if reasons.is_empty() {
            reasons.extend(self.later.clone().filter(|later| !later.is_empty()).map(Reason::MaybeLater));
        }
        reasons
    }

    /// Asks the cluster. What it refuses to tell stays unknown.
    pub(in crate::cli) async fn gather(client: &Client, namespace: &str) -> Self {
        let mut evidence = Self::nothing();
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        let found = if_found(configurations.get(CONFIGURATION)).await;
        evidence.configuration = match evidence.known("the webhook configuration", found) {
            Some(Some(configuration)) => Lookup::Found(configuration),
            Some(None) => Lookup::Absent,
            None => Lookup::Unknown,
        };
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let found = evidence.known("the namespace", if_found(namespaces.get(namespace)).await);
        evidence.labels = found.flatten().map(|found| found.labels().clone());
        evidence.later =
            evidence.known("other webhooks", in_time(configurations.list(&ListParams::default())).await).map(|all| {
                let later = all.items.iter().filter(|it| it.name_any().as_str() > CONFIGURATION && covers_pods(it));
                later.map(kube::ResourceExt::name_any).take(MOST_OTHERS).collect()
            });
        let Lookup::Found(configuration) = &evidence.configuration else { return evidence };
        let Some(place) = service(configuration).cloned() else { return evidence };
        evidence.of_service(client, &place).await;
        evidence
    }

    async fn of_service(&mut self, client: &Client, place: &ServiceReference) {
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &place.namespace);
        let params = ListParams::default().labels(&format!("kubernetes.io/service-name={}", place.name));
        if let Some(found) = self.known("the webhook's replicas", in_time(slices.list(&params)).await) {
            let endpoints = found.items.iter().flat_map(|slice| &slice.endpoints);
            let is_ready = |it: &&k8s_openapi::api::discovery::v1::Endpoint| {
                it.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
            };
            let (ready, unready): (Vec<_>, Vec<_>) = endpoints.partition(is_ready);
            self.replicas = Some((ready.len(), unready.len()));
        }
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &place.namespace);
        let found = self.known("the webhook's Deployment", if_found(deployments.get(&place.name)).await);
        self.mode = found.flatten().as_ref().and_then(mode_of);
        if self.replicas.is_none_or(|(ready, _)| ready > 0) {
            self.reached = self.pass_on(client, place).await;
        }
    }

    /// The API server passes a request on to a replica: it dials the same Pods as for a review.
    async fn pass_on(&mut self, client: &Client, place: &ServiceReference) -> Option<Result<(), String>> {
        let port = place.port.unwrap_or(443);
        let path = format!("/api/v1/namespaces/{}/services/https:{}:{port}/proxy/", place.namespace, place.name);
        let request = axum::http::Request::get(path).body(Vec::new()).ok()?;
        match in_time(client.request_text(request)).await {
            Ok(_) => Some(Ok(())),
            Err(ApiError::Kube(error)) => match *error {
                kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                    self.unknown.push(format!("whether the API server reaches the webhook ({})", status.message));
                    None
                }
                // An error of the API server's own: it got no answer.
                kube::Error::Api(status) if status.code >= 500 => Some(Err(status.message.clone())),
                // The replica answered; that it serves nothing at this path is as it should be.
                _ => Some(Ok(())),
            },
            Err(late) => Some(Err(late.to_string())),
        }
    }

    fn known<T>(&mut self, what: &str, answer: Result<T, ApiError>) -> Option<T> {
        answer.map_err(|error| self.unknown.push(format!("{what} ({error})"))).ok()
    }
}

fn mode_of(deployment: &Deployment) -> Option<String> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    let mut args = containers.iter().flat_map(|container| container.args.iter().flatten());
    args.find_map(|arg| arg.strip_prefix("--mode=")).map(str::to_owned)
}

fn covers_pods(configuration: &MutatingWebhookConfiguration) -> bool {
    let mut rules = configuration.webhooks.iter().flatten().flat_map(|webhook| webhook.rules.iter().flatten());
    rules.any(|rule| {
        let named = |list: &Option<Vec<String>>, word: &str| {
            list.iter().flatten().any(|it| it == word || it == "*" || it == "*/*")
        };
        named(&rule.resources, "pods") && named(&rule.operations, "CREATE")
    })
}

/// Why a namespace with these labels is not looked at.
fn left_out(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> Option<String> {
    if labels.get(WEBHOOK_LABEL).is_some_and(|value| value == "disabled") {
        return Some(format!("the namespace has the label {WEBHOOK_LABEL}=disabled"));
    }
    let unmet = selector.match_expressions.iter().flatten().find(|needed| {
        let value = labels.get(&needed.key);
        let is_listed = value.is_some_and(|value| needed.values.iter().flatten().any(|it| it == value));
        match needed.operator.as_str() {
            "In" => !is_listed,
            "NotIn" => is_listed,
            "Exists" => value.is_none(),
            "DoesNotExist" => value.is_some(),
            _ => false,
        }
    });
    if let Some(unmet) = unmet {
        let what = if unmet.key == "kubernetes.io/metadata.name" {
            "the webhook leaves this namespace alone by its name".to_owned()
        } else {
            format!("the webhook's namespaceSelector wants {} {}", unmet.key, unmet.operator)
        };
        return Some(format!("{what}; try another one with -n"));
    }
    let mut wanted = selector.match_labels.iter().flatten();
    let (key, value) = wanted.find(|(key, value)| labels.get(*key) != Some(*value))?;
    Some(format!("the webhook's namespaceSelector wants the label {key}={value}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evidence() -> Evidence {
        let configuration = serde_json::from_value(json!({"metadata": {"name": CONFIGURATION}, "webhooks": [{
            "name": WEBHOOK, "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"caBundle": "cGVt", "service": {"namespace": "latebind-system", "name": "latebind-webhook",
                "port": 443}},
            "namespaceSelector": {"matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]},
                {"key": WEBHOOK_LABEL, "operator": "NotIn", "values": ["disabled"]},
                {"key": "team", "operator": "Exists"}]}}]}))
        .unwrap();
        let labels = [("kubernetes.io/metadata.name", "default"), ("team", "a")];
        Evidence {
            configuration: Lookup::Found(configuration),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            replicas: Some((2, 0)),
            reached: Some(Ok(())),
            mode: Some("rewrite".to_owned()),
            later: Some(Vec::new()),
            unknown: Vec::new(),
        }
    }

    fn told(change: impl FnOnce(&mut Evidence)) -> Vec<String> {
        let mut evidence = evidence();
        change(&mut evidence);
        evidence.reasons().iter().map(ToString::to_string).collect()
    }

    fn label(evidence: &mut Evidence, key: &str, value: &str) {
        evidence.labels.as_mut().unwrap().insert(key.to_owned(), value.to_owned());
    }

    #[test]
    fn each_reason_is_told_apart() {
        assert_eq!(told(|_| {}), Vec::<String>::new());
        let one = |change: fn(&mut Evidence), expected: &str| {
            let told = told(change);
            assert!(told.len() == 1 && told[0].starts_with(expected), "{expected}: {told:?}");
        };
        one(|it| it.configuration = Lookup::Absent, "not installed: ");
        one(|it| label(it, WEBHOOK_LABEL, "disabled"), "exempt: the namespace has the label");
        one(|it| label(it, "kubernetes.io/metadata.name", "kube-system"), "exempt: the webhook leaves this namespace");
        one(
            |it| drop(it.labels.as_mut().unwrap().remove("team")),
            "exempt: the webhook's namespaceSelector wants team",
        );
        one(|it| it.replicas = Some((0, 2)), "not ready: 2 replicas");
        one(|it| it.replicas = Some((0, 0)), "not ready: the webhook has no replicas");
        one(|it| it.mode = Some("audit".to_owned()), "audit: ");
        one(|it| it.later = Some(vec!["zzz".to_owned()]), "maybe another webhook: zzz");
        let unreachable = told(|it| it.reached = Some(Err("dial tcp 10.1.2.3:10250: i/o timeout".to_owned())));
        for part in ["unreachable: the API server cannot reach", "latebind-system/latebind-webhook", "10.1.2.3:10250"] {
            assert!(unreachable[0].contains(part), "{unreachable:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_no_reason() {
        assert_eq!(Evidence::nothing().reasons(), []);
        assert_eq!(told(|it| it.labels = None), Vec::<String>::new());
        // A stricter label of the namespace wins over the mode for all.
        let stricter = told(|it| {
            it.mode = Some("audit".to_owned());
            label(it, MODE_LABEL, "deny");
        });
        assert_eq!(stricter, Vec::<String>::new());
    }
}
