//! Holds many idle keep-alive connections, so that what one costs the other side can be measured.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, Stream,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::runtime::raise_open_files;

/// Connections from one source address; the ephemeral range holds about 28,000.
const PER_SOURCE: usize = 20_000;
/// Descriptors that are not connections.
const SPARE_FILES: u64 = 64;

/// How to speak TLS: whom to trust, and whom to expect.
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Trusts what the certificates in a PEM file have signed, or are.
    pub fn trusting(file: &Path, name: &str) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(io::Error::other)? {
            roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        Ok(Self { config: Arc::new(config), name })
    }
}

/// Opens `count` connections, sending each `request` (if any) and reading one answer to it.
///
/// Of TLS only the socket is held: what this side keeps of a session is not what is measured.
pub fn open(
    to: SocketAddr,
    count: usize,
    request: Option<&[u8]>,
    tls: Option<&Tls>,
) -> io::Result<Vec<TcpStream>> {
    let files = raise_open_files(count as u64 + SPARE_FILES);
    if files < count as u64 + SPARE_FILES {
        return Err(io::Error::other(format!("only {files} open files are allowed")));
    }
    let mut held = Vec::with_capacity(count);
    for index in 0..count {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        // On loopback every 127.x.y.z is ours, each with ports of its own.
        if let (true, Ok(extra @ 1..)) =
            (to.is_ipv4() && to.ip().is_loopback(), u8::try_from(index / PER_SOURCE))
        {
            socket.bind(&SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, extra), 0).into())?;
        }
        socket.connect(&to.into())?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        if let Some(tls) = tls {
            let config = Arc::clone(&tls.config);
            let mut session = ClientConnection::new(config, tls.name.clone()).map_err(io::Error::other)?;
            while session.is_handshaking() {
                session.complete_io(&mut stream)?;
            }
            converse(&mut Stream::new(&mut session, &mut stream), request)?;
        } else {
            converse(&mut stream, request)?;
        }
        held.push(stream);
    }
    Ok(held)
}

/// How many have not been closed by the other side.
pub fn still_open(held: &[TcpStream]) -> io::Result<usize> {
    let mut open = 0;
    for stream in held {
        stream.set_nonblocking(true)?;
        // Session tickets may lie there unread.
        open += match stream.peek(&mut [0]) {
            Ok(read) => read.min(1),
            Err(error) => usize::from(error.kind() == io::ErrorKind::WouldBlock),
        };
    }
    Ok(open)
}

fn converse(stream: &mut (impl Read + Write), request: Option<&[u8]>) -> io::Result<()> {
    let Some(request) = request else { return Ok(()) };
    stream.write_all(request)?;
    read_answer(stream)
}

fn read_answer(stream: &mut impl Read) -> io::Result<()> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::Error::other("closed instead of answering"));
        }
        answer.extend_from_slice(&buffer[..read]);
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let done = match length {
            Some(length) => answer.len() >= end + 4 + length,
            None => answer.ends_with(b"0\r\n\r\n"),
        };
        if done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider;

    #[test]
    fn connections_are_held_until_the_other_side_closes_them() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let provider = provider::start(&provider::Options::on(listen)).unwrap_or_else(|e| panic!("{e}"));
        let request = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n";
        let held = open(provider.addr, 20, Some(request), None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(still_open(&held).ok(), Some(20));
        assert_eq!(provider.log.requests(), 20);
    }
}
