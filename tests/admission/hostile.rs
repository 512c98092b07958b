//! Clients that are broken, slow, silent, too large or too many.

use std::time::Duration;

use hyper::StatusCode;
use latebind::admission::service::Choices;
use latebind::runtime::serve::ConnectionLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::support::{Client, Config, PATIENCE, review, serve};

/// Limits that a test can wait for.
fn brief() -> ConnectionLimits {
    ConnectionLimits {
        handshake: Duration::from_millis(300),
        first_request: Duration::from_millis(300),
        idle: Duration::from_millis(500),
        ..ConnectionLimits::webhook()
    }
}

fn brief_bodies() -> Choices {
    let mut choices = Choices::default();
    choices.bodies.stall = Duration::from_millis(300);
    choices
}

/// What the server says until it closes the connection, which it must.
async fn until_closed(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut said = Vec::new();
    // An end without TLS's close_notify is an end all the same.
    let _ended = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the server closes the connection");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_silent_tcp_peer_is_dropped() {
    let served = serve(Config { limits: brief(), ..Config::default() }).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(until_closed(&mut stream).await, "");
    served.until_metric(r#"latebind_tls_handshake_failures_total{reason="timeout"}"#, 1.0).await;
}

#[tokio::test]
async fn a_client_without_tls_is_dropped() {
    let served = serve(Config { limits: brief(), ..Config::default() }).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"POST /mutate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let said = until_closed(&mut stream).await;
    assert!(!said.contains("HTTP/1.1"), "{said}");
    served.until_metric(r#"latebind_tls_handshake_failures_total{reason="error"}"#, 1.0).await;
}

#[tokio::test]
async fn a_client_that_trusts_another_authority_is_not_served() {
    let (served, other) = (serve(Config::default()).await, serve(Config::default()).await);
    let stranger = Client::new(served.address, &other.ca);
    assert!(stranger.raw().await.is_err());
    assert!(served.client().raw().await.is_ok());
}

#[tokio::test]
async fn slow_headers_are_cut_off() {
    let served = serve(Config { limits: brief(), ..Config::default() }).await;
    let mut stream = served.client().raw().await.unwrap();
    stream.write_all(b"POST /mutate HTTP/1.1\r\nhost: local").await.unwrap();
    let said = until_closed(&mut stream).await;
    assert!(!said.contains("200"), "{said}");
}

#[tokio::test]
async fn a_stalled_body_is_cut_off_with_408() {
    let served = serve(Config { choices: brief_bodies(), ..Config::default() }).await;
    let mut stream = served.client().raw().await.unwrap();
    let head = b"POST /mutate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{\"kind\"";
    stream.write_all(head).await.unwrap();
    let said = until_closed(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
}

#[tokio::test]
async fn a_body_that_drips_is_served_as_long_as_it_moves() {
    let mut choices = Choices::default();
    choices.bodies.stall = Duration::from_secs(2);
    let served = serve(Config { choices, ..Config::default() }).await;
    let mut stream = served.client().raw().await.unwrap();
    let body = serde_json::to_vec(&review("pod-pinned")).unwrap();
    let head = format!(
        "POST /mutate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Each pause is a small part of the limit, all of them are more than it.
    for part in body.chunks(body.len().div_ceil(10)) {
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let said = until_closed(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("JSONPatch"), "{said}");
}

#[tokio::test]
async fn a_truncated_body_ends_its_connection_only() {
    let served = serve(Config::default()).await;
    let mut stream = served.client().raw().await.unwrap();
    let head = b"POST /mutate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{\"kind\"";
    stream.write_all(head).await.unwrap();
    stream.shutdown().await.unwrap();
    let said = until_closed(&mut stream).await;
    assert!(!said.contains("200 OK"), "{said}");
    assert_eq!(served.client().ask("/mutate", &review("pod-pinned")).await["allowed"], true);
}

#[tokio::test]
async fn a_chunked_body_is_read_too() {
    let served = serve(Config::default()).await;
    let mut stream = served.client().raw().await.unwrap();
    let body = serde_json::to_string(&review("pod-pinned")).unwrap();
    let (first, second) = body.split_at(700);
    let head = "POST /mutate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let request =
        format!("{head}{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\nx-trailer: 1\r\n\r\n", first.len(), second.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let said = until_closed(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("JSONPatch"), "{said}");
}

#[tokio::test]
async fn a_body_of_seven_mib_is_read_and_one_of_eight_is_refused() {
    let served = serve(Config::default()).await;
    let padded = |bytes: usize| {
        let mut body = serde_json::to_vec(&review("pod-pinned")).unwrap();
        body.resize(bytes, b' ');
        body
    };
    let (status, text) = served.client().post("/mutate", padded(7 << 20)).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("JSONPatch"), "{text}");
    for (what, body) in [("one byte more", padded((7 << 20) + 1)), ("8 MiB", padded(8 << 20))] {
        let (status, text) = served.client().post("/mutate", body).await.unwrap();
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{what}");
        assert!(text.contains("larger than 7340032 bytes"), "{text}");
    }
    // Told in advance, the server does not even ask for the body.
    let mut stream = served.client().raw().await.unwrap();
    let head = b"POST /mutate HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 8388608\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let said = until_closed(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    // Without a length the limit holds as well.
    let mut stream = served.client().raw().await.unwrap();
    let head = b"POST /mutate HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let chunk = [b"100000\r\n".as_slice(), vec![b' '; 1 << 20].as_slice(), b"\r\n"].concat();
    for _ in 0..8 {
        stream.write_all(&chunk).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut said = [0; 13];
    timeout(PATIENCE, stream.read_exact(&mut said)).await.unwrap().unwrap();
    assert_eq!(&said, b"HTTP/1.1 413 ");
}

#[tokio::test]
async fn bodies_beyond_the_room_for_all_of_them_are_shed() {
    let mut choices = Choices::default();
    choices.bodies.held = 1 << 20;
    let served = serve(Config { choices, ..Config::default() }).await;
    // One client holds nearly all of the room, by a body whose end does not come.
    let mut holder = served.client().raw().await.unwrap();
    let head = format!("POST /mutate HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", 2 << 20);
    holder.write_all(head.as_bytes()).await.unwrap();
    holder.write_all(&vec![b' '; 700 << 10]).await.unwrap();
    holder.flush().await.unwrap();
    let mut large = serde_json::to_vec(&review("pod-pinned")).unwrap();
    large.resize(600 << 10, b' ');
    // Until the holder's bytes have arrived there is still room.
    let refused = async {
        loop {
            let (status, _) = served.client().post("/mutate", large.clone()).await.unwrap();
            if status == StatusCode::SERVICE_UNAVAILABLE {
                return;
            }
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    served.until_metric(r#"latebind_sheds_total{bound="bodies"}"#, 1.0).await;
    // A small review still finds room, and when the holder goes, so does a large one.
    assert_eq!(served.client().ask("/mutate", &review("pod-pinned")).await["allowed"], true);
    drop(holder);
    let served_again =
        async { while served.client().post("/mutate", large.clone()).await.unwrap().0 != StatusCode::OK {} };
    timeout(PATIENCE, served_again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_connections_at_once_are_all_answered() {
    let served = serve(Config::default()).await;
    let body = serde_json::to_vec(&review("pod-pinned")).unwrap();
    let client = served.client();
    let connections = (0..200).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.connect().await.unwrap() })
    });
    let connections: Vec<_> = connections.collect();
    let mut open = Vec::new();
    for connection in connections {
        open.push(connection.await.unwrap());
    }
    assert!(served.metric("latebind_connections").await >= 200.0);
    let requests: Vec<_> = open
        .into_iter()
        .map(|mut connection| {
            let body = body.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    let response = connection.post("/mutate", body.clone()).await.unwrap();
                    assert_eq!(response.status(), StatusCode::OK);
                    super::support::text(response).await.unwrap();
                }
            })
        })
        .collect();
    for request in requests {
        request.await.unwrap();
    }
    let series =
        r#"latebind_admission_requests_total{hook="mutate",decision="rewritten",code="LB001",dry_run="false"}"#;
    assert!((served.metric(series).await - 1000.0).abs() < f64::EPSILON);
    served.until("/metrics", |_, text| super::support::metric(text, "latebind_connections") < 1.0).await;
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_at_once() {
    let limits = ConnectionLimits { connections: 4, ..ConnectionLimits::webhook() };
    let served = serve(Config { limits, ..Config::default() }).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut connection = served.client().connect().await.unwrap();
        let response = connection.post("/mutate", "{}").await.unwrap();
        super::support::text(response).await.unwrap();
        open.push(connection);
    }
    assert!(served.client().connect().await.is_err());
    served.until_metric(r#"latebind_sheds_total{bound="connections"}"#, 1.0).await;
    drop(open.pop());
    let room = async { while served.client().connect().await.is_err() {} };
    timeout(PATIENCE, room).await.unwrap();
}

#[tokio::test]
async fn idle_newcomers_make_room_when_half_of_the_connections_are_taken() {
    let limits =
        ConnectionLimits { connections: 4, first_request: Duration::from_millis(300), ..ConnectionLimits::webhook() };
    let served = serve(Config { limits, ..Config::default() }).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(served.client().raw().await.unwrap());
    }
    // No idle time has passed, and yet others get in.
    let room = async { while served.client().post("/mutate", "{}").await.is_err() {} };
    timeout(PATIENCE, room).await.unwrap();
    drop(silent);
}
