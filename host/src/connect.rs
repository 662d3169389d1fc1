//! Where NATS is, how to get in, and a connection that stays.
//!
//! An [`Endpoint`] is found in this order: `--nats` or `WASMJOB_NATS`, `--join FILE`, the
//! configuration file, the `up` that runs on this machine. The first connection fails within seconds
//! and says why; a connection that was made once comes back by itself for as long as it takes.

mod endpoint;
mod error;

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

pub use async_nats::Event;
pub use endpoint::{Auth, ENDPOINT_FILE, Endpoint, EndpointFile, Secret, endpoint_path, find};
pub use error::ConnectError;

/// The oldest nats-server with everything the queue relies on (message schedules with time zones,
/// and the fixes to work-queue streams whose deliveries are used up).
pub const SERVER_VERSION_MIN: (u32, u32, u32) = (2, 14, 5);

/// A first connection that takes longer than this will not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Longest pause between two tries to come back: a server that restarts is noticed within a second.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);

/// Connects and checks that this is a server we can work with.
/// Errors: each way it can fail is one variant of [`ConnectError`], with a hint.
pub async fn connect(endpoint: &Endpoint) -> Result<Client, ConnectError> {
    connect_with(endpoint, |_| {}).await
}

/// Like [`connect`], and tells `on_event` of every disconnect, reconnect and server error from then on.
pub async fn connect_with(
    endpoint: &Endpoint,
    on_event: impl Fn(Event) + Send + Sync + 'static,
) -> Result<Client, ConnectError> {
    let on_event = Arc::new(on_event);
    let options = options(endpoint)?.event_callback(move |event| {
        let on_event = Arc::clone(&on_event);
        async move { on_event(event) }
    });
    let servers: Vec<String> = endpoint.url.split(',').map(|url| url.trim().to_owned()).collect();
    let client = options.connect(servers).await.map_err(|error| explain(endpoint, &error))?;
    check_server(endpoint, &client)?;
    Ok(client)
}

fn options(endpoint: &Endpoint) -> Result<ConnectOptions, ConnectError> {
    let mut options = ConnectOptions::new()
        .connection_timeout(CONNECT_TIMEOUT)
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay);
    if let Some(name) = &endpoint.name {
        options = options.name(name);
    }
    if let Some(prefix) = &endpoint.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    if let Some(pem) = &endpoint.ca_pem {
        // Addresses the server tells of need not be in its certificate, so they are not followed; and
        // TLS is required, or someone in between could answer in plain text.
        options = options.require_tls(true).ignore_discovered_servers().tls_client_config(trusting(endpoint, pem)?);
    }
    with_auth(options, endpoint)
}

fn with_auth(options: ConnectOptions, endpoint: &Endpoint) -> Result<ConnectOptions, ConnectError> {
    match &endpoint.auth {
        Auth::None => Ok(options),
        Auth::UserPassword { user, password } => {
            Ok(options.user_and_password(user.clone(), password.reveal().to_owned()))
        }
        Auth::NkeySeed(seed) => Ok(options.nkey(seed.reveal().to_owned())),
        Auth::Creds(path) => {
            let text = endpoint::read_file(path)?;
            // A bare seed is what `up` writes; a `.creds` file has a token around its seed.
            if let Some(seed) = endpoint::bare_seed(&text) {
                return Ok(options.nkey(seed.to_owned()));
            }
            options.credentials(&text).map_err(|error| ConnectError::File {
                path: path.clone(),
                reason: format!("not a credentials file: {error}"),
            })
        }
    }
}

/// Trusts one authority and none of the system's: the server is ours.
fn trusting(endpoint: &Endpoint, pem: &str) -> Result<rustls::ClientConfig, ConnectError> {
    let unusable = |reason: String| ConnectError::Tls { url: endpoint.shown_url(), reason };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| unusable(format!("bad CA: {error}")))?;
        roots.add(certificate).map_err(|error| unusable(format!("bad CA: {error}")))?;
    }
    if roots.is_empty() {
        return Err(unusable("the CA holds no certificate".to_owned()));
    }
    // Named, not the process's default: whoever else uses TLS here must not decide for us.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

fn reconnect_delay(attempts: usize) -> Duration {
    let doubled = u32::try_from(attempts.min(8)).map_or(u32::MAX, |exponent| 1 << exponent);
    (Duration::from_millis(5) * doubled).min(RECONNECT_DELAY_MAX)
}

fn check_server(endpoint: &Endpoint, client: &Client) -> Result<(), ConnectError> {
    let info = client.server_info();
    let url = endpoint.shown_url();
    if parse_version(&info.version).is_none_or(|version| version < SERVER_VERSION_MIN) {
        return Err(ConnectError::TooOld { url, version: info.version });
    }
    if !info.jetstream {
        return Err(ConnectError::NoJetStream { url });
    }
    Ok(())
}

