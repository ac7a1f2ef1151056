//! The clock of leases: CLOCK_BOOTTIME, which counts through a suspend (R3).
use sarsen_types::Instant;

/// What the clock shows.
pub fn now() -> Instant {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    assert_eq!(result, 0, "every kernel that has io_uring has CLOCK_BOOTTIME");
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
