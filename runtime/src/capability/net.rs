//! `wasi:sockets` of a guest: TCP connections to what it was granted, and nothing else.
//!
//! WASI's own host opens the sockets; what is here decides where they may lead, how many there are and
//! what they cost. No name is ever resolved: a granted one stands for the addresses that it had when the
//! attempt began.

use std::{collections::HashSet, future::ready, net::IpAddr, vec};

use bytes::Bytes;
use wasmtime::component::Resource;
use wasmtime_wasi::{
    WasiCtxBuilder,
    p2::{
        DynInputStream, DynOutputStream, DynPollable, InputStream, IoError, Network, OutputStream, Pollable,
        SocketError, SocketResult, StreamResult, TcpSocket,
        bindings::sockets::{
            ip_name_lookup::{self, ResolveAddressStream},
            network::{self, ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress},
            tcp::{self, HostTcpSocket, ShutdownType},
            tcp_create_socket,
        },
        subscribe,
    },
    sockets::{SocketAddrUse, WasiSocketsCtxView, WasiSocketsView},
};

use crate::{grants::Target, limits, meter::Charges, store::State};

/// Lets sockets connect to `targets`.
pub(crate) fn allow(builder: &mut WasiCtxBuilder, targets: &[Target]) {
    let pairs = targets.iter().flat_map(|target| {
        let port = target.port;
        target.addresses.iter().filter_map(move |address| Some((*address, port?)))
    });
    let granted: HashSet<(IpAddr, u16)> = pairs.collect();
    builder.allow_tcp(!granted.is_empty()).allow_udp(false).allow_ip_name_lookup(false);
    builder.socket_addr_check(move |address, usage| {
        let allowed = match usage {
            SocketAddrUse::TcpConnect => granted.contains(&(address.ip(), address.port())),
            // What connecting does first: any address and port of this machine. Nobody can listen there.
            SocketAddrUse::TcpBind => address.ip().is_unspecified() && address.port() == 0,
            _ => false,
        };
        Box::pin(ready(allowed))
    });
}

/// The addresses that `name` stands for, if it was granted: a name, or an address as text.
fn granted_addresses(targets: &[Target], name: &str) -> Option<Vec<IpAddr>> {
    let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut addresses = Vec::new();
    for target in targets {
        let named = target.host.eq_ignore_ascii_case(name);
        let meant = target.addresses.iter().filter(|address| named || Some(**address) == literal);
        addresses.extend(meant.filter(|address| !addresses.contains(*address)).copied().collect::<Vec<_>>());
    }
    (!addresses.is_empty()).then_some(addresses)
}

/// The addresses of a name that a guest has not asked for yet.
struct Pinned(vec::IntoIter<IpAddr>);

#[wasmtime_wasi::async_trait]
impl Pollable for Pinned {
    async fn ready(&mut self) {}
}

/// A handle on one type as one on another that has its place in the interface. Only for
/// `ResolveAddressStream`, which nobody but WASI's own resolver can make and which stands for `Pinned`
/// here: every function that takes one is in this file.
fn as_other<T: 'static, U: 'static>(handle: &Resource<T>, owned: bool) -> Resource<U> {
    if owned { Resource::new_own(handle.rep()) } else { Resource::new_borrow(handle.rep()) }
}

/// A stream of a connection whose bytes are fuel.
struct Metered<S> {
    stream: S,
    charges: Charges,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Metered<DynInputStream> {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for Metered<DynInputStream> {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let bytes = self.stream.read(size)?;
        self.charges.bytes(bytes.len());
        Ok(bytes)
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Metered<DynOutputStream> {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Metered<DynOutputStream> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.charges.bytes(bytes.len());
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.stream.check_write()
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

/// `wasi:sockets` of a guest, without UDP: WASI's own, which nobody allowed, refuses that.
pub(crate) struct Sockets<'a>(&'a mut State);

impl<'a> Sockets<'a> {
    pub(crate) fn of(state: &'a mut State) -> Self {
        Sockets(state)
    }

    /// WASI's own, which counts the call.
    fn own(&mut self) -> WasiSocketsCtxView<'_> {
        WasiSocketsView::sockets(self.0)
    }
}

impl tcp_create_socket::Host for Sockets<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        if self.0.sockets >= limits::SOCKETS_MAX {
            self.0.called();
            return Err(ErrorCode::NewSocketLimit.into());
        }
        let socket = tcp_create_socket::Host::create_tcp_socket(&mut self.own(), family)?;
        self.0.meter.hold(limits::SOCKET_BYTES).map_err(SocketError::trap)?;
        self.0.sockets += 1;
        // The system makes them larger by itself otherwise, up to megabytes that nobody counts.
        self.set_receive_buffer_size(Resource::new_borrow(socket.rep()), limits::SOCKET_BUFFER_BYTES)?;
        self.set_send_buffer_size(Resource::new_borrow(socket.rep()), limits::SOCKET_BUFFER_BYTES)?;
        Ok(socket)
    }
}

impl ip_name_lookup::Host for Sockets<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        self.own().table.get(&network)?;
        self.0.charge_bytes(name.len());
        let addresses = granted_addresses(&self.0.grants.net, &name).ok_or(ErrorCode::AccessDenied)?;
        Ok(as_other(&self.0.table.push(Pinned(addresses.into_iter()))?, true))
    }
}

