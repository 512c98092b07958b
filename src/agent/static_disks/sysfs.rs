//! What the kernel says of a block device, from `/sys/dev/block`. `Ok(None)` is what is not there; what could not be read is an
//! error, and says nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::agent::disk::error::as_errno;
use crate::crd::DiskIdentity;

/// The unit of `size`, whatever blocks the device has.
const SECTOR: u64 = 512;

/// Where the kernel tells of devices, and where the files of devices are.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
    dev: PathBuf,
}

/// What tells a device from others, and what could not be read of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The marks.
    pub identity: DiskIdentity,
    /// Files that are there and could not be read. With one of them, no mark does not mean that there is none.
    pub unread: Vec<String>,
}

impl Sysfs {
    /// The one of this machine.
    #[must_use]
    pub fn of_host() -> Self {
        Self::at("/sys", "/dev")
    }

    /// Another root of `/sys` and of `/dev`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>, dev: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), dev: dev.into() }
    }

    /// The device with this number, as `major:minor`. `None` when the kernel has no such block device: file systems without a
    /// device have such numbers.
    pub fn device(&self, number: &str) -> io::Result<Option<BlockDevice>> {
        let link = self.root.join("dev/block").join(number);
        let directory = match fs::canonicalize(&link) {
            // Without this directory nothing is known of any device.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return fs::metadata(self.root.join("dev/block")).map(|_| None);
            }
            found => found?,
        };
        Ok(Some(BlockDevice { number: number.to_owned(), directory, dev: self.dev.clone() }))
    }

    /// Number of the device that a path leads to; `None` when it leads to something else or to nothing.
    pub fn number_of(path: &Path) -> io::Result<Option<String>> {
        match fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => Ok(Some(number(found.rdev()))),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Loop devices that are in use, with the file or device behind each.
    pub fn loops(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let mut found = Vec::new();
        for name in listed(&self.root.join("block"))? {
            let file = self.root.join("block").join(&name).join("loop/backing_file");
            if let Some(behind) = read(&file)? {
                found.push((name, PathBuf::from(OsStr::from_bytes(&behind))));
            }
        }
        Ok(found)
    }
}

/// A device number as text.
#[must_use]
pub fn number(device: u64) -> String {
    format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
}

/// A block device that the kernel knows.
#[derive(Clone, Debug)]
pub struct BlockDevice {
    number: String,
    directory: PathBuf,
    dev: PathBuf,
}

