//! Facts of a running cluster, read once: for commands that look and end.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ApiResource, DynamicObject, ListParams, TypeMeta};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use super::Fact;
use crate::crd::{Kept, PinPolicy};
use crate::kubernetes::api::{ApiError, deadline, in_time, is_served};
use crate::model::{
    Claim, Class, CsiDriver, CsiNode, ModelObject, Namespace, Node, OrMalformed, PodOnNode, ResourceClaim,
    ResourceClaimTemplate, StorageCapacity, Volume, Wire,
};

/// Objects of one answer, as kubectl asks for.
const PAGE: u32 = 500;
/// Pages of one kind: 5 million objects. A server that never says that it is done is not followed forever.
const MOST_PAGES: usize = 10_000;

/// Why a cluster's facts could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The API server refuses.
    #[error(
        "the cluster refuses to list {kind}: {message}\nAsk for the right to list {kind}, or give facts as files with \
         --objects instead of --server"
    )]
    Refused {
        /// Plural of the kind.
        kind: String,
        /// What the API server said.
        message: String,
    },
    /// The API server knows no such kind.
    #[error("the cluster does not serve {kind}: {message}")]
    NotServed {
        /// Plural of the kind.
        kind: String,
        /// What the API server said.
        message: String,
    },
    /// No answer.
    #[error("the cluster cannot be reached ({kind}): {message}")]
    Unreachable {
        /// Plural of the kind.
        kind: String,
        /// Why.
        message: String,
    },
    /// The API server did not answer in time.
    #[error("the cluster did not answer in {:?} ({kind}); --request-timeout says how long to wait", deadline())]
    Slow {
        /// Plural of the kind.
        kind: String,
    },
}

/// Whose claims are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimsOf {
    /// Those of every namespace.
    All,
    /// Those of some.
    Namespaces(BTreeSet<String>),
}

/// What was read.
#[derive(Debug, Default)]
pub struct ServerFacts {
    /// Every Node, volume, class and CSI object, every Pod with a node and required anti-affinity, and the claims and
    /// ResourceClaims of the namespaces that were asked for.
    pub facts: Vec<Fact>,
    /// Objects that could not be read and count as absent, each with what is wrong with it.
    pub malformed: Vec<String>,
}

impl ServerFacts {
    /// Reads everything that decisions about Pods of these namespaces need.
    ///
    /// # Errors
    /// When the cluster cannot be asked for one of the kinds: half of the facts would lead to wrong decisions.
    pub async fn read(client: &Client, claims_of: &ClaimsOf) -> Result<Self, ServerError> {
        let mut read = Self::default();
        read.list(&Api::<OrMalformed<Node>>::all(client.clone()), some(Fact::Node)).await?;
        read.list(&Api::<OrMalformed<Volume>>::all(client.clone()), some(Fact::Volume)).await?;
        read.list(&Api::<OrMalformed<Class>>::all(client.clone()), some(Fact::Class)).await?;
        read.list(&Api::<OrMalformed<CsiDriver>>::all(client.clone()), some(Fact::CsiDriver)).await?;
        read.list(&Api::<OrMalformed<CsiNode>>::all(client.clone()), some(Fact::CsiNode)).await?;
        let capacities: Api<OrMalformed<StorageCapacity>> = Api::all(client.clone());
        read.list(&capacities, some(Fact::StorageCapacity)).await?;
        let pods: Api<OrMalformed<PodOnNode>> = Api::all(client.clone());
        read.list(&pods, |pod| pod.keeps_others_away().then_some(Fact::PodOnNode(pod))).await?;
        read.policies(client).await?;
        let namespaces = match claims_of {
            ClaimsOf::Namespaces(names) => names,
            ClaimsOf::All => {
                read.list(&Api::<OrMalformed<Claim>>::all(client.clone()), some(Fact::Claim)).await?;
                read.list(&Api::<OrMalformed<Namespace>>::all(client.clone()), some(Fact::Namespace)).await?;
                let devices: Api<OrMalformed<ResourceClaim>> = Api::all(client.clone());
                read.list_served(&devices, some(Fact::ResourceClaim)).await?;
                let templates: Api<OrMalformed<ResourceClaimTemplate>> = Api::all(client.clone());
                read.list_served(&templates, some(Fact::ResourceClaimTemplate)).await?;
                return Ok(read);
            }
        };
        for name in namespaces {
            let claims: Api<OrMalformed<Claim>> = Api::namespaced(client.clone(), name);
            read.list(&claims, some(Fact::Claim)).await?;
            let devices: Api<OrMalformed<ResourceClaim>> = Api::namespaced(client.clone(), name);
            read.list_served(&devices, some(Fact::ResourceClaim)).await?;
            let templates: Api<OrMalformed<ResourceClaimTemplate>> = Api::namespaced(client.clone(), name);
            read.list_served(&templates, some(Fact::ResourceClaimTemplate)).await?;
            read.namespace(client, name).await?;
        }
        Ok(read)
    }

