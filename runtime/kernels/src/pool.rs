//! Threads that work through numbered tasks together, for the loop that makes tokens: some hundred products a token, each of some ten microseconds.
//!
//! ```text
//! run(n, f):   publish the job, open the gate -> take tasks by one atomic counter until none is left -> close the gate -> wait for those who entered
//! worker:      watch the gate; open and new -> enter (count myself) -> take tasks -> leave; nothing for a while -> sleep until woken
//! ```
//! The caller works too and never waits for a worker that has not entered: one that sleeps, or whose core a neighbour has taken, is simply not missed. Tasks are
//! handed out one at a time, so the threads end together.
//!
//! Waiting costs no system call at first (a worker watches for some ten microseconds, which spans the gap between two products), then yields, then sleeps. With more
//! threads than the machine has cores nobody watches without yielding. `run` takes no lock and allocates nothing, save for waking those who sleep.
//!
//! **Invariants:** no task runs after [`Pool::run`] has returned; a panic of a task reaches the caller of `run`, after all others have left.
#![expect(
    unsafe_code,
    reason = "a job on the caller's stack is lent to the workers, who are waited for"
)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::{self, JoinHandle, Thread};

/// Most threads of a pool; more is a mistake in a setting.
const THREADS_MAX: usize = 512;
/// How often a worker looks at the gate before it yields between two looks: some 20 to 40 ns each.
const LOOKS: u32 = 2_000;
/// How often it yields before it sleeps.
const YIELDS: u32 = 20;

/// The gate's parts: a generation above, whether it is open, how many are inside.
const INSIDE: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
const GENERATION: u64 = 1 << 17;

/// A number of threads, of which the one that calls is the first. Dropping it ends the others.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    /// Held while a job runs, so that a second caller works alone instead.
    busy: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    gate: AtomicU64,
    /// The job of the generation that the gate shows; valid while somebody is inside.
    job: AtomicPtr<Job<'static>>,
    stops: AtomicBool,
    watches: bool,
    sleepers: Vec<Sleeper>,
}

/// Whether a worker sleeps, and how to wake it.
#[derive(Debug, Default)]
struct Sleeper {
    sleeps: AtomicBool,
    thread: OnceLock<Thread>,
}

/// The work of one call.
struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    n_tasks: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

thread_local! {
    /// Whether this thread is inside a job: what it starts, it does alone.
    static WORKS: Cell<bool> = const { Cell::new(false) };
    /// The pool that [`Pool::install`] chose for this thread.
    static CHOSEN: RefCell<Option<Arc<Pool>>> = const { RefCell::new(None) };
}

