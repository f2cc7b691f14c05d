//! Scenarios as text: one event a line with its time, and after `->` the actions that must follow.
//!
//! `request ID KEY[@SHAPE] BYTES KEEP` (keep-alive in ms, or `forever`), `loaded L BYTES`, `resized L BYTES`, `grow L BYTES yes|no`, `failed L`, `finished ID`,
//! `gone L`, `unload KEY`, `tick`, `close`. Loads are named L1, L2, .. in the order in which they start. The clock is the first number.

#![expect(clippy::unwrap_used, reason = "a scenario that does not parse is a broken test")]

use witness_scheduler::*;

fn number(text: &str) -> u64 {
    text.trim_start_matches('L').parse().unwrap()
}

fn demand(words: &[&str]) -> Demand {
    let (asked, parallel) = match words[0].split_once('*') {
        Some((asked, parallel)) => (asked, Some(number(parallel) as usize)),
        None => (words[0], None),
    };
    let (key, shape) = match asked.split_once('@') {
        Some((key, shape)) => (key, Some(number(shape))),
        None => (asked, None),
    };
    let keep_alive = match words[2] {
        "forever" => KeepAlive::Forever,
        ms => KeepAlive::Ms(number(ms)),
    };
    Demand {
        key: key.to_owned(),
        shape,
        shape_default: 1,
        parallel,
        bytes: number(words[1]),
        keep_alive,
    }
}

fn render(action: &Action) -> String {
    match action {
        Action::Load {
            load,
            key,
            shape,
            request,
        } => format!("load L{} {key}@{shape} for {}", load.0, request.0),
        Action::Unload { load, reason } => format!("unload L{} {reason:?}", load.0),
        Action::Run { request, load } => format!("run {} L{}", request.0, load.0),
        Action::Reject { request, why } => match why {
            Rejection::QueueFull {
                waiting,
                queue_max,
                retry_after_ms,
            } => {
                format!("reject {} full {waiting}/{queue_max} retry {retry_after_ms}", request.0)
            }
            Rejection::TooLarge {
                needed_bytes,
                budget_bytes,
            } => format!("reject {} {needed_bytes}>{budget_bytes}", request.0),
            Rejection::LoadFailed { load } => format!("reject {} L{} failed", request.0, load.0),
            Rejection::ShuttingDown => format!("reject {} closing", request.0),
        },
    }
}

/// Plays a scenario and compares the actions of every event.
#[track_caller]
fn play(config: Config, scenario: &str) -> Scheduler {
    let mut scheduler = Scheduler::new(config);
    for line in scenario.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (event, expected) = line.split_once("->").unwrap_or((line, ""));
        let words: Vec<&str> = event.split_whitespace().collect();
        let now = number(words[0]);
        let actions = match words[1] {
            "request" => scheduler.request(now, RequestId(number(words[2])), demand(&words[3..])),
            "loaded" => scheduler.loaded(now, LoadId(number(words[2])), number(words[3])),
            "resized" => scheduler.resized(now, LoadId(number(words[2])), number(words[3])),
            "grow" => {
                let (may, actions) = scheduler.grow(now, LoadId(number(words[2])), number(words[3]));
                assert_eq!(if may { "yes" } else { "no" }, words[4], "answer to `{event}`");
                actions
            }
            "failed" => scheduler.load_failed(now, LoadId(number(words[2]))),
            "finished" => scheduler.finished(now, RequestId(number(words[2]))),
            "gone" => scheduler.unloaded(now, LoadId(number(words[2]))),
            "unload" => scheduler.unload(now, words[2]).1,
            "tick" => scheduler.tick(now),
            "close" => scheduler.close(),
            other => panic!("no event `{other}`"),
        };
        let actions: Vec<String> = actions.iter().map(render).collect();
        assert_eq!(actions.join("; "), expected.trim(), "after `{event}`");
    }
    scheduler
}

const ROOMY: Config = Config {
    budget_bytes: 1000,
    loaded_max: 3,
    parallel: 2,
    queue_max: 4,
};

