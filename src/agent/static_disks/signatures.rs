//! What a device holds, by the bytes that file systems, arrays and partition tables put at known places.

use std::io::{self, Read, Seek, SeekFrom};

/// Bytes at a place of a device.
struct Signature {
    /// What puts them there.
    name: &'static str,
    at: At,
    bytes: &'static [u8],
}

/// Where they are.
#[derive(Clone, Copy)]
enum At {
    /// So many bytes from the start.
    Start(u64),
    /// In the last blocks of so many bytes: at the start of the block that begins this far before the end, the device's size
    /// being rounded down to whole blocks.
    End { back: u64, block: u64 },
}

const fn at(name: &'static str, offset: u64, bytes: &'static [u8]) -> Signature {
    Signature { name, at: At::Start(offset), bytes }
}

const fn end(name: &'static str, back: u64, block: u64, bytes: &'static [u8]) -> Signature {
    Signature { name, at: At::End { back, block }, bytes }
}

const MD: &[u8] = &0xa92b_4efc_u32.to_le_bytes();
const BCACHE: &[u8] = &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81];

const SIGNATURES: &[Signature] = &[
    at("a GPT partition table", 512, b"EFI PART"),
    at("a GPT partition table", 4096, b"EFI PART"),
    end("the copy of a GPT partition table", 512, 512, b"EFI PART"),
    end("the copy of a GPT partition table", 4096, 4096, b"EFI PART"),
    at("an ext2, ext3 or ext4 file system", 1080, &[0x53, 0xef]),
    at("an XFS file system", 0, b"XFSB"),
    at("a btrfs file system", 0x1_0040, b"_BHRfS_M"),
    at("an F2FS file system", 1024, &0xf2f5_2010_u32.to_le_bytes()),
    at("an NTFS file system", 3, b"NTFS    "),
    at("an exFAT file system", 3, b"EXFAT   "),
    at("a FAT file system", 54, b"FAT"),
    at("a FAT file system", 82, b"FAT32"),
    at("an ISO 9660 file system", 32769, b"CD001"),
    at("a squashfs file system", 0, b"hsqs"),
    at("a physical volume of LVM", 0, b"LABELONE"),
    at("a physical volume of LVM", 512, b"LABELONE"),
    at("a physical volume of LVM", 1024, b"LABELONE"),
    at("a physical volume of LVM", 1536, b"LABELONE"),
    at("an encrypted volume (LUKS)", 0, b"LUKS\xba\xbe"),
    at("an encrypted volume (LUKS)", 16384, b"SKUL\xba\xbe"),
    at("swap space", 4086, b"SWAPSPACE2"),
    at("swap space", 4086, b"SWAP-SPACE"),
    at("swap space", 16374, b"SWAPSPACE2"),
    at("swap space", 65526, b"SWAPSPACE2"),
    at("a bcache device", 4096 + 24, BCACHE),
    at("a member of an array (md)", 0, MD),
    at("a member of an array (md)", 4096, MD),
    // Version 0.90: in the last whole 64 KiB that have 64 KiB behind them.
    end("a member of an array (md)", 65536, 65536, MD),
    // Version 1.0: 8 KiB before the end, at a multiple of 4 KiB.
    end("a member of an array (md)", 8192, 4096, MD),
    at("a Ceph OSD (BlueStore)", 0, b"bluestore block device"),
    at("a disk of DRBD", 0, &0x8374_0267_u32.to_be_bytes()),
];

/// Uberblocks of ZFS: in each of the four labels of 256 KiB, two at the start and two at the end, from 128 KiB on, one KiB each.
const ZFS_UBERBLOCK: u64 = 0x00ba_b10c;
const ZFS_LABEL: u64 = 256 * 1024;
const ZFS_RING: u64 = 128 * 1024;

/// What is on a device of `size` bytes; `None` when none of the known signatures is.
///
/// # Errors
/// When a place cannot be read: then nothing is known of what is there.
pub fn find(device: &mut (impl Read + Seek), size: u64) -> io::Result<Option<&'static str>> {
    for signature in SIGNATURES {
        let Some(offset) = offset(signature.at, size) else { continue };
        let found = bytes(device, offset, signature.bytes.len(), size)?;
        if found.as_deref() == Some(signature.bytes) {
            return Ok(Some(signature.name));
        }
    }
    if has_partitions(device, size)? {
        return Ok(Some("an MBR partition table"));
    }
    Ok(has_zfs(device, size)?.then_some("a member of a ZFS pool"))
}

fn offset(at: At, size: u64) -> Option<u64> {
    match at {
        At::Start(offset) => Some(offset),
        At::End { back, block } => (size / block * block).checked_sub(back),
    }
}

/// The bytes at a place; `None` when the device ends before.
fn bytes(device: &mut (impl Read + Seek), offset: u64, length: usize, size: u64) -> io::Result<Option<Vec<u8>>> {
    if offset.checked_add(length as u64).is_none_or(|end| end > size) {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    device.seek(SeekFrom::Start(offset))?;
    device.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

/// The mark of a boot sector alone says nothing: many have it without a partition.
fn has_partitions(device: &mut (impl Read + Seek), size: u64) -> io::Result<bool> {
    let Some(sector) = bytes(device, 0, 512, size)? else { return Ok(false) };
    Ok(sector[510..] == [0x55, 0xaa] && sector[446..510].iter().any(|byte| *byte != 0))
}

fn has_zfs(device: &mut (impl Read + Seek), size: u64) -> io::Result<bool> {
    let whole = size / ZFS_LABEL * ZFS_LABEL;
    let labels = [Some(0), Some(ZFS_LABEL), whole.checked_sub(2 * ZFS_LABEL), whole.checked_sub(ZFS_LABEL)];
    for label in labels.into_iter().flatten() {
        let length = usize::try_from(ZFS_RING).unwrap_or(0);
        let Some(ring) = bytes(device, label + ZFS_RING, length, size)? else { continue };
        let is_magic = |block: &[u8]| {
            block.starts_with(&ZFS_UBERBLOCK.to_le_bytes()) || block.starts_with(&ZFS_UBERBLOCK.to_be_bytes())
        };
        if ring.chunks_exact(1024).any(is_magic) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
