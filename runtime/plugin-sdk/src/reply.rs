//! Bytes across the border: requests decoded, replies handed over and freed.

use serde::Serialize;
use serde::de::DeserializeOwned;
use witness_plugin_abi::{Buffer, Slice, Status};
use witness_plugin_protocol::{Diagnostic, Kind};

use crate::fence;

/// Why a call did not succeed: a refusal, or a handle that is not known.
pub(crate) enum Failure {
    /// The plugin says no.
    Refused(Diagnostic),
    /// No model has this number.
    UnknownModel(u64),
    /// The call panicked.
    Panicked(Diagnostic),
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Self {
        Failure::Refused(diagnostic)
    }
}

/// Returns the bytes that a slice names.
///
/// # Safety
/// `slice.ptr` is null or valid for reads of `slice.len` bytes during `'a`.
pub(crate) unsafe fn bytes_of<'a>(slice: Slice) -> &'a [u8] {
    if slice.ptr.is_null() || slice.len == 0 {
        return &[];
    }
    // SAFETY: not null, and valid for `len` bytes during `'a` as the caller promises.
    unsafe { std::slice::from_raw_parts(slice.ptr, slice.len) }
}

/// Decodes a request. An empty one reads as `{}`.
///
/// # Errors
/// The bytes are not the JSON of a `T`; the diagnostic says where.
pub(crate) fn decode<T: DeserializeOwned>(call: &str, bytes: &[u8]) -> Result<T, Diagnostic> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| {
        Diagnostic::new(
            "witness::plugin::bad_request",
            Kind::Internal,
            format!("the plugin cannot read the request of `{call}`"),
        )
        .cause(error.to_string())
    })
}

/// Runs one call behind the fence and writes what comes of it to `reply`.
///
/// # Safety
/// `reply` is null or valid for one write of a [`Buffer`].
pub(crate) unsafe fn answer<T: Serialize>(
    call: &str,
    reply: *mut Buffer,
    body: impl FnOnce() -> Result<T, Failure>,
) -> Status {
    let with_json = || {
        body().and_then(|value| {
            serde_json::to_vec(&value).map_err(|error| {
                Failure::Refused(
                    Diagnostic::new(
                        "witness::plugin::bad_reply",
                        Kind::Plugin,
                        format!("the plugin's answer to `{call}` is not JSON"),
                    )
                    .cause(error.to_string()),
                )
            })
        })
    };
    // SAFETY: `reply` is as the caller promises.
    unsafe { deliver(call, reply, with_json) }
}

/// Runs one call that answers with nothing when it succeeds. Allocates nothing then, as `step` runs once per token.
///
/// # Safety
/// `reply` is null or valid for one write of a [`Buffer`].
pub(crate) unsafe fn answer_empty(
    call: &str,
    reply: *mut Buffer,
    body: impl FnOnce() -> Result<(), Failure>,
) -> Status {
    // SAFETY: `reply` is as the caller promises.
    unsafe { deliver(call, reply, || body().map(|()| Vec::new())) }
}

/// Runs `body` behind the fence; its bytes, or the diagnostic of its failure, go to `reply`.
///
/// # Safety
/// `reply` is null or valid for one write of a [`Buffer`].
unsafe fn deliver(call: &str, reply: *mut Buffer, body: impl FnOnce() -> Result<Vec<u8>, Failure>) -> Status {
    let outcome = fence::fenced(call, body).unwrap_or_else(|diagnostic| Err(Failure::Panicked(diagnostic)));
    let (status, bytes) = match outcome {
        Ok(bytes) => (Status::OK, bytes),
        Err(Failure::Refused(diagnostic)) => (Status::REFUSED, encode(&diagnostic)),
        Err(Failure::Panicked(diagnostic)) => (Status::PANICKED, encode(&diagnostic)),
        Err(Failure::UnknownModel(model)) => (
            Status::UNKNOWN_HANDLE,
            encode(&Diagnostic::new(
                "witness::plugin::unknown_model",
                Kind::Internal,
                format!("the plugin has no loaded model number {model}"),
            )),
        ),
    };
    // SAFETY: null or valid for one write, as the caller promises.
    unsafe { hand_over(bytes, reply) };
    status
}

