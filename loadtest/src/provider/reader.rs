//! Reads requests from a connection with monoio-http's decoders.
//!
//! The decoders are fed from a buffer of ours, not given the socket: then reads are never dropped in flight,
//! a client that leaves in mid-body is noticed, and an answer may overtake its request. Their limits are
//! theirs: chunk extensions and trailers in requests are malformed, a body is delivered when it is complete.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use monoio::{io::AsyncReadRent, net::TcpStream};
use monoio_codec::{Decoded, Decoder};
use monoio_http::h1::codec::decoder::{
    ChunkedBodyDecoder, DirectWrapper, FixedBodyDecoder, GenericHeadDecoder, PayloadDecoder,
    RequestHeadDecoder,
};

type HeadDecoder = GenericHeadDecoder<(), RequestHeadDecoder, DirectWrapper>;
type Body = PayloadDecoder<FixedBodyDecoder, ChunkedBodyDecoder>;

/// Bytes of one read; grown for bodies.
const READ_BYTES: usize = 8 << 10;
const READ_BYTES_MAX: usize = 256 << 10;

/// What has been read and not yet consumed.
pub(super) struct Reader {
    pub(super) buffered: BytesMut,
    scratch: Vec<u8>,
    decoder: HeadDecoder,
}

/// Why no further request, or no whole body, came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The client closed, between requests or within one.
    Closed,
    /// It is not HTTP as monoio-http understands it.
    Malformed,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            buffered: BytesMut::new(),
            scratch: Vec::with_capacity(READ_BYTES),
            decoder: HeadDecoder::default(),
        }
    }

    /// The next head, and how its body is to be read.
    pub(super) async fn head(&mut self, stream: &mut TcpStream) -> Result<(Parts, Body), Broken> {
        loop {
            if !self.buffered.is_empty() {
                // It unwraps what it should refuse, for instance an overlong header name.
                let decoded = catch_unwind(AssertUnwindSafe(|| self.decoder.decode(&mut self.buffered)));
                match decoded {
                    Ok(Ok(Decoded::Some(head))) => return Ok(head),
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return Err(Broken::Malformed),
                }
            }
            self.more(stream).await?;
        }
    }

    /// Takes the body out of the buffer if it is there; `None` asks for `more`.
    pub(super) fn body(
        &mut self,
        decoder: &mut Body,
        chunks: &mut BytesMut,
    ) -> Result<Option<Bytes>, Broken> {
        match decoder {
            PayloadDecoder::None => Ok(Some(Bytes::new())),
            PayloadDecoder::Fixed(fixed) => match fixed.decode(&mut self.buffered) {
                Ok(Decoded::Some(body)) => Ok(Some(body)),
                Ok(_) => Ok(None),
                Err(_) => Err(Broken::Malformed),
            },
            PayloadDecoder::Streamed(chunked) => loop {
                match chunked.decode(&mut self.buffered) {
                    Ok(Decoded::Some(Some(chunk))) => chunks.extend_from_slice(&chunk),
                    Ok(Decoded::Some(None)) => return Ok(Some(chunks.split().freeze())),
                    Ok(_) => return Ok(None),
                    Err(_) => return Err(Broken::Malformed),
                }
            },
        }
    }

    /// Reads once.
    pub(super) async fn more(&mut self, stream: &mut TcpStream) -> Result<(), Broken> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let (read, scratch) = stream.read(scratch).await;
        self.scratch = scratch;
        let read = read.unwrap_or(0);
        if read == 0 {
            return Err(Broken::Closed);
        }
        self.buffered.extend_from_slice(&self.scratch[..read]);
        if read == self.scratch.capacity() && read < READ_BYTES_MAX {
            self.scratch = Vec::with_capacity(read * 4);
        }
        Ok(())
    }
}
