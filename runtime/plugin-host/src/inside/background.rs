//! Standing back: a worker that runs only when nothing else wants the processor, and that knows when it was kept from running.
//!
//! Linux has a scheduling class for it (`SCHED_IDLE`): a thread of any other class that wakes up takes the processor at once, and while
//! one runs, the idle class gets some 0.3 % of it. Where the class is refused or unknown the lowest niceness has to do (1.5 %).

/// Puts the calling thread, and all that it starts from here on, behind everything else. What cannot be had is told in the log.
pub(super) fn stand_back() {
    if idle_class() {
        return;
    }
    // On Linux this is the niceness of the thread, elsewhere of the process.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS_MAX) {
        eprintln!("<4>the worker cannot stand back behind other work: {error}");
    }
}

/// The lowest standing that a process can give itself.
const NICENESS_MAX: i32 = 19;

#[cfg(target_os = "linux")]
fn idle_class() -> bool {
    // SAFETY: all zero is a valid value of this plain struct, which has padding on some systems.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread, and `parameters` outlives the call.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn idle_class() -> bool {
    false
}

/// How long the threads of this process ran, and how long they could have run and did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    run_ns: u64,
    wait_ns: u64,
}

impl Share {
    /// Returns whether, since the last look, the process waited for a processor more than it had one. A job that gets nothing done then is
    /// not to blame. Costs one small read per thread.
    pub(super) fn is_starved(&mut self) -> bool {
        let before = std::mem::replace(self, Self::now());
        self.is_starved_since(before)
    }

    /// Numbers that shrink, as when a thread ends, count as none.
    fn is_starved_since(&self, before: Self) -> bool {
        let run_ns = self.run_ns.saturating_sub(before.run_ns);
        let wait_ns = self.wait_ns.saturating_sub(before.wait_ns);
        wait_ns > run_ns && wait_ns >= WAIT_NS_MIN
    }

    /// Adds up what the kernel says about each thread; nothing where it says nothing.
    fn now() -> Self {
        let mut share = Self::default();
        let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
            return share;
        };
        for thread in threads.flatten() {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let mut numbers = text.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
            share.run_ns = share.run_ns.saturating_add(numbers.next().unwrap_or(0));
            share.wait_ns = share.wait_ns.saturating_add(numbers.next().unwrap_or(0));
        }
        share
    }
}

/// Waiting that is only the usual queueing of a process that hardly wants to run.
const WAIT_NS_MIN: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starving_is_waiting_longer_than_running() {
        let before = Share {
            run_ns: 1_000_000_000,
            wait_ns: 1_000_000_000,
        };
        for (run_ms, wait_ms, expected) in [
            (5_000, 10, false),
            (10, 5_000, true),
            (0, 0, false),
            // The few milliseconds of any process that sleeps.
            (0, 5, false),
            (-500, -500, false),
        ] {
            let grown = |ms: i64| before.run_ns.saturating_add_signed(ms * 1_000_000);
            let after = Share {
                run_ns: grown(run_ms),
                wait_ns: grown(wait_ms),
            };
            assert_eq!(after.is_starved_since(before), expected, "{run_ms} {wait_ms}");
        }
    }
}
