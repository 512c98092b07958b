//! Keeps a server's certificate current: it looks where the certificate comes from, again and again.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Certificate, CertificateError, CurrentCertificate, PairFiles};
use crate::runtime::metrics::ServerMetrics;
use crate::runtime::readiness::Part;
use crate::runtime::reload::LoadError;

/// One look at a Secret may take this long.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Key of the certificate chain in a Secret.
pub const CERTIFICATE_KEY: &str = "tls.crt";
/// Key of the private key in a Secret.
pub const PRIVATE_KEY: &str = "tls.key";

/// Where a server certificate comes from that somebody else renews.
#[derive(Clone)]
pub enum ServingSource {
    /// Files, such as those of a mounted Secret.
    Files(PairFiles),
    /// A Secret, read by name.
    Secret {
        /// Secrets of its namespace.
        api: Box<Api<Secret>>,
        /// Its name.
        name: String,
    },
}

/// Why a Secret holds no certificate to serve with.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It does not exist.
    #[error("Secret {0:?} does not exist; apply the install manifest again")]
    Missing(String),
    /// Nobody has written a certificate into it yet.
    #[error("Secret {0:?} is still empty; the controller writes the certificate into it")]
    Empty(String),
    /// What it holds cannot serve.
    #[error("Secret {name:?}: {source}")]
    Certificate {
        /// Its name.
        name: String,
        /// Why not.
        source: CertificateError,
    },
    /// It could not be read.
    #[error("Secret {name:?} could not be read: {reason}")]
    Read {
        /// Its name.
        name: String,
        /// Why not.
        reason: String,
    },
}

impl ServingSource {
    /// A Secret of a namespace.
    #[must_use]
    pub fn secret(client: Client, namespace: &str, name: &str) -> Self {
        Self::Secret { api: Box::new(Api::namespaced(client, namespace)), name: name.to_owned() }
    }

    /// The certificate as it is now.
    ///
    /// # Errors
    /// When there is none, or it cannot serve.
    pub async fn load(&self) -> Result<Certificate, LoadError> {
        match self {
            Self::Files(files) => {
                let files = files.clone();
                Ok(tokio::task::spawn_blocking(move || files.load()).await??)
            }
            Self::Secret { api, name } => Ok(from_secret(api, name).await?),
        }
    }
}

async fn from_secret(api: &Api<Secret>, name: &str) -> Result<Certificate, SecretError> {
    let failed = |reason: String| SecretError::Read { name: name.to_owned(), reason };
    let secret = match timeout(LOOK_TIMEOUT, api.get_opt(name)).await {
        Ok(Ok(Some(secret))) => secret,
        Ok(Ok(None)) => return Err(SecretError::Missing(name.to_owned())),
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed("no answer from the API server".to_owned())),
    };
    let entry = |key: &str| secret.data.as_ref().and_then(|entries| entries.get(key)).filter(|it| !it.0.is_empty());
    let (Some(chain), Some(key)) = (entry(CERTIFICATE_KEY), entry(PRIVATE_KEY)) else {
        return Err(SecretError::Empty(name.to_owned()));
    };
    Certificate::from_pem(&chain.0, &key.0).map_err(|source| SecretError::Certificate { name: name.to_owned(), source })
}

/// What a server has to say about its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// It serves.
    Good,
    /// It serves, but should have been renewed by now; seconds that are left of it.
    Late(i64),
    /// It serves nobody any more.
    Expired,
    /// There is none.
    None,
}

/// A certificate is renewed when a third of its life is left; with half of that gone, somebody should look.
fn standing(current: Option<&Certificate>, now: i64) -> Standing {
    let Some(certificate) = current else { return Standing::None };
    let (life, left) = (certificate.expires() - certificate.begins(), certificate.expires() - now);
    match left {
        ..=0 => Standing::Expired,
        _ if left < life / 6 => Standing::Late(left),
        _ => Standing::Good,
    }
}