#[test]
fn load_once_run_then_expire() {
    let scheduler = play(
        ROOMY,
        "0    request 1 a 100 500   -> load L1 a@1 for 1
         5    request 2 a 100 500   ->
         10   loaded L1 120         -> run 1 L1; run 2 L1
         20   request 3 a 100 500   ->
         30   finished 1            -> run 3 L1
         40   finished 2            ->
         50   finished 3            ->
         549  tick                  ->
         550  tick                  -> unload L1 Expired
         551  request 4 a 100 500   -> load L2 a@1 for 4
         560  gone L1               ->
         570  loaded L2 100         -> run 4 L2",
    );
    assert_eq!(scheduler.used_bytes(), 100);
}

#[test]
fn keep_alive_zero_and_forever() {
    let scheduler = play(
        ROOMY,
        "0 request 1 a 100 0        -> load L1 a@1 for 1
         1 loaded L1 100            -> run 1 L1
         2 request 2 a 100 0        -> run 2 L1
         3 finished 1               ->
         4 finished 2               -> unload L1 Expired
         5 gone L1                  ->
         6 request 3 b 100 forever  -> load L2 b@1 for 3
         7 loaded L2 100            -> run 3 L2
         8 finished 3               ->
         99999999 tick              ->",
    );
    assert_eq!(scheduler.next_deadline_ms(), None);
}

/// The one that was idle longest goes; the newcomer starts only when the room is really free.
#[test]
fn the_idle_model_of_longest_standing_makes_room() {
    play(
        ROOMY,
        "0  request 1 a 400 9999 -> load L1 a@1 for 1
         1  loaded L1 400        -> run 1 L1
         2  request 2 b 400 9999 -> load L2 b@1 for 2
         3  loaded L2 400        -> run 2 L2
         4  finished 2           ->
         5  finished 1           ->
         6  request 3 c 400 9999 -> unload L2 Evicted
         7  request 4 a 400 9999 -> run 4 L1
         8  gone L2              -> load L3 c@1 for 3
         9  loaded L3 400        -> run 3 L3",
    );
}

/// A busy model is not torn down; it takes no newcomers, so the one who waits for its room gets it.
#[test]
fn a_busy_model_is_drained_for_who_came_first() {
    play(
        Config { parallel: 2, ..ROOMY },
        "0  request 1 a 800 9999 -> load L1 a@1 for 1
         1  loaded L1 800        -> run 1 L1
         2  request 2 b 800 9999 ->
         3  request 3 a 800 9999 ->
         4  finished 1           -> unload L1 Evicted
         5  gone L1              -> load L2 b@1 for 2
         6  loaded L2 800        -> run 2 L2
         7  finished 2           -> unload L2 Evicted
         8  gone L2              -> load L3 a@1 for 3
         9  loaded L3 800        -> run 3 L3",
    );
}

#[test]
fn requests_for_loaded_models_pass_those_that_wait_for_room() {
    play(
        Config { loaded_max: 2, ..ROOMY },
        "0  request 1 a 100 9999 -> load L1 a@1 for 1
         1  loaded L1 100        -> run 1 L1
         2  request 2 b 100 9999 -> load L2 b@1 for 2
         3  loaded L2 100        -> run 2 L2
         4  request 3 c 100 9999 ->
         5  request 4 b 100 9999 -> run 4 L2
         6  request 5 a 100 9999 ->
         7  finished 1           -> unload L1 Evicted
         8  gone L1              -> load L3 c@1 for 3",
    );
}

#[test]
fn other_load_options_need_another_load() {
    play(
        ROOMY,
        "0  request 1 a@64 100 9999  -> load L1 a@64 for 1
         1  loaded L1 100            -> run 1 L1
         2  request 2 a 100 9999     -> run 2 L1
         3  finished 1               ->
         4  request 3 a@128 100 9999 ->
         5  request 4 a@64 100 9999  ->
         6  finished 2               -> unload L1 Reshaped
         7  gone L1                  -> load L2 a@128 for 3
         8  loaded L2 100            -> run 3 L2
         9  finished 3               -> unload L2 Reshaped
         10 gone L2                  -> load L3 a@64 for 4",
    );
}

