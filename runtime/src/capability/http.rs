//! `wasi:http` of a guest: requests to the hosts that it was granted.
//!
//! WASI's own host keeps requests, fields and bodies; here they are sent, over one connection each, to the
//! addresses that the host had when the attempt began. Redirects are the guest's to follow, to what it was
//! granted. What all this holds in memory is counted after each call (`Http::settle`).

use std::{
    any::Any,
    io, mem,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header, uri::Scheme};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi_http::{
    Error, FieldMap, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
    io::TokioIo,
    p2::{
        bindings::http::types::ErrorCode,
        body::{HostFutureTrailers, HostOutgoingBody},
        types::{HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse},
    },
};

use crate::{
    grants::{Target, Trust},
    limits,
    meter::{Charges, LimitReached, Meter},
    sandbox::Attempt,
    store::State,
};

/// Bytes that a guest can write to the body of a request before the host has sent them on.
const CHUNK_BYTES: usize = 64 * 1024;
/// What the body of a request can hold: a chunk that waits and one that is being sent.
const BODY_BYTES: u64 = 2 * CHUNK_BYTES as u64;

/// How long an address is tried when there is another one.
const ADDRESS_WAIT: Duration = Duration::from_secs(5);

/// Requests of one attempt.
pub(crate) struct Http {
    context: WasiHttpCtx,
    sender: Sender,
    /// Whether a call may have changed what is held since it was last counted.
    touched: bool,
    /// Bytes of the attempt's budget that are counted.
    held: u64,
}

impl Http {
    pub(crate) fn new(attempt: &Attempt, charges: &Charges) -> Self {
        let mut context = WasiHttpCtx::new();
        context.set_field_size_limit(limits::HTTP_FIELDS_BYTES_MAX);
        let sender = Sender {
            targets: attempt.grants.http.clone(),
            trust: attempt.grants.trust.clone(),
            wait_max: Duration::from_millis(attempt.limits.wall_ms),
            charges: charges.clone(),
            running: Arc::default(),
        };
        Http { context, sender, touched: false, held: 0 }
    }

    /// Counts again what requests hold, if a call may have changed it.
    /// Errors: there is no room for it.
    pub(crate) fn settle(&mut self, table: &mut ResourceTable, meter: &mut Meter) -> Result<(), LimitReached> {
        if !mem::take(&mut self.touched) {
            return Ok(());
        }
        let running = (self.sender.running() as u64).saturating_mul(limits::HTTP_REQUEST_BYTES);
        let held = table.iter_mut().map(|entry| held_by(entry)).fold(running, u64::saturating_add);
        meter.release(mem::take(&mut self.held));
        meter.hold(held)?;
        self.held = held;
        Ok(())
    }
}

/// Bytes that the host keeps for something a guest has a handle on.
fn held_by(entry: &(dyn Any + Send)) -> u64 {
    if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
        let texts = [&request.authority, &request.path_with_query];
        let texts: usize = texts.iter().map(|text| text.as_ref().map_or(0, String::len)).sum();
        return limits::HTTP_FIELDS_BYTES + texts as u64 + method_bytes(request);
    }
    let has_fields = entry.is::<FieldMap>()
        || entry.is::<HostIncomingResponse>()
        || entry.is::<HostFutureTrailers>()
        || entry.is::<HostOutgoingResponse>();
    match entry.is::<HostOutgoingBody>() {
        true => BODY_BYTES,
        false => {
            if has_fields {
                limits::HTTP_FIELDS_BYTES
            } else {
                0
            }
        }
    }
}

/// Bytes of the words that a guest can choose freely.
fn method_bytes(request: &HostOutgoingRequest) -> u64 {
    use wasmtime_wasi_http::p2::bindings::http::types::Method;
    match &request.method {
        Method::Other(method) => method.len() as u64,
        _ => 0,
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.called();
        self.http.touched = true;
        WasiHttpCtxView { hooks: &mut self.http.sender, table: &mut self.table, ctx: &mut self.http.context }
    }
}

/// Sends requests.
struct Sender {
    targets: Vec<Target>,
    trust: Option<Trust>,
    /// The longest that anything may take: the attempt is over then.
    wait_max: Duration,
    charges: Charges,
    /// Has a clone for each request that is not over.
    running: Arc<()>,
}

/// A request that may be sent.
struct Admitted {
    port: u16,
    addresses: Vec<IpAddr>,
    /// `None`: in the clear.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    waits: Waits,
    charges: Charges,
    running: Arc<()>,
}

/// How long each step may take.
struct Waits {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Sender {
    /// Requests that are not over.
    fn running(&self) -> usize {
        Arc::strong_count(&self.running) - 1
    }

