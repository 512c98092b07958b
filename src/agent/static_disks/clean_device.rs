//! Writes zeroes over a whole device, slice by slice, and reads back that they are there.
//!
//! Removing what tells of a file system would leave the data of the claim. Only the read-back counts as clean.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate, fsync};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::clean_files::DiskToClean;
use super::entry::Found;
use super::fault::{DiskFault, failed, io_failed};
use super::in_use::{open_alone, refuse_mounted};
use super::same::same_disk;
use super::scope::{Directory, DiskScope};
use crate::agent::disk::error::as_errno;
use crate::crd::DiskKind;

/// Zeroed by one call. A slow disk writes it in a second.
const CHUNK: u64 = 64 << 20;
/// Written at once where the kernel has no better way.
const WRITE: usize = 1 << 20;
/// Read back at both ends, where file systems and partition tables are.
const END: u64 = 1 << 20;
/// Read back in between, at places that nobody can know before.
const SAMPLES: u64 = 64;
const SAMPLE: u64 = 64 << 10;

/// How far the cleaning of a device has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSlice {
    /// Bytes that are zero. When they are all, the device was read back.
    pub done: u64,
    /// Bytes of the device.
    pub total: u64,
}

/// Writes zeroes from `from` on until `until`, at least one chunk. What comes to the end reads the device back.
///
/// # Errors
/// When another device is there, or it cannot be told; when somebody uses it; when it cannot be written; and when it does not
/// read back as zeroes: then the next attempt has to begin at 0.
pub fn clean_device(
    scope: &DiskScope,
    disk: &DiskToClean<'_>,
    from: u64,
    until: Instant,
) -> Result<DeviceSlice, DiskFault> {
    let (file, total) = verified(scope, disk, OFlags::RDWR)?;
    // Whatever was kept of the last slice, each begins where blocks do.
    let mut done = from.min(total) / CHUNK * CHUNK;
    let mut zeroing = Zeroing::Unmap;
    while done < total {
        let length = CHUNK.min(total - done);
        zeroing = zeroing.write(&file, done, length).map_err(failed("write zeroes to", disk.path))?;
        done += length;
        if Instant::now() >= until {
            break;
        }
    }
    fsync(&file).map_err(failed("save", disk.path))?;
    if done == total {
        read_back(&file, disk.path, total)?;
    }
    Ok(DeviceSlice { done, total })
}

/// Reads samples of the device, which must be zero: both ends, and blocks at random places all over it.
///
/// # Errors
/// As [`clean_device`]; [`DiskFault::NotZero`] names the place of another byte.
pub fn verify_device(scope: &DiskScope, disk: &DiskToClean<'_>) -> Result<(), DiskFault> {
    let (file, total) = verified(scope, disk, OFlags::RDONLY)?;
    read_back(&file, disk.path, total)
}

/// The device, open for this process alone, and its size. Its identity is looked at while it is open: meanwhile no other device gets
/// its number.
fn verified(scope: &DiskScope, disk: &DiskToClean<'_>, access: OFlags) -> Result<(File, u64), DiskFault> {
    let path = disk.path;
    let (directory, name) = Directory::of_entry(scope, path)?;
    let before = Found::look(scope, &directory, name)?;
    if before.kind != DiskKind::Device || disk.kind != DiskKind::Device {
        return Err(DiskFault::NotADisk { path: path.to_owned(), what: "a mounted file system" });
    }
    same_disk(path, disk.identity, &before.marks)?;
    refuse_mounted(scope, &before)?;
    let file = open_alone(&before, access)?;
    let found = Found::look(scope, &directory, name)?;
    same_disk(path, disk.identity, &found.marks)?;
    if found.number != before.number {
        return Err(DiskFault::Changed { path: path.to_owned() });
    }
    match (found.read_only, found.bytes) {
        (Some(true), _) => Err(DiskFault::ReadOnlyDevice { path: path.to_owned() }),
        (_, Some(0)) => Err(DiskFault::NoSize { path: path.to_owned() }),
        (Some(false), Some(bytes)) => Ok((file, bytes)),
        _ => Err(DiskFault::not_told(path, "the size", "the kernel does not say")),
    }
}

