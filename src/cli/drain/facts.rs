//! What is known of a node that is to be drained: from a cluster, or from a dump.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::bail;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{ApiResource, ListParams};
use serde::Deserialize as _;
use serde_json::Value;

use crate::binding::{self, ClusterView, LayeredView, Lookup};
use crate::cli::diagnose::Material;
use crate::cli::snapshot::{MOST_OBJECTS, Snapshot};
use crate::diagnosis::{Kind, Known};
use crate::drain::{DrainFacts, DrainPlan, Outcome, plan};
use crate::facts::server::list_objects;
use crate::model::{Claim, Pod};

/// What was read.
pub struct DrainMaterial {
    node: String,
    material: Material,
    pods: PodsOfNode,
    /// Some of it could not be read.
    pub is_partial: bool,
}

impl DrainMaterial {
    /// From a dump.
    pub fn of_dump(node: &str, dump: &str, complete: bool) -> anyhow::Result<Self> {
        let (material, is_partial) = Material::of_dump(dump, None, complete)?;
        let known = material.known();
        let here = known.record.pods().filter(|pod| pod.pinned_node() == Some(node)).cloned().collect();
        let pods = PodsOfNode { known: here, with_files: BTreeSet::new(), missing: known.missing(Kind::Pods, "") };
        Ok(Self { node: node.to_owned(), material, pods, is_partial })
    }

    /// From a cluster, with the rights of whoever asks.
    pub async fn of_cluster(client: &Client, node: &str) -> anyhow::Result<Self> {
        let material = Material::of_snapshot(&Snapshot::of_storage(client).await?);
        let is_partial = material.tell_problems()?;
        let pods = PodsOfNode::read(client, node).await?;
        Ok(Self { node: node.to_owned(), material, pods, is_partial })
    }

    /// Namespace and name of Pods with an `emptyDir`, whose data goes with them.
    pub const fn with_files(&self) -> &BTreeSet<(String, String)> {
        &self.pods.with_files
    }

    /// Why some Pods of the node may not be known.
    pub fn missing_pods(&self) -> Option<&str> {
        self.pods.missing.as_deref()
    }

    /// Why some of what decides where Pods and their claims can go may not be known.
    pub fn missing(&self) -> Vec<String> {
        let known = self.material.known();
        let kinds = [Kind::Nodes, Kind::Volumes, Kind::Claims, Kind::Classes];
        let unread = self.is_partial.then(|| "some objects could not be read".to_owned());
        kinds.into_iter().filter_map(|kind| known.missing(kind, "")).chain(unread).collect()
    }

    /// Plans the drain, and looks at the facts and the plan together.
    ///
    /// # Errors
    /// When there is no such node, or it is not known.
    pub fn planned<T>(&self, look: impl FnOnce(&DrainFacts<'_>, DrainPlan) -> T) -> anyhow::Result<T> {
        let known = self.material.known();
        let name = self.node.as_str();
        let node = match known.node(name) {
            Lookup::Found(node) => node,
            Lookup::Absent => bail!("there is no node/{name}"),
            Lookup::Unknown => {
                let why = known.missing(Kind::Nodes, "").unwrap_or_default();
                bail!("node/{name} was not found: {why}")
            }
        };
        let with_lists = WithLists(known);
        let facts = DrainFacts {
            // Of what could not all be read nothing is absent.
            view: if self.is_partial { known.view } else { &with_lists },
            node: &node,
            others: known.record.nodes().map(AsRef::as_ref).filter(|other| other.name() != name).collect(),
            // A Node that could not be read may be the one that would do.
            are_all: known.view.knows_all(binding::Kind::Nodes) && !self.is_partial,
            pods: self.pods.known.iter().map(AsRef::as_ref).collect(),
            budgets: known.record.knows(Kind::Budgets, "").then(|| known.record.budgets().iter().collect()),
            now: Timestamp::now(),
        };
        let mut plan = plan(&facts, self.pods.missing.iter().cloned().collect());
        // Kinds of which all that is asked for was found are not missed.
        if plan.count(|it| it == Outcome::NotKnown) > 0 {
            let decide = [Kind::Nodes, Kind::Volumes, Kind::Claims];
            plan.not_known.extend(decide.into_iter().filter_map(|kind| known.missing(kind, "")));
        }
        Ok(look(&facts, plan))
    }
}

/// The Pods of a node.
struct PodsOfNode {
    known: Vec<Arc<Pod>>,
    with_files: BTreeSet<(String, String)>,
    /// Why there may be more.
    missing: Option<String>,
}

impl PodsOfNode {
    async fn read(client: &Client, node: &str) -> anyhow::Result<Self> {
        let kind = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let read = list_objects(client, &kind, None, params, MOST_OBJECTS).await?;
        let mut missing = (!read.is_whole).then(|| "there are too many Pods, and only the first were read".to_owned());
        let (mut known, mut with_files) = (Vec::with_capacity(read.objects.len()), BTreeSet::new());
        for object in read.objects {
            let name = object.metadata.name.clone().unwrap_or_default();
            let object = serde_json::to_value(object)?;
            match Pod::deserialize(&object) {
                Ok(pod) => {
                    if has_files(&object) {
                        with_files.insert((pod.namespace().to_owned(), pod.display_name().to_owned()));
                    }
                    known.push(Arc::new(pod));
                }
                Err(error) => missing = Some(format!("pod/{name} could not be read: {error}")),
            }
        }
        Ok(Self { known, with_files, missing })
    }
}

fn has_files(pod: &Value) -> bool {
    let volumes = pod["spec"]["volumes"].as_array();
    volumes.into_iter().flatten().any(|volume| volume["emptyDir"].is_object())
}

/// The facts of decisions, which do not tell that a claim is absent, with what lists tell of claims.
struct WithLists<'a>(Known<'a>);

impl LayeredView for WithLists<'_> {
    fn beneath(&self) -> &dyn ClusterView {
        self.0.view
    }

    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        self.0.claim(namespace, name)
    }
}
