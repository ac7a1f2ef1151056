//! Threads that a volume's own memory reclaim may wait for must not wait for reclaim themselves (L8).
use std::io;

const CAP_IPC_LOCK: u32 = 14;
const PR_SET_IO_FLUSHER: i32 = 57;

/// Keeps the process's memory from being paged out, where its limits allow all of it. `Err` is one line for the log:
/// nothing depends on it but how the machine behaves when it is out of memory.
pub fn lock_memory() -> Result<(), String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is live.
    let is_known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } == 0;
    let is_free = (is_known && limit.rlim_cur == libc::RLIM_INFINITY) || has_capability(CAP_IPC_LOCK);
    if !is_free {
        // locking now would make a later allocation fail instead
        return Err(format!(
            "memory is not locked: the limit is {} KiB (set LimitMEMLOCK=infinity or ulimit -l unlimited)",
            limit.rlim_cur >> 10
        ));
    }
    // SAFETY: no pointers.
    match unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) } {
        0 => Ok(()),
        _ => Err(format!("memory is not locked: {}", io::Error::last_os_error())),
    }
}

/// Marks the calling thread as one that carries out I/O for others, so that its allocations do not wait for I/O.
pub fn mark_io_thread() -> Result<(), String> {
    // SAFETY: no pointers.
    match unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(format!(
            "the thread is not marked as an I/O flusher: {} (give CAP_SYS_RESOURCE)",
            io::Error::last_os_error()
        )),
    }
}

/// Whether this process has a capability, by what the kernel says of it.
fn has_capability(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_one_line_that_says_what_to_do() {
        for refusal in [lock_memory(), mark_io_thread()].into_iter().filter_map(Result::err) {
            assert!(!refusal.contains('\n') && refusal.contains("not "), "{refusal}");
        }
    }
}
