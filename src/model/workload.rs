//! Workloads: objects that hold a Pod template.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Deserialize;
use serde_json::Value;

use super::metadata::{Metadata, metadata_or_default};
use super::pod::{Pod, PodSpec, PodStatus};
use super::storage::Claim;
use super::{Object, null_as_default, object, object_or_default};

/// Kinds whose Pod template is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// `apps` Deployment.
    Deployment,
    /// `apps` ReplicaSet.
    ReplicaSet,
    /// `apps` StatefulSet.
    StatefulSet,
    /// `apps` DaemonSet.
    DaemonSet,
    /// `batch` Job.
    Job,
    /// `batch` CronJob.
    CronJob,
    /// Core ReplicationController.
    ReplicationController,
    /// Core PodTemplate.
    PodTemplate,
}

impl WorkloadKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Deployment,
        Self::ReplicaSet,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::Job,
        Self::CronJob,
        Self::ReplicationController,
        Self::PodTemplate,
    ];

    /// The kind's API group and name.
    #[must_use]
    pub const fn group_and_kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Deployment => ("apps", "Deployment"),
            Self::ReplicaSet => ("apps", "ReplicaSet"),
            Self::StatefulSet => ("apps", "StatefulSet"),
            Self::DaemonSet => ("apps", "DaemonSet"),
            Self::Job => ("batch", "Job"),
            Self::CronJob => ("batch", "CronJob"),
            Self::ReplicationController => ("", "ReplicationController"),
            Self::PodTemplate => ("", "PodTemplate"),
        }
    }

    /// The kind of an API group and name, whatever the version.
    #[must_use]
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|candidate| candidate.group_and_kind() == (group, kind))
    }

    /// Where the Pod template stands.
    #[must_use]
    pub const fn template_path(self) -> &'static [&'static str] {
        match self {
            Self::CronJob => &["spec", "jobTemplate", "spec", "template"],
            Self::PodTemplate => &["template"],
            _ => &["spec", "template"],
        }
    }
}

/// A workload: its name, its Pod template, and a StatefulSet's claim templates.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The kind.
    pub kind: WorkloadKind,
    /// Name, namespace, annotations.
    pub metadata: Metadata,
    /// The template; absent where the object leaves it out.
    pub template: Option<PodTemplate>,
    /// Claims that each Pod of a StatefulSet gets.
    pub claim_templates: Vec<Claim>,
    /// How many Pods a StatefulSet has.
    pub replicas: u32,
    /// It is to have no Pods for now: no replicas, or suspended.
    pub is_idle: bool,
    /// The first ordinal of a StatefulSet.
    pub first_ordinal: u32,
}

/// A Pod template.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodTemplate {
    /// Labels and annotations of the Pods.
    #[serde(default, deserialize_with = "metadata_or_default")]
    pub metadata: Metadata,
    /// `spec` of the Pods.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: PodSpec,
}

