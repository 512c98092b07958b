//! The client of both load benchmarks: kept connections, each of which sends the next review when it has the last answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Connections of the client.
pub const CONNECTIONS: usize = 16;

/// The client's process: address, authority, body, milliseconds to warm up and to measure, path and number of connections
/// are its arguments; the last two may be left out.
pub fn run() {
    let mut args = std::env::args().skip(1);
    let address: SocketAddr = args.next().unwrap().parse().unwrap();
    let (ca, body) = (std::fs::read(args.next().unwrap()).unwrap(), std::fs::read(args.next().unwrap()).unwrap());
    let mut time = || Duration::from_millis(args.next().unwrap().parse().unwrap());
    let (warm_up, measured) = (time(), time());
    let path = args.next().unwrap_or_else(|| "/mutate".to_owned());
    let connections = args.next().map_or(CONNECTIONS, |number| number.parse().unwrap());
    // Who sends the usual review says so by the usual number of connections, and is to be answered with a patch.
    let rewritten = connections == CONNECTIONS;
    let mut request = format!(
        "POST {path}?timeout=3s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: kube-apiserver-admission\r\n\
         Content-Length: {}\r\nAccept: application/json, */*\r\nContent-Type: application/json\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&ca) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tls = TlsConnector::from(Arc::new(config));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut times = runtime.block_on(async {
        let request: Arc<[u8]> = request.into();
        let begin = Instant::now() + warm_up;
        let tasks: Vec<_> = (0..connections)
            .map(|_| tokio::spawn(ask(address, tls.clone(), Arc::clone(&request), begin, begin + measured, rewritten)))
            .collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        times
    });
    times.sort_unstable();
    let milliseconds = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    #[allow(clippy::cast_precision_loss)]
    let rate = times.len() as f64 / measured.as_secs_f64();
    println!(
        "{}",
        json!({"rate": rate, "p50": milliseconds(50), "p99": milliseconds(99), "longest": milliseconds(100)})
    );
}

/// One connection: the next request follows the last answer.
async fn ask(
    address: SocketAddr,
    tls: TlsConnector,
    request: Arc<[u8]>,
    begin: Instant,
    end: Instant,
    rewritten: bool,
) -> Vec<Duration> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut stream = tls.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let mut times = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let sent = Instant::now();
        if sent >= end {
            return times;
        }
        stream.write_all(&request).await.unwrap();
        stream.flush().await.unwrap();
        let mut filled = 0;
        let mut expected = usize::MAX;
        while filled < expected {
            let read = stream.read(&mut buffer[filled..]).await.unwrap();
            assert_ne!(read, 0, "the server closed the connection");
            filled += read;
            if expected == usize::MAX
                && let Some(head) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n")
            {
                let text = std::str::from_utf8(&buffer[..head]).unwrap().to_ascii_lowercase();
                assert!(text.starts_with("http/1.1 200 "), "{text}");
                let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                expected = head + 4 + length.trim().parse::<usize>().unwrap();
            }
        }
        if sent >= begin {
            times.push(sent.elapsed());
        } else if rewritten && buffer[..filled].contains(&b'{') {
            let said = String::from_utf8_lossy(&buffer[..filled]);
            assert!(said.contains("JSONPatch"), "not rewritten: {said}");
        }
    }
}
