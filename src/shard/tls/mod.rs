//! TLS over a [`Tcp`]: rustls' state in the middle, our operations around it.
//!
//! The socket's operations own their buffers until they finish; rustls is handed slices in between and never waits.
//! Invariant: ciphertext is taken from the socket only while no plaintext waits, so a slow reader holds the peer back
//! and costs no memory; and a connection that nothing is asked of holds no buffer but rustls' own 4 KiB.

mod at_once;
mod config;
#[cfg(test)]
pub(super) mod tests;

use std::{
    future::poll_fn,
    io::{self, BufRead, IoSlice, Read, Write},
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection, pki_types::ServerName,
};
use smallvec::SmallVec;

use self::at_once::{AtOnce, Never};
pub use self::config::{client_config, server_config};
use super::stream::Tcp;
use crate::{
    base::{limits, waiting::Expiry},
    exchange::{Outgoing, seam::Stir},
};

/// A connection whose handshake is over.
pub(super) struct Tls {
    tcp: Tcp,
    session: Connection,
    /// Set once; nothing is taken from the socket afterwards, but plaintext that came before is still handed out.
    end: Option<End>,
    /// Ciphertext since the last application data.
    chatter_bytes: usize,
}

/// How the peer's side of a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With a close_notify: all that it sent has arrived.
    Closed,
    /// In any other way: what arrived may have been cut short.
    Broken(io::ErrorKind),
}

/// Why there is no session.
#[derive(Debug)]
pub(super) enum Unsecured {
    /// The connection ended or failed.
    Io(io::Error),
    /// Its deadline ended the connection.
    Expired(Expiry),
    /// What the peer said was not acceptable: its certificate, its parameters, its grammar.
    Tls(rustls::Error),
}

