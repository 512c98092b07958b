//! Paths that an administrator or a claim has a say in, checked before anything joins them.

use std::fmt;
use std::path::{Path, PathBuf};

/// Longest relative path of a volume, in bytes. With a base it stays well below `PATH_MAX`.
pub const MAX_PATH_BYTES: usize = 1024;
const MAX_COMPONENTS: usize = 8;
const MAX_COMPONENT_BYTES: usize = 255;

/// Why a path is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No component at all.
    #[error("the path is empty")]
    Empty,
    /// Too many bytes or components.
    #[error(
        "the path is too long: at most {MAX_COMPONENTS} components of {MAX_COMPONENT_BYTES} bytes each, and {MAX_PATH_BYTES} bytes"
    )]
    TooLong,
    /// A component that climbs, hides or cannot be a name.
    #[error("`{0}` cannot be a part of a path: use letters, digits, `.`, `_` and `-`, and no dot at the start")]
    Component(String),
    /// Not absolute, or `/` itself, or not in its shortest form.
    #[error("`{0}` cannot be a base: give an absolute path below `/` without `.`, `..`, `//` or a slash at the end")]
    Base(String),
}

/// The directory of a volume, relative to the base of its pool: only ever downwards.
///
/// Components are of `[A-Za-z0-9._-]` and do not begin with a dot: no `..`, and no collision with what an agent keeps
/// in a base (`.latebind`, `.trash`, `.archive`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumePath(String);

impl VolumePath {
    /// Checks a path given with slashes.
    ///
    /// # Errors
    /// When it is empty, too long, or has a component that is not allowed.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        let long = |component: &str| component.len() > MAX_COMPONENT_BYTES;
        if text.len() > MAX_PATH_BYTES || text.split('/').count() > MAX_COMPONENTS || text.split('/').any(long) {
            return Err(PathError::TooLong);
        }
        match text.split('/').find(|component| !is_component(component)) {
            Some(component) => Err(PathError::Component(component.chars().take(64).collect())),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The path with slashes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directories above the volume, outermost first, each one component.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        let end = self.0.rfind('/').unwrap_or(0);
        self.0[..end].split('/').filter(|component| !component.is_empty())
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The path beneath a base.
    #[must_use]
    pub fn beneath(&self, base: &str) -> String {
        beneath(base, &self.0)
    }
}

impl fmt::Display for VolumePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_component(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Checks the base path of a pool: absolute, below `/`, in its shortest form.
///
/// # Errors
/// When it is anything else.
pub fn checked_base(text: &str) -> Result<PathBuf, PathError> {
    let refused = || PathError::Base(text.chars().take(128).collect());
    let relative = text.strip_prefix('/').ok_or_else(refused)?;
    let clean = !relative.is_empty()
        && text.len() <= MAX_PATH_BYTES
        && !text.contains('\0')
        && relative.split('/').all(|component| !matches!(component, "" | "." | ".."));
    if clean { Ok(Path::new(text).to_path_buf()) } else { Err(refused()) }
}

/// The path of a directory beneath its base.
pub(super) fn beneath(base: &str, path: &str) -> String {
    format!("{base}/{path}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_climbs_or_hides_is_refused() {
        for text in
            ["", ".", "..", "../x", "a/../b", "a/./b", "/a", "a/", "a//b", ".trash", "a/.latebind", "a\0b", "ä", "a b"]
        {
            assert!(VolumePath::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(VolumePath::parse("ns/name-1/pvc-2").unwrap().parents().collect::<Vec<_>>(), ["ns", "name-1"]);
        assert_eq!(VolumePath::parse("pvc-2").unwrap().parents().count(), 0);
        assert!(VolumePath::parse(&"a".repeat(255)).is_ok());
        assert_eq!(VolumePath::parse(&"a".repeat(256)), Err(PathError::TooLong), "its letters are not what is wrong");
    }

    #[test]
    fn a_base_is_absolute_and_plain() {
        for text in ["", "/", "a", "/a/", "//a", "/a/..", "/./a", "/a\0"] {
            assert!(checked_base(text).is_err(), "{text:?}");
        }
        assert_eq!(checked_base("/opt/local-path-provisioner").unwrap(), Path::new("/opt/local-path-provisioner"));
    }

    proptest! {
        #[test]
        fn what_is_accepted_descends(text in "[a./_\\-\\x00]{0,12}|\\PC{0,40}") {
            if let Ok(path) = VolumePath::parse(&text) {
                let base = Path::new("/base");
                let joined = base.join(path.as_str());
                prop_assert!(joined.starts_with(base) && joined != base);
                prop_assert!(joined.components().all(|part| !matches!(part, std::path::Component::ParentDir)));
                prop_assert_eq!(joined.to_str().unwrap(), path.beneath("/base"));
            }
        }
    }
}