/// Returns a diagnostic as JSON.
pub(crate) fn encode(diagnostic: &Diagnostic) -> Vec<u8> {
    serde_json::to_vec(diagnostic).unwrap_or_default()
}

/// Gives bytes to the host, which gives them back through [`free_buffer`]. Without a place to write to, they are dropped.
///
/// # Safety
/// `reply` is null or valid for one write of a [`Buffer`].
unsafe fn hand_over(bytes: Vec<u8>, reply: *mut Buffer) {
    if reply.is_null() {
        return;
    }
    let len = bytes.len();
    let ptr = if len == 0 {
        std::ptr::null_mut()
    } else {
        Box::into_raw(bytes.into_boxed_slice()).cast::<u8>()
    };
    // SAFETY: valid for one write, as the caller promises.
    unsafe { reply.write(Buffer { ptr, len, reserved: 0 }) };
}

/// Frees what [`hand_over`] gave and empties the buffer.
///
/// # Safety
/// `buffer` is null or points to a [`Buffer`] that a call of this plugin filled, or that is empty.
pub(crate) unsafe extern "C" fn free_buffer(buffer: *mut Buffer) {
    if buffer.is_null() {
        return;
    }
    // SAFETY: not null, and valid as the caller promises.
    let buffer = unsafe { &mut *buffer };
    let (ptr, len) = (
        std::mem::replace(&mut buffer.ptr, std::ptr::null_mut()),
        std::mem::take(&mut buffer.len),
    );
    if !ptr.is_null() && len != 0 {
        // SAFETY: `hand_over` made this pair from a boxed slice of `len` bytes, and emptying the buffer above keeps it from
        // being freed twice.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(ptr, len)) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Buffer {
        Buffer {
            ptr: std::ptr::null_mut(),
            len: 0,
            reserved: 0,
        }
    }

    /// Returns status and reply text of a call, freed twice to show that the second free does nothing.
    fn run(body: impl FnOnce() -> Result<u32, Failure>) -> (Status, String) {
        let mut reply = empty();
        // SAFETY: `reply` is a live local.
        let status = unsafe { answer("probe", &raw mut reply, body) };
        // SAFETY: the buffer was just filled by `answer`.
        let text = unsafe {
            bytes_of(Slice {
                ptr: reply.ptr,
                len: reply.len,
            })
        };
        let text = String::from_utf8(text.to_vec()).unwrap();
        // SAFETY: filled by `answer`; then empty.
        unsafe {
            free_buffer(&raw mut reply);
            free_buffer(&raw mut reply);
            free_buffer(std::ptr::null_mut());
        }
        (status, text)
    }

    #[test]
    fn every_outcome_has_its_status() {
        assert_eq!(run(|| Ok(5)), (Status::OK, "5".into()));
        let refused = run(|| Err(Diagnostic::new("a::b", Kind::Invalid, "no").into()));
        assert_eq!(refused.0, Status::REFUSED);
        assert!(refused.1.contains("a::b"));
        assert_eq!(run(|| Err(Failure::UnknownModel(9))).0, Status::UNKNOWN_HANDLE);
        let panicked = run(|| panic!("oh"));
        assert_eq!(panicked.0, Status::PANICKED);
        assert!(panicked.1.contains("panicked in `probe`: oh"), "{}", panicked.1);
    }

    #[test]
    fn a_bad_request_says_where() {
        let error = decode::<witness_plugin_protocol::LoadRequest>("load", b"{\"model\":5}").unwrap_err();
        assert!(error.causes[0].contains("line 1 column 10"), "{error:?}");
    }
}