    fn admit(&self, request: &Request<WasiBody>, options: Option<RequestOptions>) -> Result<Admitted, Error> {
        let uri = request.uri();
        // It would make the connection a tunnel, through which anything goes.
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let default_port = if is_tls { 443 } else { 80 };
        let (host, port) = host_and_port(uri, default_port).ok_or(Error::HttpRequestUriInvalid)?;
        let addresses = self.addresses(&host, port, default_port).ok_or(Error::HttpRequestDenied)?;
        if self.running() >= limits::HTTP_REQUESTS_MAX {
            return Err(Error::ConnectionLimitReached);
        }
        let tls = if is_tls { Some(self.tls(&host)?) } else { None };
        let (charges, running) = (self.charges.clone(), self.running.clone());
        Ok(Admitted { port, addresses, tls, waits: self.waits(options), charges, running })
    }

    /// Where a granted host is. A grant without a port is for the one that its scheme has.
    fn addresses(&self, host: &str, port: u16, default_port: u16) -> Option<Vec<IpAddr>> {
        let literal = host.parse::<IpAddr>().ok();
        let is_meant = |target: &&Target| {
            let same_host = target.host == host || (literal.is_some() && target.host.parse().ok() == literal);
            same_host && target.port.unwrap_or(default_port) == port
        };
        let target = self.targets.iter().find(is_meant)?;
        Some(target.addresses.clone())
    }

    fn tls(&self, host: &str) -> Result<(TlsConnector, ServerName<'static>), Error> {
        let trust = self.trust.as_ref().ok_or(Error::TlsCertificateError)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::HttpRequestUriInvalid)?;
        Ok((TlsConnector::from(trust.config()), name))
    }

    fn waits(&self, options: Option<RequestOptions>) -> Waits {
        let options = options.unwrap_or_default();
        let wait = |asked: Option<Duration>| asked.map_or(self.wait_max, |asked| asked.min(self.wait_max));
        Waits {
            connect: wait(options.connect_timeout),
            first_byte: wait(options.first_byte_timeout),
            between_bytes: wait(options.between_bytes_timeout),
        }
    }
}

/// The host, in lower case and without brackets, and the port of an address that has nothing else in it.
fn host_and_port(uri: &Uri, default_port: u16) -> Option<(String, u16)> {
    let authority = uri.authority()?.as_str();
    let host = uri.host()?;
    // A name and password before the host, or a port that is none, would be read differently elsewhere.
    let port = match authority.strip_prefix(host)? {
        "" => default_port,
        port => port.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase(), port))
}

type Sent = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for Sender {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let admitted = self.admit(&request, options);
        Box::new(async move {
            let response = admitted?.send(request).await?;
            // The connection lives as long as the body, which has it.
            Ok((response, Box::new(std::future::ready(Ok(()))) as Box<_>))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        if error.is_parse_too_large() {
            ErrorCode::HttpResponseHeaderSectionSize(None)
        } else if error.is_incomplete_message() {
            ErrorCode::HttpResponseIncomplete
        } else if error.is_canceled() || error.is_closed() {
            ErrorCode::ConnectionTerminated
        } else {
            ErrorCode::HttpProtocolError
        }
    }

    fn p2_error_from_connect(&mut self, error: &io::Error) -> ErrorCode {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ErrorCode::ConnectionRefused,
            io::ErrorKind::TimedOut => ErrorCode::ConnectionTimeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ErrorCode::DestinationIpUnroutable,
            _ => ErrorCode::DestinationUnavailable,
        }
    }

    fn p2_error_from_tls(&mut self, error: &io::Error) -> ErrorCode {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match cause {
            Some(rustls::Error::InvalidCertificate(_)) => ErrorCode::TlsCertificateError,
            _ => ErrorCode::TlsProtocolError,
        }
    }
}

impl Admitted {
    async fn send(mut self, request: Request<WasiBody>) -> Result<Response<WasiBody>, Error> {
        let wait = self.waits.connect;
        let stream = timeout(wait, self.connect()).await.map_err(|_| Error::ConnectionTimeout)??;
        let Some((connector, name)) = self.tls.take() else {
            return self.exchange(stream, request).await;
        };
        let stream = timeout(wait, connector.connect(name, stream)).await.map_err(|_| Error::ConnectionTimeout)?;
        self.exchange(stream.map_err(Error::Tls)?, request).await
    }

