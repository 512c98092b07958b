//! Keeps a server's certificate current: it looks where the certificate comes from, again and again.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{Certificate, CertificateError, CurrentCertificate, PairFiles};
use crate::kubernetes::api::{ApiError, within};
use crate::kubernetes::controller::{Controller, Follower, Reconciler, Turn};
use crate::runtime::metrics::ServerMetrics;
use crate::runtime::queue::Queue;
use crate::runtime::readiness::Part;
use crate::runtime::reload::LoadError;

/// One look at a Secret may take this long.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a look is taken whatever the last one asked for.
const RESYNC: Duration = Duration::from_secs(300);
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
    #[error("Secret {name:?} could not be read: {source}")]
    Read {
        /// Its name.
        name: String,
        /// Why not.
        source: ApiError,
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
    let read = within(LOOK_TIMEOUT, api.get_opt(name)).await;
    let read = read.map_err(|source| SecretError::Read { name: name.to_owned(), source })?;
    let secret = read.ok_or_else(|| SecretError::Missing(name.to_owned()))?;
    let entry = |key: &str| secret.data.as_ref().and_then(|entries| entries.get(key)).filter(|it| !it.0.is_empty());
    let (Some(chain), Some(key)) = (entry(CERTIFICATE_KEY), entry(PRIVATE_KEY)) else {
        return Err(SecretError::Empty(name.to_owned()));
    };
    Certificate::from_pem(&chain.0, &key.0).map_err(|source| SecretError::Certificate { name: name.to_owned(), source })
}

/// What a server has to say about its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CertificateState {
    /// It serves.
    Good,
    /// It serves, but should have been renewed by now; seconds that are left of it.
    Late(i64),
    /// It serves nobody any more.
    Expired,
    /// It serves nobody yet; seconds until it does.
    Early(i64),
    /// There is none.
    None,
}

/// A certificate is renewed when a third of its life is left; with half of that gone, somebody should look.
fn state_of(current: Option<&Certificate>, now: i64) -> CertificateState {
    let Some(certificate) = current else { return CertificateState::None };
    let (life, left) = (certificate.expires() - certificate.begins(), certificate.expires() - now);
    let early = certificate.begins() - now;
    match left {
        ..=0 => CertificateState::Expired,
        _ if early > 0 => CertificateState::Early(early),
        _ if left < life / 6 => CertificateState::Late(left),
        _ => CertificateState::Good,
    }
}

/// Keeps a certificate current until `stop`. The part is ready while there is one that has not expired.
///
/// What fails to load is left aside, and the last good certificate stays. Time is asked of the wall clock at every look,
/// so a process that was paused past the end of its certificate knows at once.
pub async fn follow_certificate(
    source: ServingSource,
    current: Arc<CurrentCertificate>,
    every: Duration,
    part: Part,
    metrics: Arc<ServerMetrics>,
    stop: CancellationToken,
) {
    let queue = Arc::<Queue<()>>::default();
    let seen = Mutex::default();
    let (own, ended) = (Arc::clone(&queue), stop.clone());
    let reconciler = Arc::new(Follow { source, current, every, part, metrics, seen, queue: own, stop: ended });
    let controller = Controller {
        name: "certificate",
        reconciler,
        queue,
        workers: 1,
        leadership: None,
        follower: Follower::Looks,
        // Each look asks for the next one.
        resync: RESYNC,
    };
    controller.run(stop).await;
}

/// The only key: the certificate that is served with.
struct Follow {
    source: ServingSource,
    current: Arc<CurrentCertificate>,
    every: Duration,
    part: Part,
    metrics: Arc<ServerMetrics>,
    seen: Mutex<Seen>,
    queue: Arc<Queue<()>>,
    stop: CancellationToken,
}

/// What was seen at the last look.
#[derive(Default)]
struct Seen {
    held: Option<Certificate>,
    logged: Option<(CertificateState, Option<String>)>,
}

impl Reconciler for Follow {
    type Key = ();
    type Error = ApiError;

