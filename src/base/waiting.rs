//! What can be waited for, and how a wait ends.

/// Why a wire has a deadline: what was being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Waiting {
    /// For the next request of a client that owes us nothing.
    Idle,
    /// For the rest of a request's head.
    Head,
    /// For the rest of a request's body.
    Body,
    /// For the client to take what was written.
    Reader,
    /// For a TLS handshake.
    Handshake,
    /// For a TCP connection.
    Connect,
    /// For an upstream to take the request.
    Send,
    /// For the first byte of an upstream's answer.
    FirstByte,
    /// For the first event of a stream that carries something generated.
    FirstToken,
    /// For the next bytes of an upstream's answer.
    BetweenBytes,
    /// For the end of the exchange as a whole.
    Total,
    /// For a client to stop sending after its answer.
    Linger,
}

/// How a wire's deadline ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expiry {
    /// The time for it was over.
    Late(Waiting),
    /// The gateway is shutting down and waited no longer.
    Drained,
}
