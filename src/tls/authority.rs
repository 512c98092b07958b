//! A certificate authority of our own, for servers that nobody gave a certificate.

use std::io;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use super::{Certificate, CertificateError};

/// Life of an authority that lives in memory only and so ends with the process, long before.
const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Life of a server certificate; a new one is issued when a third of it is left.
const LEAF_LIFE: Duration = Duration::days(90);
/// Clocks of clients may lag.
const BACKDATED: Duration = Duration::hours(1);

/// How far before now a certificate of this life begins: never so far that it counts for its life.
fn backdated(life: Duration) -> Duration {
    BACKDATED.min(life / 10)
}

/// A certificate chain and its key in PEM, as a Secret keeps them.
#[derive(Clone, PartialEq, Eq)]
pub struct PemPair {
    /// The chain, server certificate first.
    pub chain: String,
    /// The private key, PKCS#8.
    pub key: String,
}

impl std::fmt::Debug for PemPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PemPair").finish_non_exhaustive()
    }
}

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A name cannot stand in a certificate.
    #[error("{name:?} cannot be a name of the server: {source}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// Making keys or signing failed.
    #[error("could not make a certificate: {0}")]
    Signing(#[from] rcgen::Error),
    /// The certificate that was made cannot serve.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// A self-signed authority that issues certificates for one server.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    names: Vec<String>,
}

impl Authority {
    /// Makes an authority for a server of the given DNS names and IP addresses.
    ///
    /// # Errors
    /// When a name can stand in no certificate, or no key can be made.
    pub fn new(names: &[String], now: OffsetDateTime) -> Result<Self, AuthorityError> {
        Self::with_life(names, AUTHORITY_LIFE, now)
    }

    /// The same with a life of one's choice.
    ///
    /// # Errors
    /// When a name can stand in no certificate, or no key can be made.
    pub fn with_life(names: &[String], life: Duration, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        for name in names {
            CertificateParams::new(vec![name.clone()])
                .map_err(|source| AuthorityError::Name { name: name.clone(), source })?;
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = named("latebind self-signed authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = now - backdated(life);
        params.not_after = now + life;
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem, names: names.to_vec() })
    }

    /// An authority that was stored, for a server of the given names.
    ///
    /// # Errors
    /// When certificate or key cannot be read.
    pub fn from_pem(certificate: &str, key: &str, names: &[String]) -> Result<Self, AuthorityError> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Self { issuer, pem: certificate.to_owned(), names: names.to_vec() })
    }

    /// The authority's key in PEM. Whoever has it can make certificates that the API server trusts for the webhook.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The authority's certificate: what goes, base64-encoded, into `caBundle` of a webhook configuration.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes the authority's certificate to a file, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_pem(&self, path: &Path) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.tmp", std::process::id()));
        std::fs::write(&beside, &self.pem)?;
        std::fs::rename(&beside, path)
    }

    /// Issues a server certificate with a key of its own.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn issue(&self, now: OffsetDateTime) -> Result<Certificate, AuthorityError> {
        let (leaf, key) = self.sign(now - backdated(LEAF_LIFE), now + LEAF_LIFE)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Certificate::new(vec![leaf.der().clone()], key)?)
    }

    /// Issues a server certificate that can be stored, and that ends after `life` or at `latest`.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn issue_pem(
        &self,
        life: Duration,
        latest: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<PemPair, AuthorityError> {
        let (leaf, key) = self.sign(now - backdated(life), (now + life).min(latest))?;
        Ok(PemPair { chain: leaf.pem(), key: key.serialize_pem() })
    }

    fn sign(
        &self,
        begins: OffsetDateTime,
        ends: OffsetDateTime,
    ) -> Result<(rcgen::Certificate, KeyPair), AuthorityError> {
        let mut params = CertificateParams::new(self.names.clone())?;
        params.distinguished_name = named("latebind webhook");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (begins, ends);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok((leaf, key))
    }

    /// True when a third of a certificate's life, or less, is left. Asked by the wall clock, so that a machine that was
    /// suspended renews as soon as it wakes.
    #[must_use]
    pub fn is_due(certificate: &Certificate, now: OffsetDateTime) -> bool {
        let now = now.unix_timestamp();
        // One that a clock has made that was ahead is of no use either.
        certificate.expires() - now <= LEAF_LIFE.whole_seconds() / 3 || now < certificate.begins()
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));

    #[test]
    fn a_certificate_is_due_when_a_third_of_its_life_is_left() {
        let authority = Authority::new(&["localhost".to_owned(), "::1".to_owned()], NOW).unwrap();
        let certificate = authority.issue(NOW).unwrap();
        assert!(!Authority::is_due(&certificate, NOW + Duration::days(59)));
        assert!(Authority::is_due(&certificate, NOW + Duration::days(61)));
        assert!(Authority::is_due(&certificate, NOW + Duration::days(1000)));
        assert!(Authority::is_due(&certificate, NOW - Duration::days(1000)), "not valid yet");
    }

    #[test]
    fn every_certificate_has_its_own_key() {
        let authority = Authority::new(&["localhost".to_owned()], NOW).unwrap();
        let (first, second) = (authority.issue(NOW).unwrap(), authority.issue(NOW).unwrap());
        assert_ne!(first.leaf(), second.leaf());
        assert!(authority.pem().starts_with("-----BEGIN CERTIFICATE-----"));
    }

    #[test]
    fn a_name_that_no_certificate_can_carry_is_named() {
        let refused = Authority::new(&["bücher.example".to_owned()], NOW).map(|_| ()).expect_err("not ASCII");
        assert!(refused.to_string().contains("bücher.example"), "{refused}");
    }
}