/// How zeroes come to a device, the fastest way first. The kernel takes each only where the device gives zeroes afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zeroing {
    Unmap,
    Range,
    Write,
}

impl Zeroing {
    /// Zeroes a part of the device, and tells which way worked.
    fn write(self, file: &File, offset: u64, length: u64) -> rustix::io::Result<Self> {
        let (flags, next) = match self {
            Self::Unmap => (FallocateFlags::PUNCH_HOLE, Self::Range),
            Self::Range => (FallocateFlags::ZERO_RANGE, Self::Write),
            Self::Write => return write_zeroes(file, offset, length).map(|()| self),
        };
        match fallocate(file, flags | FallocateFlags::KEEP_SIZE, offset, length) {
            Ok(()) => Ok(self),
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::NOTTY) => next.write(file, offset, length),
            Err(errno) => Err(errno),
        }
    }
}

fn write_zeroes(file: &File, offset: u64, length: u64) -> rustix::io::Result<()> {
    let zeroes = vec![0_u8; WRITE];
    let mut at = offset;
    while at < offset + length {
        let rest = usize::try_from(offset + length - at).unwrap_or(WRITE).min(WRITE);
        file.write_all_at(&zeroes[..rest], at).map_err(|error| as_errno(&error))?;
        at += rest as u64;
    }
    Ok(())
}

fn read_back(file: &File, path: &str, total: u64) -> Result<(), DiskFault> {
    // What the kernel keeps of it in memory proves nothing of the device.
    fadvise(file, 0, None, Advice::DontNeed).map_err(failed("drop the cache of", path))?;
    let mut buffer = vec![0_u8; usize::try_from(END).unwrap_or(WRITE)];
    for (offset, length) in samples(total).map_err(failed("choose places of", path))? {
        let part = &mut buffer[..usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(part, offset).map_err(|error| io_failed("read back", path, &error))?;
        if let Some(at) = part.iter().position(|byte| *byte != 0) {
            return Err(DiskFault::NotZero { path: path.to_owned(), offset: offset + at as u64 });
        }
    }
    Ok(())
}

/// What is read back: all of a small device; else both ends, and one block somewhere in each of so many equal parts.
fn samples(total: u64) -> rustix::io::Result<Vec<(u64, u64)>> {
    if total <= 2 * END + SAMPLES * SAMPLE {
        return Ok((0..total.div_ceil(END)).map(|part| (part * END, END.min(total - part * END))).collect());
    }
    let mut random = [0_u8; 8 * 64];
    let got = getrandom(&mut random[..], GetRandomFlags::empty())?;
    if got < random.len() {
        return Err(Errno::AGAIN);
    }
    let mut places = vec![(0, END), (total - END, END)];
    let part = (total - SAMPLE) / SAMPLES;
    for (index, bytes) in (0_u64..).zip(random.chunks_exact(8)) {
        let number = bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        places.push((index * part + number % part, SAMPLE));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_lie_within_the_device_and_cover_all_of_a_small_one() {
        for total in [512, END, 2 * END + 512, 2 * END + SAMPLES * SAMPLE] {
            let places = samples(total).unwrap();
            let mut next = 0;
            for (offset, length) in places {
                assert_eq!(offset, next);
                next += length;
            }
            assert_eq!(next, total);
        }
        for total in [2 * END + SAMPLES * SAMPLE + 512, 1 << 40] {
            let places = samples(total).unwrap();
            assert_eq!(places.len() as u64, SAMPLES + 2);
            assert!(places.iter().all(|(offset, length)| offset + length <= total), "{places:?}");
            assert!(places.contains(&(0, END)) && places.contains(&(total - END, END)));
        }
        assert_ne!(samples(1 << 40).unwrap(), samples(1 << 40).unwrap(), "nobody knows the places before");
    }
}
