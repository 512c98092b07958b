//! The certificate in use, and its replacement while connections are served.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
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
        let expires = parsed.validity().not_after.timestamp();
        let key = CertifiedKey::from_der(chain, key, &crypto::provider())?;
        Ok(Self { key: Arc::new(key), expires })
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
pub struct CurrentCertificate(ArcSwap<CertifiedKey>);

impl CurrentCertificate {
    /// Starts with a certificate.
    #[must_use]
    pub fn new(first: Certificate) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(first.key)))
    }

    /// Puts another certificate in its place.
    pub fn replace(&self, next: Certificate) {
        self.0.store(next.key);
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}