/// Keeps a certificate current until `stop`. The part is ready while there is one that has not expired.
///
/// What fails to load is left aside, and the last good certificate stays. Time is asked of the wall clock at every look,
/// so a process that was paused past the end of its certificate knows at once.
pub async fn keep(
    source: ServingSource,
    current: Arc<CurrentCertificate>,
    every: Duration,
    part: Part,
    metrics: Arc<ServerMetrics>,
    stop: CancellationToken,
) {
    let mut held: Option<Certificate> = None;
    let mut told: Option<(Standing, Option<String>)> = None;
    loop {
        let Some(loaded) = stop.run_until_cancelled(source.load()).await else { return };
        let trouble = match loaded {
            Ok(next) => {
                if held.as_ref().and_then(Certificate::leaf) != next.leaf() {
                    metrics.certificate_expires(next.expires());
                    metrics.reloaded("certificate", true);
                    tracing::info!(expires = next.expires(), "serving with a new certificate");
                    current.replace(next.clone());
                    held = Some(next);
                }
                None
            }
            Err(error) => Some(error.to_string()),
        };
        let standing = standing(held.as_ref(), OffsetDateTime::now_utc().unix_timestamp());
        say(&part, &standing, trouble.as_deref());
        // A count of seconds that changes is not news.
        let news = (if matches!(standing, Standing::Late(_)) { Standing::Late(0) } else { standing }, trouble);
        if told.as_ref() != Some(&news) {
            if let Some(error) = &news.1 {
                metrics.reloaded("certificate", false);
                tracing::warn!(%error, "no newer certificate could be loaded");
            }
            match news.0 {
                Standing::Late(_) => tracing::warn!("the server certificate ends soon and has not been renewed"),
                Standing::Expired => tracing::error!("the server certificate has expired"),
                Standing::Good | Standing::None => {}
            }
            told = Some(news);
        }
        if stop.run_until_cancelled(sleep(every)).await.is_none() {
            return;
        }
    }
}

fn say(part: &Part, standing: &Standing, trouble: Option<&str>) {
    let trouble = trouble.map(|trouble| format!("; {trouble}")).unwrap_or_default();
    match standing {
        Standing::Good if trouble.is_empty() => part.ready(),
        Standing::Good => part.ready_but(format!("the last good one is in use{trouble}")),
        Standing::Late(left) => part.ready_but(format!("it ends in {left} s and has not been renewed{trouble}")),
        Standing::Expired => part.not_ready(format!("it has expired{trouble}")),
        Standing::None => part.not_ready(format!("there is none yet{trouble}")),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use time::Duration as Span;

    use super::*;
    use crate::runtime::readiness::Readiness;

    fn pair(life: Span) -> (String, String) {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::new(vec!["a".to_owned()]).unwrap());
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - Span::hours(1), now + life);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[tokio::test]
    async fn readiness_follows_the_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let files = PairFiles { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
        let (readiness, stop) = (Readiness::new(), CancellationToken::new());
        let metrics = Arc::new(ServerMetrics::default());
        let task = tokio::spawn(keep(
            ServingSource::Files(files.clone()),
            CurrentCertificate::none_yet(),
            Duration::from_millis(5),
            readiness.part("certificate"),
            Arc::clone(&metrics),
            stop.clone(),
        ));
        let becomes = async |ready: bool, text: &str| {
            let wanted =
                |report: &crate::runtime::readiness::Report| report.ready == ready && report.text.contains(text);
            let seen = timeout(Duration::from_secs(20), async {
                while !wanted(&readiness.report()) {
                    sleep(Duration::from_millis(2)).await;
                }
            });
            assert!(seen.await.is_ok(), "wanted {text:?}, got {}", readiness.report().text);
        };
        let write = |(chain, key): (String, String)| {
            std::fs::write(&files.certificate, chain).unwrap();
            std::fs::write(&files.key, key).unwrap();
        };
        becomes(false, "there is none yet").await;
        write(pair(Span::days(30)));
        becomes(true, "certificate ok\n").await;
        std::fs::write(&files.certificate, "nonsense").unwrap();
        becomes(true, "the last good one is in use").await;
        write(pair(Span::minutes(5)));
        becomes(true, "has not been renewed").await;
        write(pair(Span::seconds(1)));
        becomes(false, "it has expired").await;
        write(pair(Span::days(30)));
        becomes(true, "certificate ok\n").await;
        assert!(metrics.reload_count("certificate", true) >= 4);
        stop.cancel();
        task.await.unwrap();
        assert!(!readiness.report().ready);
    }
}
