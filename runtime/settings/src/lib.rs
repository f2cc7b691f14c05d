//! Every knob of the program, resolved once: flag > environment > config file > default.
//!
//! `resolve` takes the raw flags and a function that answers for the environment, reads the config file, and returns one validated
//! [`Settings`] value. Everything else in the program takes that value and never asks the environment again.
//!
//! Layout: [`keys`] is the table of keys as data (names, defaults, help); `resolve` walks it; `describe` and the table in the README
//! are printed from it. [`quantity`] and [`host`] parse what people write; `paths` is the only user of `directories`.
//!
//! What it does not do: it creates no directory, opens no socket, and knows nothing of what a value is used for.
//!
//! ```
//! use witness_settings::{Overrides, resolve};
//! let env = |name: &str| (name == "WITNESS_HOME").then(|| "/tmp/example-home".into());
//! let settings = resolve(&Overrides::default(), &env).unwrap();
//! assert_eq!(settings.models, std::path::Path::new("/tmp/example-home/models"));
//! assert_eq!(settings.host.to_string(), "127.0.0.1:11535");
//! ```

mod describe;
mod error;
mod file;
pub mod host;
pub mod keys;
mod paths;
pub mod quantity;
mod resolve;

pub use describe::{Described, describe, markdown_table};
pub use error::SettingsError;
pub use host::{DEFAULT_PORT, HostAddr};
pub use keys::{KEYS, Key};
pub use quantity::KeepAlive;
pub use resolve::{Environment, KV_CACHE_TYPES, Overrides, Settings, Source, process_environment, resolve};

#[cfg(test)]
mod tests;