impl Pool {
    /// Makes a pool of so many threads, the caller's among them; at least 1. Threads that the system refuses are done without.
    pub fn new(n_threads: usize) -> Pool {
        let n_workers = n_threads.clamp(1, THREADS_MAX) - 1;
        let n_cores = thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            job: AtomicPtr::new(ptr::null_mut()),
            stops: AtomicBool::new(false),
            watches: n_workers < n_cores,
            sleepers: (0..n_workers).map(|_| Sleeper::default()).collect(),
        });
        let workers = (0..n_workers).map_while(|index| {
            let shared = Arc::clone(&shared);
            let worker = thread::Builder::new().name(format!("witness-kernel-{index}"));
            worker.spawn(move || shared.work(index)).ok()
        });
        let workers = workers.collect();
        Pool {
            shared,
            busy: Mutex::new(()),
            workers,
        }
    }

    /// Returns the pool of this thread: the one of the innermost [`Pool::install`], or one for the whole process with a thread for each core.
    pub fn current() -> Arc<Pool> {
        static EVERYBODY: OnceLock<Arc<Pool>> = OnceLock::new();
        let chosen = CHOSEN.with_borrow(Clone::clone);
        chosen.unwrap_or_else(|| {
            let n_cores = || thread::available_parallelism().map_or(1, usize::from);
            Arc::clone(EVERYBODY.get_or_init(|| Arc::new(Pool::new(n_cores()))))
        })
    }

    /// Runs `f` with this pool as [`Pool::current`] of the calling thread.
    pub fn install<R>(self: &Arc<Self>, f: impl FnOnce() -> R) -> R {
        /// Brings the former choice back, also past a panic.
        struct Back(Option<Arc<Pool>>);
        impl Drop for Back {
            fn drop(&mut self) {
                CHOSEN.set(self.0.take());
            }
        }
        let _back = Back(CHOSEN.replace(Some(Arc::clone(self))));
        f()
    }

    /// Returns the number of threads, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` with each number below `n_tasks` once, on all threads, and returns when all calls have. The order is open.
    ///
    /// Called from within a task, or while another thread's job runs, it does everything on the calling thread.
    ///
    /// # Panics
    /// If a task does; with what the first one of them panicked with.
    pub fn run(&self, n_tasks: usize, task: impl Fn(usize) + Sync) {
        let turn = match self.busy.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if n_tasks <= 1 || self.workers.is_empty() || WORKS.get() || turn.is_none() {
            return (0..n_tasks).for_each(task);
        }
        let job = Job {
            task: &task,
            n_tasks,
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
        };
        self.shared.open(&job);
        job.work();
        self.shared.close();
        let panic = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(panic) = panic {
            drop(turn);
            resume_unwind(panic);
        }
    }

    /// As [`Pool::run`], with a task for each item, which is that task's own.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn run_on_each<T: Send>(&self, items: impl IntoIterator<Item = T>, task: impl Fn(T) + Sync) {
        let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.run(items.len(), |index| {
            // Each number comes once; the lock only tells the compiler.
            if let Some(item) = items[index].try_lock().ok().and_then(|mut item| item.take()) {
                task(item);
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::SeqCst);
        self.shared.wake();
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of tasks and has none of its own.
            drop(worker.join());
        }
    }
}

impl Job<'_> {
    /// Takes tasks until none is left. Never unwinds.
    fn work(&self) {
        WORKS.set(true);
        let done = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= self.n_tasks {
                    break;
                }
                (self.task)(index);
            }
        }));
        WORKS.set(false);
        if let Err(panic) = done {
            // Nobody takes another task.
            self.next.store(self.n_tasks, Ordering::Relaxed);
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(panic);
        }
    }
}

