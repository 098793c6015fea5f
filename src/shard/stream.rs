//! A connection of this core, plain or inside TLS, as the exchange knows it.

use std::{
    cell::UnsafeCell,
    future::Future,
    io,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use monoio::{
    io::{AsyncReadRent, AsyncWriteRent},
    net::TcpStream,
};

use super::{
    buffers::{Behind, Piece, Pieces},
    tls::Tls,
    turn,
    wheel::{Deadline, Wheel},
};
use crate::{
    base::{
        limits,
        now::Now,
        waiting::{Expiry, Waiting},
    },
    exchange::{
        Outgoing,
        seam::{Stir, Wire},
    },
};

/// A TCP connection with its deadline and its watch.
pub(super) struct Tcp {
    // Dropped in this order: the watch's operation, the deadline, then the descriptor they speak of.
    watch: Option<Pin<Box<dyn Future<Output = ()>>>>,
    deadline: Deadline,
    io: Rc<UnsafeCell<TcpStream>>,
    fd: RawFd,
}

impl Tcp {
    pub(super) fn new(io: TcpStream, wheel: &Wheel) -> Self {
        let fd = io.as_raw_fd();
        // Small writes are whole events or answers; none is improved by waiting.
        let _ = io.set_nodelay(true);
        Self { watch: None, deadline: wheel.watch(fd), io: Rc::new(UnsafeCell::new(io)), fd }
    }

    #[expect(clippy::mut_from_ref, reason = "see SAFETY; monoio's own split halves do the same")]
    fn io(&self) -> &mut TcpStream {
        // SAFETY: monoio's read and write only clone the descriptor out of the stream before they first wait, and the
        // watch borrows it shared and does the same. All of it is on one thread, and `Tcp`'s methods take `&mut self`,
        // so no two of these short borrows overlap.
        unsafe { &mut *self.io.get() }
    }

    /// Reads once behind `into`'s bytes.
    pub(super) async fn read(&mut self, into: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        debug_assert!(into.capacity() > into.len(), "a read needs room, or its zero would mean an end");
        let (read, Behind(buffer)) = self.io().read(Behind(into)).await;
        (read, buffer)
    }

    /// Writes all pieces; what is small leaves as one.
    pub(super) async fn write(&mut self, out: &mut Outgoing) -> io::Result<()> {
        let (longer, hurries) = (out.join(limits::JOINED_WRITE_BYTES_MAX), out.hurries());
        let Some((number, span)) = out.only() else { return self.write_several(out).await };
        let mut piece = Piece::new(out.take(number), span);
        let mut end = Ok(());
        while end.is_ok() && !piece.is_done() {
            let (written, rest) = turn::sent(pin!(self.io().write(piece)), hurries).await;
            piece = rest;
            end = taken(written).map(|bytes| piece.advance(bytes));
        }
        let mut buffer = piece.into_buffer();
        // It comes back as it went: what lies behind its bytes is where the next read lands.
        buffer.truncate(buffer.len() - longer);
        out.put_back(number, buffer);
        end
    }

    async fn write_several(&mut self, out: &mut Outgoing) -> io::Result<()> {
        let hurries = out.hurries();
        let mut pieces = Pieces::new(std::mem::take(out));
        let mut end = Ok(());
        while end.is_ok() && !pieces.is_done() {
            let (written, rest) = if pieces.is_single() {
                turn::sent(pin!(self.io().write(pieces)), hurries).await
            } else {
                turn::sent(pin!(self.io().writev(pieces)), hurries).await
            };
            pieces = rest;
            end = taken(written).map(|bytes| pieces.advance(bytes));
        }
        *out = pieces.into_out();
        end
    }

    /// Ready once the socket is readable or has ended; the watch is kept between calls.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let io = &self.io;
        let watch = self.watch.get_or_insert_with(|| {
            let io = io.clone();
            Box::pin(async move {
                // SAFETY: a shared borrow that is not used after the first poll, see `Tcp::io`.
                let io = unsafe { &*io.get() };
                // An error is an end too, and the next read will say which.
                let _ = io.readable(false).await;
            })
        });
        std::task::ready!(watch.as_mut().poll(cx));
        self.watch = None;
        Poll::Ready(())
    }

    pub(super) fn rearm(&mut self) {
        self.watch = None;
    }

    /// Looks at the socket without waiting and without taking anything.
    pub(super) fn peek(&mut self) -> Stir {
        peek(self.fd)
    }

    /// Waits until a connect is over, either way.
    pub(super) async fn writable(&mut self) -> io::Result<()> {
        self.io().writable(false).await
    }

    /// The socket's pending error, taken from it.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        // SAFETY: the descriptor is open for as long as `self` is, and is only borrowed.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.fd) };
        socket2::SockRef::from(&fd).take_error().unwrap_or_else(Some)
    }

    pub(super) fn expire_at(&mut self, at: Now, why: Waiting) {
        self.deadline.set(at, why);
    }

    pub(super) fn expired(&self) -> Option<Expiry> {
        self.deadline.expired()
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd
    }

    /// See [`Wire::shutter`].
    pub(super) fn shutter(&self) -> impl FnOnce() + 'static {
        let fd = self.fd;
        move || shutdown(fd, libc::SHUT_RDWR)
    }

    /// Says FIN.
    pub(super) fn end_writing(&mut self) {
        shutdown(self.fd, libc::SHUT_WR);
    }
}

