//! The cluster's certificate authorities, made anew for each cluster.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// A certificate authority that signs for clients and servers.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS#8.
    pub key: String,
}

impl Authority {
    /// A new authority with a self-signed certificate.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = parameters(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// The authority's own certificate, PEM: what a client is told to trust.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a client: Kubernetes takes `user` and `group` from its subject.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = parameters(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A certificate for a server that is reached under `names`, each a DNS name or an IP address.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        let mut params = parameters(names.first().copied().unwrap_or("server"), None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into()?),
            });
        }
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

impl Identity {
    /// Writes `<stem>.crt` and `<stem>.key` into `directory`.
    pub(crate) fn write(&self, directory: &Path, stem: &str) -> Result<()> {
        write(&directory.join(format!("{stem}.crt")), &self.certificate)?;
        write(&directory.join(format!("{stem}.key")), &self.key)
    }
}

/// Writes a file that only its owner reads.
pub(crate) fn write(path: &Path, content: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    std::io::Write::write_all(&mut file, content.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

fn parameters(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(365);
    params
}

/// What the components read from `directory`.
pub(crate) struct Pki {
    /// Signs everything but the front proxy.
    pub authority: Authority,
}

impl Pki {
    /// Makes the authorities, the API server's certificates and the key of service account tokens.
    pub(crate) fn create(directory: &Path, addresses: &[String]) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let authority = Authority::new("kubernetes")?;
        write(&directory.join("ca.crt"), authority.certificate())?;
        let mut names = vec![
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "127.0.0.1",
            "10.96.0.1",
        ];
        names.extend(addresses.iter().map(String::as_str));
        authority.server(&names)?.write(directory, "apiserver")?;
        authority
            .client("kube-apiserver-kubelet-client", Some("system:masters"))?
            .write(directory, "kubelet-client")?;
        let front_proxy = Authority::new("front-proxy")?;
        write(&directory.join("front-proxy-ca.crt"), front_proxy.certificate())?;
        front_proxy.client("front-proxy-client", None)?.write(directory, "front-proxy-client")?;
        let tokens = KeyPair::generate()?;
        write(&directory.join("service-accounts.key"), &tokens.serialize_pem())?;
        write(&directory.join("service-accounts.pub"), &tokens.public_key_pem())?;
        Ok(Self { authority })
    }
}
