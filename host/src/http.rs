//! Metrics and health on a loopback port. There is no login here, so it is never offered to the network.

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// Whether a node takes work; what `/readyz` answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// NATS is connected.
    pub connected: bool,
    /// Work is being asked for.
    pub pulling: bool,
    /// It is ending and takes nothing new.
    pub draining: bool,
}

impl Readiness {
    /// Takes work now.
    #[must_use]
    pub fn is_ready(self) -> bool {
        self.reason().is_none()
    }

    /// Why it does not.
    #[must_use]
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Readiness { draining: true, .. } => Some("draining"),
            Readiness {
                connected: false, ..
            } => Some("not connected to NATS"),
            Readiness { pulling: false, .. } => Some("not taking work"),
            _ => None,
        }
    }
}

/// Why there is no metrics port.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Others could reach it.
    #[error("{address} is not a loopback address")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The system refuses it.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

impl HttpError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NotLoopback { .. } => {
                "use 127.0.0.1:PORT for node.http, and put a proxy with a login before it"
            }
            Self::Bind { .. } => "set node.http to a free port, or to 127.0.0.1:0 for any",
        }
        .to_owned()
    }
}

/// Binds the address. Unless a person chose it, a taken port is replaced by a free one: several nodes
/// on one machine need no configuration.
/// Errors: not loopback; taken although chosen.
pub async fn bind(address: SocketAddr, chosen: bool) -> Result<TcpListener, HttpError> {
    if !address.ip().is_loopback() {
        return Err(HttpError::NotLoopback { address });
    }
    let failed = |source| HttpError::Bind { address, source };
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    if chosen || error.kind() != ErrorKind::AddrInUse {
        return Err(failed(error));
    }
    let listener = TcpListener::bind((address.ip(), 0)).await.map_err(failed)?;
    if let Ok(free) = listener.local_addr() {
        tracing::warn!(taken = %address, address = %free, "the metrics port is taken; using another one");
    }
    Ok(listener)
}

#[derive(Clone)]
struct Shown {
    metrics: Metrics,
    ready: watch::Receiver<Readiness>,
}

/// Answers `/metrics`, `/healthz` and `/readyz` until `shutdown` is done.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    ready: watch::Receiver<Readiness>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Shown { metrics, ready });
    axum::serve(listener, routes)
        .with_graceful_shutdown(shutdown)
        .await
}

async fn show_metrics(State(shown): State<Shown>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], shown.metrics.render()).into_response()
}

/// The process lives and its I/O runtime answers; nothing more is meant.
async fn healthz() -> Response {
    json(StatusCode::OK, &serde_json::json!({"ok": true}))
}

async fn readyz(State(shown): State<Shown>) -> Response {
    let ready = *shown.ready.borrow();
    let status = if ready.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let Readiness {
        connected,
        pulling,
        draining,
    } = ready;
    json(
        status,
        &serde_json::json!({
            "ready": ready.is_ready(), "reason": ready.reason(),
            "connected": connected, "pulling": pulling, "draining": draining,
        }),
    )
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_readiness_and_metrics_are_answered() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), true).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ready, state) = watch::channel(Readiness::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listener, Metrics::new(), state, async move {
            let _ = stopped.await;
        }));
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/metrics").await.contains("wasmjob_slots 0"));
        let answer = ask(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("not connected"),
            "{answer}"
        );
        ready.send_replace(Readiness {
            connected: true,
            pulling: true,
            draining: false,
        });
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        ready.send_replace(Readiness {
            connected: true,
            pulling: true,
            draining: true,
        });
        assert!(ask(address, "/readyz").await.contains("draining"));
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_is_replaced_unless_it_was_chosen() {
        let first = bind("127.0.0.1:0".parse().unwrap(), true).await.unwrap();
        let address = first.local_addr().unwrap();
        assert!(matches!(
            bind(address, true).await,
            Err(HttpError::Bind { .. })
        ));
        let other = bind(address, false).await.unwrap();
        assert_ne!(other.local_addr().unwrap(), address);
        let open = bind("0.0.0.0:0".parse().unwrap(), false).await;
        assert!(matches!(open, Err(HttpError::NotLoopback { .. })));
    }
}