/// `2.14.5`, `v2.15.1` or `2.15.0-beta.1` as three numbers.
#[must_use]
pub fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let plain = text.trim().trim_start_matches('v');
    let numbers = plain.split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(|part| part.parse::<u32>().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

fn explain(endpoint: &Endpoint, error: &async_nats::ConnectError) -> ConnectError {
    let url = endpoint.shown_url();
    let reason = deepest(error);
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => ConnectError::Credentials { url },
        ConnectErrorKind::Authentication => ConnectError::Credentials { url },
        ConnectErrorKind::TimedOut => ConnectError::TimedOut { url },
        ConnectErrorKind::Dns if names_no_host(&url) => ConnectError::Url { url, reason: "it names no host".into() },
        ConnectErrorKind::Dns => ConnectError::Name { url, reason },
        ConnectErrorKind::ServerParse => ConnectError::Url { url, reason },
        ConnectErrorKind::Tls => ConnectError::Tls { url, reason },
        ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => explain_io(url, error, reason),
    }
}

fn names_no_host(url: &str) -> bool {
    let host = url.rsplit("://").next().unwrap_or_default();
    host.trim().is_empty() || host.contains(char::is_whitespace)
}

/// The client reports TLS alerts and refused connections alike as I/O errors; the chain tells them apart.
fn explain_io(url: String, error: &async_nats::ConnectError, reason: String) -> ConnectError {
    for cause in causes(error) {
        if is_tls(cause) {
            return ConnectError::Tls { url, reason };
        }
        match cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(ErrorKind::ConnectionRefused) => return ConnectError::Refused { url },
            Some(ErrorKind::InvalidInput) => return ConnectError::Url { url, reason },
            _ => {}
        }
    }
    ConnectError::Io { url, reason }
}

/// An `io::Error` hands out its inner error's source, never the inner error, so it is looked into here.
fn is_tls(cause: &(dyn StdError + 'static)) -> bool {
    let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    cause.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

fn deepest(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("v2.15.1"), Some((2, 15, 1)));
        assert_eq!(parse_version("2.15.0-beta.2"), Some((2, 15, 0)));
        assert_eq!(parse_version("2.9"), None);
        assert!(parse_version("2.9.10").unwrap() < SERVER_VERSION_MIN);
    }

    #[test]
    fn reconnects_are_quick_at_first_and_at_most_a_second_apart() {
        assert!(reconnect_delay(1) <= Duration::from_millis(20));
        assert_eq!(reconnect_delay(50), RECONNECT_DELAY_MAX);
    }

    #[tokio::test]
    async fn nobody_listening_is_said_at_once() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let endpoint = Endpoint::plain(&format!("nats://127.0.0.1:{port}"));
        let error = connect(&endpoint).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
        assert!(error.hint().contains("wasmjob up"), "{}", error.hint());
    }

    /// First byte of everything a TLS client says first.
    const TLS_HANDSHAKE: u8 = 0x16;

    /// A server that introduces itself and answers the first ping as told; real ones of these kinds are
    /// not at hand in a test.
    async fn meeting(info: &'static str, answer: &'static str, ca_pem: Option<String>) -> ConnectError {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
            if stream.fill_buf().await.is_ok_and(|bytes| bytes.first() == Some(&TLS_HANDSHAKE)) {
                return;
            }
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).await.unwrap_or(0) > 0 {
                if line.ends_with(b"PING\r\n") {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                line.clear();
            }
        });
        let error = connect(&Endpoint { ca_pem, ..Endpoint::plain(&url) }).await.unwrap_err();
        serving.abort();
        error
    }

    #[tokio::test]
    async fn servers_we_cannot_work_with_are_named() {
        let old = meeting(r#"{"version":"2.9.10","jetstream":true}"#, "PONG\r\n", None).await;
        assert!(matches!(&old, ConnectError::TooOld { version, .. } if version == "2.9.10"), "{old}");
        assert!(old.hint().contains("2.14.5"), "{}", old.hint());
        let bare = meeting(r#"{"version":"2.15.1"}"#, "PONG\r\n", None).await;
        assert!(matches!(bare, ConnectError::NoJetStream { .. }), "{bare}");
        let closed = meeting(r#"{"version":"2.15.1"}"#, "-ERR 'Authorization Violation'\r\n", None).await;
        assert!(matches!(closed, ConnectError::Credentials { .. }), "{closed}");
    }

    #[tokio::test]
    async fn plain_text_is_not_spoken_where_tls_is_expected() {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
        // It hangs up at our first bytes of TLS, as one without TLS does.
        let plain = meeting(r#"{"version":"2.15.1","jetstream":true}"#, "", Some(ca)).await;
        assert!(!matches!(plain, ConnectError::Credentials { .. }), "{plain}");
        let broken = meeting("{}", "", Some("no certificate".to_owned()));
        let broken = tokio::time::timeout(Duration::from_secs(10), broken).await.unwrap();
        assert!(matches!(broken, ConnectError::Tls { .. }), "{broken}");
    }

    #[tokio::test]
    async fn what_is_no_address_is_said_to_be_none() {
        for url in ["", "http://127.0.0.1:1", "nats://", "not a url"] {
            let error = connect(&Endpoint::plain(url)).await.unwrap_err();
            assert!(matches!(error, ConnectError::Url { .. }), "{url}: {error:?}");
        }
    }
}
