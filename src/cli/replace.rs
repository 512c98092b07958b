//! Replaces a file as a whole: readers see the old text or the new one, never a part.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why a file could not be replaced. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is a device, a pipe or a directory.
    #[error("{}: not a regular file; give a file, or - to have the result on standard output", .0.display())]
    NotAFile(PathBuf),
    /// Somebody wrote to it meanwhile.
    #[error("{}: the file was changed by somebody else meanwhile; run the command again", .0.display())]
    Changed(PathBuf),
    /// The system refused.
    #[error("{}: cannot be written: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Replaces the text of a file that still reads `before`. Permissions and, where the system allows it, owner and group
/// stay. A symbolic link stays a link: the file that it leads to is replaced.
///
/// # Errors
/// [`WriteError`]; the file is then as it was.
pub fn replace_file(path: &Path, before: &str, after: &str) -> Result<(), WriteError> {
    let failed = |source| WriteError::Io { path: path.to_owned(), source };
    let real = fs::canonicalize(path).map_err(failed)?;
    let facts = fs::metadata(&real).map_err(failed)?;
    if !facts.is_file() {
        return Err(WriteError::NotAFile(path.to_owned()));
    }
    // Replacing the directory entry would work on a read-only file too; who made it so wants it to stay.
    fs::OpenOptions::new().append(true).open(&real).map_err(failed)?;
    let directory = real.parent().unwrap_or(Path::new("."));
    let mut fresh = tempfile::Builder::new().prefix(".latebind-").tempfile_in(directory).map_err(failed)?;
    fresh.write_all(after.as_bytes()).map_err(failed)?;
    keep_owner(fresh.path(), &facts);
    fresh.as_file().set_permissions(facts.permissions()).map_err(failed)?;
    fresh.as_file().sync_all().map_err(failed)?;
    if fs::read(&real).map_err(failed)? != before.as_bytes() {
        return Err(WriteError::Changed(path.to_owned()));
    }
    fresh.persist(&real).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Only root may give files away; for everybody else the new file is theirs, as with every editor.
#[cfg(unix)]
fn keep_owner(fresh: &Path, facts: &fs::Metadata) {
    use std::os::unix::fs::{MetadataExt, chown};
    chown(fresh, Some(facts.uid()), Some(facts.gid())).ok();
}

#[cfg(not(unix))]
fn keep_owner(_fresh: &Path, _facts: &fs::Metadata) {}
