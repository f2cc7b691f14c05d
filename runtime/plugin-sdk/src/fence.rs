//! The panic fence: what is thrown inside a call becomes a status and a diagnostic.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use witness_plugin_protocol::{Diagnostic, Kind};

/// Longest panic message that is passed on, in bytes; the rest is in the log.
const PANIC_MESSAGE_BYTES_MAX: usize = 4096;

thread_local! {
    /// Where the last panic of this thread was raised: the payload does not say.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Remembers the place of every panic from here on; the hook that was there still runs (it writes to stderr, hence to the log).
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info
                .location()
                .map(|place| format!("{}:{}", place.file(), place.line()));
            // A thread that is being torn down has no place left to remember it; then the message alone must do.
            let _ = PLACE.try_with(|slot| slot.replace(place));
            previous(info);
        }));
    });
}

/// Runs `call`; a panic comes back as the diagnostic that names it.
///
/// Asserting unwind safety is sound here because the caller gives up whatever the call was changing: the model is dropped from its
/// table and the host ends the worker process.
pub(crate) fn fenced<T>(name: &str, call: impl FnOnce() -> T) -> Result<T, Diagnostic> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let mut message = if let Some(text) = payload.downcast_ref::<&str>() {
            (*text).to_owned()
        } else if let Some(text) = payload.downcast_ref::<String>() {
            text.clone()
        } else {
            "a panic without a message".to_owned()
        };
        // A payload's own destructor may panic: it is leaked rather than dropped.
        std::mem::forget(payload);
        if message.len() > PANIC_MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(PANIC_MESSAGE_BYTES_MAX));
            message.push_str(" ...");
        }
        let place = PLACE.try_with(|slot| slot.take()).ok().flatten();
        let mut diagnostic = Diagnostic::new(
            "witness::plugin::panicked",
            Kind::Plugin,
            format!("the plugin panicked in `{name}`: {message}"),
        );
        if let Some(place) = place {
            diagnostic = diagnostic.cause(format!("raised at {place}"));
        }
        diagnostic.hint("report it to the plugin's author with the lines of the daemon's log before it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_back_with_its_message_and_place() {
        install_hook();
        let diagnostic = fenced("step", || -> u32 { panic!("seven {}", 7) }).unwrap_err();
        assert_eq!(diagnostic.message, "the plugin panicked in `step`: seven 7");
        assert!(diagnostic.causes[0].contains("fence.rs:"), "{diagnostic:?}");
        assert_eq!(fenced("step", || 3).unwrap(), 3);
    }

    #[test]
    fn a_payload_that_is_no_text_is_still_fenced() {
        let diagnostic = fenced("load", || std::panic::panic_any(5u8)).unwrap_err();
        assert!(diagnostic.message.ends_with("a panic without a message"));
    }
}
