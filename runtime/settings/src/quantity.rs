//! Durations and sizes as people write them. Pure; every overflow is an error, never a wrapped number.

use std::fmt;
use std::time::Duration;

/// How long an idle model stays loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeepAlive {
    /// Unload after this long without a request; zero unloads at once.
    For(Duration),
    /// Never unload for being idle.
    Forever,
}

impl KeepAlive {
    /// Reads `5m`, `300` (seconds), `0`, or any negative duration such as `-1`, which means forever.
    ///
    /// # Errors
    /// A sentence part that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().strip_prefix('-') {
            Some(rest) => parse_duration(rest).map(|_| KeepAlive::Forever),
            None => parse_duration(text).map(KeepAlive::For),
        }
    }
}

impl fmt::Display for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeepAlive::For(duration) => f.write_str(&format_duration(*duration)),
            KeepAlive::Forever => f.write_str("-1"),
        }
    }
}

const EXPECTED_DURATION: &str = "a duration such as `5m`, `1h30m`, `1.5s`, `250ms`, or a number of seconds";
const EXPECTED_SIZE: &str =
    "a size such as `8GiB` (8 x 2^30 bytes), `8G` (the same), `8GB` (8 x 10^9), `512MiB`, or a number of bytes";

/// Units of a duration, longest spelling first where one begins another, with their length in nanoseconds.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

/// Units of a size in lower case; a lone letter is the binary unit.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
];

/// Reads a non-negative duration: numbers with units, one after the other (`1h30m`), or a bare number of seconds.
///
/// # Errors
/// A sentence part that says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(EXPECTED_DURATION.into());
    }
    let mut total_ns: u64 = 0;
    let mut first = true;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let (unit_ns, after) = if after.is_empty() && first {
            (1_000_000_000, after)
        } else {
            DURATION_UNITS
                .iter()
                .find_map(|(unit, ns)| after.strip_prefix(unit).map(|after| (*ns, after)))
                .ok_or(EXPECTED_DURATION)?
        };
        let part = scale(number, unit_ns).ok_or(EXPECTED_DURATION)?;
        total_ns = total_ns.checked_add(part).ok_or("a duration below 584 years")?;
        rest = after.trim_start();
        first = false;
    }
    Ok(Duration::from_nanos(total_ns))
}

/// Writes a duration the way [`parse_duration`] reads it: `0s`, `250ms`, `1h30m`.
pub fn format_duration(duration: Duration) -> String {
    let mut out = String::new();
    let seconds = duration.as_secs();
    for (unit, length) in [("h", 3600), ("m", 60), ("s", 1)] {
        let count = match unit {
            "h" => seconds / length,
            _ => seconds / length % 60,
        };
        if count > 0 {
            out += &format!("{count}{unit}");
        }
    }
    let below = duration.subsec_nanos();
    if below > 0 {
        out += &if below.is_multiple_of(1_000_000) {
            format!("{}ms", below / 1_000_000)
        } else {
            format!("{below}ns")
        };
    }
    if out.is_empty() { "0s".into() } else { out }
}

/// Reads a size in bytes.
///
/// # Errors
/// A sentence part that says what was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_number(text.trim());
    let unit = unit.trim().to_ascii_lowercase();
    let scale_by = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or(EXPECTED_SIZE)?
        .1;
    scale(number, scale_by).ok_or_else(|| EXPECTED_SIZE.into())
}

/// Writes a size the way [`parse_size`] reads it, exactly: the largest binary unit that divides it, else plain bytes.
pub fn format_size(bytes: u64) -> String {
    for (unit, length) in [
        ("TiB", 1u64 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ] {
        if bytes > 0 && bytes.is_multiple_of(length) {
            return format!("{}{unit}", bytes / length);
        }
    }
    bytes.to_string()
}

/// Splits the digits (with at most one point) off the front.
fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Multiplies a decimal number by a unit without floating point: 9 digits after the point count, the rest is below a unit.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse::<u64>().ok()
        }
    };
    let fraction = &fraction[..fraction.len().min(9)];
    let fraction_value =
        u128::from(digits(fraction)?) * u128::from(unit) / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    digits(whole)?
        .checked_mul(unit)?
        .checked_add(u64::try_from(fraction_value).ok()?)
}
