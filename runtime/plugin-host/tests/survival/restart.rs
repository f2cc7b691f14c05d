//! A plugin that dies is started again after a pause, then set aside. The clock is the test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::stage::{LONG, Stage, copy_to, entry, hostile_library, limits, start, text_of};
use crate::{Case, case};
use witness_plugin_host::{Clock, Host, Limits, RestartPolicy};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("restart::pauses_grow_and_then_the_plugin_is_set_aside", back_off),
        case("restart::deaths_over_untrusted_files_do_not_count", untrusted),
    ]
}

/// Makes a worker die.
async fn die(stage: &Stage, host: &Host) {
    let worker = start(host).await.unwrap();
    worker.load(&stage.load_request(), LONG).await.unwrap_err();
    worker.died().await;
}

async fn back_off() {
    let stage = Stage::new();
    let seconds = Arc::new(AtomicU64::new(1000));
    let clock = Arc::clone(&seconds);
    let host = stage.hostile("load:segfault", |config| {
        config.clock = Clock::from_fn(move || Duration::from_secs(clock.load(Ordering::SeqCst)));
        config.restart = RestartPolicy {
            pause_base: Duration::from_secs(10),
            pause_max: Duration::from_secs(60),
            wait_max: Duration::ZERO,
            deaths_max: 3,
            window: Duration::from_secs(600),
        };
    });
    die(&stage, &host).await;
    // The first death may have been chance: the second try is at once.
    die(&stage, &host).await;
    let refusal = start(&host).await.err().unwrap();
    assert!(
        text_of(&refusal).contains("is not started for another 10.0 s"),
        "{refusal:?}"
    );
    seconds.fetch_add(10, Ordering::SeqCst);
    die(&stage, &host).await;
    seconds.fetch_add(10_000, Ordering::SeqCst);
    let refusal = start(&host).await.err().unwrap();
    assert!(
        refusal
            .message
            .contains("is set aside for `a test`: its worker died 3 times"),
        "{refusal:?}"
    );
    assert!(text_of(&refusal).contains("SIGSEGV"), "{refusal:?}");
    assert_eq!(entry(&host).await.set_aside.len(), 1);
    // For another purpose it is still started, after a reset for this one, and after its file was replaced.
    host.start(&*entry(&host).await, Limits::for_purpose("another model"))
        .await
        .unwrap();
    host.reset(&stage.plugin());
    for _ in 0..2 {
        die(&stage, &host).await;
    }
    seconds.fetch_add(10, Ordering::SeqCst);
    die(&stage, &host).await;
    start(&host).await.err().unwrap();
    std::fs::remove_file(stage.plugin()).unwrap();
    copy_to(hostile_library(), &stage.plugin());
    start(&host).await.unwrap();
    assert!(entry(&host).await.set_aside.is_empty());
}

async fn untrusted() {
    let stage = Stage::new();
    let host = stage.hostile("inspect:abort", |config| {
        config.restart.deaths_max = 2;
        config.restart.wait_max = Duration::ZERO;
    });
    let entry = entry(&host).await;
    for _ in 0..4 {
        let worker = host
            .start(
                &entry,
                Limits {
                    is_untrusted: true,
                    is_background: false,
                    ..limits()
                },
            )
            .await
            .unwrap();
        let error = worker.inspect(&stage.inspect_request(), LONG).await.unwrap_err();
        assert!(error.message.contains("SIGABRT during `inspect`"), "{error:?}");
    }
    start(&host).await.unwrap();
}
