//! Listening sockets: one per core and address, so that the kernel spreads connections over the cores.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel holds for one listener before we take them (capped by net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// The sockets of one address, one for each core.
pub struct Listeners {
    /// The address bound to, with its real port.
    pub address: SocketAddr,
    pub sockets: Vec<TcpListener>,
}

/// Binds `address` once for each of `cores`.
///
/// # Errors
/// `AddrInUse` also where another process holds the port with SO_REUSEPORT: sharing it would give it half of our
/// clients.
pub fn bind(address: SocketAddr, cores: usize) -> io::Result<Listeners> {
    // Without SO_REUSEPORT a bind fails if anyone else has the port. With port 0 it also finds us a free one.
    let alone = socket(address)?;
    alone.bind(&address.into())?;
    let address = alone.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    drop(alone);
    let sockets = (0..cores).map(|_| shared(address)).collect::<io::Result<_>>()?;
    Ok(Listeners { address, sockets })
}

fn shared(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart can bind while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_core_has_its_own_socket_on_one_port() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(listeners.sockets.len(), 3);
        for socket in &listeners.sockets {
            assert_eq!(socket.local_addr().unwrap(), listeners.address);
        }
    }

    #[test]
    fn a_port_that_someone_shares_is_an_error_not_half_the_clients() {
        let theirs = shared("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = theirs.local_addr().unwrap();
        assert_eq!(bind(address, 2).err().map(|e| e.kind()), Some(io::ErrorKind::AddrInUse));
    }
}
