//! The quick start's data: what the small model is taught, made from rules by seed, and the means to tell whether it is right.
//!
//! | module | knows |
//! | --- | --- |
//! | [`grammar`] | rules, tables and topics; random numbers |
//! | [`facts`] | the names of the real `witness` command |
//! | [`check`], `command`, `policy`, `rego` | whether a text about Witness is right |
//! | `phrasing` | the same question in other words |
//! | [`generate`] | rows for the base and for the adapter |
//! | [`grade`] | how good an answer is |
//!
//! `english.txt`, `domain.txt` and `chats.txt` hold the words; `main.rs` writes the files.

pub(crate) mod check;
mod command;
pub(crate) mod facts;
pub(crate) mod generate;
pub(crate) mod grade;
pub(crate) mod grammar;
mod phrasing;
mod policy;
mod rego;
