//! TLS of the admission server: certificates, their renewal, and what is offered to a client.

pub mod authority;
pub mod crypto;
pub mod files;
mod resolver;

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};

pub use authority::{Authority, AuthorityError};
pub use files::{PairError, PairFiles};
pub use resolver::{Certificate, CertificateError, CurrentCertificate};

/// The oldest protocol version that is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinimumVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// A text that names no protocol version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of 1.2, 1.3")]
pub struct ParseVersionError(String);

impl std::str::FromStr for MinimumVersion {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            _ => Err(ParseVersionError(text.chars().take(64).collect())),
        }
    }
}

/// What a server offers: the current certificate, HTTP/1.1 only.
///
/// The API server speaks nothing else to webhooks (`apiserver/pkg/util/webhook/client.go` sets `NextProtos` to
/// `http/1.1`), so that HTTP/2 would be attack surface and no more.
///
/// # Errors
/// When the crypto provider supports none of the protocol versions.
pub fn server_config(
    certificate: Arc<CurrentCertificate>,
    minimum: MinimumVersion,
) -> Result<ServerConfig, rustls::Error> {
    let versions: &[_] = match minimum {
        MinimumVersion::Tls12 => &[&TLS13, &TLS12],
        MinimumVersion::Tls13 => &[&TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // API servers resume no sessions (Go's default), so tickets would be work for nobody; and without them a client that
    // does resume sees a new certificate at once.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
