//! Where a run reports to, and how it hears in the middle of long work that it should stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use witness_plugin_protocol::TrainEvent;
use witness_plugin_sdk::JobEvents;

/// How often the host is asked, while work goes on, whether to stop. Well below the seconds in which a stop has to be heeded.
const POLL: Duration = Duration::from_millis(50);

/// What work asks between its parts: has the host asked to stop?
pub(crate) type IsStopped<'a> = &'a (dyn Fn() -> bool + Sync);

/// Takes what a run reports. All calls come from one thread.
pub trait Progress {
    /// Takes one event.
    fn emit(&mut self, event: &TrainEvent);
    /// Returns whether the run should save and end.
    fn should_stop(&self) -> bool;
}

impl Progress for JobEvents<'_> {
    fn emit(&mut self, event: &TrainEvent) {
        // An event holds numbers and texts alone, so it always is JSON; numbers that are not finite become null.
        JobEvents::emit(self, &serde_json::to_value(event).unwrap_or_default());
    }

    fn should_stop(&self) -> bool {
        JobEvents::should_stop(self)
    }
}

/// Does work on a thread of its own while this one, which alone may speak with the host, keeps asking whether to stop.
///
/// A panic of the work goes on in this thread.
pub(crate) fn during<R: Send>(progress: &dyn Progress, work: impl FnOnce(IsStopped<'_>) -> R + Send) -> R {
    let is_stopped = AtomicBool::new(progress.should_stop());
    std::thread::scope(|scope| {
        let (done, wait) = channel();
        let flag = &is_stopped;
        let worker = scope.spawn(move || {
            let result = work(&|| flag.load(Ordering::Relaxed));
            // The receiver lives until the result came.
            let _ = done.send(result);
        });
        loop {
            match wait.recv_timeout(POLL) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => {
                    if progress.should_stop() {
                        is_stopped.store(true, Ordering::Relaxed);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            // The sender is dropped only after it sent, or by a panic.
            Ok(()) => unreachable!("the worker ended without a result"),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct After(Cell<u32>);

    impl Progress for After {
        fn emit(&mut self, _event: &TrainEvent) {}

        fn should_stop(&self) -> bool {
            self.0.set(self.0.get().saturating_sub(1));
            self.0.get() == 0
        }
    }

    #[test]
    fn work_hears_of_a_stop_while_it_runs() {
        let turns = during(&After(Cell::new(3)), |is_stopped| {
            let mut turns = 0u64;
            while !is_stopped() {
                turns += 1;
                std::thread::yield_now();
            }
            turns
        });
        assert!(turns > 0);
    }

    #[test]
    #[should_panic(expected = "inside")]
    fn a_panic_of_the_work_is_this_threads() {
        during(&After(Cell::new(9)), |_| -> u32 { panic!("inside") });
    }
}