impl BlockDevice {
    /// Its name, such as `sda1`.
    #[must_use]
    pub fn name(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> io::Result<Option<u64>> {
        Ok(self.text("size")?.and_then(|text| text.parse::<u64>().ok()?.checked_mul(SECTOR)))
    }

    /// True when it takes no writes.
    pub fn is_read_only(&self) -> io::Result<Option<bool>> {
        Ok(flag(self.text("ro")?))
    }

    /// True when it rotates. Of a partition, its disk is asked.
    pub fn rotates(&self) -> io::Result<Option<bool>> {
        Ok(flag(self.whole().text("queue/rotational")?))
    }

    /// Its model. Of a partition, its disk is asked.
    pub fn model(&self) -> io::Result<Option<String>> {
        self.whole().text("device/model")
    }

    /// Names of devices that were made of it: logical volumes, arrays, mapped devices.
    pub fn holders(&self) -> io::Result<Vec<String>> {
        listed(&self.directory.join("holders"))
    }

    /// Names of its partitions.
    pub fn partitions(&self) -> io::Result<Vec<String>> {
        let inside = listed(&self.directory)?;
        Ok(inside.into_iter().filter(|name| self.directory.join(name).join("partition").is_file()).collect())
    }

    /// UUID of the file system on it, by the links that udev makes.
    pub fn file_system_uuid(&self) -> io::Result<Option<String>> {
        let links = self.dev.join("disk/by-uuid");
        for name in names(&links)?.unwrap_or_default() {
            // A link that leads nowhere is that of another device.
            if Sysfs::number_of(&links.join(&name))?.as_deref() == Some(&*self.number) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// What tells the hardware from other hardware, whatever is written on it.
    #[must_use]
    pub fn marks(&self) -> Marks {
        let mut reading = Reading::default();
        let (whole, part) = (self.whole(), self.partition_number(&mut reading));
        let of_disk = |value: String| part.as_ref().map_or(value.clone(), |part| format!("{value}-part{part}"));
        let wwn = reading.first(&whole, &["wwid", "device/wwid"]).map(&of_disk);
        let serial = reading.first(&whole, &["serial", "device/serial"]).or_else(|| reading.unit_serial(&whole));
        let mapped = reading.first(self, &["dm/uuid"]);
        let partition = reading.first(self, &["uevent"]).and_then(|text| partition_uuid(&text));
        let behind = reading.first(&whole, &["loop/backing_file"]).map(&of_disk);
        let (volume, mapped) = match mapped {
            Some(uuid) => match uuid.strip_prefix("LVM-") {
                Some(volume) => (Some(volume.to_owned()), None),
                None => (None, Some(uuid)),
            },
            None => (None, None),
        };
        let kinds = [
            ("wwn", wwn),
            ("serial", serial.map(&of_disk)),
            ("lv", volume),
            ("dm", mapped),
            ("part", partition),
            ("loop", behind),
        ];
        let marks = kinds.into_iter().filter_map(|(kind, value)| Some((kind.to_owned(), value?)));
        Marks { identity: DiskIdentity(marks.collect::<BTreeMap<_, _>>()), unread: reading.unread }
    }

    fn partition_number(&self, reading: &mut Reading) -> Option<String> {
        reading.first(self, &["partition"])
    }

    /// The disk of a partition; of everything else, itself.
    fn whole(&self) -> Self {
        let parent = self.directory.parent().filter(|_| self.directory.join("partition").exists());
        Self { directory: parent.unwrap_or(&self.directory).to_owned(), ..self.clone() }
    }

    fn text(&self, file: &str) -> io::Result<Option<String>> {
        Ok(read(&self.directory.join(file))?.map(|bytes| plain(&bytes)).filter(|text| !text.is_empty()))
    }
}

/// Reads marks, and notes what could not be read.
#[derive(Default)]
struct Reading {
    unread: Vec<String>,
}

impl Reading {
    fn first(&mut self, device: &BlockDevice, files: &[&str]) -> Option<String> {
        files.iter().find_map(|file| {
            let found = device.text(file);
            self.noted(device, file, found)
        })
    }

    /// The serial number of a SCSI device, as the device gives it.
    fn unit_serial(&mut self, device: &BlockDevice) -> Option<String> {
        let page = read(&device.directory.join("device/vpd_pg80"));
        self.noted(device, "device/vpd_pg80", page).as_deref().and_then(unit_serial)
    }

    fn noted<T>(&mut self, device: &BlockDevice, file: &str, found: io::Result<Option<T>>) -> Option<T> {
        found.unwrap_or_else(|error| {
            self.unread.push(format!("{}: {error}", device.directory.join(file).display()));
            None
        })
    }
}

/// Vital product data, page 0x80: two bytes, two of length, the number.
fn unit_serial(page: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let body = page.get(4..)?;
    let text = plain(&body[..length.min(body.len())]);
    (page[1] == 0x80 && !text.is_empty()).then_some(text)
}

fn partition_uuid(uevent: &str) -> Option<String> {
    let value = uevent.lines().find_map(|line| line.strip_prefix("PARTUUID="))?.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

fn flag(text: Option<String>) -> Option<bool> {
    match text?.as_str() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// The text of a file of the kernel: some devices pad it with blanks or zeroes.
fn plain(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
}

/// The bytes of a file without the newline at the end; `None` when there is no such file, or the device has no such value.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(mut bytes) => {
            bytes.pop_if(|last| *last == b'\n');
            Ok(Some(bytes))
        }
        Err(error) if is_nothing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_nothing(error: &io::Error) -> bool {
    let absent =
        [Errno::NOENT, Errno::NOTDIR, Errno::NXIO, Errno::INVAL, Errno::NODATA, Errno::OPNOTSUPP, Errno::NOTTY];
    absent.contains(&as_errno(error))
}

/// Names in a directory, sorted; `None` when there is no such directory.
fn names(directory: &Path) -> io::Result<Option<Vec<String>>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(Some(names))
}

/// The same of a directory that every kernel has: without it nothing is known.
fn listed(directory: &Path) -> io::Result<Vec<String>> {
    names(directory)?.ok_or_else(|| io::Error::from(Errno::NOENT))
}

#[cfg(test)]
mod tests;
