use proptest::prelude::*;

use super::*;

/// A made-up `/sys` and `/dev`.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.0.path().join("dev/block")).unwrap();
        tree
    }

    /// A device at `devices/<directory>` with its files, each of a path and what is in it.
    fn device(&self, number: &str, directory: &str, files: &[(&str, &[u8])]) {
        let place = self.0.path().join("devices").join(directory);
        fs::create_dir_all(place.join("holders")).unwrap();
        for (file, bytes) in files {
            fs::create_dir_all(place.join(file).parent().unwrap()).unwrap();
            fs::write(place.join(file), bytes).unwrap();
        }
        let link = format!("../../devices/{directory}");
        std::os::unix::fs::symlink(link, self.0.path().join("dev/block").join(number)).unwrap();
    }

    fn get(&self, number: &str) -> BlockDevice {
        Sysfs::at(self.0.path(), "/dev").device(number).unwrap().unwrap()
    }

    fn marks(&self, number: &str) -> Vec<String> {
        let marks = self.get(number).marks();
        assert_eq!(marks.unread, Vec::<String>::new());
        marks.identity.marks().collect()
    }
}

#[test]
fn a_disk_and_its_partition_have_marks_of_their_own() {
    let tree = Tree::new();
    let page = [&[0, 0x80, 0, 8][..], b"  S3R1AL"].concat();
    tree.device(
        "8:16",
        "sdb",
        &[
            ("size", b"7814037168\n"),
            ("ro", b"0\n"),
            ("queue/rotational", b"1\n"),
            ("device/model", b"WDC WD40EFRX-68N \n"),
            ("device/wwid", b"naa.50014ee2\n"),
            ("device/vpd_pg80", &page),
        ],
    );
    tree.device(
        "8:17",
        "sdb/sdb1",
        &[("partition", b"1\n"), ("size", b"2048\n"), ("ro", b"1\n"), ("uevent", b"DEVNAME=sdb1\nPARTUUID=aa-01\n")],
    );
    let (disk, part) = (tree.get("8:16"), tree.get("8:17"));
    assert_eq!(disk.bytes().unwrap(), Some(4_000_787_030_016));
    assert_eq!((disk.is_read_only().unwrap(), part.is_read_only().unwrap()), (Some(false), Some(true)));
    assert_eq!((disk.rotates().unwrap(), part.rotates().unwrap()), (Some(true), Some(true)));
    assert_eq!(part.model().unwrap().as_deref(), Some("WDC WD40EFRX-68N"));
    assert_eq!((disk.partitions().unwrap(), part.partitions().unwrap()), (vec!["sdb1".to_owned()], vec![]));
    assert_eq!(tree.marks("8:16"), ["serial=S3R1AL", "wwn=naa.50014ee2"]);
    assert_eq!(tree.marks("8:17"), ["part=aa-01", "serial=S3R1AL-part1", "wwn=naa.50014ee2-part1"]);
}

#[test]
fn mapped_and_loop_devices_are_told_by_what_made_them() {
    let tree = Tree::new();
    tree.device("252:0", "dm-0", &[("dm/uuid", b"LVM-abcDEF\n"), ("holders/dm-5/x", b"")]);
    tree.device("252:1", "dm-1", &[("dm/uuid", b"CRYPT-LUKS2-1\n")]);
    tree.device("7:3", "loop3", &[("loop/backing_file", b"/images/a b\n")]);
    tree.device("259:0", "nvme0n1", &[("wwid", b"eui.01\n"), ("device/serial", b"N1   \n")]);
    assert_eq!(tree.marks("252:0"), ["lv=abcDEF"]);
    assert_eq!(tree.get("252:0").holders().unwrap(), ["dm-5"]);
    assert_eq!(tree.marks("252:1"), ["dm=CRYPT-LUKS2-1"]);
    assert_eq!(tree.marks("7:3"), ["loop=/images/a b"]);
    assert_eq!(tree.marks("259:0"), ["serial=N1", "wwn=eui.01"]);
}

#[test]
fn what_is_not_there_differs_from_what_cannot_be_read() {
    let tree = Tree::new();
    // A directory where a file should be cannot be read as one.
    tree.device("8:0", "sda", &[("device/wwid/x", b""), ("serial", b"1\n")]);
    let device = tree.get("8:0");
    let marks = device.marks();
    assert_eq!(marks.identity.marks().collect::<Vec<_>>(), ["serial=1"]);
    assert!(marks.unread.len() == 1 && marks.unread[0].contains("device/wwid"), "{:?}", marks.unread);
    assert_eq!(device.bytes().unwrap(), None);
    assert_eq!(device.rotates().unwrap(), None);
    let sysfs = Sysfs::at(tree.0.path(), "/dev");
    assert!(sysfs.device("9:9").unwrap().is_none());
    assert!(sysfs.loops().is_err(), "there is no list of devices");
    assert!(Sysfs::at("/missing", "/dev").device("8:0").is_err());
    fs::remove_dir(tree.0.path().join("devices/sda/holders")).unwrap();
    assert!(device.holders().is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), text in "\\PC{0,40}") {
        unit_serial(&bytes);
        partition_uuid(&text);
        partition_uuid(&format!("A=B\nPARTUUID={text}"));
        prop_assert!(flag(Some(text)).is_none_or(|_| true));
        plain(&bytes);
        let tree = Tree::new();
        let files = ["size", "ro", "wwid", "dm/uuid", "uevent", "device/vpd_pg80", "partition"];
        tree.device("1:1", "whole/x", &files.map(|file| (file, bytes.as_slice())));
        let device = tree.get("1:1");
        assert!(device.marks().identity.0.len() <= 6);
        prop_assert!(device.bytes().is_ok());
    }
}
