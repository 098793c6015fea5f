//! Gets this core a runtime: the best ring the kernel allows, or epoll, and says which.
//!
//! The real ring is tried, at its real size: a small probe can pass where it fails (memlock).

use std::{fmt, io, time::Duration};

use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder, time::TimeDriver};

use super::turn;

/// Submission entries of a core's ring. 1,024 of 64 bytes and 4,096 completions of 16 are 132 KiB of locked memory.
const ENTRIES: u32 = 1024;
const COMPLETIONS: u32 = 4 * ENTRIES;

/// What the operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Choice {
    /// io_uring if the kernel allows it, else epoll.
    #[default]
    Auto,
    IoUring,
    Epoll,
}

/// What a core runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    IoUring(Flags),
    Epoll,
}

/// Set-up flags of the ring, best first. DEFER_TASKRUN runs completions only when the core asks for them, which needs
/// rule 1 (no future that wakes itself) and a kernel of 6.1; COOP_TASKRUN spares interrupts, from 5.19.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    DeferSingle,
    CoopSingle,
    Coop,
    None,
}

const LADDER: [Flags; 4] = [Flags::DeferSingle, Flags::CoopSingle, Flags::Coop, Flags::None];

impl Backend {
    /// For metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring(_) => "io_uring",
            Self::Epoll => "epoll",
        }
    }

    /// The ring's flags, for metrics and logs.
    pub fn flags(self) -> &'static str {
        match self {
            Self::IoUring(Flags::DeferSingle) => "DEFER_TASKRUN|SINGLE_ISSUER",
            Self::IoUring(Flags::CoopSingle) => "COOP_TASKRUN|SINGLE_ISSUER",
            Self::IoUring(Flags::Coop) => "COOP_TASKRUN",
            Self::IoUring(Flags::None) | Self::Epoll => "",
        }
    }
}

/// A runtime on this thread.
pub(super) enum Driver {
    IoUring(Runtime<TimeDriver<IoUringDriver>>),
    Epoll(Runtime<TimeDriver<LegacyDriver>>),
}

/// Why there is no ring, and what to do about it.
#[derive(Debug)]
pub struct Refused(io::Error);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.0.raw_os_error() {
            Some(libc::EPERM) => {
                "the kernel forbids it to this process: a container's seccomp profile must allow io_uring_setup, \
                 io_uring_enter and io_uring_register, and kernel.io_uring_disabled must be 0 (or 1 with \
                 kernel.io_uring_group holding our group)"
            }
            Some(libc::ENOSYS) => {
                "this kernel, or its seccomp profile, has no io_uring: 5.6 is the least, 6.1 is best"
            }
            Some(libc::ENOMEM) => {
                "the limit on locked memory is too low: about 132 KiB a core are needed (LimitMEMLOCK=64M in the \
                 systemd unit, or ulimit -l)"
            }
            _ => "see `dmesg` and tuning/README.md",
        };
        write!(f, "io_uring is refused ({}): {advice}", self.0)
    }
}

/// Builds the runtime on the thread that will run it: SINGLE_ISSUER binds the ring to its maker.
pub(super) fn build(choice: Choice) -> Result<(Driver, Backend, Option<Refused>), Refused> {
    turn::watching(|| runtime(choice))
}

fn runtime(choice: Choice) -> Result<(Driver, Backend, Option<Refused>), Refused> {
    let refused = match choice {
        Choice::Epoll => None,
        Choice::Auto | Choice::IoUring => match ring() {
            Ok((runtime, flags)) => return Ok((Driver::IoUring(runtime), Backend::IoUring(flags), None)),
            Err(error) if choice == Choice::IoUring => return Err(Refused(error)),
            Err(error) => Some(Refused(error)),
        },
    };
    let runtime = RuntimeBuilder::<TimeDriver<LegacyDriver>>::new().build().map_err(Refused)?;
    Ok((Driver::Epoll(runtime), Backend::Epoll, refused))
}

fn ring() -> io::Result<(Runtime<TimeDriver<IoUringDriver>>, Flags)> {
    let mut last = io::Error::from_raw_os_error(libc::ENOSYS);
    for flags in LADDER {
        let mut builder = io_uring::IoUring::builder();
        builder.setup_cqsize(COMPLETIONS);
        match flags {
            Flags::DeferSingle => builder.setup_single_issuer().setup_defer_taskrun(),
            Flags::CoopSingle => builder.setup_single_issuer().setup_coop_taskrun(),
            Flags::Coop => builder.setup_coop_taskrun(),
            Flags::None => &mut builder,
        };
        let runtime = RuntimeBuilder::<TimeDriver<IoUringDriver>>::new()
            .uring_builder(builder)
            .with_entries(ENTRIES)
            .build();
        match runtime {
            Ok(runtime) => return Ok((runtime, flags)),
            // Only an unknown flag is a reason to try fewer of them.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

impl Driver {
    /// Runs `future` and everything it spawns. The runtime is leaked afterwards: operations that are still in flight
    /// point into memory that its drop would free.
    pub(super) fn run<F: Future>(self, future: F) -> F::Output {
        match self {
            Self::IoUring(mut runtime) => {
                let output = runtime.block_on(future);
                std::mem::forget(runtime);
                output
            }
            Self::Epoll(mut runtime) => {
                let output = runtime.block_on(future);
                std::mem::forget(runtime);
                output
            }
        }
    }
}

/// Sleeps without holding anything that must not be dropped.
pub(super) async fn sleep(span: Duration) {
    // Boxed: a timer takes whole cache lines, 768 bytes, and whoever might sleep would be as large and so aligned.
    Box::pin(monoio::time::sleep(span)).await;
}
