//! Makes volumes for claims: chooses the node where that is ours to choose, orders the directory from the node's
//! agent, makes the PersistentVolume, and takes everything back when the volume is released.

mod claim;
mod claims;
mod context;
mod disposal;
mod events;
mod metrics;
mod orphans;
mod parameters;
mod pattern;
mod placement;
mod recent;
mod run;
mod volume;
mod volumes;

pub use claim::{Refusal, refusal};
pub use context::Options;
pub use disposal::{ClaimFact, Verdict, VolumeFact, disposal};
pub use parameters::{ClassParameters, ParameterError};
pub use pattern::{Names, PathPattern, PatternError};
pub use placement::{Candidate, NodeObstacle, affinity_value, choose_path};
pub use run::Provisioner;
pub use volume::{
    LOCAL_VOLUME, NODE, NODE_UID, VolumeOrder, build, local_volume, reclaim, recovered, serves, volume_name,
};

pub use crate::model::{PROVISIONED_BY, PROVISIONER};
/// Finalizer of a volume that an external provisioner has to take away.
pub const VOLUME_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
