//! The one clock of this package: `CLOCK_MONOTONIC`, which every process of the machine reads alike.
//!
//! That is what makes a send stamp of the simulated provider comparable with an arrival in the generator, and
//! a moment in the provider's log with a test's own `time.monotonic_ns()`.

/// Nanoseconds on `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is a valid timespec that the call fills; CLOCK_MONOTONIC always exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut at) };
    at.tv_sec.cast_unsigned() * 1_000_000_000 + at.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::now_ns;

    #[test]
    fn time_does_not_run_backwards() {
        let earlier = now_ns();
        assert!(earlier > 0 && now_ns() >= earlier);
    }
}
