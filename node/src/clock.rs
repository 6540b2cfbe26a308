//! The one place that reads the lease clock: `CLOCK_BOOTTIME`, which goes on while the machine is suspended.
//!
//! Through libc, because tests bend libc's `clock_gettime` to make clocks drift and jump. Also how far that clock has run
//! ahead of `CLOCK_MONOTONIC`, which tells that the machine slept.

use understudy_protocol::time::{Duration, Instant};

/// Now, on the clock by which leases are counted.
pub fn now() -> Instant {
    Instant(read(libc::CLOCK_BOOTTIME))
}

/// How long this machine has been suspended since it was started.
pub fn suspended() -> Duration {
    // In this order the difference can only come out too small, never too large.
    let boot = read(libc::CLOCK_BOOTTIME);
    Duration(boot.saturating_sub(read(libc::CLOCK_MONOTONIC)))
}

/// Milliseconds since 1970 on this machine's wall clock; nothing is decided by it alone.
pub fn unix_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// A clock in microseconds.
#[allow(unsafe_code)] // The standard library offers no CLOCK_BOOTTIME, and rustix goes round libc.
fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid, exclusively borrowed timespec for the duration of the call.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "Linux has had this clock since 2.6.39");
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_does_not_go_back() {
        let first = now();
        assert!(now() >= first);
        assert!(suspended() <= suspended() + Duration::from_millis(1_000));
    }
}
