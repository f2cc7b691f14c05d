//! Conversions against what llama.cpp's converters, PEFT and transformers made of the same models.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod adapters;
mod back;
mod reference;
mod shared;