#[test]
fn limits_are_said_in_numbers() {
    play(
        Config {
            budget_bytes: 1000,
            loaded_max: 1,
            parallel: 1,
            queue_max: 1,
        },
        "0    request 1 a 1001 9 -> reject 1 1001>1000
         1    request 2 a 1000 9 -> load L1 a@1 for 2
         2    loaded L1 1000     -> run 2 L1
         3    request 3 a 1000 9 ->
         4    request 4 a 1000 9 -> reject 4 full 1/1 retry 1000
         5    finished 3         ->
         6    request 5 a 1000 9 ->
         40006 finished 2        -> run 5 L1
         40007 request 6 a 1000 9 ->
         40008 request 7 a 1000 9 -> reject 7 full 1/1 retry 5875",
    );
}

#[test]
fn with_no_queue_a_request_that_loads_is_still_taken() {
    play(
        Config {
            queue_max: 0,
            parallel: 1,
            ..ROOMY
        },
        "0 request 1 a 10 9 -> load L1 a@1 for 1
         1 request 2 a 10 9 -> reject 2 full 1/0 retry 1000
         2 loaded L1 10     -> run 1 L1",
    );
}

#[test]
fn a_failed_load_refuses_those_that_waited_and_nobody_else() {
    play(
        ROOMY,
        "0 request 1 a 100 9    -> load L1 a@1 for 1
         1 request 2 a@1 100 9  ->
         2 request 3 b 100 9    -> load L2 b@1 for 3
         3 failed L1            -> reject 1 L1 failed; reject 2 L1 failed
         4 request 4 a 100 9    -> load L3 a@1 for 4
         5 loaded L2 100        -> run 3 L2",
    );
}

#[test]
fn a_load_has_the_places_that_it_was_asked_for_with() {
    play(
        Config { parallel: 1, ..ROOMY },
        "0 request 1 a@7*2 100 9 -> load L1 a@7 for 1
         1 loaded L1 100         -> run 1 L1
         2 request 2 a@7*2 100 9 -> run 2 L1
         3 request 3 a 100 9     ->
         4 finished 1            -> run 3 L1
         5 request 4 b 100 9     -> load L2 b@1 for 4
         6 loaded L2 100         -> run 4 L2
         7 request 5 b 100 9     ->",
    );
}

#[test]
fn a_dead_worker_frees_its_room_and_the_next_request_loads_again() {
    play(
        Config { parallel: 1, ..ROOMY },
        "0 request 1 a 900 9 -> load L1 a@1 for 1
         1 loaded L1 900     -> run 1 L1
         2 request 2 a 900 9 ->
         3 gone L1           -> load L2 a@1 for 2
         4 finished 1        ->
         5 loaded L2 900     -> run 2 L2",
    );
}

#[test]
fn asked_to_go() {
    play(
        ROOMY,
        "0 unload a              ->
         1 request 1 a 100 9999  -> load L1 a@1 for 1
         2 loaded L1 100         -> run 1 L1
         3 unload a              ->
         4 finished 1            -> unload L1 Expired
         5 gone L1               ->
         6 request 2 a 100 9999  -> load L2 a@1 for 2
         7 loaded L2 100         -> run 2 L2
         8 finished 2            ->
         9 unload a              -> unload L2 Asked",
    );
}

#[test]
fn a_caller_who_leaves_is_forgotten_wherever_he_stands() {
    play(
        Config { parallel: 1, ..ROOMY },
        "0 request 1 a 100 50 -> load L1 a@1 for 1
         1 finished 1         ->
         2 loaded L1 100      ->
         52 tick              -> unload L1 Expired
         53 gone L1           ->
         54 request 2 a 100 50 -> load L2 a@1 for 2
         55 request 3 a 100 50 ->
         56 finished 2        ->
         57 loaded L2 100     -> run 3 L2",
    );
}

#[test]
fn closing_refuses_and_unloads_everything() {
    play(
        Config { parallel: 1, ..ROOMY },
        "0 request 1 a 100 50 -> load L1 a@1 for 1
         1 loaded L1 100      -> run 1 L1
         2 request 2 a 100 50 ->
         3 close              -> reject 2 closing; unload L1 Asked
         4 request 3 a 100 50 -> reject 3 closing
         5 gone L1            ->",
    );
}

