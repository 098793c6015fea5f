//! A door in front of a provider that can be shut in two ways: connections are refused, or nothing is answered at all.
//!
//! Blocking threads, two for each connection: a scenario has few of them, and what a kernel does is what is wanted.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use socket2::{Domain, SockRef, Socket, Type};

use crate::runtime::reset;

/// A listener whose connections lead to a provider, as long as it is open.
pub(super) struct Gate {
    pub(super) addr: SocketAddr,
    to: SocketAddr,
    listener: Option<Socket>,
    /// What fills the backlog of a black hole.
    fillers: Vec<Socket>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    /// One that is open.
    pub(super) fn new(to: SocketAddr) -> io::Result<Self> {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gate = Self { addr, to, listener: None, fillers: Vec::new(), open: Arc::default() };
        gate.open()?;
        Ok(gate)
    }

    /// Lets connections through.
    pub(super) fn open(&mut self) -> io::Result<()> {
        let listener = self.listen(128)?;
        let accepting = TcpListener::from(listener.try_clone()?);
        self.addr = accepting.local_addr()?;
        self.listener = Some(listener);
        let (to, open) = (self.to, Arc::clone(&self.open));
        thread::Builder::new().name("gate".into()).spawn(move || {
            // Shutting the listener down ends this.
            while let Ok((near, _)) = accepting.accept() {
                let _ = pass(near, to, &open);
            }
        })?;
        Ok(())
    }

    /// Refuses connections; those that there are go on.
    pub(super) fn refuse(&mut self) {
        if let Some(listener) = self.listener.take() {
            let _ = listener.shutdown(Shutdown::Both);
        }
        self.fillers.clear();
    }

    /// Refuses connections, and resets those that there are.
    pub(super) fn crash(&mut self) {
        self.refuse();
        for stream in held(&self.open).drain(..) {
            reset(stream.as_raw_fd());
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Answers no handshake any more, because the backlog is full; the connections that there are go on.
    pub(super) fn vanish(&mut self) -> io::Result<()> {
        self.refuse();
        let hole = self.listen(0)?;
        for _ in 0..2 {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            filler.set_nonblocking(true)?;
            let _ = filler.connect(&self.addr.into());
            self.fillers.push(filler);
        }
        self.listener = Some(hole);
        Ok(())
    }

    fn listen(&self, backlog: i32) -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&self.addr.into())?;
        socket.listen(backlog)?;
        Ok(socket)
    }
}

/// Copies both ways until either side ends.
fn pass(near: TcpStream, to: SocketAddr, open: &Arc<Mutex<Vec<TcpStream>>>) -> io::Result<()> {
    let far = TcpStream::connect(to)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let mut all = held(open);
    // Those that have ended since are forgotten.
    all.retain(|stream| SockRef::from(stream).peer_addr().is_ok());
    all.push(near.try_clone()?);
    drop(all);
    let (near_too, far_too) = (near.try_clone()?, far.try_clone()?);
    thread::Builder::new().name("gate-in".into()).spawn(move || copy(near, far))?;
    thread::Builder::new().name("gate-out".into()).spawn(move || copy(far_too, near_too))?;
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::provider;

    fn is_answered(addr: SocketAddr) -> Result<bool, io::ErrorKind> {
        let mut stream =
            TcpStream::connect_timeout(&addr, Duration::from_millis(300)).map_err(|error| error.kind())?;
        let request = b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).map_err(|error| error.kind())?;
        Ok(stream.read_to_end(&mut Vec::new()).is_ok_and(|read| read > 0))
    }

    #[test]
    fn a_gate_opens_crashes_vanishes_and_opens_again() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let provider = provider::start(&provider::Options::on(listen)).unwrap_or_else(|e| panic!("{e}"));
        let mut gate = Gate::new(provider.addr).unwrap_or_else(|e| panic!("{e}"));
        let addr = gate.addr;
        assert_eq!(is_answered(addr), Ok(true));
        let mut open = TcpStream::connect(addr).unwrap_or_else(|e| panic!("{e}"));
        assert!(open.write_all(b"GET").is_ok() && is_answered(addr) == Ok(true));
        gate.crash();
        assert_eq!(open.read(&mut [0]).map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
        assert_eq!(is_answered(addr), Err(io::ErrorKind::ConnectionRefused));
        assert!(gate.vanish().is_ok());
        assert_eq!(is_answered(addr), Err(io::ErrorKind::TimedOut));
        gate.refuse();
        assert!(gate.open().is_ok() && gate.addr == addr);
        assert_eq!(is_answered(addr), Ok(true));
    }
}
