//! Disks that are volumes, each as a whole: which are offered, when one is cleaned, and when it is offered again.
//!
//! [`offer`] decides about what an agent has found, [`plan`] about a disk that is known, from what the caches say. What destroys or
//! takes away is decided once more from what the API server answers at that moment.

#[cfg(test)]
mod histories;
mod names;
mod offer;
mod permit;
mod persistent_volume;
mod plan;
#[cfg(test)]
mod tests;

pub use names::disk_name;
pub use offer::{Offer, new_disk, offer};
pub use permit::{
    CleanPermit, LiveFacts, Stays, permits_cleaning, permits_publication, permits_release, permits_withdrawal,
};
pub use persistent_volume::{VolumeChange, disk_volume, quantity, volume_change};
pub use plan::{DiskFacts, DiskRecord, DiskStep, adoptable, at_its_place, is_of, neighbour, plan, record_of};

/// Who made the volume of a disk, in the annotation `pv.kubernetes.io/provisioned-by`: Kubernetes leaves its deletion to that one.
pub const DISK_PROVISIONER: &str = "disks.latebind.dev";
/// What the name of sig-storage-local-static-provisioner begins with; the rest names the node.
pub const STATIC_PROVISIONER: &str = "local-volume-provisioner-";
/// Annotation of a volume: its LocalDisk.
pub const LOCAL_DISK: &str = "latebind.dev/local-disk";
