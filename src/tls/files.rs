//! A certificate and its key in files that somebody else renews.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Certificate, CertificateError};
use crate::runtime::reload::{LoadError, Source};

/// Larger files than this are not certificates.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why a pair of files cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not PEM.
    #[error("{}: not PEM: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The two do not serve together.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The file of the certificate.
        path: PathBuf,
        /// Why not.
        source: CertificateError,
    },
}

/// The files, as `tls.crt` and `tls.key` of a Secret volume.
#[derive(Clone, Debug)]
pub struct PairFiles {
    /// PEM: the server certificate, then intermediate ones.
    pub certificate: PathBuf,
    /// PEM: the private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

impl PairFiles {
    fn read(&self) -> Result<(Vec<u8>, Vec<u8>), PairError> {
        Ok((read_file(&self.certificate)?, read_file(&self.key)?))
    }

    /// Reads and checks the pair.
    ///
    /// # Errors
    /// When a file is missing or malformed, or the two do not belong together.
    pub fn load(&self) -> Result<Certificate, PairError> {
        let (chain, key) = self.read()?;
        let not_pem = |path: &Path, error: &rustls::pki_types::pem::Error| PairError::Pem {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let chain = CertificateDer::pem_slice_iter(&chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| not_pem(&self.certificate, &error))?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| not_pem(&self.key, &error))?;
        Certificate::new(chain, key).map_err(|source| PairError::Certificate { path: self.certificate.clone(), source })
    }
}

/// Secret volumes are swapped by a symbolic link, which file watches see only sometimes, so the content is compared.
impl Source for PairFiles {
    type Loaded = Certificate;

    fn fingerprint(&self) -> Result<u64, LoadError> {
        let mut hasher = DefaultHasher::new();
        self.read()?.hash(&mut hasher);
        Ok(hasher.finish())
    }

    fn load(&self) -> Result<Certificate, LoadError> {
        Ok(Self::load(self)?)
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, PairError> {
    let failed = |source| PairError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(failed(io::Error::other("larger than 1 MiB, so not a certificate or key")));
    }
    std::fs::read(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_must_belong_together() {
        let folder = tempfile::tempdir().unwrap();
        let files = PairFiles { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
        assert!(files.load().unwrap_err().to_string().contains("tls.crt"));
        let (certificate, key) = pair();
        std::fs::write(&files.certificate, &certificate).unwrap();
        std::fs::write(&files.key, &key).unwrap();
        files.load().unwrap();
        let before = Source::fingerprint(&files).unwrap();
        let (_, other_key) = pair();
        std::fs::write(&files.key, &other_key).unwrap();
        assert_ne!(Source::fingerprint(&files).unwrap(), before);
        assert!(files.load().unwrap_err().to_string().contains("do not belong together"));
        std::fs::write(&files.key, "-----BEGIN PRIVATE KEY-----\nAAAA").unwrap();
        assert!(files.load().unwrap_err().to_string().contains("tls.key"));
        std::fs::write(&files.certificate, "").unwrap();
        std::fs::write(&files.key, &key).unwrap();
        assert!(files.load().unwrap_err().to_string().contains("no certificate"));
    }
}
