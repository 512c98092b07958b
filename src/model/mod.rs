//! The few fields of Kubernetes objects that decisions read.
//!
//! Types are narrow on purpose: parsing a Pod costs a fraction of the full type, a watch cache of them stays small,
//! and a field that a newer API server adds cannot break them. Objects are never written back through these types.
//! `null` stands for "absent" wherever the API server reads it so.

mod budget;
mod device;
mod event;
mod evicted;
mod map;
mod metadata;
mod node;
mod path;
mod pod;
mod pod_on_node;
mod quantity;
pub mod selector;
mod storage;
mod text;
mod wire;
mod workload;

pub use budget::{Budget, BudgetSpec, BudgetStatus};
pub use device::{
    Allocation, MOST_RESERVED_FOR, PodResourceClaim, PodResourceClaimStatus, Reservation, ResourceClaim,
    ResourceClaimStatus, ResourceClaimTemplate,
};
pub use event::{Event, EventObject, EventSeries, EventSource};
pub use evicted::{EvictedPod, OtherReplicas};
pub use map::{Labels, Map};
pub use metadata::{Metadata, is_object_name};
pub(crate) use node::CONTROL_PLANE;
pub use node::{
    CsiDriver, CsiDriverSpec, CsiNode, CsiNodeDriver, CsiNodeSpec, CsiVolumeLimit, Namespace, Node, NodeCondition,
    NodeSpec, NodeStatus, Repels,
};
pub use path::{Relation, directories_around, plain_path, rest_beneath};
pub use pod::{
    Affinity, ClaimSource, Container, EphemeralSource, NodeAffinity, Pod, PodAffinity, PodAffinityTerm, PodSpec,
    PodStatus, PodVolume, VolumeReference, ordinal,
};
pub use pod_on_node::{ClaimVolume, OnlyAntiAffinity, PodOnNode, PodOnNodeSpec};
pub use quantity::{ParseQuantityError, Quantity, ResourceAmounts};
pub use storage::{
    Claim, ClaimReference, ClaimSpec, ClaimStatus, ClaimTemplate, ClaimTemplateMetadata, Class, CsiSource, DataSource,
    PathSource, SelectionMark, StorageCapacity, Volume, VolumeSpec, VolumeStatus,
};
pub use text::Text;
pub(crate) use text::Texts;
pub use wire::{Identity, ModelObject, OrMalformed, Wire, reference};
pub use workload::{PodTemplate, Workload, WorkloadError, WorkloadKind, daemon_tolerations};

use std::fmt;
use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

