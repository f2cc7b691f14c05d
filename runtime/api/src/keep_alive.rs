//! `keep_alive`: how long a model stays loaded after its last request, as a number of seconds or a duration text.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::time::Duration;

/// How long a model stays loaded once it is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// So long; zero = unload at once.
    For(Duration),
    /// Until it is asked to go or makes room. Written as any negative number or duration.
    Forever,
}

impl KeepAlive {
    /// Tells whether the model is to go at once.
    pub fn is_zero(self) -> bool {
        self == KeepAlive::For(Duration::ZERO)
    }
}

/// Reads `5m`, `1h30m`, `1.5s`, `-1`, `300`: a sequence of decimal numbers with units (`ns us µs ms s m h`), or a bare number of seconds.
///
/// Negative is [`KeepAlive::Forever`]. What exceeds [`Duration`] is forever as well.
pub fn parse_duration(text: &str) -> Result<KeepAlive, String> {
    let text = text.trim();
    let wrong = || format!("`{text}` is not a duration such as `5m`, `1h30m`, `0` or `-1`");
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut seconds = 0f64;
    while !rest.is_empty() {
        let number_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..number_end].parse().map_err(|_| wrong())?;
        rest = &rest[number_end..];
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit_end] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "" if seconds == 0.0 && rest.is_empty() => 1.0,
                _ => return Err(wrong()),
            };
        rest = &rest[unit_end..];
    }
    Ok(from_seconds(if is_negative { -seconds } else { seconds }))
}

fn from_seconds(seconds: f64) -> KeepAlive {
    if seconds < 0.0 {
        return KeepAlive::Forever;
    }
    Duration::try_from_secs_f64(seconds).map_or(KeepAlive::Forever, KeepAlive::For)
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = KeepAlive;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("seconds as a number, or a duration such as `5m`")
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<KeepAlive, E> {
                Ok(u64::try_from(seconds).map_or(KeepAlive::Forever, |s| KeepAlive::For(Duration::from_secs(s))))
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<KeepAlive, E> {
                Ok(KeepAlive::For(Duration::from_secs(seconds)))
            }
            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<KeepAlive, E> {
                Ok(from_seconds(seconds))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeepAlive, E> {
                parse_duration(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for KeepAlive {
    /// Writes seconds as a number where they are whole, else as text with a unit; forever is `-1`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            KeepAlive::Forever => serializer.serialize_i64(-1),
            KeepAlive::For(time) if time.subsec_nanos() == 0 => serializer.serialize_u64(time.as_secs()),
            KeepAlive::For(time) => serializer.serialize_str(&format!("{}s", time.as_secs_f64())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts() {
        let seconds = |s: f64| KeepAlive::For(Duration::from_secs_f64(s));
        for (json, expected) in [
            ("0", seconds(0.0)),
            ("300", seconds(300.0)),
            ("1.5", seconds(1.5)),
            ("-1", KeepAlive::Forever),
            ("-0.5", KeepAlive::Forever),
            ("1e300", KeepAlive::Forever),
            ("\"5m\"", seconds(300.0)),
            ("\"1h30m\"", seconds(5400.0)),
            ("\"250ms\"", seconds(0.25)),
            ("\"-1m\"", KeepAlive::Forever),
            ("\"-1\"", KeepAlive::Forever),
            ("\"0\"", seconds(0.0)),
            ("\"90\"", seconds(90.0)),
        ] {
            assert_eq!(serde_json::from_str::<KeepAlive>(json).unwrap(), expected, "{json}");
        }
        for json in ["\"\"", "\"m\"", "\"5 minutes\"", "\"1h30\"", "\"-\"", "true", "[]"] {
            assert!(serde_json::from_str::<KeepAlive>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for json in ["-1", "0", "300", "\"0.25s\""] {
            let value: KeepAlive = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
        }
    }
}
