//! An API server in memory, with agents that make every directory at once and report it, and a controller manager that binds.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use latebind::crd::LocalVolume;
use latebind::volumes::{PROVISIONED_BY, PROVISIONER, VOLUME_FINALIZER};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

const BASE: &str = "/var/lib/volumes";
/// Events of a kind that a watch is told of which came after its list.
const REPLAYED: usize = 1_000;
/// Events that a watch may be behind with: those replayed, and a few of each claim that is under way.
const BEHIND: usize = 2 * REPLAYED;
/// Claims that are under way at a time.
const SIDE_BY_SIDE: usize = 8;

/// Who chooses the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The provisioner.
    Immediate,
    /// The scheduler has.
    Delayed,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Immediate => "Immediate",
            Self::Delayed => "WaitForFirstConsumer",
        }
    }

    /// Annotations of a claim whose node, if anybody selects one, is this.
    fn selected(self, node: &str) -> Value {
        match self {
            Self::Immediate => json!({}),
            Self::Delayed => json!({ "volume.kubernetes.io/selected-node": node }),
        }
    }
}

/// The objects of one kind, as text.
#[derive(Default)]
struct Kind {
    objects: BTreeMap<String, Bytes>,
    /// The last changes, with their versions.
    events: VecDeque<(u64, Bytes)>,
    watches: Vec<mpsc::Sender<Bytes>>,
}

#[derive(Default)]
struct Store {
    version: u64,
    kinds: BTreeMap<String, Kind>,
}

/// A cluster.
#[derive(Clone)]
pub struct Simulated {
    store: Arc<Mutex<Store>>,
    bound: Arc<Notify>,
    /// Requests by method and kind, and whether they are of one object or of all.
    requests: Arc<Mutex<BTreeMap<String, usize>>>,
    mode: Mode,
    nodes: usize,
}

impl Store {
    /// Stores an object, and tells whoever watches its kind.
    fn put(&mut self, kind: &str, key: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        let text = Bytes::from(object.to_string());
        let stored = self.kinds.entry(kind.to_owned()).or_default();
        let new = stored.objects.insert(key.to_owned(), text.clone()).is_none();
        let event = if new { "ADDED" } else { "MODIFIED" };
        let line = Bytes::from([format!("{{\"type\":\"{event}\",\"object\":").as_bytes(), &text, b"}\n"].concat());
        stored.watches.retain(|watch| watch.try_send(line.clone()).is_ok());
        stored.events.push_back((self.version, line));
        if stored.events.len() > REPLAYED {
            stored.events.pop_front();
        }
        object
    }

    fn get(&self, kind: &str, key: &str) -> Option<Value> {
        serde_json::from_slice(self.kinds.get(kind)?.objects.get(key)?).ok()
    }

    /// A page of a list.
    fn list(&self, kind: &str, limit: usize, after: &str) -> Bytes {
        let mut text = Vec::new();
        let (mut count, mut last) = (0, String::new());
        if let Some(stored) = self.kinds.get(kind) {
            for (key, object) in stored.objects.range::<str, _>((Bound::Excluded(after), Bound::Unbounded)).take(limit)
            {
                if count > 0 {
                    text.push(b',');
                }
                text.extend_from_slice(object);
                count += 1;
                last.clone_from(key);
            }
        }
        let token = if count == limit { last } else { String::new() };
        let head = json!({ "resourceVersion": self.version.to_string(), "continue": token });
        Bytes::from(
            [
                format!("{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"metadata\":{head},\"items\":[").as_bytes(),
                &text,
                b"]}",
            ]
            .concat(),
        )
    }
}

/// What a path names: kind, and namespace and name as the store has them.
fn named(path: &str) -> (String, Option<String>, Option<String>) {
    let mut parts = path.trim_matches('/').split('/').skip(if path.starts_with("/apis/") { 3 } else { 2 });
    let mut first = parts.next().unwrap_or_default();
    let mut namespace = None;
    let mut rest: Vec<&str> = parts.collect();
    if first == "namespaces" && rest.len() >= 2 {
        namespace = Some(rest.remove(0).to_owned());
        first = rest.remove(0);
    }
    let name = rest.first().map(|name| match &namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => (*name).to_owned(),
    });
    (first.to_owned(), namespace, name)
}

fn query(request: &Request<Body>, key: &str) -> Option<String> {
    let mut pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == key).map(|(_, value)| value.replace("%2F", "/"))
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn answer(code: u16, body: impl Into<Bytes>) -> Answer {
    Response::builder().status(code).body(Full::new(body.into()).boxed_unsync()).unwrap()
}

