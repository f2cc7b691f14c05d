//! A step of generation takes its memory from the step before.
#![expect(unsafe_code, reason = "an allocator that counts")]
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

#[path = "graph/peft.rs"]
#[expect(dead_code, reason = "only one module is adapted")]
mod peft;
#[path = "graph/reference.rs"]
mod reference;
#[path = "graph/support.rs"]
#[expect(dead_code, reason = "only what makes models is needed")]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use witness_model::{Logits, SequenceStep, Threads};

use crate::support::Spec;

/// Counts what is asked of the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call is handed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Returns the allocations of a step of generation of three sequences with two adapters, once memory is warm.
fn of_a_step(n_layers: u64) -> usize {
    let mut spec = Spec::default();
    spec.numbers.n_layers = n_layers;
    let tiny = spec.build();
    let threads = Threads::new(2).unwrap();
    let model = tiny.load();
    let modules: Vec<String> = (0..n_layers)
        .map(|layer| format!("model.layers.{layer}.mlp.up_proj"))
        .collect();
    let adapters = [1, 2].map(|seed| {
        let (entries, _) = peft::pairs(&tiny, &modules, seed);
        model
            .adapter(peft::peft(&peft::config(&["up_proj"], &[]), &entries).unwrap())
            .unwrap()
    });
    let mut caches = [(); 3].map(|()| model.new_cache(64));
    let mut logits = Logits::default();
    threads.install(|| {
        let mut step = || {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            let [first, second, third] = &mut caches;
            let sequences = [(first, None), (second, Some(&adapters[0])), (third, Some(&adapters[1]))];
            let mut batch = sequences.map(|(cache, adapter)| SequenceStep {
                tokens: &[7],
                cache,
                adapter,
                n_logits: 1,
            });
            model.forward_into(&mut batch, None, &mut logits).unwrap();
            ALLOCATIONS.load(Ordering::Relaxed) - before
        };
        // Threads come to each other's memory one by one; the best of some steps has found all of it warm.
        (0..40).map(|_| step()).min().unwrap()
    })
}

/// Goal: a few lists for the whole batch, and one for each layer: whose attention is computed.
#[test]
fn a_step_of_generation_allocates_next_to_nothing() {
    for n_layers in [1, 9] {
        let found = of_a_step(n_layers);
        assert!(found <= n_layers as usize + 8, "{found} with {n_layers} layers");
    }
}
