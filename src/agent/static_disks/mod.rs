//! Static disks of one node: mounts and devices that become volumes as they are.
//!
//! What is at the entries of a directory is looked at, and what is on a disk is removed, by system calls alone: nothing here knows
//! Kubernetes. What cannot be read is not known, and what is not known permits neither to offer a disk nor to clean it.

mod clean_device;
mod clean_files;
mod discovery;
mod duplicates;
mod entry;
mod fault;
mod in_use;
mod presence;
mod reset_root;
mod same;
mod scope;
mod signatures;
mod sysfs;

pub use clean_device::{DeviceSlice, clean_device, verify_device};
pub use clean_files::{DiskToClean, Slice, clean_files};
pub use discovery::{Rule, look};
pub use duplicates::mark_duplicates;
pub use fault::{DiskFault, Property};
pub use presence::presence;
pub use scope::DiskScope;
pub use sysfs::{BlockDevice, Marks, Sysfs};

#[cfg(test)]
mod tests;
