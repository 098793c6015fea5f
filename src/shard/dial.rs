//! Opens upstream connections: by address only, only to an address that may be connected to, one after the other.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use monoio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use rustls::pki_types::ServerName;

use super::{
    run::Shard,
    stream::{Stream, Tcp},
    tls::{Tls, Unsecured},
};
use crate::{
    base::{address, now::Now, waiting::Waiting},
    config::{Dial, Provider, ProviderPlace, Snapshot},
    exchange::cancel::Cancel,
    policy::attempts::{Cause, Failure, Phase},
};

/// A fresh connection to a provider, through TLS where its base URL says https.
pub(super) async fn dial(
    shard: &Shard,
    snapshot: &Snapshot,
    place: ProviderPlace,
    until: Now,
    cancel: Option<&Cancel>,
) -> Result<Stream, Failure> {
    let provider = &snapshot.providers[usize::from(place.0)];
    let connect_until = until.min(shard.clock.now() + provider.timeouts.connect);
    let mut tcp = match &provider.dial {
        Dial::Address(ip) => connect(shard, &[*ip], provider, connect_until, cancel).await?,
        Dial::Name(name) => {
            let addresses = shard.current_addresses();
            let known = match addresses.as_ref().and_then(|addresses| addresses.of(name)) {
                Some(Ok(known)) => known.clone(),
                Some(Err(_)) | None => return Err(Failure::new(Phase::Resolve, Cause::NoAddress)),
            };
            connect(shard, &known, provider, connect_until, cancel).await?
        }
    };
    if !provider.tls {
        return Ok(Stream::Plain(tcp));
    }
    tcp.expire_at(until, Waiting::Handshake);
    let config = shard.client_tls(snapshot.generation, place, provider)?;
    let failed = |cause| Failure::new(Phase::Handshake, cause);
    let name = ServerName::try_from(provider.host.to_string()).map_err(|_| failed(Cause::Tls))?;
    let _armed = cancel.map(|cancel| cancel.arm(tcp.shutter()));
    // Boxed: a handshake's state is large, and no exchange should carry it when it is over.
    match Box::pin(Tls::connect(tcp, config, name)).await {
        Ok(tls) => Ok(Stream::Tls(tls)),
        Err(Unsecured::Expired(expiry)) => Err(failed(Cause::Expired(expiry))),
        Err(Unsecured::Tls(_)) => Err(failed(Cause::Tls)),
        Err(Unsecured::Io(_)) => Err(failed(Cause::Broken)),
    }
}

/// Connects to the first address that answers. Each gets an equal share of the time that is left.
async fn connect(
    shard: &Shard,
    addresses: &[IpAddr],
    provider: &Provider,
    until: Now,
    cancel: Option<&Cancel>,
) -> Result<Tcp, Failure> {
    let permitted = || addresses.iter().filter(|ip| provider.private || address::is_public(**ip));
    let count = permitted().count();
    if count == 0 {
        let cause = if addresses.is_empty() { Cause::NoAddress } else { Cause::PrivateAddress };
        return Err(Failure::new(Phase::Resolve, cause));
    }
    let mut cause = Cause::NoAddress;
    for (tried, ip) in permitted().enumerate() {
        if cancel.is_some_and(Cancel::is_asked) {
            break;
        }
        let now = shard.clock.now();
        let left = until.since(now);
        let share = left / u32::try_from(count - tried).unwrap_or(u32::MAX);
        match one(shard, SocketAddr::new(*ip, provider.port), now + share, cancel).await {
            Ok(tcp) => return Ok(tcp),
            Err(why) => cause = why,
        }
    }
    Err(Failure::new(Phase::Connect, cause))
}

/// monoio's own connect cannot be ended by a deadline; a nonblocking connect that becomes writable can.
async fn one(shard: &Shard, address: SocketAddr, until: Now, cancel: Option<&Cancel>) -> Result<Tcp, Cause> {
    let begin = || -> io::Result<Tcp> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        // A ring waits by itself and takes "would block" for an answer; epoll needs the socket nonblocking.
        socket.set_nonblocking(shard.is_epoll)?;
        Ok(Tcp::new(TcpStream::from_std(socket.into())?, &shard.wheel))
    };
    let mut tcp = begin().map_err(|_| Cause::Broken)?;
    tcp.expire_at(until, Waiting::Connect);
    let _armed = cancel.map(|cancel| cancel.arm(tcp.shutter()));
    tcp.writable().await.map_err(|_| Cause::Broken)?;
    match (tcp.expired(), tcp.take_error()) {
        (Some(expiry), _) => Err(Cause::Expired(expiry)),
        (None, Some(_)) => Err(Cause::Broken),
        (None, None) => Ok(tcp),
    }
}
