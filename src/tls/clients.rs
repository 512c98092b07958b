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

#[cfg(test)]
mod tests {
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, ServerConnection};
    use time::{Duration, OffsetDateTime};

    use super::*;
    use crate::tls::{Authority, CurrentCertificate, MinimumVersion, PemPair, server_config};

    /// A certificate for clients, whose names are those of the authority that issues it.
    fn client_of(names: &[&str]) -> (Authority, PemPair) {
        let (now, life) = (OffsetDateTime::now_utc(), Duration::days(1));
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let authority = Authority::with_life(&names, life, now).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (now - life, now + life);
        let signer = rcgen::KeyPair::from_pem(&authority.key_pem()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(authority.pem(), signer).unwrap();
        let pair = PemPair { chain: params.signed_by(&key, &issuer).unwrap().pem(), key: key.serialize_pem() };
        (authority, pair)
    }

    /// Whether a server with this check lets a client with this certificate in.
    fn lets_in(check: ClientCheck, client: Option<&PemPair>) -> bool {
        let now = OffsetDateTime::now_utc();
        let authority = Authority::new(&["localhost".to_owned()], now).unwrap();
        let serving = authority.issue(now).unwrap();
        let server = server_config(CurrentCertificate::new(serving), MinimumVersion::Tls12, Some(check)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(crypto::provider()).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_root_certificates(roots);
        let client = match client {
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        // Four flights are more than a handshake of either version has.
        for _ in 0..4 {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            if server.process_new_packets().is_err() {
                return false;
            }
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        !server.is_handshaking()
    }

    #[test]
    fn only_clients_of_the_authority_with_an_allowed_name_get_in() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        let (authority, pair) = client_of(&["api-server.example", "other.example"]);
        let (_, stranger) = client_of(&["api-server.example"]);
        std::fs::write(&file, authority.pem()).unwrap();
        let check = |names: &[&str]| ClientCheck::from_file(&file, names.iter().map(|it| (*it).to_owned())).unwrap();
        assert!(lets_in(check(&[]), Some(&pair)));
        assert!(lets_in(check(&["api-server.example", "another"]), Some(&pair)));
        assert!(!lets_in(check(&["another"]), Some(&pair)), "a name that is not allowed");
        assert!(!lets_in(check(&[]), Some(&stranger)), "another authority of the same names");
        assert!(!lets_in(check(&[]), None), "no certificate");
    }

    #[test]
    fn a_file_without_authorities_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        let missing = ClientCheck::from_file(&file, []).unwrap_err().to_string();
        assert!(missing.contains("ca.crt"), "{missing}");
        std::fs::write(&file, "").unwrap();
        assert!(ClientCheck::from_file(&file, []).is_err());
    }
}
