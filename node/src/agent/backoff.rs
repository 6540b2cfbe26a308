//! How long an agent waits before it starts a process again: twice as long each time, up to a bound, and from the beginning
//! after the process ran well for a while.

use std::time::Duration;

/// The pauses of one process.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    /// After running so long it counts as well again.
    stable: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration, stable: Duration) -> Backoff {
        Backoff {
            first,
            most,
            stable,
            failures: 0,
        }
    }

    /// The pause after a process that ran so long.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= self.stable {
            self.failures = 0;
        }
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        self.first.saturating_mul(factor).min(self.most)
    }

    /// A person started it: what was before does not count.
    pub fn forget(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew_after_a_good_run() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(250), ms(1_500), ms(10_000));
        let pauses = |backoff: &mut Backoff, times: usize| -> Vec<u64> {
            let pauses = (0..times).map(|_| backoff.after(ms(10)).as_millis() as u64);
            pauses.collect()
        };
        assert_eq!(pauses(&mut backoff, 5), [250, 500, 1_000, 1_500, 1_500]);
        assert_eq!(pauses(&mut backoff, 60).last(), Some(&1_500));
        assert_eq!(backoff.after(ms(10_000)), ms(250));
        assert_eq!(backoff.after(ms(10)), ms(500));
        backoff.forget();
        assert_eq!(backoff.after(ms(10)), ms(250));
    }
}
