//! The training mathematics as a user of the crate sees it: recorded runs of the reference, finite differences, and what must hold of any run.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod gradients;
mod hostile;
mod optimizers;
mod oracle;
mod peft;
mod runs;
mod script;
mod stored;
mod support;
