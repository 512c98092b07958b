//! What is mounted where, from `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};

use rustix::fd::AsFd;
use rustix::fs::{CWD, readlinkat};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Number of the file system's device, as `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Which directory of the file system is mounted; `/` is all of it.
    pub root: PathBuf,
    /// Type of the file system.
    pub file_system: String,
    /// Where the file system comes from.
    pub source: String,
    /// Mounted read-only.
    pub read_only: bool,
}

/// The mounts in the order in which they were made: the last one at a path is the one that is seen.
pub(crate) fn all() -> std::io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read(MOUNT_INFO)?))
}

/// The mounts that another process sees, by its table.
pub(crate) fn read(table: &Path) -> std::io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read(table)?))
}

/// How the node sees what this process has mounted at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SeenByNode {
    /// The same file system.
    Same,
    /// Another one, or one where there is none here: it was mounted after this process began.
    Another,
    /// None: it was unmounted after this process began.
    Nothing,
}

/// Compares what is mounted here with the node's mounts. A path that leads over a link on the node is not found by its text; the
/// file system is.
pub(crate) fn seen_by_node(node: &[Mount], path: &Path, here: Option<&Mount>) -> SeenByNode {
    let same = |mount: &Mount| here.is_some_and(|here| mount.device == here.device && mount.root == here.root);
    match at(node, path) {
        Some(mount) if same(mount) => SeenByNode::Same,
        Some(_) => SeenByNode::Another,
        None if node.iter().any(same) => SeenByNode::Same,
        None => SeenByNode::Nothing,
    }
}

/// Where the kernel tells.
pub(crate) const MOUNT_INFO: &str = "/proc/self/mountinfo";

/// Lines of `proc(5)`, mountinfo: id, parent, device, root, point, options, any number of tags, `-`, type, source, options.
fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let text = |word: &[u8]| unescape(word).to_string_lossy().into_owned();
    let device = text(words.nth(2)?);
    let root = unescape(words.next()?);
    let point = unescape(words.next()?);
    let options = words.next()?;
    let mut rest = words.skip_while(|word| *word != b"-").skip(1);
    let file_system = text(rest.next()?);
    let source = text(rest.next()?);
    let read_only = options.split(|byte| *byte == b',').any(|option| option == b"ro");
    Some(Mount { device, point, root, file_system, source, read_only })
}

/// Space, tab, newline and backslash stand as three octal digits.
fn unescape(word: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        let octal = word.get(at + 1..at + 4).filter(|_| word[at] == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(word[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// The path that the kernel has for an open directory, whatever links led to it.
pub(crate) fn real_path(directory: impl AsFd) -> rustix::io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStringExt;
    let link = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
    let target = readlinkat(CWD, &link, Vec::new())?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes())))
}

/// The first mount point at or beneath a path.
pub(crate) fn at_or_beneath<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().find(|mount| mount.point.starts_with(path))
}

/// The mount that is seen at exactly this path.
pub(crate) fn at<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().rev().find(|mount| mount.point == path)
}

/// The mount that holds a path.
pub(crate) fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .rev()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        30 22 7:0 / /mnt/a\\040disk rw,noatime shared:1 master:2 - xfs /dev/loop0 rw\n\
        31 22 254:0 /opt/x /data ro - ext4 /dev/vda rw\n\
        \n\
        half a line\n";

    #[test]
    fn spaces_tags_and_broken_lines_are_read() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[1].point, Path::new("/mnt/a disk"));
        assert_eq!((mounts[1].file_system.as_str(), mounts[1].source.as_str()), ("xfs", "/dev/loop0"));
        assert_eq!(mounts[2].root, Path::new("/opt/x"));
        assert!(mounts[2].read_only && !mounts[1].read_only);
    }

    #[test]
    fn a_path_is_held_by_its_longest_mount() {
        let mounts = parse(TEXT);
        assert_eq!(holding(&mounts, Path::new("/mnt/a disk/x")).unwrap().source, "/dev/loop0");
        assert_eq!(holding(&mounts, Path::new("/mnt/a")).unwrap().source, "/dev/vda");
        assert!(at_or_beneath(&mounts, Path::new("/mnt")).is_some());
        assert!(at_or_beneath(&mounts, Path::new("/mnt/b")).is_none());
    }

    #[test]
    fn what_the_node_mounts_or_unmounts_later_is_told_from_what_is_seen_here() {
        let node = parse(TEXT);
        let disk = Path::new("/mnt/a disk");
        let here = at(&node, disk).cloned();
        assert_eq!(seen_by_node(&node, disk, here.as_ref()), SeenByNode::Same);
        assert_eq!(
            seen_by_node(&node, Path::new("/linked"), here.as_ref()),
            SeenByNode::Same,
            "over a link of the node"
        );
        assert_eq!(seen_by_node(&node, disk, None), SeenByNode::Another);
        let swapped = Mount { device: "7:1".to_owned(), ..here.clone().unwrap() };
        assert_eq!(seen_by_node(&node, disk, Some(&swapped)), SeenByNode::Another);
        let gone: Vec<Mount> = node.into_iter().filter(|mount| mount.point != disk).collect();
        assert_eq!(seen_by_node(&gone, disk, here.as_ref()), SeenByNode::Nothing);
        assert_eq!(seen_by_node(&gone, disk, None), SeenByNode::Nothing);
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(at(&all().unwrap(), Path::new("/")).is_some());
    }
}
