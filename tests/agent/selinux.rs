//! Labels of SELinux: a volume has that of its base, and keeps its own wherever it is moved.

use std::fs;
use std::path::Path;

use latebind::agent::{Proof, Removal};
use latebind::crd::OnDelete;
use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::{Ground, order, removal};

const LABEL: &str = "security.selinux";
/// What containers may use, and what one Pod's containers have.
const OF_BASE: &str = "system_u:object_r:container_file_t:s0";
const OF_POD: &str = "system_u:object_r:container_file_t:s0:c1,c2";

fn label(path: &Path) -> String {
    let mut value = vec![0_u8; 256];
    let length = getxattr(path, LABEL, &mut value[..]).unwrap_or(0);
    String::from_utf8_lossy(&value[..length]).trim_end_matches('\0').to_owned()
}

fn is_enabled() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.ends_with("selinuxfs")))
        && Path::new("/sys/fs/selinux/enforce").exists()
}

#[test]
fn a_volume_has_the_label_of_its_base_and_keeps_its_own_when_it_is_moved() {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&order("before"), false).unwrap();
    // A kernel without SELinux stores the label as any other attribute, where the file system takes it.
    for path in ["", ".latebind/new", ".archive"] {
        fs::create_dir_all(ground.at(path)).unwrap();
        if let Err(errno) = setxattr(ground.at(path), LABEL, OF_BASE.as_bytes(), XattrFlags::empty()) {
            eprintln!("NOT TESTED: labels of SELinux: this kernel or file system does not take one ({errno})");
            return;
        }
    }
    base.make(&order("a"), false).unwrap();
    if is_enabled() {
        assert_eq!(label(&ground.at("pvc-a")), OF_BASE, "it is made in a directory with that label");
    } else {
        eprintln!("NOT TESTED: that a new volume has the label of its base: this kernel has no SELinux");
    }
    // What a container runtime does for a Pod.
    setxattr(ground.at("pvc-a"), LABEL, OF_POD.as_bytes(), XattrFlags::empty()).unwrap();
    base.make(&order("a"), true).unwrap();
    assert_eq!(label(&ground.at("pvc-a")), OF_POD, "looking at it changes nothing");
    let allowed = ground.allowed();
    let archive = Removal { on_delete: OnDelete::Archive, ..removal(&allowed) };
    assert_eq!(base.dispose(&order("a"), &archive).unwrap(), Proof::Moved);
    assert_eq!(label(&ground.at(".archive/a")), OF_POD);
}