impl From<Unsecured> for io::Error {
    fn from(unsecured: Unsecured) -> Self {
        match unsecured {
            Unsecured::Io(error) => error,
            Unsecured::Expired(_) => io::ErrorKind::TimedOut.into(),
            Unsecured::Tls(error) => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

impl Tls {
    /// Shakes hands as a client. The deadline is the wire's: set it before.
    pub(super) async fn connect(
        tcp: Tcp,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Box<Self>, Unsecured> {
        let session = ClientConnection::new(config, name).map_err(Unsecured::Tls)?;
        let mut tls = Self::over(tcp, Connection::Client(session)).secured().await?;
        // Whoever answers before it was asked would have its bytes taken for the answer to the first request.
        if tls.has_plaintext() {
            return Err(Unsecured::Tls(rustls::Error::General(
                "the server spoke before it was asked".into(),
            )));
        }
        Ok(tls)
    }

    /// Shakes hands as a server. The deadline is the wire's: set it before.
    pub(super) async fn accept(tcp: Tcp, config: Arc<ServerConfig>) -> io::Result<Box<Self>> {
        let session = ServerConnection::new(config).map_err(Unsecured::Tls)?;
        Ok(Self::over(tcp, Connection::Server(session)).secured().await?)
    }

    pub(super) fn tcp(&self) -> &Tcp {
        &self.tcp
    }

    pub(super) fn tcp_mut(&mut self) -> &mut Tcp {
        &mut self.tcp
    }

    /// Reads plaintext behind `into`'s bytes. `Ok(0)`: the peer said close_notify, and all that it sent was read. An end
    /// without one is `UnexpectedEof`.
    pub(super) async fn read(&mut self, mut into: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        debug_assert!(into.capacity() > into.len(), "a read needs room, or its zero would mean an end");
        let kept = into.len();
        loop {
            self.pour(&mut into);
            if into.len() > kept {
                return (Ok(into.len() - kept), into);
            }
            match self.end {
                Some(End::Closed) => return (Ok(0), into),
                Some(End::Broken(kind)) => return (Err(kind.into()), into),
                None => {}
            }
            if into.capacity() - kept < limits::TLS_HELPING_BYTES {
                // A record read in slivers would be an operation each.
                poll_fn(|cx| self.poll_readable(cx)).await;
                continue;
            }
            // The ciphertext lands where its plaintext will be, so it needs no buffer of its own.
            let (read, back) = self.receive(into).await;
            into = back;
            match read {
                Ok(()) => self.open(&mut into, kept),
                Err(error) => self.end = Some(End::Broken(error.kind())),
            }
        }
    }

    /// Writes every piece, in records as large as TLS has them.
    pub(super) async fn write(&mut self, out: &Outgoing) -> io::Result<()> {
        let bytes = out.len();
        let mut sealed = 0;
        loop {
            sealed += self.seal(out, sealed)?;
            self.flush(out.hurries()).await?;
            if sealed == bytes {
                return Ok(());
            }
        }
    }

    /// Ready once there is application data or an end. Tickets, key updates and the like are taken on the way.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_news() {
            return Poll::Ready(());
        }
        self.slim();
        while self.tcp.poll_readable(cx).is_ready() {
            if self.look() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// What has come, without waiting. Of the application data nothing is consumed.
    pub(super) fn peek(&mut self) -> Stir {
        match self.look() {
            false => Stir::Nothing,
            true if self.has_plaintext() => Stir::Bytes,
            true => Stir::Gone,
        }
    }

    /// Says close_notify, then FIN. The peer may still write.
    pub(super) async fn finish(&mut self) {
        self.session.send_close_notify();
        // A peer that takes nothing more gets its FIN all the same.
        let _ = Box::pin(self.flush(false)).await;
        self.tcp.end_writing();
    }
}

impl Tls {
    fn over(tcp: Tcp, mut session: Connection) -> Box<Self> {
        // Room for a batch and for what the protocol itself wants to say; `seal` never fills it.
        session.set_buffer_limit(Some(2 * limits::TLS_BATCH_BYTES));
        Box::new(Self { tcp, session, end: None, chatter_bytes: 0 })
    }

    // Both the session and the wait are boxed: whoever awaits a handshake has a small future.
    async fn secured(mut self: Box<Self>) -> Result<Box<Self>, Unsecured> {
        let shaken = Box::pin(self.shake_hands()).await;
        match (shaken, self.tcp.expired()) {
            (Ok(()), _) => Ok(self),
            (Err(_), Some(expiry)) => Err(Unsecured::Expired(expiry)),
            (Err(unsecured), None) => Err(unsecured),
        }
    }

    async fn shake_hands(&mut self) -> Result<(), Unsecured> {
        let mut ciphertext = Vec::with_capacity(limits::TLS_HELPING_BYTES);
        loop {
            self.flush(false).await.map_err(Unsecured::Io)?;
            if !self.session.is_handshaking() {
                return Ok(());
            }
            let (read, back) = self.receive(ciphertext).await;
            ciphertext = back;
            read.map_err(Unsecured::Io)?;
            let mut rest = ciphertext.as_slice();
            while !rest.is_empty() && self.end.is_none() {
                match self.digest(&mut rest) {
                    Err(unsecured) if self.session.is_handshaking() => return Err(unsecured),
                    // What came behind the handshake is not the handshake's trouble.
                    Err(unsecured) => self.break_off(unsecured),
                    Ok(_) => {}
                }
            }
            ciphertext.clear();
        }
    }

    /// Reads at least one byte of ciphertext behind `into`'s bytes; an end of the stream is an error here.
    async fn receive(&mut self, mut into: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        loop {
            let (read, back) = self.tcp.read(into).await;
            into = back;
            match read {
                Ok(0) => return (Err(io::ErrorKind::UnexpectedEof.into()), into),
                Ok(_) => return (Ok(()), into),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), into),
            }
        }
    }

    /// Puts plaintext in the place of the ciphertext behind the first `kept` bytes.
    fn open(&mut self, buffer: &mut Vec<u8>, kept: usize) {
        // kept <= plain <= fed <= buffer.len(): before `plain` lies plaintext, before `fed` what rustls has seen.
        let (mut plain, mut fed) = (kept, kept);
        while fed < buffer.len() && self.end.is_none() {
            fed += self.take(&mut &buffer[fed..]);
            // At once, because rustls takes no more ciphertext while a record's worth of plaintext waits.
            plain += self.session.reader().read(&mut buffer[plain..fed]).unwrap_or(0);
        }
        buffer.truncate(plain);
    }

    /// Copies waiting plaintext into the spare capacity.
    fn pour(&mut self, into: &mut Vec<u8>) {
        let mut reader = self.session.reader();
        while into.len() < into.capacity()
            && let Ok(chunk) = reader.fill_buf()
            && !chunk.is_empty()
        {
            let taken = chunk.len().min(into.capacity() - into.len());
            into.extend_from_slice(&chunk[..taken]);
            reader.consume(taken);
        }
    }

    /// Encrypts the next batch of what is to be sent, from byte `from` on, and says how many bytes that was.
    fn seal(&mut self, out: &Outgoing, from: usize) -> io::Result<usize> {
        let (mut skip, mut room) = (from, limits::TLS_BATCH_BYTES);
        let mut pieces = SmallVec::<[IoSlice<'_>; 8]>::new();
        for piece in out.slices() {
            let (_, rest) = piece.split_at(skip.min(piece.len()));
            skip -= piece.len() - rest.len();
            let taken = &rest[..rest.len().min(room)];
            room -= taken.len();
            if !taken.is_empty() {
                pieces.push(IoSlice::new(taken));
            }
        }
        let sealed = self.session.writer().write_vectored(&pieces)?;
        if sealed == 0 && !pieces.is_empty() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(sealed)
    }

    /// Writes all the ciphertext there is, in one operation.
    async fn flush(&mut self, hurries: bool) -> io::Result<()> {
        if !self.session.wants_write() {
            return Ok(());
        }
        let mut ciphertext = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut ciphertext)?;
        }
        let mut out = Outgoing::default();
        out.push_all(ciphertext);
        if hurries {
            out.hurry();
        }
        self.tcp.write(&mut out).await
    }

    /// Takes what lies in the socket until there is news or nothing more. True if there is news.
    fn look(&mut self) -> bool {
        // Ends: the socket runs dry, data or an end comes, or the peer's chatter is an end itself.
        loop {
            if self.has_news() {
                return true;
            }
            let fd = self.tcp.fd();
            if self.take(&mut AtOnce(fd)) == 0 && self.end.is_none() {
                return false;
            }
        }
    }

    /// One helping of ciphertext. Zero: there is none now, or the session has ended.
    fn take(&mut self, source: &mut dyn Read) -> usize {
        self.digest(source).unwrap_or_else(|unsecured| {
            self.break_off(unsecured);
            0
        })
    }

    fn break_off(&mut self, why: Unsecured) {
        self.end = Some(End::Broken(io::Error::from(why).kind()));
    }

    /// One helping of ciphertext: at most what rustls has room for. Zero: there is none now.
    fn digest(&mut self, source: &mut dyn Read) -> Result<usize, Unsecured> {
        debug_assert!(
            self.end.is_none(),
            "after the end rustls reads nothing, and its zero would mean another"
        );
        let taken = match self.session.read_tls(source) {
            Ok(0) => return Err(Unsecured::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(Unsecured::Io(error)),
        };
        let state = self.session.process_new_packets();
        // An alert, or the next flight of the handshake: as much as the socket takes. The rest goes with the next write,
        // or, after an alert, nowhere.
        while self.session.wants_write()
            && self.session.write_tls(&mut AtOnce(self.tcp.fd())).is_ok_and(|n| n > 0)
        {}
        let state = state.map_err(Unsecured::Tls)?;
        if state.peer_has_closed() {
            self.end = Some(End::Closed);
        }
        self.chatter_bytes += taken;
        if state.plaintext_bytes_to_read() > 0 {
            self.chatter_bytes = 0;
        }
        if self.chatter_bytes > limits::TLS_CHATTER_BYTES_MAX {
            return Err(Unsecured::Tls(rustls::Error::General("the peer sends no application data".into())));
        }
        Ok(taken)
    }

    fn has_news(&mut self) -> bool {
        self.end.is_some() || self.has_plaintext()
    }

    fn has_plaintext(&mut self) -> bool {
        self.session.reader().fill_buf().is_ok_and(|chunk| !chunk.is_empty())
    }

    /// rustls keeps the room that its largest record took until it reads again, so it is told to, in vain.
    fn slim(&mut self) {
        let _ = self.session.read_tls(&mut Never);
    }
}