/// Why an object is not a workload that can be read.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// A field has a type that the API server would refuse too.
    #[error("{path}: {source}")]
    Field {
        /// Where the field stands.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

#[derive(Default, Deserialize)]
struct StatefulSetOrdinals {
    #[serde(default, deserialize_with = "null_as_default")]
    start: u32,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatefulSetSpec {
    #[serde(default)]
    replicas: Option<u32>,
    #[serde(default, deserialize_with = "null_as_default")]
    ordinals: StatefulSetOrdinals,
    #[serde(default, deserialize_with = "null_as_default")]
    volume_claim_templates: Vec<Claim>,
}

/// An object of most kinds, and its `spec`.
#[derive(Deserialize)]
#[serde(bound = "S: Deserialize<'de> + Default")]
struct Written<S> {
    #[serde(default, deserialize_with = "metadata_or_default")]
    metadata: Metadata,
    #[serde(default, deserialize_with = "object_or_default")]
    spec: S,
}

#[derive(Deserialize)]
struct WrittenTemplate {
    #[serde(default, deserialize_with = "metadata_or_default")]
    metadata: Metadata,
    #[serde(default, deserialize_with = "object")]
    template: Option<PodTemplate>,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default, deserialize_with = "object")]
    template: Option<PodTemplate>,
    #[serde(default)]
    replicas: Option<i64>,
    #[serde(default)]
    suspend: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SetSpec {
    #[serde(default, deserialize_with = "object")]
    template: Option<PodTemplate>,
    #[serde(default)]
    replicas: Option<u32>,
    #[serde(default, deserialize_with = "null_as_default")]
    ordinals: StatefulSetOrdinals,
    #[serde(default, deserialize_with = "null_as_default")]
    volume_claim_templates: Vec<Claim>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CronJobSpec {
    #[serde(default, deserialize_with = "object_or_default")]
    job_template: JobTemplate,
    #[serde(default)]
    suspend: Option<bool>,
}

#[derive(Default, Deserialize)]
struct JobTemplate {
    #[serde(default, deserialize_with = "object_or_default")]
    spec: Spec,
}

impl Workload {
    /// The same as [`Self::read`], from the JSON of an object: what nobody reads in it is passed over, and takes no memory.
    ///
    /// # Errors
    /// When it is no JSON, or a field that is read has a type that the API server would refuse too.
    pub fn parse(kind: WorkloadKind, json: &str) -> Result<Self, serde_json::Error> {
        let mut workload = Self {
            kind,
            metadata: Metadata::default(),
            template: None,
            claim_templates: Vec::new(),
            replicas: 1,
            is_idle: false,
            first_ordinal: 0,
        };
        match kind {
            WorkloadKind::PodTemplate => {
                let Object(written) = serde_json::from_str::<Object<WrittenTemplate>>(json)?;
                (workload.metadata, workload.template) = (written.metadata, written.template);
            }
            WorkloadKind::CronJob => {
                let Object(Written { metadata, spec }) = serde_json::from_str::<Object<Written<CronJobSpec>>>(json)?;
                (workload.metadata, workload.template) = (metadata, spec.job_template.spec.template);
                workload.is_idle = spec.suspend == Some(true);
            }
            WorkloadKind::StatefulSet => {
                let Object(Written { metadata, spec }) = serde_json::from_str::<Object<Written<SetSpec>>>(json)?;
                (workload.metadata, workload.template) = (metadata, spec.template);
                workload.claim_templates = spec.volume_claim_templates;
                workload.replicas = spec.replicas.unwrap_or(1);
                workload.is_idle = spec.replicas == Some(0);
                workload.first_ordinal = spec.ordinals.start;
            }
            WorkloadKind::Deployment
            | WorkloadKind::ReplicaSet
            | WorkloadKind::DaemonSet
            | WorkloadKind::Job
            | WorkloadKind::ReplicationController => {
                let Object(Written { metadata, spec }) = serde_json::from_str::<Object<Written<Spec>>>(json)?;
                (workload.metadata, workload.template) = (metadata, spec.template);
                workload.is_idle = spec.replicas == Some(0) || spec.suspend == Some(true);
            }
        }
        Ok(workload)
    }

    /// Reads a workload of a known kind.
    ///
    /// # Errors
    /// When a field that is read has a type that the API server would refuse too.
    pub fn read(kind: WorkloadKind, object: &Value) -> Result<Self, WorkloadError> {
        let metadata = read_at(object, &["metadata"])?;
        let template: Option<PodTemplate> = read_at(object, kind.template_path())?;
        let set = if kind == WorkloadKind::StatefulSet {
            read_at::<StatefulSetSpec>(object, &["spec"])?
        } else {
            StatefulSetSpec::default()
        };
        let is_idle = object.pointer("/spec/replicas") == Some(&Value::from(0))
            || object.pointer("/spec/suspend") == Some(&Value::Bool(true));
        Ok(Self {
            kind,
            metadata,
            template,
            is_idle,
            claim_templates: set.volume_claim_templates,
            replicas: set.replicas.unwrap_or(1),
            first_ordinal: set.ordinals.start,
        })
    }

    /// The workload's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name()
    }

    /// The workload's namespace; `default` where none is given.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata.namespace()
    }

    /// The name of the claim that a StatefulSet's controller makes from a template for one Pod.
    /// Source: `pkg/controller/statefulset/stateful_set_utils.go`, `getPersistentVolumeClaimName`.
    #[must_use]
    pub fn claim_name(&self, template: &Claim, ordinal: u32) -> String {
        format!("{}-{}-{ordinal}", template.name(), self.name())
    }

    /// A Pod as the workload's controller would make it, without the claims of a StatefulSet.
    #[must_use]
    pub fn pod(&self) -> Option<Pod> {
        let template = self.template.as_ref()?;
        let owner = OwnerReference {
            kind: self.kind.group_and_kind().1.to_owned(),
            name: self.name().to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        let metadata = Metadata {
            generate_name: Some(format!("{}-", self.name()).into()),
            namespace: self.metadata.namespace.clone(),
            owner_references: Some(vec![owner]),
            labels: template.metadata.labels.clone(),
            annotations: template.metadata.annotations.clone(),
            ..Metadata::default()
        };
        let mut spec = template.spec.clone();
        if self.kind == WorkloadKind::DaemonSet {
            spec.tolerations = spec.tolerations.iter().cloned().chain(daemon_tolerations(spec.host_network)).collect();
            if let Some(node) = spec.node_name.clone().filter(|name| !name.is_empty()) {
                let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
                affinity.required = Some(daemon_node_affinity(affinity.required.take(), &node));
            }
        }
        Some(Pod { metadata, spec, status: PodStatus::default() })
    }
}

/// What the controller of a DaemonSet lets its Pods tolerate, besides what the template says.
/// Source: `pkg/controller/daemon/util/daemonset_util.go`, `AddOrUpdateDaemonPodTolerations`.
pub fn daemon_tolerations(host_network: bool) -> impl Iterator<Item = Toleration> {
    const TAINTS: [(&str, &str); 7] = [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
        ("node.kubernetes.io/network-unavailable", "NoSchedule"),
    ];
    let count = if host_network { TAINTS.len() } else { TAINTS.len() - 1 };
    TAINTS.into_iter().take(count).map(|(key, effect)| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    })
}

