//! What a guest can reach: `net` and `http` grants against real servers on this machine.
//!
//! The names in these grants are in no name service: a guest that gets somewhere with one got to the
//! address that was pinned to it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Bytes, http::StatusCode, response::Redirect, routing::get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use wasmjob_runtime::{
    AttemptReport, Blob, Grants, Limit, Limits, OutcomeKind,
    grants::{Target, Trust},
};
use wasmjob_tests::{Machine, alone, guest};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long anything may take that should happen at once.
const SOON: Duration = Duration::from_secs(30);

fn target(host: &str, port: impl Into<Option<u16>>) -> Target {
    Target { host: host.into(), port: port.into(), addresses: vec![LOCALHOST] }
}

fn net(host: &str, port: u16) -> Grants {
    Grants { net: vec![target(host, port)], ..Grants::default() }
}

fn http(host: &str, port: impl Into<Option<u16>>) -> Grants {
    Grants { http: vec![target(host, port)], ..Grants::default() }
}

/// Runs a guest of the package `fetch`.
async fn run_with(
    name: &str,
    args: &[&str],
    grants: Grants,
    input: impl Into<Bytes>,
    change: impl FnOnce(&mut Limits),
) -> AttemptReport {
    alone::run_example(name, args, |attempt| {
        attempt.grants = grants;
        attempt.input = Blob::from_bytes(input.into());
        attempt.limits.fuel = 100_000_000_000;
        change(&mut attempt.limits);
    })
    .await
}

async fn run(name: &str, args: &[&str], grants: Grants, input: &'static str) -> String {
    let report = run_with(name, args, grants, input, |_| {}).await;
    assert!(report.outcome.is_ok(), "{args:?}: {:?}", report.outcome);
    alone::output(&report)
}

