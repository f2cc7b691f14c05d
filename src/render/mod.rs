//! How things look in a terminal: tables, sizes, times, progress, wrapped text. Knows no verb.

pub(crate) mod measured;
pub(crate) mod output;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod quantity;
pub(crate) mod speed;
pub(crate) mod table;
pub(crate) mod wrap;
