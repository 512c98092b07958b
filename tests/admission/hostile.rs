//! Clients that are broken, slow, silent, too large or too many.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use hyper::StatusCode;
use latebind::admission::service::AdmissionOptions;
use latebind::runtime::serve::ConnectionLimits;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use latebind_test_support::worst;

use super::support::{Client, Config, PATIENCE, hooked, review, serve, text};

/// Limits that a test can wait for.
fn brief() -> ConnectionLimits {
    ConnectionLimits {
        handshake: Duration::from_millis(300),
        idle: Duration::from_millis(500),
        ..ConnectionLimits::webhook()
    }
}

fn brief_bodies() -> AdmissionOptions {
    let mut choices = AdmissionOptions::default();
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
    let mut choices = AdmissionOptions::default();
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
    let mut choices = AdmissionOptions::default();
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
    // A client has finished its side of the handshake before the server has counted it.
    served.until_metric("latebind_connections", 200.0).await;
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

/// A connection from an address of loopback that is not the usual one.
async fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn the_longest_idle_connection_makes_room_for_a_new_one() {
    let limits = ConnectionLimits { connections: 4, ..ConnectionLimits::webhook() };
    let served = serve(Config { limits, ..Config::default() }).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut connection = served.client().connect().await.unwrap();
        text(connection.post("/mutate", "{}").await.unwrap()).await.unwrap();
        open.push(connection);
    }
    // Every one of them has been used just now, and yet the next client is served, and the one after it.
    for _ in 0..2 {
        let mut connection = served.client().connect().await.unwrap();
        text(connection.post("/mutate", "{}").await.unwrap()).await.unwrap();
        open.push(connection);
    }
    served.until_metric("latebind_connection_evictions_total", 2.0).await;
    assert!(served.metric(r#"latebind_sheds_total{bound="connections"}"#).await < 1.0);
    for (place, closed) in [(0, true), (1, true), (2, false), (5, false)] {
        assert_eq!(open[place].post("/mutate", "{}").await.is_err(), closed, "connection {place}");
    }
}

/// Connections that are held open and asked a little now and then, as many as there may be.
#[tokio::test]
async fn no_client_takes_the_connections_of_all() {
    let limits = ConnectionLimits::webhook();
    let served = serve(Config::default()).await;
    let mut pooled = served.client().connect().await.unwrap();
    text(pooled.post("/mutate", "{}").await.unwrap()).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..limits.connections {
        let stream = connect_from(2, served.address).await;
        let mut stream = served.client().speak(stream).await.unwrap();
        stream.write_all(b"G").await.unwrap();
        held.push(stream);
    }
    // A new client is served, and so is the one whose connection was idle for longer than all of theirs.
    assert_eq!(served.client().ask("/mutate", &review("pod-pinned")).await["allowed"], true);
    let body = serde_json::to_vec(&review("pod-pinned")).unwrap();
    assert_eq!(pooled.post("/mutate", body).await.unwrap().status(), StatusCode::OK);
    drop(held);
}

#[tokio::test]
async fn requests_that_do_not_end_take_the_connections_of_nobody_else() {
    let limits = ConnectionLimits { connections: 8, ..ConnectionLimits::webhook() };
    let served = serve(Config { limits, ..Config::default() }).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = served.client().speak(connect_from(2, served.address).await).await.unwrap();
        stream.write_all(b"POST /mutate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{").await.unwrap();
        held.push(stream);
    }
    served.until_metric("latebind_connections", 8.0).await;
    assert_eq!(served.client().ask("/mutate", &review("pod-pinned")).await["allowed"], true);
    drop(held);
}

#[tokio::test]
async fn nobody_keeps_probes_from_being_answered() {
    let served = serve(Config::default()).await;
    let mut held = Vec::new();
    for place in 0..ConnectionLimits::probes().connections + 8 {
        let mut stream = connect_from(2, served.metrics_address).await;
        // Some say nothing, some not enough, and some do not read what they asked for.
        let said: &[u8] = [b"".as_slice(), b"GET /livez", b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"][place % 3];
        stream.write_all(said).await.unwrap();
        held.push(stream);
    }
    // From another address, as a kubelet asks, and from the very same one.
    for last in [1, 2, 1] {
        let mut stream = connect_from(last, served.metrics_address).await;
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let said = until_closed(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    }
    drop(held);
}

/// Every thread of the process that answers reviews is kept busy; the probes have one of their own.
#[tokio::test]
async fn probes_are_answered_while_every_other_thread_is_busy() {
    let served = serve(Config::default()).await;
    let address = served.metrics_address;
    // This test's only thread waits for the answer without letting another task run.
    let said = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    });
    assert!(said.join().unwrap().starts_with("HTTP/1.1 200 "));
}

/// A Pod that names its node and a class of claims that wait, repeated until the review is about so large.
fn pod_of(bytes: usize, part: impl Fn(usize) -> (&'static str, Value)) -> Vec<u8> {
    let mut review = review("pod-pinned");
    let spec = &mut review["request"]["object"]["spec"];
    let mut length = 0;
    for place in 0.. {
        let (list, item) = part(place);
        length += item.to_string().len() + 1;
        if length > bytes {
            break;
        }
        match &mut spec[list] {
            Value::Array(items) => items.push(item),
            nothing => *nothing = json!([item]),
        }
    }
    serde_json::to_vec(&review).unwrap()
}

#[tokio::test]
async fn of_a_pod_with_thousands_of_claims_none_is_looked_at_and_the_answer_says_so() {
    let served = serve(Config::default()).await;
    let claims = |place: usize| {
        ("volumes", json!({"name": format!("v{place}"), "persistentVolumeClaim": {"claimName": "shop-data"}}))
    };
    for (path, bytes) in [("/mutate", 30 << 10), ("/mutate", 3 << 20), ("/validate", 3 << 20)] {
        let (status, text) = served.client().post(path, pod_of(bytes, claims)).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let warning = answer["response"]["warnings"][0].as_str().unwrap();
        assert!(warning.starts_with("LB022: the Pod declares ") && answer["response"]["allowed"] == true, "{text}");
        assert!(answer["response"].get("patch").is_none());
    }
    // As many as any node can hold are looked at.
    let most = |place: usize| if place < 250 { claims(place) } else { ("", json!("x".repeat(1 << 20))) };
    let (_, text) = served.client().post("/mutate", pod_of(1 << 19, most)).await.unwrap();
    assert!(!text.contains("LB022"), "{text}");
}

#[tokio::test]
async fn a_large_review_holds_up_no_small_one() {
    let gate = Arc::new(Barrier::new(2));
    let (stopping, stopped) = (Arc::clone(&gate), AtomicBool::new(false));
    let on_claim = move |name: &str| {
        // It is asked about more than once.
        if name == "stops" && !stopped.swap(true, Ordering::SeqCst) {
            // Once to say that it has come here, once to go on.
            stopping.wait();
            stopping.wait();
        }
    };
    let served = serve(Config { view: hooked(on_claim), ..Config::default() }).await;
    let stops = |place: usize| match place {
        0 => ("volumes", json!({"name": "v", "persistentVolumeClaim": {"claimName": "stops"}})),
        _ => ("containers", json!({"name": format!("c{place}")})),
    };
    let client = served.client();
    let large = tokio::spawn(async move { client.post("/mutate", pod_of(200 << 10, stops)).await.unwrap() });
    // The server has this test's only thread: were the large review decided on it, nothing would ever be answered.
    tokio::task::spawn_blocking({
        let gate = Arc::clone(&gate);
        move || gate.wait()
    })
    .await
    .unwrap();
    assert_eq!(served.client().ask("/mutate", &review("pod-pinned")).await["allowed"], true);
    served.until("/livez", |status, _| status == StatusCode::OK).await;
    tokio::task::spawn_blocking(move || gate.wait()).await.unwrap();
    assert_eq!(large.await.unwrap().0, StatusCode::OK);
}

/// Whoever reaches the port may ask about the claims of any namespace.
#[tokio::test]
async fn a_caller_without_a_certificate_learns_no_names() {
    let choices = AdmissionOptions { details: false, ..AdmissionOptions::default() };
    let served = serve(Config { choices, ..Config::default() }).await;
    let mut pod = review("pod-pinned");
    pod["request"]["object"]["spec"]["nodeName"] = json!("cordoned-0");
    for path in ["/mutate", "/validate"] {
        let answer = served.client().ask(path, &pod).await;
        let warnings = answer["warnings"].as_array().unwrap();
        assert!(warnings.iter().any(|text| text.as_str().unwrap().starts_with("LB101: ")), "{answer}");
        // What the request says itself may be said again; class and node are known from elsewhere.
        let said = format!("{} {}", answer["warnings"], answer["status"]);
        assert!(!said.contains("local-path") && !said.contains("cordoned-0"), "{said}");
    }
    let details = serve(Config::default()).await.client().ask("/mutate", &pod).await;
    assert!(details["warnings"].to_string().contains("cordoned-0"), "{details}");
}

/// What the bench measures is what a server answers.
#[tokio::test]
async fn each_of_the_most_costly_reviews_is_answered() {
    let server = serve(Config::default()).await;
    // More than is answered where it is read, and less than takes a test's time.
    for costly in worst::reviews(&review("pod-pinned"), 96 << 10) {
        let review: Value = serde_json::from_slice(&costly.body).unwrap();
        assert!(costly.body.len() > 80 << 10, "{} has {} bytes", costly.name, costly.body.len());
        let answer = server.client().ask(costly.path, &review).await;
        assert_eq!(answer["allowed"], true, "{}: {answer}", costly.name);
    }
}
