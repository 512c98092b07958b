//! How many new connections the webhook takes, each with a TLS handshake of its own and one small review.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Connections that are made at a time.
const SIDE_BY_SIDE: usize = 4;

/// The client's process: address, authority, body, and milliseconds to warm up and to measure are its arguments.
pub fn run() {
    let mut args = std::env::args().skip(1);
    let address: SocketAddr = args.next().unwrap().parse().unwrap();
    let (ca, body) = (std::fs::read(args.next().unwrap()).unwrap(), std::fs::read(args.next().unwrap()).unwrap());
    let mut time = || Duration::from_millis(args.next().unwrap().parse().unwrap());
    let (warm_up, measured) = (time(), time());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&ca) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    let tls = TlsConnector::from(Arc::new(config));
    let head = format!(
        "POST /mutate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let request: Arc<[u8]> = [head.as_bytes(), &body].concat().into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begin = Instant::now() + warm_up;
    let (mut times, group) = runtime.block_on(async {
        let tasks: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|_| tokio::spawn(connect(address, tls.clone(), Arc::clone(&request), begin, begin + measured)))
            .collect();
        let (mut times, mut group) = (Vec::new(), String::new());
        for task in tasks {
            let (more, of_task) = task.await.unwrap();
            times.extend(more);
            group = of_task;
        }
        (times, group)
    });
    times.sort_unstable();
    let milliseconds = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    #[allow(clippy::cast_precision_loss)]
    let rate = times.len() as f64 / measured.as_secs_f64();
    let result = json!({"rate": rate, "p50": milliseconds(50), "p99": milliseconds(99), "longest": milliseconds(100), "group": group});
    println!("{result}");
}

/// How long each handshake took, and the group of its key exchange.
async fn connect(
    address: SocketAddr,
    tls: TlsConnector,
    request: Arc<[u8]>,
    begin: Instant,
    end: Instant,
) -> (Vec<Duration>, String) {
    let (mut times, mut group) = (Vec::new(), String::new());
    let mut answer = Vec::new();
    loop {
        let dialled = Instant::now();
        if dialled >= end {
            return (times, group);
        }
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut stream = tls.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        if dialled >= begin {
            times.push(dialled.elapsed());
        }
        let negotiated = stream.get_ref().1.negotiated_key_exchange_group();
        group = negotiated.map(|group| format!("{:?}", group.name())).unwrap_or_default();
        stream.write_all(&request).await.unwrap();
        answer.clear();
        // How a connection is closed is no concern of this.
        let _closed = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    }
}