/// Ten thousand seeded events: the budget and the places are never exceeded by estimate, nobody runs twice, nobody is lost.
#[test]
fn invariants_hold_under_random_events() {
    let config = Config {
        budget_bytes: 1000,
        loaded_max: 3,
        parallel: 2,
        queue_max: 8,
    };
    let mut scheduler = Scheduler::new(config);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (mut asked, mut open, mut running): (u64, Vec<u64>, Vec<u64>) = (0, Vec::new(), Vec::new());
    let (mut loading, mut unloading): (Vec<LoadId>, Vec<LoadId>) = (Vec::new(), Vec::new());
    for now in 0..10_000 {
        let actions = match next(6) {
            0 | 1 => {
                asked += 1;
                open.push(asked);
                let key = next(5);
                let shape = (next(4) == 0).then(|| next(2));
                let keep_alive = if next(3) == 0 {
                    KeepAlive::Forever
                } else {
                    KeepAlive::Ms(next(20))
                };
                let demand = Demand {
                    key: key.to_string(),
                    shape,
                    shape_default: 0,
                    parallel: None,
                    bytes: 150 + key * 150,
                    keep_alive,
                };
                scheduler.request(now, RequestId(asked), demand)
            }
            2 if !loading.is_empty() => {
                let load = loading.swap_remove(next(loading.len() as u64) as usize);
                let bytes = scheduler.loads().iter().find(|view| view.id == load).unwrap().bytes;
                if next(5) == 0 {
                    scheduler.load_failed(now, load)
                } else {
                    scheduler.loaded(now, load, bytes)
                }
            }
            3 if !running.is_empty() => {
                let request = running.swap_remove(next(running.len() as u64) as usize);
                open.retain(|id| *id != request);
                scheduler.finished(now, RequestId(request))
            }
            4 if !unloading.is_empty() => {
                let load = unloading.swap_remove(next(unloading.len() as u64) as usize);
                scheduler.unloaded(now, load)
            }
            _ => scheduler.tick(now),
        };
        for action in actions {
            match action {
                Action::Load { load, .. } => loading.push(load),
                Action::Unload { load, .. } => {
                    assert!(!unloading.contains(&load));
                    unloading.push(load);
                }
                Action::Run { request, .. } => {
                    assert!(open.contains(&request.0) && !running.contains(&request.0));
                    running.push(request.0);
                }
                Action::Reject { request, .. } => open.retain(|id| *id != request.0),
            }
        }
        assert!(scheduler.used_bytes() <= config.budget_bytes, "over budget at {now}");
        assert!(scheduler.loads().len() <= config.loaded_max, "too many at {now}");
        assert!(scheduler.loads().iter().all(|view| view.running <= config.parallel));
        assert!(scheduler.waiting() <= config.queue_max + config.loaded_max);
    }
    // Let everything that is under way end: nobody may be left waiting.
    for now in 10_000..30_000 {
        if open.is_empty() {
            break;
        }
        let actions = if let Some(load) = loading.pop() {
            scheduler.loaded(now, load, 1)
        } else if let Some(load) = unloading.pop() {
            scheduler.unloaded(now, load)
        } else if let Some(request) = running.pop() {
            open.retain(|id| *id != request);
            scheduler.finished(now, RequestId(request))
        } else {
            scheduler.tick(now)
        };
        for action in actions {
            match action {
                Action::Load { load, .. } => loading.push(load),
                Action::Unload { load, .. } => unloading.push(load),
                Action::Run { request, .. } => running.push(request.0),
                Action::Reject { request, .. } => open.retain(|id| *id != request.0),
            }
        }
    }
    assert!(open.is_empty(), "left waiting: {open:?}");
}

// What a base can do without gets room that nobody uses, then that of idle loads once they are gone, and never that of busy ones.
#[test]
fn a_load_grows_into_what_is_idle() {
    let scheduler = play(
        ROOMY,
        "0  request 1 a 300 forever -> load L1 a@1 for 1
         1  loaded L1 300           -> run 1 L1
         2  request 2 b 300 forever -> load L2 b@1 for 2
         3  loaded L2 300           -> run 2 L2
         4  request 3 c 300 forever -> load L3 c@1 for 3
         5  loaded L3 300           -> run 3 L3
         6  grow L1 100 yes         ->
         7  grow L1 200 no          ->
         8  finished 3              ->
         9  grow L1 900 no          ->
         10 grow L1 200 no          -> unload L3 Evicted
         11 grow L1 200 no          ->
         12 gone L3                 ->
         13 grow L1 200 yes         ->
         14 resized L1 550          ->",
    );
    assert_eq!(scheduler.used_bytes(), 850);
}
