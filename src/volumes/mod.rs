//! What becomes of claims, volumes and directories: decided here, from facts that are known, known not to be, or not known.
//!
//! Nothing here waits, writes or reads a clock. Absence is not evidence: what is not known permits nothing, and a step that
//! destroys something carries the fact that permits it, which only the functions of this room can make.

mod adoption;
mod claim;
mod directory_order;
pub mod disks;
mod disposal;
mod order;
mod orphans;
mod parameters;
mod pattern;
mod persistent_volume;
mod placement;
mod request;
mod same_claim;
mod storage_view;
mod taken;
mod view;
mod volume;

pub use adoption::{AdoptionError, adoption};
pub use claim::{Asked, ClaimStep, Past, Patience, Publication, Refused, Request, plan as plan_claim};
pub use disposal::{
    DirectoryFacts, DirectoryStep, Kept, Order, Permit, awaits_agent, complaint, may_forget, names_maker,
    plan as plan_directory,
};
pub use order::{NodeOrder, Standing, standing};
pub use orphans::{OrphanFacts, kept as orphan_kept, order as orphan_order};
pub use parameters::{ClassParameters, HostPathType, ParameterError};
pub use pattern::{Names, PathPattern, PatternError};
pub use persistent_volume::{
    NODE, NODE_UID, VolumeOrder, local_volume, local_volume_from, persistent_volume, reclaim, seen, volume_name,
};
pub use placement::{Candidate, NodeObstacle, affinity_value, choose_path, usable_paths};
pub use request::{Refusal, bytes, refusal, waits_for_populator};
pub use same_claim::{Earlier, Existing, existing, is_superseded};
pub use storage_view::{Search, StorageView};
pub use taken::{CountByNode, Taken, TakenByPath};
pub use view::VolumeSet;
pub use volume::{Removal, VolumeStep, is_let_go, plan as plan_volume, removal};

pub use crate::model::{LOCAL_VOLUME, PROVISIONED_BY, PROVISIONER};
/// Finalizer of a volume that an external provisioner has to take away.
pub const VOLUME_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
