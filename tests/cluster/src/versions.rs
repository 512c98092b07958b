//! The versions of Kubernetes that the tests run on.

use std::env;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::layout;

/// A minor version of Kubernetes 1 that this crate has a Go module for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u8);

impl Version {
    /// The oldest version that latebind claims.
    pub const V1_34: Self = Self(34);
    /// A release of between.
    pub const V1_35: Self = Self(35);
    /// A release of between.
    pub const V1_36: Self = Self(36);
    /// The newest release.
    pub const V1_37: Self = Self(37);
    /// A release that is being prepared: an early warning, and no promise.
    pub const V1_38: Self = Self(38);

    /// All of them, oldest first.
    pub const ALL: [Self; 5] = [Self::V1_34, Self::V1_35, Self::V1_36, Self::V1_37, Self::V1_38];

    /// The newest release: tests run on it unless `KUBE_VERSION` names another version.
    pub const DEFAULT: Self = Self::V1_37;

    /// What `KUBE_VERSION` asks for, else the default.
    pub fn from_env() -> Result<Self> {
        match env::var("KUBE_VERSION") {
            Ok(wanted) if !wanted.is_empty() => Self::parse(&wanted),
            _ => Ok(Self::DEFAULT),
        }
    }

    /// Parses `1.37` or `v1.37`.
    pub fn parse(text: &str) -> Result<Self> {
        let wanted = text.trim_start_matches('v');
        Self::ALL.into_iter().find(|version| version.to_string() == wanted).with_context(|| {
            let known: Vec<_> = Self::ALL.iter().map(ToString::to_string).collect();
            format!("KUBE_VERSION={text} is not known here; choose one of {}", known.join(", "))
        })
    }

    /// The minor number: 37 of 1.37.
    #[must_use]
    pub fn minor(self) -> u8 {
        self.0
    }

    /// Whether it is not released yet. What fails on it is said and fails nothing.
    #[must_use]
    pub fn is_preview(self) -> bool {
        self > Self::DEFAULT
    }

    /// What distinguishes the names of pages about this version: nothing for the default one, `-1.34`.
    #[must_use]
    pub fn suffix(self) -> String {
        if self == Self::DEFAULT { String::new() } else { format!("-{self}") }
    }

    /// The directory of its Go module.
    pub(crate) fn module(self) -> PathBuf {
        layout::go_modules().join("kubernetes").join(self.to_string())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "1.{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_a_module_that_requires_it() {
        for version in Version::ALL {
            let release = crate::binaries::required(&version.module(), "k8s.io/kubernetes").unwrap();
            assert!(release.starts_with(&format!("v{version}.")), "{version}: {release}");
            assert_eq!(release.contains('-'), version.is_preview(), "{version}: {release}");
        }
    }

    #[test]
    fn a_version_that_is_not_known_is_refused_with_those_that_are() {
        assert_eq!(Version::parse("v1.36").unwrap(), Version::V1_36);
        let error = Version::parse("1.33").unwrap_err().to_string();
        assert_eq!(error, "KUBE_VERSION=1.33 is not known here; choose one of 1.34, 1.35, 1.36, 1.37, 1.38");
    }
}