/// Takes a connection out of this core's runtime, for another core's. It must be fresh: nothing of it is in flight.
pub(super) fn release(io: TcpStream) -> std::net::TcpStream {
    // SAFETY: the descriptor is open, and nothing else owns it any more.
    unsafe { std::net::TcpStream::from_raw_fd(io.into_raw_fd()) }
}

/// How many bytes a write took. One that was interrupted took none, and goes on.
fn taken(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other,
    }
}

/// One system call that neither waits nor consumes.
pub(super) fn peek(fd: RawFd) -> Stir {
    match receive(fd, &mut [0], libc::MSG_PEEK) {
        Ok(0) => Stir::Gone,
        Ok(_) => Stir::Bytes,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Stir::Nothing,
        Err(_) => Stir::Gone,
    }
}

/// One system call that does not wait.
pub(super) fn receive(fd: RawFd, into: &mut [u8], flags: i32) -> io::Result<usize> {
    // SAFETY: the pointer and length are those of a live, writable slice.
    let got = unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), flags | libc::MSG_DONTWAIT) };
    usize::try_from(got).map_err(|_negative| io::Error::last_os_error())
}

/// Ends one or both directions; errors mean that the connection has ended already.
pub(super) fn shutdown(fd: RawFd, how: i32) {
    // SAFETY: takes two integers; a stale descriptor cannot get here, because deadlines and wires forget theirs before
    // it is closed.
    unsafe { libc::shutdown(fd, how) };
}

/// Ends a socket whose time is over. One whose peer owed us its request is only not read from any more: it is to be
/// told why.
pub(super) fn expire(fd: RawFd, why: Waiting) {
    let owed_a_request = matches!(why, Waiting::Head | Waiting::Body);
    shutdown(fd, if owed_a_request { libc::SHUT_RD } else { libc::SHUT_RDWR });
}

/// A client's or an upstream's connection.
pub(super) enum Stream {
    Plain(Tcp),
    Tls(Box<Tls>),
}

impl Stream {
    fn tcp(&self) -> &Tcp {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp(),
        }
    }

    fn tcp_mut(&mut self) -> &mut Tcp {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp_mut(),
        }
    }
}

impl Wire for Stream {
    async fn read(&mut self, into: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Self::Plain(tcp) => tcp.read(into).await,
            Self::Tls(tls) => tls.read(into).await,
        }
    }

    async fn write(&mut self, out: &mut Outgoing) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write(out).await,
            // Boxed, for what it costs beside the encryption: every exchange would have to be as large.
            Self::Tls(tls) => Box::pin(tls.write(out)).await,
        }
    }

    fn expire_at(&mut self, at: Now, why: Waiting) {
        self.tcp_mut().expire_at(at, why);
    }

    fn expired(&self) -> Option<Expiry> {
        self.tcp().expired()
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(tcp) => tcp.poll_readable(cx),
            Self::Tls(tls) => tls.poll_readable(cx),
        }
    }

    fn rearm(&mut self) {
        self.tcp_mut().rearm();
    }

    fn peek(&mut self) -> Stir {
        match self {
            Self::Plain(tcp) => tcp.peek(),
            Self::Tls(tls) => tls.peek(),
        }
    }

    fn shutter(&self) -> impl FnOnce() + 'static {
        self.tcp().shutter()
    }

    async fn finish(&mut self) {
        match self {
            Self::Plain(tcp) => tcp.end_writing(),
            Self::Tls(tls) => tls.finish().await,
        }
    }
}
