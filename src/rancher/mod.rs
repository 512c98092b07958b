//! What rancher's local-path provisioner and its relatives left behind or are configured with: read, translated, served.

mod account;
mod class;
mod config;
mod import;
mod input;
mod scripts;
mod shipped;
mod translate;

pub(crate) use account::Accounts;
pub use account::{Account, Loss, Outcome, lost};
pub use class::{parameters, translate_pattern};
pub use config::{Config, ConfigError, NodePaths};
pub use import::{Import, import, import_all};
pub use input::{CONFIG_MAP, Input, InputError};
pub use scripts::{OwnScript, own_scripts};
pub use shipped::Product;

/// The name of rancher's provisioner, unless it is given another.
pub const RANCHER: &str = "rancher.io/local-path";
/// The name of MicroK8s' provisioner; only its volumes are served, for deletion.
pub const MICROK8S: &str = "microk8s.io/hostpath";
/// Where MicroK8s' provisioner makes directories unless it is told another place.
/// Source: its manifest, environment variable `PV_DIR`.
const MICROK8S_DIRECTORY: &str = "/var/snap/microk8s/common/default-storage";

/// Whether a provisioner of this name may be adopted.
///
/// # Errors
/// Says why not: it is our own name, one of Kubernetes' own, or no name at all.
pub fn adoptable(name: &str) -> Result<(), &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err("that is no name of a provisioner");
    }
    if name == crate::volumes::PROVISIONER {
        return Err("latebind's own classes need not be adopted");
    }
    if name.starts_with("kubernetes.io/") {
        return Err("volumes of Kubernetes' own plugins are not directories, and cannot be adopted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_of_another_provisioner_may_be_adopted() {
        for name in
            [RANCHER, MICROK8S, "cluster.local/my-local-path-provisioner", "rancher.io/local-path-big", "example.com"]
        {
            assert_eq!(adoptable(name), Ok(()), "{name}");
        }
        for name in ["", "local.latebind.dev", "kubernetes.io/no-provisioner", "a b", "a,b"] {
            assert!(adoptable(name).is_err(), "{name}");
        }
    }
}
