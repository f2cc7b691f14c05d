//! Reading helpers: JSON `null` where a value may be absent, and writing helpers: what is left out when empty.

use serde::{Deserialize, Deserializer};

/// Reads a value, or its default from `null`, as Go's decoder does.
pub(crate) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Tells whether a count is zero and therefore left out, as Go's `omitempty` does.
pub(crate) fn is_zero(count: &u64) -> bool {
    *count == 0
}