    /// The same for a kind of which an API server that does not serve it has no objects.
    async fn list_served<K: ModelObject>(
        &mut self,
        api: &Api<OrMalformed<K>>,
        fact: impl Fn(K) -> Option<Fact>,
    ) -> Result<(), ServerError> {
        match self.list(api, fact).await {
            Err(ServerError::NotServed { .. }) => Ok(()),
            listed => listed,
        }
    }

    /// Who may not read the policies does not know them, unless there can be none.
    async fn policies(&mut self, client: &Client) -> Result<(), ServerError> {
        let policies: Api<OrMalformed<Kept<PinPolicy>>> = Api::all(client.clone());
        let (before, malformed) = (self.facts.len(), self.malformed.len());
        match self.list_served(&policies, |policy| Some(Fact::PinPolicy(Box::new(policy)))).await {
            Ok(()) if self.malformed.len() == malformed => Ok(()),
            Err(ServerError::Refused { .. }) if is_served::<PinPolicy>(client).await == Some(false) => Ok(()),
            Ok(()) | Err(ServerError::Refused { .. }) => {
                self.facts.truncate(before);
                self.facts.push(Fact::PoliciesNotTold);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Reads all objects of a kind, and keeps what becomes a fact.
    async fn list<K: ModelObject>(
        &mut self,
        api: &Api<OrMalformed<K>>,
        fact: impl Fn(K) -> Option<Fact>,
    ) -> Result<(), ServerError> {
        let kind = K::Kind::plural(&()).into_owned();
        let mut params = ListParams::default().limit(PAGE);
        let (before, mut pages) = (self.facts.len(), 0);
        loop {
            let answer = match in_time(api.list(&params)).await {
                // The server has forgotten the list in the middle of it. All at once, then, as client-go does.
                Err(error) if error.code() == Some(410) && params.continue_token.is_some() => {
                    self.facts.truncate(before);
                    params = ListParams::default();
                    continue;
                }
                answer => answer.map_err(|error| ServerError::of(&kind, error))?,
            };
            for item in answer.items {
                let name = item.name_any();
                match item.object {
                    Ok(object) => self.facts.extend(fact(object)),
                    Err(error) => self.malformed.push(format!("{kind} {name}: {error}")),
                }
            }
            pages += 1;
            match answer.metadata.continue_ {
                Some(token) if !token.is_empty() && pages < MOST_PAGES => params.continue_token = Some(token),
                _ => return Ok(()),
            }
        }
    }

    /// Its annotations say how Pods of it may be pinned. One that does not exist yet has none.
    async fn namespace(&mut self, client: &Client, name: &str) -> Result<(), ServerError> {
        let kind = "namespaces";
        let api: Api<Wire<Namespace>> = Api::all(client.clone());
        let found = in_time(api.get_opt(name)).await.map_err(|error| ServerError::of(kind, error))?;
        self.facts.extend(found.map(|namespace| Fact::Namespace(namespace.object)));
        Ok(())
    }
}

/// Every object becomes a fact.
fn some<K>(fact: fn(K) -> Fact) -> impl Fn(K) -> Option<Fact> {
    move |object| Some(fact(object))
}

/// The Pods that have not ended, and the workloads that no other workload has made, as manifests: a name for some
/// hundred of them, and their text.
///
/// # Errors
/// When the cluster cannot be asked for one of the kinds.
pub async fn live_objects(
    client: &Client,
    namespace: Option<&str>,
    selector: Option<&str>,
) -> Result<Vec<(String, String)>, ServerError> {
    let kinds = pods_and_workloads();
    let mut texts = Vec::new();
    for (kind, fields) in kinds {
        let params = ListParams {
            label_selector: selector.map(str::to_owned),
            field_selector: fields.map(str::to_owned),
            ..ListParams::default()
        };
        texts.extend(live_pages(client, &kind, namespace, params).await?);
    }
    Ok(texts)
}

/// The same with the claims, and where all namespaces are looked at with the volumes and classes: what an audit looks at.
///
/// # Errors
/// When the cluster cannot be asked for one of the kinds.
pub async fn audited_objects(client: &Client, namespace: Option<&str>) -> Result<Vec<(String, String)>, ServerError> {
    let mut texts = live_objects(client, namespace, None).await?;
    let claims = ApiResource::erase::<PersistentVolumeClaim>(&());
    texts.extend(live_pages(client, &claims, namespace, ListParams::default()).await?);
    if namespace.is_none() {
        for kind in [ApiResource::erase::<PersistentVolume>(&()), ApiResource::erase::<StorageClass>(&())] {
            texts.extend(live_pages(client, &kind, None, ListParams::default()).await?);
        }
    }
    Ok(texts)
}

/// Kinds of which every object is looked at, each with the fields by which some are left out.
fn pods_and_workloads() -> [(ApiResource, Option<&'static str>); 8] {
    let unfinished = "status.phase!=Succeeded,status.phase!=Failed";
    [
        (ApiResource::erase::<Pod>(&()), Some(unfinished)),
        (ApiResource::erase::<Deployment>(&()), None),
        (ApiResource::erase::<ReplicaSet>(&()), None),
        (ApiResource::erase::<StatefulSet>(&()), None),
        (ApiResource::erase::<DaemonSet>(&()), None),
        (ApiResource::erase::<Job>(&()), None),
        (ApiResource::erase::<CronJob>(&()), None),
        (ApiResource::erase::<ReplicationController>(&()), None),
    ]
}

async fn live_pages(
    client: &Client,
    kind: &ApiResource,
    namespace: Option<&str>,
    params: ListParams,
) -> Result<Vec<(String, String)>, ServerError> {
    let mut read = list_objects(client, kind, namespace, params, usize::MAX).await?;
    let is_looked_at = |object: &DynamicObject| {
        kind.kind == "Pod" || object.owner_references().iter().all(|owner| owner.controller != Some(true))
    };
    read.objects.retain(is_looked_at);
    for object in &mut read.objects {
        object.metadata.managed_fields = None;
    }
    // A plain List: a list of one kind would say that it is complete.
    let text = |items: &[DynamicObject]| json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    Ok(read.objects.chunks(PAGE as usize).map(|items| (format!("cluster:{}", kind.plural), text(items))).collect())
}

/// Objects as the API server has them.
#[derive(Clone, Debug, Default)]
pub struct ObjectList {
    /// The objects, each with its kind.
    pub objects: Vec<DynamicObject>,
    /// The moment that they are all of.
    pub resource_version: String,
    /// False when there were more than were to be read.
    pub is_whole: bool,
}

/// Reads objects of a kind in pages, and no more of them than `most` and what the last page had beyond.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn list_objects(
    client: &Client,
    kind: &ApiResource,
    namespace: Option<&str>,
    params: ListParams,
    most: usize,
) -> Result<ObjectList, ServerError> {
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
        None => Api::all_with(client.clone(), kind),
    };
    let mut read = ObjectList::default();
    let mut page = params.clone().limit(PAGE);
    for _ in 0..MOST_PAGES {
        let answer = match in_time(api.list(&page)).await {
            // The server has forgotten the list in the middle of it. All at once, then, as client-go does.
            Err(error) if error.code() == Some(410) && page.continue_token.is_some() => {
                read.objects.clear();
                page = params.clone();
                continue;
            }
            answer => answer.map_err(|error| ServerError::of(&kind.plural, error))?,
        };
        read.resource_version = answer.metadata.resource_version.unwrap_or_default();
        read.objects.extend(answer.items.into_iter().map(|mut object| {
            // Items of a list carry neither.
            object.types = Some(TypeMeta { api_version: kind.api_version.clone(), kind: kind.kind.clone() });
            object
        }));
        match answer.metadata.continue_ {
            Some(token) if !token.is_empty() && read.objects.len() < most => page.continue_token = Some(token),
            more => {
                read.is_whole = more.is_none_or(|token| token.is_empty());
                break;
            }
        }
    }
    Ok(read)
}

/// Every Pod of the cluster that keeps others away from its node.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn anti_affinity_pods(client: &Client) -> Result<Vec<Fact>, ServerError> {
    let mut read = ServerFacts::default();
    let pods: Api<OrMalformed<PodOnNode>> = Api::all(client.clone());
    read.list(&pods, |pod| pod.keeps_others_away().then_some(Fact::PodOnNode(pod))).await?;
    Ok(read.facts)
}

impl ServerError {
    fn of(kind: &str, error: ApiError) -> Self {
        let kind = kind.to_owned();
        let error = match error {
            ApiError::Kube(error) => *error,
            ApiError::Late | ApiError::Stale => return Self::Slow { kind },
        };
        match error {
            kube::Error::Api(status) if status.code == 404 => Self::NotServed { kind, message: status.message.clone() },
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                Self::Refused { kind, message: status.message.clone() }
            }
            error => Self::Unreachable { kind, message: whole(&error) },
        }
    }
}

