//! Files, directories and standard input, read into memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{ManifestError, Place, Problem, Request};
use crate::yaml::{Position, Span};

/// The largest input that is read: beyond it a mistake (a disk image, a device) is likelier than manifests.
const LARGEST: u64 = 256 << 20;

/// Where manifests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Standard input.
    Stdin,
    /// A file or a directory.
    Path(PathBuf),
    /// What was read elsewhere, such as in a cluster.
    Text {
        /// What to call it where a file would be named.
        name: String,
        /// Manifests.
        text: String,
    },
}

impl Input {
    /// Reads `-` as standard input and anything else as a path.
    #[must_use]
    pub fn of(name: &str) -> Self {
        if name == "-" { Self::Stdin } else { Self::Path(PathBuf::from(name)) }
    }
}

/// One input that was read.
#[derive(Debug)]
pub struct Source {
    /// The file as it was named, or `<stdin>`.
    pub name: String,
    /// The file; absent for standard input.
    pub path: Option<PathBuf>,
    /// Its text.
    pub text: String,
    /// It was found in a directory, where other files than manifests may lie.
    pub found: bool,
}

/// Every source of a request, with true for those that are facts only. Files in directories that cannot be read become
/// problems, inputs that were named are errors.
pub(super) fn read(request: &Request, problems: &mut Vec<Problem>) -> Result<Vec<(Source, bool)>, ManifestError> {
    let inputs = request.files.iter().map(|input| (input, false));
    let inputs: Vec<_> = inputs.chain(request.objects.iter().map(|input| (input, true))).collect();
    if inputs.iter().filter(|(input, _)| **input == Input::Stdin).count() > 1 {
        return Err(ManifestError::StdinTwice);
    }
    let mut sources = Vec::new();
    for (input, fact_only) in inputs {
        match input {
            Input::Stdin => {
                let bytes = read_bytes(io::stdin().lock()).map_err(|source| unreadable("<stdin>", source))?;
                sources
                    .extend(source("<stdin>".to_owned(), None, false, bytes, problems).map(|read| (read, fact_only)));
            }
            Input::Text { name, text } => {
                let source = Source { name: name.clone(), path: None, text: text.clone(), found: false };
                sources.push((source, fact_only));
            }
            Input::Path(path) => {
                let metadata = std::fs::metadata(path).map_err(|error| of_path(path, error))?;
                let files = if metadata.is_dir() { manifests_of(path, request.recursive)? } else { vec![path.clone()] };
                if files.is_empty() {
                    let (directory, recursive) = (path.clone(), request.recursive);
                    return Err(ManifestError::NoManifests { directory, recursive });
                }
                for file in files {
                    let name = file.display().to_string();
                    match File::open(&file).and_then(read_bytes) {
                        Ok(bytes) => {
                            let read = source(name, Some(file), metadata.is_dir(), bytes, problems);
                            sources.extend(read.map(|read| (read, fact_only)));
                        }
                        Err(error) if metadata.is_dir() => {
                            problems
                                .push(Problem { place: Place { file: name, span: None }, message: error.to_string() });
                        }
                        Err(error) => return Err(of_path(&file, error)),
                    }
                }
            }
        }
    }
    Ok(sources)
}

/// Manifests of a directory, sorted by name. Hidden files and directories are left out: `.git`, and the directories by
/// which the kubelet swaps the content of mounted ConfigMaps.
pub(super) fn manifests_of(directory: &Path, recursive: bool) -> Result<Vec<PathBuf>, ManifestError> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).map_err(|error| of_path(&directory, error))? {
            let entry = entry.map_err(|error| of_path(&directory, error))?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            // Links to directories are not followed, so that no loop is possible; links to files are.
            let kind = entry.file_type().map_err(|error| of_path(&path, error))?;
            if kind.is_dir() {
                if recursive {
                    pending.push(path);
                }
            } else if is_manifest(&path) && std::fs::metadata(&path).is_ok_and(|target| target.is_file()) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

fn read_bytes(input: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        let message = format!("larger than {} MiB; split it", LARGEST >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// The text of an input; a problem when it is not UTF-8.
fn source(
    name: String,
    path: Option<PathBuf>,
    found: bool,
    bytes: Vec<u8>,
    problems: &mut Vec<Problem>,
) -> Option<Source> {
    match String::from_utf8(bytes) {
        Ok(text) => Some(Source { name, path, text, found }),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let bytes = error.as_bytes();
            let message = if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
                "the text is UTF-16; save it as UTF-8".to_owned()
            } else {
                format!("byte {valid} is not valid UTF-8; save the file as UTF-8")
            };
            let before = String::from_utf8_lossy(&bytes[..valid]);
            let line_start = before.rfind('\n').map_or(0, |found| found + 1);
            let position = Position {
                line: 1 + before.matches('\n').count(),
                column: 1 + before[line_start..].chars().count(),
                byte: valid,
            };
            let place = Place { file: name, span: Some(Span { start: position, end: position }) };
            problems.push(Problem { place, message });
            None
        }
    }
}

fn of_path(path: &Path, error: io::Error) -> ManifestError {
    let name = path.to_string_lossy();
    if name.starts_with("https://") || name.starts_with("http://") {
        ManifestError::Url(name.into_owned())
    } else if error.kind() == io::ErrorKind::NotFound {
        ManifestError::NotFound(path.to_owned())
    } else {
        unreadable(&path.display().to_string(), error)
    }
}

fn unreadable(name: &str, source: io::Error) -> ManifestError {
    ManifestError::Unreadable { name: name.to_owned(), source }
}
