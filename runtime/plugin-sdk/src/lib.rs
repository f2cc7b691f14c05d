//! Safe Rust over the plugin ABI: write a type that implements [`Serve`] (or [`Job`]), name it in [`export_plugin!`], and the
//! crate's `cdylib` is a plugin. A plugin written this way contains no `unsafe`.
//!
//! What the macro's expansion takes care of: the exported entry point and its tables, JSON in and out with errors that name the
//! offending field, buffers and their free, numbers for models ([`Serve::Model`]), and a fence that turns a panic into
//! `Status::PANICKED` with the panic's message and place.
//!
//! Knows no transport, no worker process and no model. All unsafe code of a Rust plugin lives here and in `witness-plugin-abi`.
//!
//! **Invariant:** no unwinding leaves an `extern "C"` function of this crate; no call blocks on another (a second call while one is
//! running is refused, not queued).
//!
//! ```
//! use witness_plugin_sdk::{export_plugin, Diagnostic, Job, JobEvents, Kind};
//! use witness_plugin_sdk::protocol::{Descriptor, Role, PROTOCOL_VERSION};
//!
//! struct Count;
//! impl Job for Count {
//!     fn plan(_request: serde_json::Value) -> Result<serde_json::Value, Diagnostic> {
//!         Ok(serde_json::json!({ "steps": 3 }))
//!     }
//!     fn run(_request: serde_json::Value, events: &mut JobEvents<'_>) -> Result<serde_json::Value, Diagnostic> {
//!         for step in 0..3 {
//!             if events.should_stop() {
//!                 return Err(Diagnostic::new("count::stopped", Kind::Cancelled, "stopped"));
//!             }
//!             events.emit(&serde_json::json!({ "step": step }));
//!         }
//!         Ok(serde_json::json!({}))
//!     }
//! }
//! fn describe() -> Descriptor {
//!     Descriptor {
//!         name: "count".into(),
//!         version: "1.0.0".into(),
//!         protocol: PROTOCOL_VERSION,
//!         about: "counts to three".into(),
//!         roles: vec![Role::Train],
//!         architectures: vec![],
//!         formats: vec![],
//!         devices: vec!["cpu".into()],
//!         isa: vec![],
//!         score: 0,
//!     }
//! }
//! export_plugin! { descriptor: describe(), train: Count }
//! # fn main() {}
//! ```
#![expect(unsafe_code, reason = "this crate is the safe face of the C ABI")]

mod export;
mod fence;
mod host;
mod job;
mod reply;
mod serve;

pub use host::{Init, Level, log};
pub use job::{Job, JobEvents};
pub use serve::{Serve, ServeEvent};
/// The messages that a plugin reads and writes.
pub use witness_plugin_protocol as protocol;
pub use witness_plugin_protocol::{Alternative, Diagnostic, Kind};

/// What [`export_plugin!`] expands to. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::export::{PluginExport, PluginStatic, Roles, entry, job_table};
    pub use crate::serve::table::{ServeCell, ServeExport, serve_table};
    pub use witness_plugin_abi::{JobTable, Plugin, ServeTable};
    pub use witness_plugin_protocol::Descriptor;
}

/// Exports a plugin from a `cdylib` crate: `descriptor` is an expression of type [`protocol::Descriptor`], evaluated once when the
/// library is opened (keep it cheap: no model, no device is touched there); each role names the type that implements it.
///
/// `serve` takes a [`Serve`], `train`, `quantize` and `measure` take a [`Job`]. Use it once per crate, at module level.
#[macro_export]
macro_rules! export_plugin {
    (descriptor: $descriptor:expr $(, serve: $serve:ty)? $(, train: $train:ty)? $(, quantize: $quantize:ty)?
     $(, measure: $measure:ty)? $(,)?) => {
        const _: () = {
            struct Exported;
            static PLUGIN: $crate::__private::PluginStatic = $crate::__private::PluginStatic::new();
            $(
                static SERVE: $crate::__private::ServeCell<$serve> = $crate::__private::ServeCell::new();
                static SERVE_TABLE: $crate::__private::ServeTable = $crate::__private::serve_table::<Exported>();
                impl $crate::__private::ServeExport for Exported {
                    type Serve = $serve;
                    fn cell() -> &'static $crate::__private::ServeCell<$serve> {
                        &SERVE
                    }
                }
            )?
            $(static TRAIN_TABLE: $crate::__private::JobTable = $crate::__private::job_table::<$train>();)?
            $(static QUANTIZE_TABLE: $crate::__private::JobTable = $crate::__private::job_table::<$quantize>();)?
            $(static MEASURE_TABLE: $crate::__private::JobTable = $crate::__private::job_table::<$measure>();)?
            impl $crate::__private::PluginExport for Exported {
                fn descriptor() -> $crate::__private::Descriptor {
                    $descriptor
                }
                fn roles() -> $crate::__private::Roles {
                    let roles = $crate::__private::Roles::none();
                    $(let roles = roles.serve::<Exported, $serve>(&SERVE_TABLE);)?
                    $(let roles = roles.train::<$train>(&TRAIN_TABLE);)?
                    $(let roles = roles.quantize::<$quantize>(&QUANTIZE_TABLE);)?
                    $(let roles = roles.measure::<$measure>(&MEASURE_TABLE);)?
                    roles
                }
            }
            /// Returns the plugin's table.
            #[unsafe(no_mangle)]
            pub extern "C" fn witness_plugin_entry_v1() -> *const $crate::__private::Plugin {
                $crate::__private::entry::<Exported>(&PLUGIN)
            }
        };
    };
}
