//! The certificate in use, and its replacement while connections are served.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::crypto;

/// Why a chain and a key cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// There is no certificate.
    #[error("there is no certificate in it")]
    Empty,
    /// The first certificate is not X.509.
    #[error("the first certificate cannot be read: {0}")]
    Malformed(String),
    /// The key does not belong to the first certificate, or is of a kind that is not supported.
    #[error("the key and the first certificate do not belong together, or the key is of an unsupported kind: {0}")]
    Key(#[from] rustls::Error),
}

/// A chain with its key, checked to belong together.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    begins: i64,
    expires: i64,
}

impl Certificate {
    /// Checks a chain, server certificate first, and its key.
    ///
    /// # Errors
    /// When the chain is empty, its first certificate is malformed, or the key is not its key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, CertificateError> {
        let first = chain.first().ok_or(CertificateError::Empty)?;
        let (_, parsed) =
            X509Certificate::from_der(first).map_err(|error| CertificateError::Malformed(error.to_string()))?;
        let (begins, expires) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let key = CertifiedKey::from_der(chain, key, &crypto::provider())?;
        Ok(Self { key: Arc::new(key), begins, expires })
    }

    /// Checks a chain and its key in PEM.
    ///
    /// # Errors
    /// When either is not PEM, or they cannot serve together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |error: rustls::pki_types::pem::Error| CertificateError::Malformed(error.to_string());
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(malformed)?;
        Self::new(chain, key)
    }

    /// When the server certificate begins, in seconds since 1970.
    #[must_use]
    pub const fn begins(&self) -> i64 {
        self.begins
    }

    /// When the server certificate ends, in seconds since 1970.
    #[must_use]
    pub const fn expires(&self) -> i64 {
        self.expires
    }

    /// The server certificate.
    #[must_use]
    pub fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.key.cert.first()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The certificate that the next handshake uses. Established connections keep the one they began with.
#[derive(Debug)]
pub struct CurrentCertificate(ArcSwapOption<CertifiedKey>);

impl CurrentCertificate {
    /// Starts with a certificate.
    #[must_use]
    pub fn new(first: Certificate) -> Arc<Self> {
        Arc::new(Self(ArcSwapOption::new(Some(first.key))))
    }

    /// Starts without one: handshakes fail until there is one.
    #[must_use]
    pub fn none_yet() -> Arc<Self> {
        Arc::new(Self(ArcSwapOption::empty()))
    }

    /// Puts another certificate in its place.
    pub fn replace(&self, next: Certificate) {
        self.0.store(Some(next.key));
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}