    async fn reconcile(&self, (): &(), _: Turn) -> Result<Option<Duration>, ApiError> {
        // A look under way is dropped at the end: nothing waits for what it reads.
        let Some(loaded) = self.stop.run_until_cancelled(self.source.load()).await else { return Ok(None) };
        self.take(loaded);
        Ok(Some(self.every))
    }

    fn enqueue_all(&self) {
        self.queue.now(());
    }
}

impl Follow {
    /// Serves with what was loaded, and tells how the certificate is.
    fn take(&self, loaded: Result<Certificate, LoadError>) {
        let mut seen = self.seen.lock();
        let trouble = match loaded {
            Ok(next) => {
                if seen.held.as_ref().and_then(Certificate::leaf) != next.leaf() {
                    self.metrics.certificate_expires(next.expires());
                    self.metrics.reloaded("certificate", true);
                    tracing::info!(expires = next.expires(), "serving with a new certificate");
                    self.current.replace(next.clone());
                    seen.held = Some(next);
                }
                None
            }
            Err(error) => Some(error.to_string()),
        };
        let state = state_of(seen.held.as_ref(), OffsetDateTime::now_utc().unix_timestamp());
        report(&self.part, &state, trouble.as_deref());
        // A count of seconds that changes is not news.
        let state = match state {
            CertificateState::Late(_) => CertificateState::Late(0),
            CertificateState::Early(_) => CertificateState::Early(0),
            other => other,
        };
        let news = (state, trouble);
        if seen.logged.as_ref() != Some(&news) {
            self.log(&news.0, news.1.as_deref());
            seen.logged = Some(news);
        }
    }

    fn log(&self, state: &CertificateState, trouble: Option<&str>) {
        if let Some(error) = trouble {
            self.metrics.reloaded("certificate", false);
            tracing::warn!(error, "no newer certificate could be loaded");
        }
        match state {
            CertificateState::Late(_) => {
                tracing::warn!("the server certificate ends soon and has not been renewed");
            }
            CertificateState::Expired => tracing::error!("the server certificate has expired"),
            CertificateState::Early(_) => {
                tracing::error!("the server certificate is not valid yet; is the clock right?");
            }
            CertificateState::Good | CertificateState::None => {}
        }
    }
}

fn report(part: &Part, state: &CertificateState, trouble: Option<&str>) {
    let trouble = trouble.map(|trouble| format!("; {trouble}")).unwrap_or_default();
    match state {
        CertificateState::Good if trouble.is_empty() => part.ready(),
        CertificateState::Good => part.ready_but(format!("the last good one is in use{trouble}")),
        CertificateState::Late(left) => {
            part.ready_but(format!("it ends in {left} s and has not been renewed{trouble}"));
        }
        CertificateState::Expired => part.not_ready(format!("it has expired{trouble}")),
        CertificateState::Early(seconds) => {
            part.not_ready(format!("it is not valid for another {seconds} s; is the clock right?{trouble}"));
        }
        CertificateState::None => part.not_ready(format!("there is none yet{trouble}")),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use time::Duration as Span;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::runtime::readiness::Readiness;

    fn pair(life: Span) -> (String, String) {
        pair_from(Span::hours(-1), life)
    }

    fn pair_from(begins: Span, life: Span) -> (String, String) {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::new(vec!["a".to_owned()]).unwrap());
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now + begins, now + life);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[tokio::test]
    async fn readiness_follows_the_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let files = PairFiles { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
        let (readiness, stop) = (Readiness::new(), CancellationToken::new());
        let metrics = Arc::new(ServerMetrics::default());
        let task = tokio::spawn(follow_certificate(
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
        write(pair_from(Span::days(900), Span::days(990)));
        becomes(false, "it is not valid for another ").await;
        write(pair(Span::days(30)));
        becomes(true, "certificate ok\n").await;
        assert!(metrics.reload_count("certificate", true) >= 4);
        stop.cancel();
        task.await.unwrap();
        assert!(!readiness.report().ready);
    }
}
