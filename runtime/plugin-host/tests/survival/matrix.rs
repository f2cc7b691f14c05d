//! Every deed in every phase: the host lives, the error names what happened, a good worker that serves meanwhile is unharmed, and
//! a good one starts afterwards.

use std::time::Duration;

use tokio::sync::OnceCell;
use witness_plugin_host::{HostConfig, Worker};
use witness_plugin_hostile::deeds::{ENTRIES, FATAL, JOBS, NUISANCE, REPLIES, STEPS};
use witness_plugin_hostile::mode::Phase;

use crate::stage::{LONG, SHORT, Stage, collect, job_life, request, text_of, whole_life};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for phase in Phase::ALL {
        let everywhere = FATAL.iter().chain(NUISANCE);
        let with_reply = REPLIES
            .iter()
            .filter(|_| !matches!(phase, Phase::Entry | Phase::Shutdown));
        for deed in everywhere.chain(with_reply) {
            cases.push(case(format!("matrix::{}::{deed}", phase.name()), move || {
                survive(phase, deed)
            }));
        }
    }
    for deed in ENTRIES {
        cases.push(case(format!("matrix::entry::{deed}"), move || {
            survive(Phase::Entry, deed)
        }));
    }
    for deed in STEPS {
        cases.push(case(format!("matrix::step::{deed}"), move || {
            survive(Phase::Step, deed)
        }));
    }
    for deed in JOBS {
        cases.push(case(format!("matrix::run::{deed}"), move || survive(Phase::Run, deed)));
    }
    cases
}

/// The good worker that serves during all of the cases.
struct Neighbour {
    stage: Stage,
    worker: Worker,
    model: witness_plugin_host::ModelHandle,
}

async fn neighbour() -> &'static Neighbour {
    static NEIGHBOUR: OnceCell<Neighbour> = OnceCell::const_new();
    NEIGHBOUR
        .get_or_init(|| async {
            let stage = Stage::new();
            let (worker, model) = stage.loaded(&stage.host()).await;
            Neighbour { stage, worker, model }
        })
        .await
}

async fn survive(phase: Phase, deed: &'static str) {
    let neighbour = neighbour().await;
    let beside = request("emit 200");
    let beside = neighbour.worker.generate(neighbour.model, &beside).await.unwrap();
    let stage = Stage::new();
    let hangs = matches!(
        deed,
        "hang" | "busy" | "flood" | "flood_progress" | "endless_bad_events"
    );
    let deadline = if hangs && has_deadline(phase) { SHORT } else { LONG };
    let host = stage.hostile(&format!("{}:{deed}", phase.name()), |config: &mut HostConfig| {
        if hangs {
            config.stall_timeout = SHORT;
            if matches!(phase, Phase::Entry | Phase::Init) {
                config.start_timeout = Duration::from_secs(1);
            }
        }
    });
    let outcome = match phase {
        Phase::Plan | Phase::Run => job_life(&stage, &host, deadline).await,
        _ => whole_life(&stage, &host, deadline).await,
    };
    match (expected(phase, deed), &outcome) {
        (None, Ok(())) => {}
        (Some(expected), Err(diagnostic)) => {
            let text = text_of(diagnostic);
            assert!(
                expected.iter().any(|words| text.contains(words)),
                "expected one of {expected:?} in: {text}"
            );
            assert!(
                text.contains("hint:") || text.contains("note:") || text.contains("did not say why") || deed == "panic",
                "no hint: {text}"
            );
        }
        (expected, outcome) => panic!("expected {expected:?}, and it went {outcome:?}"),
    }
    assert_eq!(collect(beside).await.unwrap().len(), 200, "the neighbour was harmed");
    assert!(neighbour.worker.death().is_none());
    neighbour.stage.prove_good().await;
}

fn has_deadline(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Inspect | Phase::Load | Phase::LoadAdapter | Phase::Shutdown | Phase::Plan
    )
}

