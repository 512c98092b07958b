//! The marker of a volume: who owns its directory. It lies outside the directory, where no tenant can reach it.

use serde::{Deserialize, Serialize};

/// Largest marker that is read, in bytes. Ours have a few hundred.
pub(crate) const MAX_BYTES: u64 = 16 * 1024;

/// Who owns a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Marker {
    /// Layout of the marker; 1.
    pub version: u32,
    /// UID of the namespace `kube-system`.
    pub cluster: String,
    /// UID of the LocalVolume that knows of the directory, as it was last.
    pub volume: String,
    /// UID of the claim.
    pub claim: String,
    /// The directory, relative to the base.
    pub path: String,
}

impl Marker {
    /// Reads a marker.
    ///
    /// # Errors
    /// When it is not one of a version that this program knows.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let marker: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if marker.version == 1 { Ok(marker) } else { Err(format!("unknown version {}", marker.version)) }
    }

    /// The same directory of the same claim in the same cluster. A LocalVolume that was made again owns it too.
    #[must_use]
    pub fn same_owner(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.claim == other.claim && self.path == other.path
    }

    /// The owner, for a message.
    #[must_use]
    pub fn owner(&self) -> String {
        format!("its marker names claim {} of cluster {}", self.claim, self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _outcome = Marker::parse(&bytes);
        }

        #[test]
        fn what_is_written_reads_back(cluster in "\\PC{0,40}", claim in "\\PC{0,40}", path in "\\PC{0,40}") {
            let marker = Marker { version: 1, cluster, volume: "v".to_owned(), claim, path };
            prop_assert_eq!(Marker::parse(&serde_json::to_vec(&marker).unwrap()).unwrap(), marker);
        }
    }

    #[test]
    fn another_version_is_refused() {
        assert!(Marker::parse(br#"{"version":2,"cluster":"c","volume":"v","claim":"u","path":"p"}"#).is_err());
        assert!(Marker::parse(br#"{"version":1,"cluster":"c","volume":"v","claim":"u","path":"p","x":1}"#).is_err());
    }
}
