//! One monoio runtime per thread, and the few rules that keep it safe.
//!
//! Tasks are guarded (a panic ends one connection, not the core), no future wakes itself, reads in flight are
//! never dropped (only polls are: they carry no bytes), and a runtime is forgotten, not dropped, at its end.

use std::{
    future::{Future, poll_fn},
    io,
    os::fd::RawFd,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
};

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

/// Tasks that panicked since the process started.
pub static PANICS: AtomicU64 = AtomicU64::new(0);

/// Runs `main` on this thread, on the best ring the kernel grants, else on epoll.
pub fn block_on<F: Future>(main: F) -> F::Output {
    // DEFER_TASKRUN costs least on the machine that the system under test shares with us.
    for (flag, single) in [(Some(true), true), (Some(false), true), (None, false)] {
        let mut ring = io_uring::IoUring::builder();
        match flag {
            Some(true) => ring.setup_defer_taskrun(),
            Some(false) => ring.setup_coop_taskrun(),
            None => &mut ring,
        };
        if single {
            ring.setup_single_issuer();
        }
        let built = RuntimeBuilder::<IoUringDriver>::new()
            .uring_builder(ring)
            .with_entries(4096)
            .enable_timer()
            .build();
        if let Ok(mut runtime) = built {
            let output = runtime.block_on(main);
            // Operations may be in flight: the kernel still writes to their buffers.
            std::mem::forget(runtime);
            return output;
        }
    }
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new()
        .enable_timer()
        .build()
        .expect("neither io_uring nor epoll can be set up on this machine");
    let output = runtime.block_on(main);
    std::mem::forget(runtime);
    output
}

/// Spawns a task whose panic is counted and ends only itself.
pub fn spawn_guarded(task: impl Future<Output = ()> + 'static) {
    let mut task = Box::pin(task);
    drop(monoio::spawn(poll_fn(move |context| {
        catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))).unwrap_or_else(|_| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(())
        })
    })));
}

/// Which of two futures was first.
pub enum First<A, B> {
    /// The left one, which also wins a tie.
    Left(A),
    /// The right one.
    Right(B),
}

/// Waits for either. Only for timers and polls: neither may carry bytes that dropping it would lose.
pub async fn first<A: Future, B: Future>(
    mut left: Pin<&mut A>,
    mut right: Pin<&mut B>,
) -> First<A::Output, B::Output> {
    poll_fn(|context| {
        if let Poll::Ready(output) = left.as_mut().poll(context) {
            return Poll::Ready(First::Left(output));
        }
        right.as_mut().poll(context).map(First::Right)
    })
    .await
}

/// Pins the calling thread to one core.
pub fn pin_to(core: usize) -> io::Result<()> {
    // SAFETY: a zeroed cpu_set_t is the empty set; CPU_SET checks its index against the set's size.
    let failed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the limit of open files to what the kernel lets this user have, and returns it.
pub fn raise_open_files(wanted: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or fill one valid rlimit.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        if limit.rlim_max < wanted {
            let raised = libc::rlimit { rlim_cur: wanted, rlim_max: wanted };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) == 0 {
                return wanted;
            }
        }
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    limit.rlim_cur
}

/// Whether the peer of a readable socket has left: end of stream or an error, not bytes waiting.
pub fn peer_left(fd: RawFd) -> bool {
    let mut byte = 0_u8;
    // SAFETY: one byte is peeked into a live local; the descriptor is only read.
    let peeked = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    match peeked {
        0 => true,
        1.. => false,
        _ => io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock,
    }
}

/// Ends both directions of a connection, so that operations pending on it return by themselves.
pub fn shut_down(fd: RawFd) {
    // SAFETY: shutdown reads no memory; on a descriptor that is no socket it merely fails.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

const SOCKADDR_BYTES: libc::socklen_t = 16;
const _: () = assert!(size_of::<libc::sockaddr>() == 16);

/// Sends a reset at once, whoever else still holds the descriptor.
pub fn reset(fd: RawFd) {
    // SAFETY: connecting to AF_UNSPEC dissolves the association (Linux sends RST); the address is a valid,
    // zeroed sockaddr whose family is AF_UNSPEC (0).
    unsafe {
        let nowhere: libc::sockaddr = std::mem::zeroed();
        libc::connect(fd, &raw const nowhere, SOCKADDR_BYTES);
    }
}
