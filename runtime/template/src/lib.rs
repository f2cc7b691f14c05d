//! Chat templates: from a conversation to the text that a model was trained on.
//!
//! A model's own Jinja template is run as Hugging Face's `apply_chat_template` runs it: same options (`trim_blocks`, `lstrip_blocks`, loop
//! controls), same helpers (`raise_exception`, `strftime_now`, `tojson` as Python prints it, `{% generation %}`), same printing of values.
//! The engine is minijinja with Python's methods; this crate is the rest of the way to Python.
//!
//! Pure: no I/O, and the time is passed in. It knows nothing of tokenizers: special tokens come as text.
//!
//! **Invariant:** a template is hostile until proven otherwise. Its source, its work (fuel), its recursion and its output are bounded by
//! [`limits`]; whatever it does, rendering ends with a text or a clear error.
//!
//! Go templates (Ollama's own) are recognised by [`is_go_template`] and refused with their own error.
//!
//! ```
//! use witness_template::{ChatTemplate, CivilTime, RenderInput};
//! let template = ChatTemplate::compile("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")?;
//! let messages = serde_json::json!([{"role": "user", "content": "hi"}]);
//! assert_eq!(template.render(&RenderInput::new(&messages, CivilTime::from_unix(0)))?, "<user>hi");
//! # Ok::<(), witness_template::TemplateError>(())
//! ```

mod chat;
mod clock;
mod error;
mod filters;
mod go;
mod keep;
pub mod limits;
mod methods;
mod python;
mod rewrite;

pub use chat::{ChatTemplate, RenderInput, Rendered};
pub use clock::CivilTime;
pub use error::TemplateError;
pub use go::is_go_template;
