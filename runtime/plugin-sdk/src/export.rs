//! The entry point and the plugin table: what `export_plugin!` expands to calls these.

use std::sync::OnceLock;

use serde_json::{Map, Value};
use witness_plugin_abi::{ABI_MAJOR, ABI_MINOR, Buffer, Host, JobTable, Plugin, ServeTable, Slice, Status};
use witness_plugin_protocol::{Descriptor, Diagnostic};

use crate::host::{self, Init};
use crate::job::{self, Job};
use crate::reply::{answer, bytes_of, decode, free_buffer};
use crate::serve::Serve;
use crate::serve::table::ServeExport;
use crate::{fence, serve};

/// What the macro knows about a plugin.
pub trait PluginExport: 'static {
    /// Evaluates the descriptor expression.
    fn descriptor() -> Descriptor;
    /// Returns the roles named in the macro.
    fn roles() -> Roles;
}

/// The role tables of a plugin, each with what it needs at `init` and `shutdown`.
pub struct Roles {
    serve: Option<ServeRole>,
    train: Option<&'static JobTable>,
    quantize: Option<&'static JobTable>,
    measure: Option<&'static JobTable>,
}

/// The role `serve` without the type of its engine.
struct ServeRole {
    table: &'static ServeTable,
    init: fn(&Init) -> Result<(), Diagnostic>,
    shutdown: fn(),
}

impl Roles {
    /// Returns no roles.
    pub fn none() -> Self {
        Self {
            serve: None,
            train: None,
            quantize: None,
            measure: None,
        }
    }

    /// Adds the role `serve`.
    #[must_use]
    pub fn serve<E: ServeExport<Serve = S>, S: Serve>(self, table: &'static ServeTable) -> Self {
        let role = ServeRole {
            table,
            init: serve::table::init::<E>,
            shutdown: serve::table::shutdown::<E>,
        };
        Self {
            serve: Some(role),
            ..self
        }
    }

    /// Adds the role `train`.
    #[must_use]
    pub fn train<J: Job>(self, table: &'static JobTable) -> Self {
        Self {
            train: Some(table),
            ..self
        }
    }

    /// Adds the role `quantize`.
    #[must_use]
    pub fn quantize<J: Job>(self, table: &'static JobTable) -> Self {
        Self {
            quantize: Some(table),
            ..self
        }
    }

    /// Adds the role `measure`.
    #[must_use]
    pub fn measure<J: Job>(self, table: &'static JobTable) -> Self {
        Self {
            measure: Some(table),
            ..self
        }
    }
}

/// The plugin's one table, made at the first call of its entry point.
pub struct PluginStatic(OnceLock<Option<Plugin>>);

impl PluginStatic {
    /// Returns a table that is not made yet.
    #[expect(clippy::new_without_default, reason = "only the macro makes one, in a static")]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }
}

/// Returns the table, or null when the descriptor expression panicked.
pub fn entry<P: PluginExport>(cell: &'static PluginStatic) -> *const Plugin {
    let plugin = cell.0.get_or_init(|| {
        fence::install_hook();
        fence::fenced("descriptor", || {
            // Leaked once per process: the descriptor is static by contract.
            let descriptor: &'static [u8] = serde_json::to_vec(&P::descriptor()).unwrap_or_default().leak();
            let roles = P::roles();
            Plugin {
                struct_size: size_of::<Plugin>(),
                abi_major: ABI_MAJOR,
                abi_minor: ABI_MINOR,
                descriptor: Slice {
                    ptr: descriptor.as_ptr(),
                    len: descriptor.len(),
                },
                init: init::<P>,
                shutdown: shutdown::<P>,
                free_buffer,
                serve: roles.serve.map_or(std::ptr::null(), |role| &raw const *role.table),
                train: roles.train.map_or(std::ptr::null(), |table| &raw const *table),
                quantize: roles.quantize.map_or(std::ptr::null(), |table| &raw const *table),
                measure: roles.measure.map_or(std::ptr::null(), |table| &raw const *table),
            }
        })
        .ok()
    });
    plugin.as_ref().map_or(std::ptr::null(), |plugin| &raw const *plugin)
}

/// Returns the table of a job role.
pub const fn job_table<J: Job>() -> JobTable {
    job::table::<J>()
}

/// # Safety
/// As the ABI says: `host` static, `settings` readable, `reply` writable.
unsafe extern "C" fn init<P: PluginExport>(host: *const Host, settings: Slice, reply: *mut Buffer) -> Status {
    // SAFETY: `host`, `settings` and `reply` are as the ABI promises.
    unsafe {
        answer("init", reply, || {
            host::remember(host);
            let settings: Map<String, Value> = decode("init", bytes_of(settings))?;
            if let Some(role) = P::roles().serve {
                (role.init)(&Init { settings })?;
            }
            Ok(Map::new())
        })
    }
}

extern "C" fn shutdown<P: PluginExport>() {
    let outcome = fence::fenced("shutdown", || {
        if let Some(role) = P::roles().serve {
            (role.shutdown)();
        }
    });
    if let Err(diagnostic) = outcome {
        host::log(host::Level::Error, &diagnostic.to_string());
    }
}
