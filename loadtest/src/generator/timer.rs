//! Sleeping until a moment, to some tens of microseconds: monoio's own timers have milliseconds.
//!
//! A timerfd that is polled like a socket. Nothing spins: the generator shares its core.

use std::{
    os::fd::{AsRawFd, FromRawFd},
    time::Duration,
};

use monoio::net::TcpStream;

use crate::clock::now_ns;

/// One thread's timer.
pub(super) struct Timer {
    // No stream at all: monoio can poll any descriptor, but only lets this type wrap one.
    fd: Option<TcpStream>,
}

impl Timer {
    pub(super) fn new() -> Self {
        // SAFETY: takes no memory; the descriptor it returns is new and owned by what wraps it below.
        let fd =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Self { fd: None };
        }
        // SAFETY: `fd` is open and owned by nobody else.
        let wrapped = unsafe { std::net::TcpStream::from_raw_fd(fd) };
        Self { fd: TcpStream::from_std(wrapped).ok() }
    }

    /// Returns at `at_ns` or soon after.
    pub(super) async fn until(&self, at_ns: u64) {
        while now_ns() < at_ns {
            let rung = match &self.fd {
                Some(fd) => {
                    arm(fd.as_raw_fd(), at_ns) && fd.readable(false).await.is_ok() && drain(fd.as_raw_fd())
                }
                None => false,
            };
            if !rung {
                // On epoll the readiness may be an old one. Late by a millisecond, which the lag will show.
                monoio::time::sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns()))).await;
            }
        }
    }
}

fn arm(fd: i32, at_ns: u64) -> bool {
    let at = libc::timespec {
        tv_sec: i64::try_from(at_ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(at_ns % 1_000_000_000).unwrap_or(0),
    };
    let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let setting = libc::itimerspec { it_interval: never, it_value: at };
    // SAFETY: `setting` is a valid itimerspec; the old setting is not asked for.
    unsafe {
        libc::timerfd_settime(fd, libc::TFD_TIMER_ABSTIME, &raw const setting, std::ptr::null_mut()) == 0
    }
}

fn drain(fd: i32) -> bool {
    let mut count = 0_u64;
    // SAFETY: a timerfd yields exactly eight bytes, and there is room for them.
    unsafe { libc::read(fd, (&raw mut count).cast(), size_of::<u64>()) == 8 }
}