/// An error with what caused it: `client error (Connect)` alone helps nobody.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    let mut texts: Vec<String> = Vec::new();
    for cause in causes {
        // Some errors repeat their cause in their own text.
        if texts.last().is_none_or(|last| !last.contains(&cause)) {
            texts.push(cause);
        }
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::{Request, Response};
    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    fn nobody_s() -> ClaimsOf {
        ClaimsOf::Namespaces(BTreeSet::new())
    }

    /// A client of a server that answers by path and query.
    fn client(answer: impl Fn(&str, &str) -> (u16, Value) + Clone + Send + 'static) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let (status, answer) = answer(request.uri().path(), request.uri().query().unwrap_or_default());
            let response = Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(response.unwrap()) }
        });
        Client::new(service, "default")
    }

    fn list(items: &[&str], token: &str) -> (u16, Value) {
        let items: Vec<Value> = items.iter().map(|name| json!({"metadata": {"name": name}})).collect();
        (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {"continue": token}, "items": items}))
    }

    fn failure(code: u16, message: &str) -> (u16, Value) {
        (
            code,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "a"}),
        )
    }

    fn names(read: &ServerFacts) -> Vec<&str> {
        read.facts.iter().map(|fact| fact.key().2).collect()
    }

    #[tokio::test]
    async fn a_list_that_expires_in_the_middle_is_read_again_and_nothing_counts_twice() {
        let server = client(|path, query| match path {
            "/api/v1/nodes" if query.contains("continue=more") => failure(410, "too old"),
            "/api/v1/nodes" if query.contains("limit=500") => list(&["a", "b"], "more"),
            "/api/v1/nodes" => list(&["a", "b", "c"], ""),
            _ => list(&[], ""),
        });
        let read = ServerFacts::read(&server, &nobody_s()).await.unwrap();
        assert_eq!(names(&read), ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn pages_are_followed_and_objects_that_cannot_be_read_are_named() {
        let server = client(|path, query| match path {
            "/api/v1/persistentvolumes" if query.contains("continue=more") => list(&["second"], ""),
            "/api/v1/persistentvolumes" => list(&["first"], "more"),
            "/apis/storage.k8s.io/v1/storageclasses" => (
                200,
                json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [
                    {"metadata": {"name": "odd"}, "provisioner": 7}, {"metadata": {"name": "good"}, "provisioner": "a"}]}),
            ),
            _ => list(&[], ""),
        });
        let read = ServerFacts::read(&server, &nobody_s()).await.unwrap();
        assert_eq!(names(&read), ["first", "second", "good"]);
        assert!(read.malformed.len() == 1 && read.malformed[0].contains("odd"), "{:?}", read.malformed);
    }

    #[tokio::test]
    async fn a_refusal_says_what_to_ask_for() {
        let server = client(|path, _| match path {
            "/apis/storage.k8s.io/v1/storageclasses" => failure(403, "storageclasses is forbidden"),
            _ => list(&[], ""),
        });
        let error = ServerFacts::read(&server, &nobody_s()).await.unwrap_err().to_string();
        assert!(error.contains("right to list storageclasses") && error.contains("--objects"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_given_up() {
        let silent = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let read = ServerFacts::read(&Client::new(silent, "default"), &nobody_s()).await;
        assert!(matches!(read, Err(ServerError::Slow { kind }) if kind == "nodes"));
    }

    #[tokio::test]
    async fn what_others_have_made_is_not_looked_at_twice() {
        let server = client(|path, query| match path {
            "/api/v1/namespaces/a/pods" if query.contains("continue=more") => list(&["second"], ""),
            "/api/v1/namespaces/a/pods" if query.contains("labelSelector=app%3Dweb") => list(&["first"], "more"),
            "/apis/apps/v1/namespaces/a/replicasets" => (
                200,
                json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [
                    {"metadata": {"name": "owned", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment",
                        "name": "d", "uid": "1", "controller": true}]}},
                    {"metadata": {"name": "bare", "managedFields": [{"manager": "kubectl"}]}}]}),
            ),
            _ => list(&[], ""),
        });
        let pages = live_objects(&server, Some("a"), Some("app=web")).await.unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cluster:pods", "cluster:replicasets"]);
        let pods: Value = serde_json::from_str(&pages[0].1).unwrap();
        assert_eq!(pods["items"].as_array().unwrap().len(), 2, "both pages: {pods}");
        let sets: Value = serde_json::from_str(&pages[1].1).unwrap();
        assert_eq!(sets["items"].as_array().unwrap().len(), 1, "{sets}");
        let bare = &sets["items"][0];
        assert_eq!((&bare["kind"], &bare["metadata"]["name"]), (&json!("ReplicaSet"), &json!("bare")));
        assert!(bare["metadata"].get("managedFields").is_none());
    }
}
