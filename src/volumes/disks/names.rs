//! Names of LocalDisks and their volumes.

use crate::crd::DiskIdentity;

/// The name of the LocalDisk, and of the volume, of a disk at a path of a node: the same each time that the same disk is found
/// there, and another one for another disk.
///
/// 128 bits, so that no two of any number of disks meet by chance; the parts are separated, so that none can run into the next.
#[must_use]
pub fn disk_name(node: &str, path: &str, class: &str, identity: &DiskIdentity) -> String {
    let (kind, mark) = identity.strongest().unwrap_or_default();
    let text = [node, path, class, kind, mark].join("\0");
    format!("disk-{:032x}", fnv1a_128(text.as_bytes()))
}

/// FNV-1a with 128 bits: stable forever, unlike the standard library's hash.
fn fnv1a_128(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        // Source: the test vectors of draft-eastlake-fnv.
        assert_eq!(fnv1a_128(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(fnv1a_128(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(fnv1a_128(b"foobar"), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }

    #[test]
    fn no_part_of_a_name_runs_into_the_next() {
        let none = DiskIdentity::default();
        let name = |node: &str, path: &str, class: &str| disk_name(node, path, class, &none);
        assert_ne!(name("1node", "vol", "sc"), name("node", "vol1", "sc"));
        assert_ne!(name("n", "/a", "bc"), name("n", "/ab", "c"));
        assert_eq!(name("n", "/a", "c"), name("n", "/a", "c"));
        assert_eq!(name("n", "/a", "c").len(), 37);
    }
}