#[track_caller]
fn assert_limit(report: &AttemptReport, limit: Limit) {
    assert_eq!((report.outcome.kind, report.outcome.limit), (OutcomeKind::Limit, Some(limit)), "{:?}", report.outcome);
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A server that sends back what it gets.
async fn echo_server() -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

async fn http_server() -> u16 {
    let (listener, port) = listener().await;
    let router = Router::new()
        .route("/hello", get(async || "hello"))
        .route("/echo", axum::routing::post(async |body: Bytes| body))
        .route("/away", get(async || Redirect::temporary("http://elsewhere.test/")))
        .route("/missing", get(async || (StatusCode::NOT_FOUND, "gone")))
        .route("/fields", get(async || ([("x-large", "y".repeat(20_000))], "hello")))
        .route("/large", get(async || vec![b'z'; 64 << 20]));
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

/// Waits until the other side of a connection is gone.
async fn gone(mut stream: TcpStream) {
    let mut buf = vec![0; 64 * 1024];
    let end = async { while !matches!(stream.read(&mut buf).await, Ok(0) | Err(_)) {} };
    timeout(SOON, end).await.expect("the connection outlived its attempt");
}

#[tokio::test]
async fn a_granted_host_is_connected_to_by_its_name_and_its_address() {
    let port = echo_server().await;
    for host in ["db.test", "DB.test", "127.0.0.1"] {
        let at = format!("{host}:{port}");
        assert_eq!(run("fetch", &["echo", &at], net("db.test", port), "hello").await, "hello", "{host}");
    }
    let at = format!("127.0.0.1:{port}");
    assert_eq!(run("fetch", &["echo", &at], net("127.0.0.1", port), "").await, "");
}

#[tokio::test]
async fn megabytes_go_both_ways_and_cost_fuel() {
    let port = echo_server().await;
    let (at, bytes) = (format!("db.test:{port}"), vec![b'x'; 3 << 20]);
    let report = run_with("fetch", &["echo", &at], net("db.test", port), bytes.clone(), |_| {}).await;
    assert!(report.outcome.is_ok(), "{:?}", report.outcome);
    assert!(report.output.unwrap().to_bytes(u64::MAX).unwrap() == bytes);
    assert!(report.usage.fuel > 4 * (3 << 20), "{}", report.usage.fuel);
}

#[tokio::test]
async fn what_was_not_granted_is_refused_and_nobody_hears_of_it() {
    let ((granted, port), (other, other_port)) = (listener().await, listener().await);
    for (at, grants) in [
        (format!("127.0.0.1:{other_port}"), net("db.test", port)),
        (format!("db.test:{other_port}"), net("db.test", port)),
        (format!("127.0.0.2:{port}"), net("db.test", port)),
        (format!("localhost:{port}"), net("db.test", port)),
        (format!("sub.db.test:{port}"), net("db.test", port)),
        (format!("[::1]:{port}"), net("db.test", port)),
        (format!("[::ffff:127.0.0.1]:{port}"), net("db.test", port)),
        (format!("127.0.0.1:{port}"), Grants::default()),
        (format!("db.test:{port}"), Grants::default()),
        // What is granted for requests is not granted for connections.
        (format!("127.0.0.1:{port}"), http("127.0.0.1", port)),
    ] {
        let said = run("fetch", &["echo", &at], grants, "hello").await;
        assert!(said.starts_with("refused: "), "{at}: {said}");
    }
    for listener in [granted, other] {
        let listener = listener.into_std().unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn names_have_the_addresses_that_were_pinned_to_them() {
    let addresses = vec![LOCALHOST, "::1".parse().unwrap(), "192.0.2.7".parse().unwrap()];
    let pinned = Grants { net: vec![Target { addresses, ..target("db.test", 1) }], ..Grants::default() };
    let said = run("fetch", &["names", "db.test"], pinned.clone(), "").await;
    let mut found: Vec<&str> = said.split(' ').collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, ["127.0.0.1", "192.0.2.7", "::1"]);
    for name in ["localhost", "example.com", "192.0.2.8", "test"] {
        let said = run("fetch", &["names", name], pinned.clone(), "").await;
        assert!(said.starts_with("refused: ") || name.parse::<IpAddr>().is_ok(), "{name}: {said}");
    }
}

#[tokio::test]
async fn nobody_listens_and_nobody_sends_datagrams() {
    let receiver = tokio::net::UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    let port = receiver.local_addr().unwrap().port();
    let at = format!("127.0.0.1:{port}");
    for args in [["listen", "127.0.0.1:0"], ["listen", "0.0.0.0:0"], ["listen", &at], ["udp", &at]] {
        for grants in [net("127.0.0.1", port), Grants::default()] {
            let said = run("fetch", &args, grants, "").await;
            assert!(said.starts_with("refused: PermissionDenied"), "{args:?}: {said}");
        }
    }
    assert_eq!(receiver.try_recv(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn sockets_are_few_and_take_memory() {
    let port = echo_server().await;
    let at = format!("db.test:{port}");
    let said = run("fetch", &["many", &at, "1000"], net("db.test", port), "").await;
    assert!(said.starts_with("refused after 64: "), "{said}");
    let report =
        run_with("fetch", &["many", &at, "1000"], net("db.test", port), "", |limits| limits.memory = 32 << 20).await;
    assert_limit(&report, Limit::Memory);
}

#[tokio::test]
async fn a_server_that_keeps_a_guest_waiting_loses_it_at_its_deadline() {
    for (name, way) in [("fetch", "echo"), ("fetch", "upload"), ("fetch-http", "get"), ("fetch-http", "post")] {
        let (listener, port) = listener().await;
        let silent = tokio::spawn(async move { listener.accept().await.unwrap().0 });
        let at = format!("{}slow.test:{port}", if name == "fetch" { "" } else { "http://" });
        let args: &[&str] = if way == "upload" { &[way, &at, "1000000000"] } else { &[way, &at] };
        let grants = Grants { net: vec![target("slow.test", port)], ..http("slow.test", port) };
        let report = run_with(name, args, grants, "hello", |limits| limits.wall_ms = 1_000).await;
        assert_limit(&report, Limit::Wall);
        gone(timeout(SOON, silent).await.unwrap().unwrap()).await;
    }
}

#[tokio::test]
async fn a_granted_host_answers_requests() {
    let port = http_server().await;
    for (way, path, answer) in [
        ("get", "/hello", "200 hello"),
        ("get", "/missing", "404 gone"),
        ("post", "/echo", "200 some text"),
        // Where it leads is the guest's to ask for, if that was granted.
        ("get", "/away", "307 "),
    ] {
        let url = format!("http://api.test:{port}{path}");
        assert_eq!(run("fetch-http", &[way, &url], http("api.test", port), "some text").await, answer, "{path}");
    }
}

#[tokio::test]
async fn requests_to_others_are_denied() {
    let port = http_server().await;
    for (url, grants, why) in [
        (format!("http://other.test:{port}/hello"), http("api.test", port), "HttpRequestDenied"),
        (format!("http://127.0.0.1:{port}/hello"), http("api.test", port), "HttpRequestDenied"),
        (format!("http://localhost:{port}/hello"), http("api.test", port), "HttpRequestDenied"),
        ("http://api.test/hello".into(), http("api.test", port), "HttpRequestDenied"),
        (format!("http://api.test:{port}/hello"), http("api.test", None), "HttpRequestDenied"),
        (format!("http://api.test:{}/hello", port - 1), http("api.test", port), "HttpRequestDenied"),
        (format!("http://x@api.test:{port}/hello"), http("api.test", port), "HttpRequestUriInvalid"),
        (format!("https://api.test:{port}/hello"), http("api.test", port), "TlsCertificateError"),
    ] {
        let said = run("fetch-http", &["get", &url], grants, "").await;
        assert!(said.starts_with("refused: ") && said.contains(why), "{url}: {said}");
    }
    let said = run("fetch-http", &["connect", &format!("http://api.test:{port}/")], http("api.test", port), "").await;
    assert!(said.contains("HttpRequestMethodInvalid"), "{said}");
}

#[tokio::test]
async fn a_host_must_prove_its_name_to_be_asked_over_tls() {
    let made = rcgen::generate_simple_self_signed(["secure.test".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"GET /x?y HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret").await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    let trust = Trust::new([certificate.to_vec()]);
    let ask = async |host: &str, trust| {
        let url = format!("https://{host}:{port}/x?y");
        let grants = Grants { trust: Some(trust), ..http(host, port) };
        run("fetch-http", &["get", &url], grants, "").await
    };
    assert_eq!(ask("secure.test", trust.clone()).await, "200 secret");
    let said = ask("other.test", trust).await;
    assert!(said.contains("TlsCertificateError"), "{said}");
    let said = ask("secure.test", Trust::new([])).await;
    assert!(said.contains("TlsCertificateError"), "{said}");
}

#[tokio::test]
async fn what_requests_hold_is_bounded() {
    let port = http_server().await;
    let grants = || http("api.test", port);
    let url = |path: &str| format!("http://api.test:{port}{path}");
    let said = run("fetch-http", &["hold", &url("/large"), "100"], grants(), "").await;
    assert!(said.starts_with("refused after 16: ") && said.contains("ConnectionLimitReached"), "{said}");
    let said = run("fetch-http", &["get", &url("/fields")], grants(), "").await;
    assert!(said.contains("HttpResponseHeaderSectionSize"), "{said}");
    // A body is read in pieces: what is too large is what the guest makes of it.
    let large = url("/large");
    for args in [&["get", large.as_str()][..], &["hold", &large, "100"], &["hoard", "1000"]] {
        let report = run_with("fetch-http", args, grants(), "", |limits| limits.memory = 16 << 20).await;
        assert_limit(&report, Limit::Memory);
    }
}

#[tokio::test]
async fn http_is_imported_only_with_its_grant() {
    let report = run_with("fetch-http", &["get", "http://api.test/"], net("api.test", 80), "", |_| {}).await;
    assert_eq!(report.outcome.kind, OutcomeKind::Invalid);
    let message = report.outcome.message.unwrap_or_default();
    assert!(message.contains("`wasi:http/") && message.contains("--grant http=HOST"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_reaches_what_its_caller_names() {
    let (echo, web) = (echo_server().await, http_server().await);
    let said = tokio::task::spawn_blocking(move || {
        let machine = Machine::new();
        let (tcp, http) = (guest::example("fetch"), guest::example("fetch-http"));
        let at = format!("localhost:{echo}");
        let grant = format!("net={at}");
        let args = ["run", &tcp, "--grant", &grant, "--arg", "echo", "--arg", &at, "--input", "hello"];
        assert_eq!(machine.wasmjob(&args).succeeded().text(), "hello");
        let (grant, url) = (format!("http=127.0.0.1:{web}"), format!("http://127.0.0.1:{web}/hello"));
        let args = ["run", &http, "--grant", &grant, "--arg", "get", "--arg", &url];
        assert_eq!(machine.wasmjob(&args).succeeded().text(), "200 hello");
        machine.wasmjob(&["run", &tcp, "--grant", "net=localhost"]).ended(2).saying(&["net=localhost", "port"]);
    });
    said.await.unwrap();
}