/// What the controller of a DaemonSet makes of the required node affinity of its Pod for a node: the node's name stands in
/// every term, in place of other fields.
/// Source: `pkg/controller/daemon/util/daemonset_util.go`, `ReplaceDaemonSetPodNodeNameNodeAffinity`.
fn daemon_node_affinity(required: Option<NodeSelector>, node_name: &str) -> NodeSelector {
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node_name.to_owned()]),
    };
    let any = || NodeSelector { node_selector_terms: vec![NodeSelectorTerm::default()] };
    let mut selector = required.unwrap_or_else(any);
    for term in &mut selector.node_selector_terms {
        term.match_fields = Some(vec![by_name.clone()]);
    }
    selector
}

/// The value at a path, read into a type; the type's default where the path ends early or in `null`.
fn read_at<T>(object: &Value, path: &[&str]) -> Result<T, WorkloadError>
where
    T: for<'de> Deserialize<'de> + Default,
{
    let found = path.iter().try_fold(object, |value, key| value.get(key));
    match found {
        None | Some(Value::Null) => Ok(T::default()),
        Some(value) => T::deserialize(value).map_err(|source| WorkloadError::Field { path: path.join("."), source }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_from_text_is_what_is_read_from_a_tree() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": "n", "paddings": [{}, {}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}], "containers": [{"name": "x"}]}});
        let job = json!({"spec": {"template": template, "suspend": true}});
        let set = json!({"replicas": 3, "ordinals": {"start": 5}, "template": template,
            "volumeClaimTemplates": [{"metadata": {"name": "t"}, "spec": {"storageClassName": "s"}}]});
        let metadata = json!({"name": "w", "namespace": "n"});
        let replicated = [
            json!({"metadata": metadata, "spec": {"template": template, "replicas": 0, "strategy": {}}}),
            json!({"metadata": metadata, "spec": {"template": template, "replicas": 2}}),
            json!({"metadata": metadata, "spec": {"template": template, "suspend": true}}),
        ];
        let jobs = [true, false].map(|suspend| json!({"spec": {"jobTemplate": job, "suspend": suspend}}));
        let sets = [
            json!({"metadata": metadata, "spec": set}),
            json!({"metadata": metadata, "spec": {"replicas": 0, "ordinals": null, "volumeClaimTemplates": null}}),
        ];
        let pod_templates = [json!({"metadata": metadata, "template": template})];
        let nothing = [json!({"metadata": null, "spec": null, "template": null}), json!({})];
        for kind in WorkloadKind::ALL {
            let objects = match kind {
                WorkloadKind::CronJob => &jobs[..],
                WorkloadKind::StatefulSet => &sets,
                WorkloadKind::PodTemplate => &pod_templates,
                _ => &replicated,
            };
            for object in objects.iter().chain(&nothing) {
                let tree = Workload::read(kind, object).unwrap();
                let text = Workload::parse(kind, &object.to_string()).unwrap();
                assert_eq!(format!("{text:?}"), format!("{tree:?}"), "{kind:?} {object}");
            }
        }
    }

    #[test]
    fn what_the_api_server_would_refuse_is_refused() {
        for object in [
            json!([]),
            json!({"metadata": 1}),
            json!({"spec": []}),
            json!({"spec": {"template": [1]}}),
            json!({"spec": {"template": {"spec": {"containers": {}}}}}),
            json!({"spec": {"replicas": "many"}}),
        ] {
            assert!(Workload::parse(WorkloadKind::StatefulSet, &object.to_string()).is_err(), "{object}");
            assert!(Workload::parse(WorkloadKind::Deployment, &object.to_string()).is_err(), "{object}");
        }
    }
}
