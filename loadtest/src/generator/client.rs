//! One connection to the system under test: a request out, a response in, its moments told.

use std::{cell::Cell, net::SocketAddr, os::fd::AsRawFd, rc::Rc};

use bytes::Bytes;
use monoio::{
    io::{AsyncReadRent, AsyncWriteRentExt},
    net::TcpStream,
};

use super::reply::{Arrived, Progress, Reply};
use crate::clock::now_ns;

/// Bytes of one read: a small answer, or a burst of events, at once.
const READ_BYTES: usize = 16 << 10;

/// What went wrong, as the report names it.
pub(super) type Fault = &'static str;

/// Descriptor of a connection while it is open, for whoever has to end it; negative for none.
pub(super) type Handle = Rc<Cell<i32>>;

/// A keep-alive connection, opened when it is needed.
pub(super) struct Client {
    addr: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    arrived: Arrived,
    pub(super) handle: Handle,
}

/// A response that came whole.
pub(super) struct Received {
    pub(super) status: u16,
    pub(super) sent_ns: u64,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
    pub(super) events: u64,
    pub(super) errors_in_stream: u64,
}

impl Client {
    pub(super) fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            stream: None,
            buffer: Vec::with_capacity(READ_BYTES),
            arrived: Arrived::default(),
            handle: Rc::new(Cell::new(-1)),
        }
    }

    /// Connects if need be.
    pub(super) async fn open(&mut self) -> Result<(), Fault> {
        if self.stream.is_none() {
            let stream = TcpStream::connect_addr(self.addr).await.map_err(|_| "connect")?;
            drop(stream.set_nodelay(true));
            self.handle.set(stream.as_raw_fd());
            self.stream = Some(stream);
        }
        Ok(())
    }

    /// Sends a request and reads its response; `each` is told of every read that brought a part of it.
    pub(super) async fn exchange(
        &mut self,
        request: &Bytes,
        mut each: impl FnMut(u64, &Arrived),
    ) -> Result<Received, Fault> {
        self.open().await?;
        let Some(stream) = &mut self.stream else { return Err("connect") };
        let sent_ns = now_ns();
        if stream.write_all(request.clone()).await.0.is_err() {
            self.close();
            return Err("write");
        }
        let mut reply = Reply::new();
        let mut received =
            Received { status: 0, sent_ns, first_ns: 0, last_ns: 0, events: 0, errors_in_stream: 0 };
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let (read, buffer) = stream.read(buffer).await;
            self.buffer = buffer;
            let at_ns = now_ns();
            let progress = match read {
                Ok(0) if reply.closed() => Progress::Done { keep_alive: false },
                Ok(0) => {
                    self.close();
                    return Err(if reply.status == 0 { "closed" } else { "truncated" });
                }
                Err(_) => {
                    self.close();
                    return Err("reset");
                }
                Ok(read) => {
                    self.arrived.events = 0;
                    self.arrived.body_bytes = 0;
                    self.arrived.stamps_ns.clear();
                    let Ok(progress) = reply.feed(&self.buffer[..read], &mut self.arrived) else {
                        self.close();
                        return Err("malformed");
                    };
                    received.events += self.arrived.events;
                    // The first event of a stream; else the first bytes of the body.
                    if received.first_ns == 0 && (self.arrived.events > 0 || self.arrived.body_bytes > 0) {
                        received.first_ns = at_ns;
                    }
                    each(at_ns, &self.arrived);
                    progress
                }
            };
            if let Progress::Done { keep_alive } = progress {
                if !keep_alive {
                    self.close();
                }
                received.status = reply.status;
                received.errors_in_stream = reply.errors_in_stream;
                received.last_ns = at_ns;
                return Ok(received);
            }
        }
    }

    fn close(&mut self) {
        self.handle.set(-1);
        self.stream = None;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.handle.set(-1);
    }
}
