//! Connections of clients: accepted, perhaps wrapped in TLS, served request by request until one side ends them.

use std::{future::poll_fn, io, net::SocketAddr, rc::Rc, time::Duration};

use monoio::{
    io::CancelHandle,
    net::{TcpListener, TcpStream, UnixStream},
};

use super::{
    dial, guard, proxy, ring,
    run::{Listener, Presence, Shard},
    stream::{self, Stream, Tcp},
    tls::Tls,
};
use crate::{
    base::{now::Now, waiting::Waiting},
    bridge::{
        bulletin::Lease,
        handoff::{Door, Handed},
        health::HealthBoard,
        quota::QuotaBoard,
    },
    config::{ProviderPlace, Snapshot, callers::Callers},
    exchange::{
        self, Next,
        cancel::Cancel,
        h1::Client,
        local::Local,
        seam::{Wire, World},
    },
    ledger::{logged::Logged, untold::Untold},
    policy::attempts::Failure,
    wire::openai::models::ModelList,
};

/// Takes connections as long as there is room, until the drain cancels it.
pub(super) async fn accept(shard: Rc<Shard>, listener: Listener, drain: CancelHandle) {
    let Listener { socket, door } = listener;
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            debug_assert!(false, "a listening socket is taken into the ring: {error}");
            return;
        }
    };
    let mut pause = PAUSE_MIN;
    loop {
        poll_fn(|cx| shard.poll_room(cx)).await;
        match socket.cancelable_accept(drain.clone()).await {
            Ok((stream, peer)) => {
                pause = PAUSE_MIN;
                shard.local.sheet.borrow_mut().accepted += 1;
                if let Some(stream) = keep(&shard, stream, peer, door) {
                    begin(&shard, stream, peer, door);
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => break,
            Err(error) if is_the_clients(&error) => {}
            // Out of descriptors or memory: what is waiting in the backlog will be there when something has ended.
            Err(_) => {
                ring::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                if shard.is_draining() {
                    break;
                }
            }
        }
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// The client left the backlog before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// The connection, if it stays here; it goes to a core with far fewer, unless that one has no place for it.
fn keep(shard: &Shard, stream: TcpStream, peer: SocketAddr, door: Door) -> Option<TcpStream> {
    let Some(inbox) = shard.better_inbox() else { return Some(stream) };
    match inbox.offer(Handed { socket: stream::release(stream), peer, door }) {
        Ok(()) => {
            shard.handed_over();
            None
        }
        Err(kept) => take_in(shard, kept.socket),
    }
}

/// A connection from outside this core's runtime, in it. One that cannot be taken in is closed.
fn take_in(shard: &Shard, socket: std::net::TcpStream) -> Option<TcpStream> {
    // Its flags are those of the core that accepted it, which need not be on this core's backend.
    socket.set_nonblocking(shard.is_epoll).ok()?;
    TcpStream::from_std(socket).ok()
}

/// Takes the connections that other cores hand over, as long as there is room, until the drain closes the inbox.
pub(super) async fn adopt(shard: Rc<Shard>) {
    let inbox = shard.inbox();
    let Ok(bell) = inbox.bell().and_then(UnixStream::from_std) else { return close_inbox(&shard) };
    // The bell is only polled: nothing that could be lost is in flight, here or when the core ends.
    while !inbox.is_closed() && bell.readable(false).await.is_ok() {
        inbox.hush();
        loop {
            poll_fn(|cx| shard.poll_room(cx)).await;
            let Some(handed) = inbox.take() else { break };
            serve_handed(&shard, handed);
        }
    }
    close_inbox(&shard);
}

/// Takes nothing from other cores any more, and serves what they had left: it was accepted.
pub(super) fn close_inbox(shard: &Rc<Shard>) {
    for handed in shard.inbox().close() {
        serve_handed(shard, handed);
    }
}

fn serve_handed(shard: &Rc<Shard>, Handed { socket, peer, door }: Handed) {
    if let Some(stream) = take_in(shard, socket) {
        begin(shard, stream, peer, door);
    }
}

fn begin(shard: &Rc<Shard>, stream: TcpStream, peer: SocketAddr, door: Door) {
    let mut presence = shard.enter();
    if !door.is_proxied && !presence.is_welcome(peer.ip()) {
        return;
    }
    let tcp = Tcp::new(stream, &shard.wheel);
    let panicked = {
        let shard = shard.clone();
        move || shard.panicked()
    };
    if door == (Door { is_tls: false, is_proxied: false }) {
        guard::spawn(serve(shard.clone(), Stream::Plain(tcp), peer, presence), panicked);
    } else {
        guard::spawn(unwrap(shard.clone(), tcp, peer, door, presence), panicked);
    }
}

/// Takes off what HTTP is wrapped in, then serves it.
async fn unwrap(shard: Rc<Shard>, tcp: Tcp, peer: SocketAddr, door: Door, mut presence: Presence) {
    // Boxed: what leads to a connection is not carried along by it.
    if let Some((stream, client)) = Box::pin(unwrapped(&shard, tcp, peer, door, &mut presence)).await {
        serve(shard, stream, client, presence).await;
    }
}

/// The client's stream and its address; `None` if the connection is to be closed without a word.
async fn unwrapped(
    shard: &Shard,
    mut tcp: Tcp,
    peer: SocketAddr,
    door: Door,
    presence: &mut Presence,
) -> Option<(Stream, SocketAddr)> {
    let mut client = peer;
    if door.is_proxied {
        let snapshot = shard.current_snapshot();
        if !proxy::is_believed(peer.ip(), &snapshot.access.trusted_proxies) {
            return None;
        }
        tcp.expire_at(shard.clock.now() + snapshot.limits.head_time, Waiting::Head);
        // A wait may outlive a reload.
        drop(snapshot);
        client = proxy::client(&mut tcp, peer).await?;
        if !presence.is_welcome(client.ip()) {
            return None;
        }
    }
    if !door.is_tls {
        return Some((Stream::Plain(tcp), client));
    }
    let config = shard.server_tls();
    debug_assert!(config.is_some(), "a certificate is published before a core starts that listens with TLS");
    tcp.expire_at(shard.clock.now() + shard.current_snapshot().limits.handshake_time, Waiting::Handshake);
    let tls = Tls::accept(tcp, config?).await.ok()?;
    Some((Stream::Tls(tls), client))
}

/// Serves one connection. Idle, it holds this small future and nothing else: the exchange gets a slot when there is
/// something to read.
async fn serve(shard: Rc<Shard>, stream: Stream, peer: SocketAddr, _presence: Presence) {
    let mut client = Client::new(stream, peer.ip());
    loop {
        if client.carry.is_empty() {
            let idle_time = shard.current_snapshot().limits.idle_time;
            client.wire.expire_at(shard.clock.recent() + idle_time, Waiting::Idle);
            if !client.stirs().await {
                return;
            }
        }
        match shard.slots.place(|| exchange::serve(&*shard, &mut client)).await {
            Next::Request => {}
            Next::Close => return,
        }
    }
}

impl World for Shard {
    type Wire = Stream;
    type Snapshot = Lease<Snapshot>;
    type Models = Lease<ModelList>;
    type Callers = Lease<Option<Callers>>;
    type Quota = QuotaBoard;
    type Health = HealthBoard;

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn recent(&self) -> Now {
        self.clock.recent()
    }

    async fn sleep_until(&self, at: Now) {
        ring::sleep(at.since(self.clock.now())).await;
    }

    fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    fn random(&self) -> u64 {
        self.chance()
    }

    fn snapshot(&self) -> Lease<Snapshot> {
        self.current_snapshot()
    }

    fn models(&self) -> Option<Lease<ModelList>> {
        self.current_models()
    }

    fn callers(&self) -> Option<Lease<Option<Callers>>> {
        self.current_callers()
    }

    fn quota(&self) -> &QuotaBoard {
        &self.quota
    }

    fn health(&self) -> &HealthBoard {
        &self.health
    }

    fn draining(&self) -> bool {
        self.is_draining()
    }

    fn local(&self) -> &Local<Stream> {
        &self.local
    }

    fn log(&self, line: impl FnOnce() -> Logged) {
        if let Some(pipe) = self.log_pipe() {
            pipe.push(line());
        }
    }

    fn estimate(&self, untold: Untold) -> Option<Untold> {
        match self.estimate_queue() {
            Some(queue) => queue.push(untold),
            None => Some(untold),
        }
    }

    async fn dial(
        &self,
        snapshot: &Snapshot,
        place: ProviderPlace,
        until: Now,
        cancel: Option<&Cancel>,
    ) -> Result<Stream, Failure> {
        // Boxed: most exchanges find a connection in the pool, and need not be as large as this.
        Box::pin(dial::dial(self, snapshot, place, until, cancel)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what `make` would return; it is never called.
    fn size_of_output<T>(_make: impl FnOnce() -> T) -> usize {
        size_of::<T>()
    }

    fn never<T>() -> T {
        unreachable!("only its type is wanted")
    }

    #[test]
    fn an_idle_connection_and_an_exchange_are_small() {
        let idle = size_of_output(|| serve(never(), never(), never(), never()));
        let wrapped = size_of_output(|| unwrap(never(), never(), never(), never(), never()));
        let exchange = size_of_output(|| exchange::serve(never::<&Shard>(), never::<&mut Client<Stream>>()));
        println!(
            "an idle connection's future: {idle} bytes, wrapped {wrapped}; an exchange's: {exchange} bytes"
        );
        assert!(idle <= 1 << 10 && wrapped <= 1 << 10, "{idle}, {wrapped}");
        assert!(exchange <= 8 << 10, "{exchange}");
    }
}
