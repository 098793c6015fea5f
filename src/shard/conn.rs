//! Connections of clients: accepted, perhaps wrapped in TLS, served request by request until one side ends them.

use std::{future::poll_fn, io, net::SocketAddr, rc::Rc, time::Duration};

use monoio::{
    io::CancelHandle,
    net::{TcpListener, TcpStream},
};

use super::{
    dial, guard, ring,
    run::{Listener, Presence, Shard},
    stream::{Stream, Tcp},
    tls::Tls,
};
use crate::{
    base::{now::Now, waiting::Waiting},
    bridge::bulletin::Lease,
    config::{ProviderPlace, Snapshot},
    exchange::{
        self, Next,
        h1::Client,
        local::Local,
        seam::{Wire, World},
    },
    policy::attempts::Failure,
    wire::openai::models::ModelList,
};

/// Takes connections as long as there is room, until the drain cancels it.
pub(super) async fn accept(shard: Rc<Shard>, listener: Listener, drain: CancelHandle) {
    let Listener { socket, tls } = listener;
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
                begin(&shard, stream, peer, tls.clone());
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

fn begin(
    shard: &Rc<Shard>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<std::sync::Arc<rustls::ServerConfig>>,
) {
    shard.local.sheet.borrow_mut().accepted += 1;
    let presence = shard.enter();
    let tcp = Tcp::new(stream, &shard.wheel);
    let panicked = {
        let shard = shard.clone();
        move || shard.panicked()
    };
    match tls {
        None => guard::spawn(serve(shard.clone(), Stream::Plain(tcp), peer, presence), panicked),
        Some(config) => {
            let shard = shard.clone();
            let handshake = async move {
                let mut tcp = tcp;
                tcp.expire_at(
                    shard.clock.now() + shard.current_snapshot().limits.handshake_time,
                    Waiting::Handshake,
                );
                // Boxed: the handshake's state is not carried along by the connection that comes of it.
                if let Ok(tls) = Box::pin(Tls::accept(tcp, config)).await {
                    serve(shard, Stream::Tls(tls), peer, presence).await;
                }
            };
            guard::spawn(handshake, panicked);
        }
    }
}

/// Serves one connection. Idle, it holds this small future and nothing else: the exchange is boxed when there is something
/// to read.
async fn serve(shard: Rc<Shard>, stream: Stream, peer: SocketAddr, _presence: Presence) {
    let mut client = Client::new(stream, peer.ip());
    loop {
        if client.carry.is_empty() {
            let idle_time = shard.current_snapshot().limits.idle_time;
            client.wire.expire_at(shard.clock.now() + idle_time, Waiting::Idle);
            if !client.stirs().await {
                return;
            }
        }
        match Box::pin(exchange::serve(&*shard, &mut client)).await {
            Next::Request => {}
            Next::Close => return,
        }
    }
}

impl World for Shard {
    type Wire = Stream;
    type Snapshot = Lease<Snapshot>;
    type Models = Lease<ModelList>;

    fn now(&self) -> Now {
        self.clock.now()
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

    fn draining(&self) -> bool {
        self.is_draining()
    }

    fn local(&self) -> &Local<Stream> {
        &self.local
    }

    async fn dial(&self, snapshot: &Snapshot, place: ProviderPlace, until: Now) -> Result<Stream, Failure> {
        // Boxed: most exchanges find a connection in the pool, and need not be as large as this.
        Box::pin(dial::dial(self, snapshot, place, until)).await
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
        let exchange = size_of_output(|| exchange::serve(never::<&Shard>(), never::<&mut Client<Stream>>()));
        println!("an idle connection's future: {idle} bytes, an exchange's: {exchange} bytes");
        assert!(idle <= 1 << 10, "{idle}");
        assert!(exchange <= 8 << 10, "{exchange}");
    }
}
