//! Which deed is asked for, and when.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// When to misbehave: one per function of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The entry point.
    Entry,
    /// `init`.
    Init,
    /// `inspect`.
    Inspect,
    /// `load`.
    Load,
    /// `load_adapter`.
    LoadAdapter,
    /// `unload_adapter`.
    UnloadAdapter,
    /// `start`.
    Start,
    /// `step`.
    Step,
    /// `cancel`.
    Cancel,
    /// `unload`.
    Unload,
    /// `shutdown`.
    Shutdown,
    /// `plan` of a job.
    Plan,
    /// `run` of a job.
    Run,
}

impl Phase {
    /// Every phase, in the order of the life of a worker that serves; then those of one that does a job.
    pub const ALL: [Phase; 13] = [
        Phase::Entry,
        Phase::Init,
        Phase::Inspect,
        Phase::Load,
        Phase::LoadAdapter,
        Phase::UnloadAdapter,
        Phase::Start,
        Phase::Step,
        Phase::Cancel,
        Phase::Unload,
        Phase::Shutdown,
        Phase::Plan,
        Phase::Run,
    ];

    /// Returns the name in `phase:deed`.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Entry => "entry",
            Phase::Init => "init",
            Phase::Inspect => "inspect",
            Phase::Load => "load",
            Phase::LoadAdapter => "load_adapter",
            Phase::UnloadAdapter => "unload_adapter",
            Phase::Start => "start",
            Phase::Step => "step",
            Phase::Cancel => "cancel",
            Phase::Unload => "unload",
            Phase::Shutdown => "shutdown",
            Phase::Plan => "plan",
            Phase::Run => "run",
        }
    }
}

/// What was asked for last, as `phase:deed`. Nothing = the environment decides.
static ASKED: Mutex<Option<String>> = Mutex::new(None);
/// Whether anything was asked for, so that a well-behaved step costs no lock: the plugin is also a measure.
static IS_ASKED: AtomicBool = AtomicBool::new(false);

/// Returns the deed of a phase, if one is asked for.
pub fn deed(phase: Phase) -> Option<String> {
    static ENVIRONMENT: OnceLock<Option<String>> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| std::env::var("WITNESS_HOSTILE").ok());
    if environment.is_none() && !IS_ASKED.load(Ordering::Relaxed) {
        return None;
    }
    let asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let asked = asked.or_else(|| environment.clone())?;
    let (name, deed) = asked.split_once(':')?;
    (name == phase.name()).then(|| deed.to_owned())
}

/// Asks for a deed from here on.
fn ask(text: &str) {
    *ASKED.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    IS_ASKED.store(true, Ordering::Relaxed);
}

/// Looks for a wish in the JSON of a request: in the text itself, and in the model files that it names.
pub(crate) fn listen(request: &[u8]) {
    let text = String::from_utf8_lossy(request);
    if let Some((_, wish)) = text.split_once("hostile! ") {
        ask(wish
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == ':' || c == '_'))
            .next()
            .unwrap_or_default());
        return;
    }
    for part in text.split('"').filter(|part| part.starts_with('/')) {
        if let Ok(content) = std::fs::read_to_string(part)
            && let Some(wish) = content.lines().find_map(|line| line.strip_prefix("mode "))
        {
            ask(wish.trim());
        }
    }
}

/// Panics when the phase asks for it. Called inside the fence.
pub(crate) fn panic_if_asked(phase: Phase) {
    assert!(
        deed(phase).as_deref() != Some("panic"),
        "a hostile panic in {}",
        phase.name()
    );
}
