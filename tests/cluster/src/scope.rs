//! What one test sees of a cluster: a namespace of its own, and everything it made there and beside it goes when the test ends.

use std::any::TypeId;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{
    Event, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Service, ServiceAccount,
};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Cluster, Output, SimulatedNode, eventually};

/// The namespace of one test.
pub struct Scope {
    client: Client,
    namespace: String,
    cluster: Option<Arc<Cluster>>,
    /// Objects outside of the namespace that the test made, oldest first.
    beside: Mutex<Vec<(ApiResource, String)>>,
}

impl Scope {
    /// Creates the namespace and waits for what Pods in it need.
    pub async fn open(client: Client, cluster: Option<Arc<Cluster>>) -> Result<Self> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({ "metadata": { "generateName": "latebind-test-" } }))?;
        let namespace = namespaces.create(&PostParams::default(), &object).await?.name_any();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        eventually("the namespace's service account", Duration::from_secs(60), async || {
            Ok(accounts.get_opt("default").await?.map(drop))
        })
        .await?;
        Ok(Self { client, namespace, cluster, beside: Mutex::default() })
    }

    /// A client with an administrator's rights.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The namespace's name.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The cluster, unless the test runs on one that the user brought.
    pub fn cluster(&self) -> Result<&Cluster> {
        self.cluster.as_deref().context("this test needs a cluster of its own: run it without LATEBIND_E2E=existing")
    }

    /// A name for an object outside of the namespace that no other test uses.
    #[must_use]
    pub fn unique(&self, stem: &str) -> String {
        format!("{stem}-{}", self.namespace.trim_start_matches("latebind-test-"))
    }

    /// The objects of a kind in the namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), &self.namespace)
    }

    /// The objects of a kind in the whole cluster.
    #[must_use]
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource,
        K::DynamicType: Default,
    {
        Api::all(self.client())
    }

    /// Creates an object from its JSON: in the namespace, or, of a kind without namespaces, to be deleted when the test ends.
    pub async fn create<K>(&self, object: Value) -> Result<K>
    where
        K: Resource + Clone + Debug + Serialize + DeserializeOwned,
        K::DynamicType: Default,
        K::Scope: 'static,
    {
        let (answer, kind) = self.post::<K>(object).await;
        let created = answer.with_context(|| format!("creating a {}", kind.kind))?;
        Ok(created.try_parse()?)
    }

    /// Tries to create an object: the object, or the status with which the API server refused it.
    pub async fn attempt<K>(&self, object: Value) -> Result<Result<K, kube::core::Status>>
    where
        K: Resource + Clone + Debug + Serialize + DeserializeOwned,
        K::DynamicType: Default,
        K::Scope: 'static,
    {
        match self.post::<K>(object).await.0 {
            Ok(created) => Ok(Ok(created.try_parse()?)),
            Err(error) => match error.downcast::<kube::Error>()? {
                kube::Error::Api(status) => Ok(Err(*status)),
                other => Err(other.into()),
            },
        }
    }

    async fn post<K>(&self, mut object: Value) -> (Result<DynamicObject>, ApiResource)
    where
        K: Resource,
        K::DynamicType: Default,
        K::Scope: 'static,
    {
        let kind = ApiResource::erase::<K>(&K::DynamicType::default());
        object["apiVersion"] = json!(kind.api_version);
        object["kind"] = json!(kind.kind);
        let namespaced = TypeId::of::<K::Scope>() == TypeId::of::<NamespaceResourceScope>();
        let api: Api<DynamicObject> = if namespaced {
            Api::namespaced_with(self.client(), &self.namespace, &kind)
        } else {
            Api::all_with(self.client(), &kind)
        };
        let answer = async { Ok(api.create(&PostParams::default(), &serde_json::from_value(object)?).await?) }.await;
        if let (Ok(created), false) = (&answer, namespaced) {
            self.remember(kind.clone(), created.name_any());
        }
        (answer, kind)
    }

    /// Has an object outside of the namespace deleted when the test ends.
    pub fn remember(&self, kind: ApiResource, name: String) {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner).push((kind, name));
    }

    /// Creates a node that nobody runs but that looks alive, see [`SimulatedNode`].
    pub async fn simulated_node(&self, stem: &str, labels: &[(&str, &str)]) -> Result<SimulatedNode> {
        SimulatedNode::create(self, &self.unique(stem), labels).await
    }

    /// Runs `kubectl` in the namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        let arguments: Vec<&str> =
            ["--namespace", &self.namespace].into_iter().chain(arguments.iter().copied()).collect();
        self.cluster()?.kubectl(&arguments).await
    }

    /// The namespace's events about the object of this name.
    pub async fn events(&self, object: &str) -> Result<Vec<Event>> {
        let of_object = ListParams::default().fields(&format!("involvedObject.name={object}"));
        Ok(self.api::<Event>().list(&of_object).await?.items)
    }

    /// Waits for an event about `object` with this reason whose message contains `text`, and returns the message.
    pub async fn event(&self, object: &str, reason: &str, text: &str, patience: Duration) -> Result<String> {
        eventually(&format!("event {reason} about {object}: {text}"), patience, async || {
            let events = self.events(object).await?;
            let messages =
                events.into_iter().filter(|it| it.reason.as_deref() == Some(reason)).filter_map(|it| it.message);
            Ok(messages.into_iter().find(|message| message.contains(text)))
        })
        .await
    }

    /// The claim of this name as it is now.
    pub async fn claim(&self, name: &str) -> Result<PersistentVolumeClaim> {
        Ok(self.api().get(name).await?)
    }

    /// The Pod of this name as it is now.
    pub async fn pod(&self, name: &str) -> Result<Pod> {
        Ok(self.api().get(name).await?)
    }

    /// Waits until the claim has this phase.
    pub async fn claim_phase(&self, name: &str, phase: &str, patience: Duration) -> Result<PersistentVolumeClaim> {
        eventually(&format!("claim {name} to be {phase}"), patience, async || {
            let claim = self.claim(name).await?;
            let found = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase);
            Ok(found.then_some(claim))
        })
        .await
    }

    /// Waits until the Pod has this phase.
    pub async fn pod_phase(&self, name: &str, phase: &str, patience: Duration) -> Result<Pod> {
        eventually(&format!("Pod {name} to be {phase}"), patience, async || {
            let pod = self.pod(name).await?;
            let found = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase);
            Ok(found.then_some(pod))
        })
        .await
    }

    /// The namespace's objects and events, for a person who wants to know why a test failed.
    pub async fn describe(&self) -> String {
        let mut text = format!("---- objects of namespace {}\n", self.namespace);
        text.push_str(&section(&self.api::<Pod>()).await);
        text.push_str(&section(&self.api::<PersistentVolumeClaim>()).await);
        text.push_str(&section(&self.api::<Service>()).await);
        let beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (kind, name) in beside {
            let api: Api<DynamicObject> = Api::all_with(self.client(), &kind);
            if let Ok(object) = api.get(&name).await {
                text.push_str(&line(&kind.kind, &object));
            }
        }
        text.push_str("---- its events\n");
        match self.api::<Event>().list(&ListParams::default()).await {
            Ok(events) => events.items.iter().for_each(|event| text.push_str(&told(event))),
            Err(error) => text.push_str(&format_args!("{error}\n").to_string()),
        }
        text
    }

    /// Deletes the namespace and all that the test made beside it.
    pub async fn close(self) -> Result<()> {
        self.all::<Namespace>().delete(&self.namespace, &DeleteParams::default()).await?;
        // Nobody tells the API server that a Pod of a simulated node has ended; force says it needs no telling.
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.api::<Pod>().delete_collection(&now, &ListParams::default()).await?;
        let beside = std::mem::take(&mut *self.beside.lock().unwrap_or_else(PoisonError::into_inner));
        for (kind, name) in beside.iter().rev() {
            let api: Api<DynamicObject> = Api::all_with(self.client(), kind);
            absent(api.delete(name, &DeleteParams::default()).await.map(drop))?;
        }
        // A namespace goes a while after its deletion, and the next test may want to make one of the name.
        for (_, name) in beside.iter().filter(|(kind, _)| kind.kind == "Namespace") {
            self.namespace_gone(name).await?;
        }
        let volumes = self.all::<PersistentVolume>();
        for volume in volumes.list(&ListParams::default()).await?.items {
            let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            if claim.and_then(|claim| claim.namespace.as_deref()) == Some(&self.namespace) {
                absent(volumes.delete(&volume.name_any(), &DeleteParams::default()).await.map(drop))?;
            }
        }
        if self.cluster.is_none() {
            // Somebody else's cluster is left as it was.
            self.namespace_gone(&self.namespace).await?;
        }
        Ok(())
    }

    async fn namespace_gone(&self, name: &str) -> Result<()> {
        let namespaces = self.all::<Namespace>();
        eventually(&format!("namespace {name} to be gone"), Duration::from_secs(120), async || {
            Ok(namespaces.get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }
}

/// What is gone already needs no deleting.
fn absent(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other,
    }
}

async fn section<K>(api: &Api<K>) -> String
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    match api.list(&ListParams::default()).await {
        Ok(objects) => objects.items.iter().map(|object| line(&K::kind(&()), object)).collect(),
        Err(error) => format!("{}: {error}\n", K::kind(&())),
    }
}

fn line(kind: &str, object: &(impl Serialize + ResourceExt)) -> String {
    let mut value = json!(object);
    if let Some(metadata) = value["metadata"].as_object_mut() {
        for noise in ["managedFields", "resourceVersion", "creationTimestamp", "uid"] {
            metadata.remove(noise);
        }
    }
    format!("{kind} {}: {value}\n", object.name_any())
}

fn told(event: &Event) -> String {
    let about = &event.involved_object;
    format!(
        "{} {} {} (x{}): {}\n",
        about.kind.as_deref().unwrap_or_default(),
        about.name.as_deref().unwrap_or_default(),
        event.reason.as_deref().unwrap_or_default(),
        event.count.unwrap_or(1),
        event.message.as_deref().unwrap_or_default(),
    )
}