impl ip_name_lookup::HostResolveAddressStream for Sockets<'_> {
    fn resolve_next_address(&mut self, stream: Resource<ResolveAddressStream>) -> SocketResult<Option<IpAddress>> {
        let addresses = self.own().table.get_mut(&as_other::<_, Pinned>(&stream, false))?;
        Ok(addresses.0.next().map(IpAddress::from))
    }

    fn subscribe(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.own().table, as_other::<_, Pinned>(&stream, false))
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.own().table.delete(as_other::<_, Pinned>(&stream, true))?;
        Ok(())
    }
}

impl network::Host for Sockets<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(&mut self, error: Resource<IoError>) -> wasmtime::Result<Option<ErrorCode>> {
        network::Host::network_error_code(&mut self.own(), error)
    }
}

impl network::HostNetwork for Sockets<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        network::HostNetwork::drop(&mut self.own(), network)
    }
}

impl tcp::Host for Sockets<'_> {}

/// Functions that WASI's own host does as it should.
macro_rules! as_wasi_does {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&mut self, socket: Resource<TcpSocket>, $($arg: $type),*) -> $result {
            HostTcpSocket::$name(&mut self.own(), socket, $($arg),*)
        })*
    };
}

impl HostTcpSocket for Sockets<'_> {
    async fn start_bind(
        &mut self,
        socket: Resource<TcpSocket>,
        network: Resource<Network>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        HostTcpSocket::start_bind(&mut self.own(), socket, network, address).await
    }

    async fn start_listen(&mut self, socket: Resource<TcpSocket>) -> SocketResult<()> {
        HostTcpSocket::start_listen(&mut self.own(), socket).await
    }

    fn finish_connect(
        &mut self,
        socket: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let handle = Resource::new_borrow(socket.rep());
        let (input, output) = HostTcpSocket::finish_connect(&mut self.own(), handle)?;
        let table = &mut self.0.table;
        let (input, output) = (table.delete(input)?, table.delete(output)?);
        let input: DynInputStream = Box::new(Metered { stream: input, charges: self.0.charges.clone() });
        let output: DynOutputStream = Box::new(Metered { stream: output, charges: self.0.charges.clone() });
        Ok((table.push_child(input, &socket)?, table.push_child(output, &socket)?))
    }

    fn set_receive_buffer_size(&mut self, socket: Resource<TcpSocket>, bytes: u64) -> SocketResult<()> {
        HostTcpSocket::set_receive_buffer_size(&mut self.own(), socket, bytes.min(limits::SOCKET_BUFFER_BYTES))
    }

    fn set_send_buffer_size(&mut self, socket: Resource<TcpSocket>, bytes: u64) -> SocketResult<()> {
        HostTcpSocket::set_send_buffer_size(&mut self.own(), socket, bytes.min(limits::SOCKET_BUFFER_BYTES))
    }

    fn drop(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<()> {
        HostTcpSocket::drop(&mut self.own(), socket)?;
        self.0.sockets -= 1;
        self.0.meter.release(limits::SOCKET_BYTES);
        Ok(())
    }

    as_wasi_does! {
        fn finish_bind() -> SocketResult<()>;
        fn start_connect(network: Resource<Network>, address: IpSocketAddress) -> SocketResult<()>;
        fn finish_listen() -> SocketResult<()>;
        fn accept() -> SocketResult<(Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>)>;
        fn local_address() -> SocketResult<IpSocketAddress>;
        fn remote_address() -> SocketResult<IpSocketAddress>;
        fn is_listening() -> wasmtime::Result<bool>;
        fn address_family() -> wasmtime::Result<IpAddressFamily>;
        fn set_listen_backlog_size(value: u64) -> SocketResult<()>;
        fn keep_alive_enabled() -> SocketResult<bool>;
        fn set_keep_alive_enabled(value: bool) -> SocketResult<()>;
        fn keep_alive_idle_time() -> SocketResult<u64>;
        fn set_keep_alive_idle_time(value: u64) -> SocketResult<()>;
        fn keep_alive_interval() -> SocketResult<u64>;
        fn set_keep_alive_interval(value: u64) -> SocketResult<()>;
        fn keep_alive_count() -> SocketResult<u32>;
        fn set_keep_alive_count(value: u32) -> SocketResult<()>;
        fn hop_limit() -> SocketResult<u8>;
        fn set_hop_limit(value: u8) -> SocketResult<()>;
        fn receive_buffer_size() -> SocketResult<u64>;
        fn send_buffer_size() -> SocketResult<u64>;
        fn subscribe() -> wasmtime::Result<Resource<DynPollable>>;
        fn shutdown(how: ShutdownType) -> SocketResult<()>;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_granted_names_and_addresses_have_addresses() {
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let target = |host: &str, port, addresses| Target { host: host.into(), port: Some(port), addresses };
        let granted = [
            target("db.example.com", 5432, vec![v4, v6]),
            target("db.example.com", 5433, vec![v4]),
            target("192.0.2.9", 80, vec!["192.0.2.9".parse().unwrap()]),
        ];
        for (name, addresses) in [
            ("db.example.com", Some(vec![v4, v6])),
            ("DB.Example.com.", Some(vec![v4, v6])),
            ("192.0.2.1", Some(vec![v4])),
            ("2001:db8::1", Some(vec![v6])),
            ("[2001:0db8::1]", Some(vec![v6])),
            ("192.0.2.9", Some(vec!["192.0.2.9".parse().unwrap()])),
            ("192.0.2.2", None),
            ("example.com", None),
            ("x.db.example.com", None),
            ("db.example.com..", None),
            ("", None),
        ] {
            assert_eq!(granted_addresses(&granted, name), addresses, "{name}");
        }
        assert_eq!(granted_addresses(&[], "localhost"), None);
    }
}
