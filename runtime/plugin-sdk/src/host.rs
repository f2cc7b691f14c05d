//! What the host offers a plugin: settings at the start and a line to the daemon's log.

use std::sync::OnceLock;

use serde_json::{Map, Value};
use witness_plugin_abi::{Host, Slice};

/// What a plugin is told before its first call.
#[derive(Clone, Debug, Default)]
pub struct Init {
    /// The plugin's settings: an object, empty when there are none.
    pub settings: Map<String, Value>,
}

/// How urgent a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// Something is odd, and work goes on.
    Warn = 2,
    /// A user may want to know.
    Info = 3,
    /// A developer may want to know.
    Debug = 4,
}

/// The host's log function, copied out of its table.
struct Log {
    context: *mut std::ffi::c_void,
    write: unsafe extern "C" fn(*mut std::ffi::c_void, u32, Slice),
}

// SAFETY: the ABI says that `log` may be called with this context from any thread, as long as the process lives.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

static LOG: OnceLock<Log> = OnceLock::new();

/// Remembers the host's log. A second host in one process is ignored.
///
/// # Safety
/// `host` is null or a table of the host that lives as long as the process.
pub(crate) unsafe fn remember(host: *const Host) {
    if host.is_null() {
        return;
    }
    // SAFETY: not null; the size is the first field in every version.
    let struct_size = unsafe { (*host).struct_size };
    if struct_size < std::mem::offset_of!(Host, log) + size_of::<usize>() {
        return;
    }
    // SAFETY: the table reaches past `log`, as just checked.
    let (context, write) = unsafe { ((*host).context, (*host).log) };
    let _ = LOG.set(Log { context, write });
}

/// Writes a line to the daemon's log. Before `init`, and in a plugin's own unit tests, it goes nowhere.
pub fn log(level: Level, message: &str) {
    if let Some(log) = LOG.get() {
        let slice = Slice {
            ptr: message.as_ptr(),
            len: message.len(),
        };
        // SAFETY: the function and its context came from the host's table, and `message` outlives the call.
        unsafe { (log.write)(log.context, level as u32, slice) };
    }
}
