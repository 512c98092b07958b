//! What sig-storage-local-static-provisioner is configured with, and the names of its volumes: read, and turned into pools whose
//! rules find the same disks.

mod config;
mod import;
mod input;
mod nodes;
mod pattern;
mod problem;
mod rule;
mod settings;
mod value;

#[cfg(test)]
mod tests;

pub use config::{CLASS_KEYS, ClassConfig, Config, TOP_KEYS};
pub use import::{Import, import};
pub use input::Input;
pub use problem::{Problem, Problems};

/// The key of a ConfigMap by which it is known to be of this provisioner.
pub const CLASS_MAP: &str = "storageClassMap";

/// The name that the old provisioner gives to the volume of a disk: the name of the entry in its directory, of the Node and of the
/// class, as a number. They are joined without anything between them, so that different disks may have the same name:
/// (`vol1`, `1node`, `sc`) and (`vol11`, `node`, `sc`). Who finds a volume by it also looks at its path and its node.
#[must_use]
pub fn pv_name(file: &str, node: &str, class: &str) -> String {
    let bytes = [file, node, class].into_iter().flat_map(str::bytes);
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("local-pv-{hash:x}")
}