impl Shared {
    /// Shows a job to the workers. It must stay where it is until [`Shared::close`] has returned.
    fn open(&self, job: &Job<'_>) {
        self.job.store(ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
        let before = self.gate.load(Ordering::Relaxed);
        // Nobody is inside a closed gate, so this store loses nobody's count.
        let generation = (before & !(INSIDE | OPEN)).wrapping_add(GENERATION);
        self.gate.store(generation | OPEN, Ordering::SeqCst);
        self.wake();
    }

    /// Lets nobody in any more and waits for those who are.
    fn close(&self) {
        self.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0;
        while self.gate.load(Ordering::Acquire) & INSIDE != 0 {
            looks += 1;
            if self.watches && looks < LOOKS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }

    fn wake(&self) {
        for sleeper in &self.sleepers {
            if sleeper.sleeps.load(Ordering::SeqCst)
                && let Some(thread) = sleeper.thread.get()
            {
                thread.unpark();
            }
        }
    }

    fn work(&self, index: usize) {
        let sleeper = &self.sleepers[index];
        sleeper.thread.get_or_init(thread::current);
        let mut seen = 0;
        while let Some(generation) = self.wait(sleeper, seen) {
            seen = generation;
            self.enter(generation);
        }
    }

    /// Waits for an open gate of another generation than `seen`; nothing when the pool ends.
    fn wait(&self, sleeper: &Sleeper, seen: u64) -> Option<u64> {
        let mut looks = if self.watches { 0 } else { LOOKS };
        loop {
            let gate = self.gate.load(Ordering::SeqCst);
            let generation = gate & !(INSIDE | OPEN);
            if self.stops.load(Ordering::Relaxed) {
                return None;
            }
            if gate & OPEN != 0 && generation != seen {
                sleeper.sleeps.store(false, Ordering::Relaxed);
                return Some(generation);
            }
            looks += 1;
            if looks < LOOKS {
                std::hint::spin_loop();
            } else if looks < LOOKS + YIELDS {
                thread::yield_now();
            } else if !sleeper.sleeps.load(Ordering::Relaxed) {
                // Said first, then looked again: whoever opens the gate after that look sees it and wakes this thread.
                sleeper.sleeps.store(true, Ordering::SeqCst);
            } else {
                thread::park();
                looks = if self.watches { 0 } else { LOOKS };
                sleeper.sleeps.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Takes part in the job of a generation, if its gate is still open.
    fn enter(&self, generation: u64) {
        let mut gate = self.gate.load(Ordering::Relaxed);
        loop {
            if gate & OPEN == 0 || gate & !(INSIDE | OPEN) != generation {
                return;
            }
            let entered = self
                .gate
                .compare_exchange_weak(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed);
            match entered {
                Ok(_) => break,
                Err(now) => gate = now,
            }
        }
        let job = self.job.load(Ordering::Relaxed);
        // SAFETY: this thread is counted as inside an open gate, so the caller of `run`, on whose stack the job lies, waits in `close` until it has left; the pointer
        // was stored before the gate of this generation was opened.
        let job = unsafe { &*job };
        job.work();
        self.gate.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Each item goes to one task, by value, whatever the number of threads.
    #[test]
    fn each_item_is_one_tasks_own() {
        for n_threads in [1, 3] {
            let mut doubled = [0; 100];
            let items = doubled.iter_mut().zip(0..);
            Pool::new(n_threads).run_on_each(items, |(to, number)| *to += 2 * number);
            assert!(doubled.iter().zip(0..).all(|(found, number)| *found == 2 * number));
        }
    }

    // Every task runs once, whatever the number of threads, of tasks and of jobs one after the other.
    #[test]
    fn every_task_runs_once() {
        for n_threads in [1, 2, 3, 8] {
            let pool = Pool::new(n_threads);
            for n_tasks in (0..40).chain([1_000]) {
                let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n_tasks, |index| {
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3);
        for bad in [0, 7, 99] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, |index| assert_ne!(index, bad, "task {index} is bad"));
            }));
            let message = *caught.unwrap_err().downcast::<String>().unwrap();
            assert!(message.contains(&format!("task {bad} is bad")), "{message}");
            let sum = AtomicUsize::new(0);
            pool.run(10, |index| {
                sum.fetch_add(index, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    // A task that runs tasks, and callers on several threads, get everything done.
    #[test]
    fn calls_within_calls_and_beside_calls_are_done() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    pool.run(10, |_| {
                        pool.run(10, |index| {
                            sum.fetch_add(index, Ordering::Relaxed);
                        });
                    });
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 10 * 45);
    }

    // Workers that have gone to sleep are woken; those that were never needed end with the pool.
    #[test]
    fn sleepers_wake() {
        let pool = Pool::new(2);
        for _ in 0..50 {
            let both = std::sync::Barrier::new(2);
            // Each task waits for the other, so this ends only if two threads take part.
            pool.run(2, |_| {
                both.wait();
            });
            thread::sleep(std::time::Duration::from_micros(300));
        }
    }

    #[test]
    fn an_installed_pool_is_the_current_one() {
        let pool = Arc::new(Pool::new(3));
        assert_eq!(pool.install(|| Pool::current().n_threads()), 3);
        let caught = catch_unwind(AssertUnwindSafe(|| pool.install(|| panic!("out"))));
        assert!(caught.is_err());
        assert!(!Arc::ptr_eq(&Pool::current(), &pool));
    }
}
