//! What rustls reads from and writes to when nothing may wait.

use std::{
    io::{self, Read, Write},
    os::fd::RawFd,
};

/// A socket, as far as it takes and gives bytes at once.
pub(super) struct AtOnce(pub(super) RawFd);

impl Read for AtOnce {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length are those of a live, writable slice.
        let read = unsafe { libc::recv(self.0, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
        usize::try_from(read).map_err(|_negative| io::Error::last_os_error())
    }
}

impl Write for AtOnce {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the pointer and length are those of a live slice.
        let written = unsafe { libc::send(self.0, from.as_ptr().cast(), from.len(), flags) };
        usize::try_from(written).map_err(|_negative| io::Error::last_os_error())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has nothing to read yet.
pub(super) struct Never;

impl Read for Never {
    fn read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}
