//! TLS in front of the simulated provider: plain rustls over blocking sockets, two threads a connection.
//!
//! The provider behind it stays as it is, faults included: what ends there ends here, and the other way round. Each handshake
//! is told to the log, with whether it resumed a session.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustls::{
    HandshakeKind, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::json;

use super::log::Log;

/// What is said before the client has finished its handshake, where that is asked for: an answer to no request.
const EARLY_ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n{\"planted\":\"early\"}";

/// How to speak TLS.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    pub listen: SocketAddr,
    /// PEM files.
    pub cert: &'a Path,
    pub key: &'a Path,
    /// Say something before the handshake has ended.
    pub early: bool,
}

/// Accepts TLS for the provider at `plain`; returns where.
pub fn start(options: &Options<'_>, plain: SocketAddr, log: Arc<Log>) -> io::Result<SocketAddr> {
    let chain = CertificateDer::pem_file_iter(options.cert).map_err(io::Error::other)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(options.key).map_err(io::Error::other)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.map_err(io::Error::other)?;
    config.send_half_rtt_data = options.early;
    let config = Arc::new(config);
    let listener = TcpListener::bind(options.listen)?;
    let addr = listener.local_addr()?;
    let early = options.early;
    thread::Builder::new().name("provider-tls".into()).spawn(move || {
        for client in listener.incoming().flatten() {
            let (config, log) = (Arc::clone(&config), Arc::clone(&log));
            // A connection that can't be served is closed; the client sees it.
            drop(thread::Builder::new().spawn(move || serve(&client, config, plain, &log, early)));
        }
    })?;
    Ok(addr)
}

fn serve(
    client: &TcpStream,
    config: Arc<ServerConfig>,
    plain: SocketAddr,
    log: &Log,
    early: bool,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
    if early {
        session.writer().write_all(EARLY_ANSWER)?;
    }
    let done = handshake(client, &mut session);
    log.handshake(match &done {
        Ok(()) => json!({
            "resumed": session.handshake_kind() == Some(HandshakeKind::Resumed),
            "name": session.server_name(),
        }),
        Err(error) => json!({"failed": error.to_string()}),
    });
    done?;
    let provider = TcpStream::connect(plain)?;
    provider.set_nodelay(true)?;
    let session = Mutex::new(session);
    thread::scope(|scope| {
        scope.spawn(|| {
            drop(outward(client, &session, &provider));
            drop(client.shutdown(Shutdown::Both));
        });
        drop(inward(client, &session, &provider));
        // The client has left, which the provider is to see at once.
        drop(provider.shutdown(Shutdown::Both));
    });
    Ok(())
}

fn handshake(mut client: &TcpStream, session: &mut ServerConnection) -> io::Result<()> {
    while session.is_handshaking() {
        session.complete_io(&mut client)?;
    }
    // Tickets.
    while session.wants_write() {
        session.write_tls(&mut client)?;
    }
    Ok(())
}

/// What the client says, to the provider.
fn inward(
    mut client: &TcpStream,
    session: &Mutex<ServerConnection>,
    mut provider: &TcpStream,
) -> io::Result<()> {
    let (mut buffer, mut filled) = (vec![0; 64 << 10], 0);
    loop {
        // What came with the end of the handshake is there already.
        let (mut plain, mut left) = (Vec::new(), &buffer[..filled]);
        let gone = {
            let mut session = lock(session);
            loop {
                let state = session.process_new_packets().map_err(io::Error::other)?;
                // It takes no more ciphertext before its plaintext is taken.
                let taken = plain.len();
                plain.resize(taken + state.plaintext_bytes_to_read(), 0);
                if plain.len() > taken {
                    session.reader().read_exact(&mut plain[taken..])?;
                }
                if left.is_empty() {
                    break;
                }
                session.read_tls(&mut left)?;
            }
            while session.wants_write() {
                session.write_tls(&mut client)?;
            }
            session.process_new_packets().map_err(io::Error::other)?.peer_has_closed()
        };
        provider.write_all(&plain)?;
        if gone {
            return Ok(());
        }
        filled = client.read(&mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
    }
}

/// What the provider says, to the client.
fn outward(
    mut client: &TcpStream,
    session: &Mutex<ServerConnection>,
    mut provider: &TcpStream,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = provider.read(&mut buffer)?;
        let mut session = lock(session);
        if read == 0 {
            session.send_close_notify();
        }
        session.writer().write_all(&buffer[..read])?;
        while session.wants_write() {
            session.write_tls(&mut client)?;
        }
        if read == 0 {
            return Ok(());
        }
    }
}

fn lock(session: &Mutex<ServerConnection>) -> MutexGuard<'_, ServerConnection> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}
