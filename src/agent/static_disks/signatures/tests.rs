use std::io::Cursor;

use proptest::prelude::*;

use super::*;

const MIB: usize = 1 << 20;

fn found(bytes: &[u8]) -> Option<&'static str> {
    find(&mut Cursor::new(bytes), bytes.len() as u64).unwrap()
}

#[test]
fn every_signature_is_found_at_its_place() {
    // No whole number of blocks: what is at the end is at the end of whole blocks.
    let size = 3 * MIB + 512;
    for signature in SIGNATURES {
        let mut device = vec![0; size];
        let at = usize::try_from(offset(signature.at, size as u64).unwrap()).unwrap();
        device[at..at + signature.bytes.len()].copy_from_slice(signature.bytes);
        assert_eq!(found(&device), Some(signature.name), "at {at}");
    }
}

#[test]
fn partitions_and_pools_are_found_and_an_empty_boot_sector_is_nothing() {
    let mut device = vec![0; 3 * MIB];
    assert_eq!(found(&device), None);
    device[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(found(&device), None);
    device[450] = 0x83;
    assert_eq!(found(&device), Some("an MBR partition table"));
    for at in [128 * 1024 + 1024, 3 * MIB - 1024] {
        let mut device = vec![0; 3 * MIB];
        device[at..at + 8].copy_from_slice(&ZFS_UBERBLOCK.to_le_bytes());
        assert_eq!(found(&device), Some("a member of a ZFS pool"), "at {at}");
    }
}

#[test]
fn a_device_that_cannot_be_read_is_not_empty() {
    // It ends before its size.
    assert!(find(&mut Cursor::new(vec![0; 512]), 1 << 20).is_err());
    assert_eq!(found(&[]), None);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000), size in any::<u64>()) {
        found(&bytes);
        let _outcome = find(&mut Cursor::new(&bytes), size);
    }
}
