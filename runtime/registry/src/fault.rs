//! Tests only: stops the process dead at a chosen step of a chosen publication, as a power cut or kill -9 would.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::publish::Step;

/// `<step>:<n>`: abort at the n-th time (from 1) that the step is reached.
pub(crate) const ABORT_AT: &str = "WITNESS_REGISTRY_TEST_ABORT_AT";

static REACHED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static STEPS: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn reached(step: Step) {
    STEPS.with_borrow_mut(|steps| steps.push(step));
    let Ok(abort_at) = std::env::var(ABORT_AT) else { return };
    let Some((wanted, count)) = abort_at.split_once(':') else {
        return;
    };
    if format!("{step:?}") == wanted && (REACHED.fetch_add(1, Ordering::Relaxed) + 1).to_string() == count {
        std::process::abort();
    }
}

/// Returns the steps that this thread went through since the last call.
pub(crate) fn take_steps() -> Vec<Step> {
    STEPS.take()
}
