//! Who may ask: an optional check of client certificates.
//!
//! An API server presents a certificate to webhooks only if its `--admission-control-config-file` names one, so this is
//! offered and not required.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::crypto;

/// Why client certificates cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum ClientAuthorityError {
    /// The file cannot be read, or holds no certificates.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Accepts clients whose certificate comes from given authorities and, where names are given, carries one of them.
#[derive(Clone)]
pub struct ClientCheck {
    inner: Arc<dyn ClientCertVerifier>,
    names: BTreeSet<String>,
}

impl fmt::Debug for ClientCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCheck").field("names", &self.names).finish_non_exhaustive()
    }
}

impl ClientCheck {
    /// Reads the authorities from a PEM file. Without names, any certificate of theirs is good.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate that can be trusted.
    pub fn from_file(path: &Path, names: impl IntoIterator<Item = String>) -> Result<Self, ClientAuthorityError> {
        let failed = |reason: String| ClientAuthorityError::File { path: path.to_owned(), reason };
        let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            let certificate = certificate.map_err(|error| failed(format!("not PEM: {error}")))?;
            roots.add(certificate).map_err(|error| failed(format!("a certificate in it is of no use: {error}")))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto::provider());
        let inner = verifier.build().map_err(|error| failed(error.to_string()))?;
        Ok(Self { inner, names: names.into_iter().collect() })
    }
}

/// The common name and the DNS names of a certificate.
fn names_of(certificate: &CertificateDer<'_>) -> Option<BTreeSet<String>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok().map(str::to_owned));
    let mut names: BTreeSet<String> = common.collect();
    if let Ok(Some(alternatives)) = parsed.subject_alternative_name() {
        names.extend(alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }));
    }
    Some(names)
}

impl ClientCertVerifier for ClientCheck {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let names = names_of(end_entity).ok_or(rustls::CertificateError::BadEncoding)?;
        if self.names.is_empty() || !self.names.is_disjoint(&names) {
            return Ok(verified);
        }
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