/// Annotation of a claim by which the scheduler orders a volume for a node.
/// Source: `component-helpers/storage/volume/pv_helpers.go`, `AnnSelectedNode`.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Label that the kubelet sets to the host name; usually, not always, the node's name.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
/// Taint by which an administrator says that a node is down for certain.
/// Source: `api/core/v1/well_known_taints.go`, `TaintNodeOutOfService`.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Provisioner name of classes whose volumes an administrator makes by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The name under which classes ask for latebind. Without a slash, so that a CSIDriver object may carry it.
pub const PROVISIONER: &str = "local.latebind.dev";
/// Parameter of a class of latebind's: Pods of one node may share its volumes, whatever access mode their claim asks for.
pub const SHARED_ON_NODE: &str = "sharedOnNode";
/// Parameter of a class of latebind's: the path of its pool is the same directory on every node.
pub const SHARED_FILE_SYSTEM: &str = "sharedFileSystem";
/// Annotations of a claim: who is to make its volume. The controller manager writes both before it lets anybody begin.
/// Source: `pkg/controller/volume/persistentvolume/pv_controller.go`, `setClaimProvisioner`.
pub const CLAIM_PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// Annotation of a volume: who made it. Kubernetes leaves its deletion to that one.
/// Source: `component-helpers/storage/volume/pv_helpers.go`, `AnnDynamicallyProvisioned`.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotation of a volume of latebind's: what becomes of its directory when it is deleted, where that is not its end.
pub const ON_DELETE: &str = "latebind.dev/on-delete";
/// Annotation of a volume: its LocalVolume.
pub const LOCAL_VOLUME: &str = "latebind.dev/local-volume";
/// Annotation that names the class of a claim or volume and wins over `storageClassName`.
pub const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Annotations that mark a class as the default one.
pub const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// Annotation of a class of rancher's: whether its volumes are of type `local` or `hostPath`.
/// Source: local-path-provisioner, `provisioner.go`.
pub const VOLUME_TYPE: &str = "defaultVolumeType";
/// Annotations of a class of rancher's that stand for parameters of the same name.
pub const CLASS_PARAMETERS: [&str; 4] = ["userPattern", "groupPattern", "permPattern", "allowUnsafePathPattern"];
/// Annotation in which rancher's provisioner wrote down the node of a volume. MicroK8s' own annotation names the node that
/// the provisioner ran on, which need not be that of the volume.
pub const VOLUME_NODE: &str = "local.path.provisioner/selected-node";
/// Annotation of a CSINode: the volume plugins of Kubernetes whose work a CSI driver does there, separated by commas.
/// Source: `api/core/v1/annotation_key_constants.go`, `MigratedPluginsAnnotationKey`.
pub const MIGRATED_PLUGINS: &str = "storage.alpha.kubernetes.io/migrated-plugins";
/// Annotation that only a kubelet sets, on the API server's image of a static Pod.
pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";
/// Namespace annotation that the admission plugin `PodNodeSelector` merges into every Pod.
pub const NAMESPACE_NODE_SELECTOR: &str = "scheduler.alpha.kubernetes.io/node-selector";
/// Annotation of a claim: UID of the Pod for whose sake latebind selected its node, and that node; [`SelectionMark`].
pub const SELECTED_BY: &str = "latebind.dev/selected-node-by";
/// Annotation of a claim: how often latebind has selected a node for that Pod, from the second time on.
pub const SELECTIONS: &str = "latebind.dev/selected-node-count";
/// Annotation of a claim: UID of the Pod for whose sake latebind selects no node any more, and why.
pub const GAVE_UP: &str = "latebind.dev/gave-up";
/// Every annotation by which latebind marks a claim.
pub const CLAIM_MARKS: [&str; 3] = [SELECTED_BY, SELECTIONS, GAVE_UP];
/// Namespace label that makes admission stricter there than elsewhere.
pub const MODE_LABEL: &str = "latebind.dev/mode";
/// Namespace label that takes a namespace out: `disabled`. The API server reads it for the webhook, rescue for itself.
pub const WEBHOOK_LABEL: &str = "latebind.dev/webhook";
/// Namespace label that keeps the rescue loop from writing there: `disabled`.
pub const RESCUE_LABEL: &str = "latebind.dev/rescue";
/// Namespace label that holds its name, on every namespace that an API server has stored.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Annotation by which an object accepts findings, each with a reason.
pub const IGNORE: &str = "latebind.dev/ignore";
/// Annotation of a Node: what it is drained for, `reboot` or `retire`.
pub const DRAIN_INTENT: &str = "latebind.dev/drain";
/// Annotation of a class, a volume, a namespace or a claim: what an eviction does that leaves a volume behind.
pub const DRAIN_POLICY: &str = "latebind.dev/drain-policy";
/// Annotation of a Node or a claim: who approves of evictions that a drain policy keeps back.
pub const DRAIN_APPROVED_BY: &str = "latebind.dev/drain-approved-by";
/// Annotation beside it: until when, as RFC 3339 has it. Without it nothing is approved.
pub const DRAIN_APPROVED_UNTIL: &str = "latebind.dev/drain-approved-until";
/// Annotation of a class, a volume, a namespace or a claim: what is done about a claim whose node is gone.
pub const LOST_NODE_POLICY: &str = "latebind.dev/lost-node-policy";
/// Annotation of a volume that no node reaches: for how many seconds that was observed.
pub const LOST_SECONDS: &str = "latebind.dev/node-lost-seconds";
/// Label of a volume that was left on its node when its claim was let go. A label's value is too short for the names of some nodes.
pub const RETIRED: &str = "latebind.dev/retired";
/// Annotation of such a volume: the node.
pub const RETIRED_FROM: &str = "latebind.dev/retired-from";
/// Annotations of such a volume: the claim that was let go, as `namespace/name`, and its UID. A volume that was given to another claim
/// since is not marked for that one.
pub const RETIRED_CLAIM: &str = "latebind.dev/retired-claim";
/// See [`RETIRED_CLAIM`].
pub const RETIRED_CLAIM_UID: &str = "latebind.dev/retired-claim-uid";
/// Annotation of such a volume: the claim as it is to be made anew, in JSON, until it is.
pub const REMAKE_CLAIM: &str = "latebind.dev/remake-claim";
/// Annotation in which latebind keeps the node name that a rewritten Pod came with.
pub const ORIGINAL_NODE_NAME: &str = "latebind.dev/original-node-name";

/// The value of a key in any case, as Go's decoder finds it; of several the last one counts.
#[must_use]
pub fn field_in_any_case<'a>(object: &'a serde_json::Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.iter().rev().find(|(found, _)| found.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

/// Reads `null` as the type's default, as Go's decoder does.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// An object of the API. serde would also take a list for a struct, its items for fields in order; the API server does
/// not, and a patch for what stands in such a list would not apply.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

/// Reads an object; `null` as none.
pub(crate) fn object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|object| object.0))
}

/// The same for an object that most do not have: it costs the others no room.
pub(crate) fn boxed_object<'de, D, T>(deserializer: D) -> Result<Option<Box<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(object(deserializer)?.map(Box::new))
}

/// Reads an object; `null` as the type's default.
pub(crate) fn object_or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    object(deserializer).map(Option::unwrap_or_default)
}

/// Reads a list of objects; `null` as an empty one.
pub(crate) fn objects<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = Option::<Vec<Object<T>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(objects.into_iter().map(|object| object.0).collect())
}
