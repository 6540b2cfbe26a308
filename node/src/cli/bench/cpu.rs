//! CPU time and memory of processes on this machine, as the kernel counts them.

use anyhow::Context;
use std::time::Duration;

/// The unit of the times in /proc: fixed at 1/100 s for user space on every architecture of Linux that we build for.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of all these processes together.
pub fn used(pids: &[u32]) -> anyhow::Result<Duration> {
    let mut ticks = 0;
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("the process {pid}"))?;
        ticks += of_stat(&stat).with_context(|| format!("/proc/{pid}/stat cannot be read"))?;
    }
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

/// Bytes of a process that are in memory.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("the process {pid}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("/proc tells no VmRSS")? * 1_024)
}

/// The fields 14 and 15. The name in field 2 may hold anything, so counting begins behind its last bracket.
fn of_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 9";
        assert_eq!(of_stat(stat), Some(300));
    }

    #[test]
    fn our_own_process_can_be_measured() {
        let own = std::process::id();
        assert!(used(&[own]).is_ok());
        assert!(resident(own).expect("our own process is there") > 100_000);
    }
}
