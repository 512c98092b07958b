//! What the machine must have, and how to get it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::image::BUSYBOX_PATH;

/// Something that is missing, with the command that brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What it is.
    pub what: String,
    /// The Debian package that has it, if one does.
    pub package: Option<&'static str>,
}

/// Programs of the nodes, with Debian's packages.
const PROGRAMS: [(&str, &str); 9] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
];

/// Where distributions put the CNI plugins.
const CNI: [&str; 4] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni", "/usr/lib64/cni"];

/// What a control plane without nodes lacks here.
#[must_use]
pub fn missing_for_control_plane() -> Vec<Missing> {
    let mut missing = Vec::new();
    if !has_go() && !crate::Version::from_env().is_ok_and(crate::Binaries::exist) {
        missing.push(Missing { what: "Go 1.21 or newer, from https://go.dev/dl/".to_owned(), package: None });
    }
    if find("setpriv").is_none() {
        missing.push(Missing { what: "setpriv".to_owned(), package: Some("util-linux") });
    }
    missing
}

/// What a cluster with nodes lacks here.
#[must_use]
pub fn missing_for_nodes() -> Vec<Missing> {
    let mut missing = missing_for_control_plane();
    if !rustix::process::geteuid().is_root() {
        missing.push(Missing { what: "root: nodes need namespaces, mounts and cgroups".to_owned(), package: None });
    }
    for (program, package) in PROGRAMS {
        if find(program).is_none() && !missing.iter().any(|it| it.package == Some(package)) {
            missing.push(Missing { what: program.to_owned(), package: Some(package) });
        }
    }
    if cni_plugins().is_none() {
        missing.push(Missing { what: "the CNI plugins".to_owned(), package: Some("containernetworking-plugins") });
    }
    if !has_static_busybox() {
        missing.push(Missing { what: "a static busybox".to_owned(), package: Some("busybox-static") });
    }
    missing
}

/// Programs that make file systems for tests, with Debian's packages. Without one its tests say that they are skipped.
const FILE_SYSTEMS: [(&str, &str); 4] =
    [("mkfs.ext4", "e2fsprogs"), ("mkfs.xfs", "xfsprogs"), ("mkfs.btrfs", "btrfs-progs"), ("bindfs", "bindfs")];

/// What tests of disks lack here.
#[must_use]
pub fn missing_for_disks() -> Vec<Missing> {
    let lacking = FILE_SYSTEMS.iter().filter(|(program, _)| find(program).is_none());
    lacking.map(|(program, package)| Missing { what: (*program).to_owned(), package: Some(package) }).collect()
}

/// An error in one line when nodes cannot run here. As root on Debian the missing packages are installed instead.
pub(crate) fn for_nodes() -> Result<()> {
    let mut missing = missing_for_nodes();
    if !missing.is_empty() && install(&missing)? {
        missing = missing_for_nodes();
    }
    ensure!(missing.is_empty(), explain(&missing));
    Ok(())
}

/// Installs what Debian packages bring. Answers whether it installed anything.
pub fn install(missing: &[Missing]) -> Result<bool> {
    let packages: Vec<&str> = missing.iter().filter_map(|it| it.package).collect();
    if packages.is_empty() || !rustix::process::geteuid().is_root() || find("apt-get").is_none() {
        return Ok(false);
    }
    eprintln!("installing {}", packages.join(" "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "Dpkg::Use-Pty=0"]).args(arguments);
        // Packages may start services on installation; a test's needs are no reason to run any on this machine.
        command.env("RUNLEVEL", "1").stdout(std::io::stderr()).status().is_ok_and(|status| status.success())
    };
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&packages);
    // The package lists of a fresh machine are empty or old.
    let installed = apt(&arguments) || (apt(&["update"]) && apt(&arguments));
    if !installed {
        bail!("apt-get could not install {}", packages.join(" "));
    }
    Ok(true)
}

/// One line that says what is missing and which command brings it.
#[must_use]
pub fn explain(missing: &[Missing]) -> String {
    let what: Vec<&str> = missing.iter().map(|it| it.what.as_str()).collect();
    let packages: Vec<&str> = missing.iter().filter_map(|it| it.package).collect();
    let mut line = format!("missing here: {}", what.join(", "));
    if !packages.is_empty() {
        line.push_str("; install with: sudo apt-get install ");
        line.push_str(&packages.join(" "));
    }
    line
}

/// The directory of the CNI plugins.
pub(crate) fn cni_plugins() -> Option<PathBuf> {
    CNI.iter().map(PathBuf::from).find(|path| path.join("ptp").is_file() && path.join("host-local").is_file())
}

fn has_static_busybox() -> bool {
    fs::read(BUSYBOX_PATH).ok().and_then(|elf| is_static(&elf)).unwrap_or(false)
}

/// Whether a 64-bit little-endian ELF file asks for no interpreter; `None` when it is no such file.
pub(crate) fn is_static(elf: &[u8]) -> Option<bool> {
    const INTERPRETER: [u8; 4] = 3_u32.to_le_bytes();
    let word = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let table = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (word(54)?, word(56)?);
    let kinds = (0..count).map(|index| elf.get(table + index * size..table + index * size + 4));
    elf.starts_with(b"\x7fELF\x02\x01").then(|| kinds.flatten().all(|kind| kind != INTERPRETER))
}

fn has_go() -> bool {
    Command::new("go").arg("version").output().is_ok_and(|output| output.status.success())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps administration programs out of an ordinary user's PATH.
    let directories = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    directories.map(|directory| directory.join(program)).find(|candidate| Path::is_file(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_in_one_line_with_the_command_that_brings_it() {
        let missing = [
            Missing { what: "runc".to_owned(), package: Some("runc") },
            Missing { what: "nft".to_owned(), package: Some("nftables") },
        ];
        assert_eq!(explain(&missing), "missing here: runc, nft; install with: sudo apt-get install runc nftables");
    }
}