/// Returns words one of which the error must say; nothing = everything goes well.
fn expected(phase: Phase, deed: &str) -> Option<&'static [&'static str]> {
    let returns_value = matches!(
        phase,
        Phase::Inspect | Phase::Load | Phase::LoadAdapter | Phase::Start | Phase::Plan | Phase::Run
    );
    Some(match deed {
        "panic" if phase == Phase::Entry => &["its entry point returned no table"],
        // The SDK fences it, and nobody waits for an answer.
        "panic" if phase == Phase::Shutdown => return None,
        "panic" => &["the plugin panicked in", "after the plugin panicked"],
        "unwind" | "abort" => &["SIGABRT"],
        "segfault" => &["SIGSEGV"],
        "exit0" if phase == Phase::Shutdown => return None,
        "exit0" => &["exited with code 0"],
        "exit3" => &["exited with code 3"],
        "hang" | "busy" => match phase {
            Phase::Entry | Phase::Init => &["did not finish `open` within 1.0 s"],
            Phase::Inspect => &["did not finish `inspect` within 0.4 s"],
            Phase::Load => &["did not finish `load` within 0.4 s"],
            Phase::LoadAdapter => &["did not finish `load_adapter` within 0.4 s"],
            Phase::Shutdown => &[
                "did not finish `shutdown` within 0.4 s",
                "made no progress in `shutdown`",
            ],
            Phase::UnloadAdapter => &["made no progress in `unload_adapter` for 0.4 s"],
            Phase::Start => &["made no progress in `start` for 0.4 s"],
            Phase::Step => &["made no progress in `step` for 0.4 s"],
            Phase::Cancel => &["made no progress in `cancel` for 0.4 s"],
            Phase::Unload => &["made no progress in `unload` for 0.4 s"],
            Phase::Plan => &["did not finish `plan` within 0.4 s"],
            Phase::Run => &["made no progress in `run` for 0.4 s"],
        },
        "allocate" => &["asked for more"],
        // The connection is not needed any more.
        "close" | "garbage" if phase == Phase::Shutdown => return None,
        // With its checks on, the standard library notices first.
        "close" => &[
            "lost its connection and ended itself",
            "closed its connection",
            "descriptor already closed",
        ],
        "garbage" => &["sent what is no message"],
        "flood_stderr" | "flood_stdout" | "slow" | "fork" => return None,

        // A cancel has no answer that anybody waits for.
        _ if phase == Phase::Cancel => return None,
        "refuse_silently" => &["with status 1 and did not say why"],
        "bad_status" => &["with status 77 and did not say why"],
        "huge_reply" => &["bytes, and 67107840 are allowed"],
        "null_with_length" => &["a null reply of 100 bytes"],
        "garbage_reply" | "wrong_reply" | "null_reply" => match phase {
            _ if returns_value => &["cannot be read"],
            Phase::Init => &["the plugin was called before `init`"],
            Phase::Step => &["nothing is running, and did not end the answer"],
            _ => return None,
        },

        "abi_major" => &["speaks ABI 99.1, and this program 1.1"],
        "abi_zero" => &["speaks ABI 0.1, and this program 1.1"],
        "protocol" => &["speaks message version 7, and this program version 1"],
        "no_descriptor" => &["it has no descriptor"],
        "broken_descriptor" => &["its descriptor is not JSON: EOF while parsing a string at line 1 column 15"],
        "empty_descriptor" => &["missing field `name`"],
        "huge_descriptor" => &["its descriptor has 1099511627776 bytes"],
        "bad_name" => &["its name \"../../Etc\" is not"],
        "no_roles" => &["it claims no role"],
        "bad_magic" => &["the magic of its format `hostile-model` is not hex"],
        "isa" => &["needs `quantum`, which this processor lacks"],
        "null" | "misaligned" => &["its entry point returned no table"],
        "null_role" => &["it claims the role `serve` and has no table for it"],
        "null_function" => &["the function `init` of its table `plugin` is null"],
        "small_table" => &["its table `plugin` says that it has 24 bytes"],
        // Of an older version, and whole.
        "older_table" => return None,
        "huge_table" => &["its table `plugin` says that it has 18446744073709551615 bytes"],
        "small_role" => &["its table `serve` says that it has 16 bytes"],

        "flood" => &["it emitted more tokens than the request allows"],
        "flood_progress" => &["made no progress in `step`"],
        "null_event" if phase == Phase::Run => &["an event is null"],
        "stray" | "null_event" | "small_event" => return None,
        "bad_utf8" => &["its text is not UTF-8"],
        "bad_done" => &["ended an answer with what is no report"],
        // The first end counts, and what follows is dropped.
        "double_done" => &["wrong answer `once`"],
        "no_done" => &["nothing is running, and did not end the answer"],
        "unknown_kind" => &["an event of unknown kind 99"],
        "huge_text" => &["its text has 1099511627776 bytes"],
        "null_text" => &["its text is null with a length of 5"],
        "quiet" => &["steps without an event"],

        "flood_events" | "emit_threads" | "late_event" => return None,
        "bad_event" => &["an event is not JSON"],
        "array_event" => &["an event is JSON, but no object"],
        "huge_event" => &["an event has 1099511627776 bytes"],
        // Such events are no sign of life.
        "endless_bad_events" => &["made no progress in `run`"],
        other => unreachable!("{other}"),
    })
}