fn failure(code: u16) -> Answer {
    answer(code, json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code }).to_string())
}

fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else { return into.clone_from(patch) };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

impl Simulated {
    /// So many nodes with an agent each, and so many volumes in use.
    pub fn new(mode: Mode, nodes: usize, volumes: usize) -> Self {
        let simulated = Self { store: Arc::default(), bound: Arc::default(), requests: Arc::default(), mode, nodes };
        let mut store = simulated.store.lock();
        store.put(
            "storageclasses",
            "local",
            json!({ "metadata": { "name": "local" }, "provisioner": PROVISIONER,
            "volumeBindingMode": mode.name() }),
        );
        store.put(
            "localpools",
            "local",
            json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalPool",
            "metadata": { "name": "local" }, "spec": { "nodes": [{ "paths": [{ "path": BASE }] }] } }),
        );
        for number in 0..nodes {
            let name = node_name(number);
            store.put("nodes", &name, json!({ "metadata": { "name": name, "uid": name,
                "labels": { "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "zone": format!("z{}", number % 3) } },
                "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }));
            store.put(
                "localnodes",
                &name,
                json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalNode",
                "metadata": { "name": name }, "spec": { "nodeUID": name }, "status": { "paths": [{ "path": BASE,
                    "usable": true, "totalBytes": 1_i64 << 50, "freeBytes": 1_i64 << 50 }] } }),
            );
        }
        for number in 0..volumes {
            in_use(&mut store, mode, number, &node_name(number % nodes));
        }
        drop(store);
        simulated
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        let simulated = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let simulated = simulated.clone();
            async move { Ok::<_, Infallible>(simulated.serve(request).await) }
        });
        Client::new(service, "default")
    }

    /// The requests since this was last asked for; not those that are events, of which how many there are is chance.
    pub fn take_requests(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.requests.lock())
    }

    /// Makes claims and waits until they are bound, a few at a time.
    pub async fn claims(&self, count: usize) {
        let one = |number: usize| async move {
            let key = {
                let mut store = self.store.lock();
                let name = format!("new-{}-{number}", store.version);
                let annotations = self.mode.selected(&node_name(number % self.nodes));
                let claim = json!({ "metadata": { "name": name, "namespace": "d", "annotations": annotations },
                    "spec": { "storageClassName": "local", "accessModes": ["ReadWriteOnce"],
                        "resources": { "requests": { "storage": "1Gi" } } }, "status": { "phase": "Pending" } });
                let key = format!("d/{name}");
                store.put("persistentvolumeclaims", &key, claim);
                key
            };
            loop {
                let changed = self.bound.notified();
                let claim = self.store.lock().get("persistentvolumeclaims", &key).unwrap();
                if claim["status"]["phase"] == "Bound" {
                    return;
                }
                changed.await;
            }
        };
        futures::stream::iter(0..count).for_each_concurrent(SIDE_BY_SIDE, one).await;
    }

    async fn serve(&self, request: Request<Body>) -> Answer {
        let (kind, namespace, name) = named(request.uri().path());
        let method = request.method().clone();
        if kind != "events" {
            let all = if name.is_none() && method == Method::GET { "all " } else { "" };
            *self.requests.lock().entry(format!("{method} {all}{kind}")).or_default() += 1;
        }
        if method == Method::GET {
            return match name {
                Some(name) => match self.store.lock().kinds.get(&kind).and_then(|kind| kind.objects.get(&name)) {
                    Some(object) => answer(200, object.clone()),
                    None => failure(404),
                },
                None if query(&request, "watch").is_some() => self.watch(&kind, &request),
                None => {
                    let limit = query(&request, "limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
                    answer(200, self.store.lock().list(&kind, limit, &query(&request, "continue").unwrap_or_default()))
                }
            };
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let Ok(mut object) = serde_json::from_slice::<Value>(&body) else { return failure(400) };
        // Nobody reads them here.
        if kind == "events" {
            return answer(201, body);
        }
        let mut store = self.store.lock();
        let stored = match (method, name) {
            (Method::POST, _) => {
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let key = namespace.map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}"));
                if store.get(&kind, &key).is_some() {
                    return failure(409);
                }
                object = store.put(&kind, &key, object);
                self.follow(&mut store, &kind, &name, &object);
                object
            }
            (Method::PATCH, Some(name)) => {
                let Some(mut before) = store.get(&kind, &name) else { return failure(404) };
                merge(&mut before, &object);
                store.put(&kind, &name, before)
            }
            _ => return failure(405),
        };
        answer(201, stored.to_string())
    }

    /// What agents and the controller manager do about a new object.
    fn follow(&self, store: &mut Store, kind: &str, name: &str, object: &Value) {
        let mut object = object.clone();
        match kind {
            "localvolumes" => {
                // The agent reports what is left.
                let node = object["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
                if let Some(mut report) = store.get("localnodes", &node) {
                    let left = &mut report["status"]["paths"][0]["freeBytes"];
                    *left = json!(left.as_i64().unwrap_or_default() - (1 << 30));
                    store.put("localnodes", &node, report);
                }
                object["status"] = json!({ "baseId": "b", "conditions": [{ "type": "Ready", "status": "True",
                    "reason": "DirectoryReady", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
                store.put(kind, name, object);
            }
            "persistentvolumes" => {
                let claim = &object["spec"]["claimRef"];
                let text = |field: &str| claim[field].as_str().unwrap_or_default().to_owned();
                let key = format!("{}/{}", text("namespace"), text("name"));
                object["status"] = json!({ "phase": "Bound" });
                store.put(kind, name, object);
                if let Some(mut claim) = store.get("persistentvolumeclaims", &key) {
                    claim["spec"]["volumeName"] = json!(name);
                    claim["status"]["phase"] = json!("Bound");
                    store.put("persistentvolumeclaims", &key, claim);
                }
                self.bound.notify_waiters();
            }
            _ => {}
        }
    }

    fn watch(&self, kind: &str, request: &Request<Body>) -> Answer {
        // As an API server without streaming lists.
        if query(request, "sendInitialEvents").is_some() {
            return failure(400);
        }
        let since: u64 = query(request, "resourceVersion").and_then(|text| text.parse().ok()).unwrap_or_default();
        let (sender, receiver) = mpsc::channel(BEHIND);
        let mut store = self.store.lock();
        let stored = store.kinds.entry(kind.to_owned()).or_default();
        for (_, line) in stored.events.iter().filter(|(version, _)| *version > since) {
            sender.try_send(line.clone()).unwrap();
        }
        stored.watches.push(sender);
        let lines = futures::stream::unfold(receiver, |mut receiver| async move {
            let line = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(line)), receiver))
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

fn node_name(number: usize) -> String {
    format!("node-{number}")
}

/// A claim with its volume, all of it recorded.
fn in_use(store: &mut Store, mode: Mode, number: usize, node: &str) {
    let (uid, name) = (format!("old-{number}"), format!("pvc-old-{number}"));
    let local = LocalVolume::name_for(&uid, node);
    let claim = json!({ "namespace": "d", "name": uid, "uid": uid });
    store.put(
        "persistentvolumeclaims",
        &format!("d/{uid}"),
        json!({ "metadata": { "name": uid, "namespace": "d", "uid": uid, "annotations": mode.selected(node) },
        "spec": { "storageClassName": "local", "volumeName": name, "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } } }, "status": { "phase": "Bound" } }),
    );
    let affinity = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [
        { "key": "kubernetes.io/hostname", "operator": "In", "values": [node] }] }] } });
    let path = format!("{name}_d_{uid}");
    store.put(
        "persistentvolumes",
        &name,
        json!({
            "metadata": { "name": name, "uid": name, "finalizers": [VOLUME_FINALIZER], "annotations": {
                PROVISIONED_BY: PROVISIONER, "latebind.dev/local-volume": local, "latebind.dev/node": node,
                "latebind.dev/base": BASE, "latebind.dev/pool": "local" } },
            "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "claimRef": claim,
                "local": { "path": format!("{BASE}/{path}") }, "nodeAffinity": affinity, "storageClassName": "local",
                "persistentVolumeReclaimPolicy": "Delete" },
            "status": { "phase": "Bound" },
        }),
    );
    store.put("localvolumes", &local, json!({
        "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalVolume",
        "metadata": { "name": local, "finalizers": ["latebind.dev/directory"] },
        "spec": { "nodeName": node, "nodeUID": node, "pool": "local", "base": BASE, "path": path, "bytes": 1_i64 << 30,
            "claim": claim, "reclaim": "Delete", "persistentVolume": { "name": name, "uid": name, "resourceVersion": "1",
                "reclaimPolicy": "Delete", "claimUID": uid } },
        "status": { "baseId": "b", "conditions": [{ "type": "Ready", "status": "True", "reason": "DirectoryReady",
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
    }));
}