    /// Connects to the first of the addresses that answers.
    async fn connect(&self) -> Result<Counted, Error> {
        let mut last = io::Error::from(io::ErrorKind::HostUnreachable);
        for (number, address) in self.addresses.iter().enumerate() {
            let is_last = number + 1 == self.addresses.len();
            let wait = if is_last { self.waits.connect } else { ADDRESS_WAIT };
            match timeout(wait, connect_to(SocketAddr::new(*address, self.port))).await {
                Ok(Ok(stream)) => return Ok(Counted { stream, charges: self.charges.clone() }),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(Error::Connect(last))
    }

    /// Sends the request and gets the head of the response.
    async fn exchange<S>(self, stream: S, mut request: Request<WasiBody>) -> Result<Response<WasiBody>, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // Whoever has the scheme and the host in the first line asks a proxy.
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        let mut settings = http1::Builder::new();
        settings.max_buf_size(limits::HTTP_BUFFER_BYTES).max_header_size(limits::HTTP_FIELDS_BYTES_MAX);
        let (mut sender, connection) = settings.handshake(TokioIo::new(stream)).await?;
        let running = self.running;
        let connection = spawn(async move {
            let _running = running;
            // What goes wrong is said where the response is read.
            let _ = connection.await;
        });
        let response = timeout(self.waits.first_byte, sender.send_request(request)).await;
        let (mut head, body) = response.map_err(|_| Error::ConnectionReadTimeout)??.into_parts();
        head.headers = copied(&head.headers)?;
        let wait = self.waits.between_bytes;
        let body = ResponseBody { body, wait, quiet: Box::pin(sleep(wait)), _connection: connection };
        Ok(Response::from_parts(head, body.boxed_unsync()))
    }
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let bytes = u32::try_from(limits::SOCKET_BUFFER_BYTES).unwrap_or(u32::MAX);
    // The system makes them larger by itself otherwise, up to megabytes that nobody counts.
    socket.set_recv_buffer_size(bytes)?;
    socket.set_send_buffer_size(bytes)?;
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// Fields whose values have their own memory: those that were received keep a whole buffer of the
/// connection.
fn copied(fields: &HeaderMap) -> Result<HeaderMap, Error> {
    let mut copies = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        // Their names are checked and in lower case already.
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).map_err(|_| Error::HttpProtocolError)?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Error::HttpProtocolError)?;
        copies.append(name, value);
    }
    if copies.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(Error::HttpProtocolError);
    }
    Ok(copies)
}

/// The body of a response, and the connection that it comes from.
struct ResponseBody {
    body: Incoming,
    /// The longest time without a byte.
    wait: Duration,
    quiet: Pin<Box<Sleep>>,
    _connection: AbortOnDropJoinHandle<()>,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => {
                ready!(self.quiet.as_mut().poll(context));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
            Poll::Ready(frame) => {
                let next = Instant::now() + self.wait;
                self.quiet.as_mut().reset(next);
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection whose bytes are fuel.
struct Counted {
    stream: TcpStream,
    charges: Charges,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buf);
        self.charges.bytes(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buf);
        if let Poll::Ready(Ok(bytes)) = written {
            self.charges.bytes(bytes);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sender(targets: Vec<Target>) -> Sender {
        let wait_max = Duration::from_secs(1);
        Sender { targets, trust: None, wait_max, charges: Charges::default(), running: Arc::default() }
    }

    fn request(method: &str, uri: &str) -> Request<WasiBody> {
        let body = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
        Request::builder().method(method).uri(uri).body(body).unwrap()
    }

    #[test]
    fn only_granted_hosts_and_ports_are_admitted() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let target = |host: &str, port| Target { host: host.into(), port, addresses: vec![address] };
        let granted =
            vec![target("api.example.com", None), target("localhost", Some(8080)), target("2001:db8::1", Some(80))];
        let sender = sender(granted);
        for (uri, admitted) in [
            ("http://api.example.com/x?y", true),
            ("http://API.example.com.:80/", true),
            ("http://localhost:8080", true),
            ("http://[2001:db8::1]/", true),
            ("http://[2001:0db8:0::1]:80/", true),
            ("http://api.example.com:443/", false),
            ("http://api.example.com:8080/", false),
            ("http://localhost/", false),
            ("http://example.com/", false),
            ("http://x.api.example.com/", false),
            ("http://192.0.2.1/", false),
            ("http://[2001:db8::1]:81/", false),
        ] {
            let answer = sender.admit(&request("GET", uri), None);
            assert_eq!(answer.is_ok(), admitted, "{uri}");
            assert!(answer.is_ok() || matches!(answer, Err(Error::HttpRequestDenied)), "{uri}");
        }
    }

    #[test]
    fn what_others_could_read_differently_is_refused() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let sender = sender(vec![Target { host: "a.example".into(), port: None, addresses: vec![address] }]);
        for uri in ["http://user@a.example/", "http://a.example:0/", "http://b.example@a.example/"] {
            let answer = sender.admit(&request("GET", uri), None);
            assert!(matches!(answer, Err(Error::HttpRequestUriInvalid)), "{uri}");
        }
        let answer = sender.admit(&request("CONNECT", "http://a.example/"), None);
        assert!(matches!(answer, Err(Error::HttpRequestMethodInvalid)));
    }

    #[test]
    fn requests_at_the_same_time_are_counted_until_they_are_over() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let sender = sender(vec![Target { host: "a.example".into(), port: None, addresses: vec![address] }]);
        let admit = || sender.admit(&request("GET", "http://a.example/"), None);
        let mut running: Vec<_> = (0..limits::HTTP_REQUESTS_MAX).map(|_| admit().ok().unwrap()).collect();
        assert!(matches!(admit(), Err(Error::ConnectionLimitReached)));
        running.pop();
        assert!(admit().is_ok());
    }

    #[test]
    fn no_wait_is_longer_than_the_attempt() {
        let sender = sender(vec![]);
        let asked = RequestOptions { connect_timeout: Some(Duration::MAX), ..RequestOptions::default() };
        let waits = sender.waits(Some(asked));
        assert_eq!([waits.connect, waits.first_byte, waits.between_bytes], [Duration::from_secs(1); 3]);
    }
}
