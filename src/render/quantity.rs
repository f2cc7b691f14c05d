//! Sizes, durations and instants as people read them. Pure: the present is passed in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns bytes in powers of 1000 with two to three digits, as Ollama prints them: `4.7 GB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 9.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Returns a duration with the unit that fits: `1.25s`, `130.1ms`, `3m20s`.
pub(crate) fn duration(nanoseconds: u64) -> String {
    let seconds = nanoseconds as f64 / 1e9;
    if seconds >= 60.0 {
        let whole = nanoseconds / 1_000_000_000;
        format!("{}m{}s", whole / 60, whole % 60)
    } else if seconds >= 1.0 {
        format!("{seconds:.2}s")
    } else if seconds >= 1e-3 {
        format!("{:.1}ms", seconds * 1e3)
    } else {
        format!("{:.0}us", seconds * 1e6)
    }
}

/// Returns how long ago an instant of the API was: `3 hours ago`. An instant that cannot be read is returned as it stands.
pub(crate) fn ago(instant: &str, now: SystemTime) -> String {
    match parse_instant(instant) {
        Some(then) if then <= now => match now.duration_since(then) {
            Ok(passed) if passed < Duration::from_secs(1) => "just now".to_owned(),
            Ok(passed) => format!("{} ago", rough(passed)),
            Err(_) => "just now".to_owned(),
        },
        Some(_) => "just now".to_owned(),
        None => instant.to_owned(),
    }
}

/// Returns how far an instant of the API lies ahead: `4 minutes from now`; `for ever` beyond a century, as the daemon writes it.
pub(crate) fn until(instant: &str, now: SystemTime) -> String {
    const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);
    match parse_instant(instant) {
        Some(then) => match then.duration_since(now) {
            Ok(left) if left > FOREVER => "for ever".to_owned(),
            Ok(left) => format!("{} from now", rough(left)),
            Err(_) => "now".to_owned(),
        },
        None => instant.to_owned(),
    }
}

fn rough(time: Duration) -> String {
    const UNITS: [(u64, &str); 6] = [
        (365 * 86_400, "year"),
        (30 * 86_400, "month"),
        (7 * 86_400, "week"),
        (86_400, "day"),
        (3600, "hour"),
        (60, "minute"),
    ];
    let seconds = time.as_secs();
    let (count, unit) = UNITS
        .iter()
        .find(|(length, _)| seconds >= *length)
        .map_or((seconds, "second"), |(length, unit)| (seconds / length, unit));
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// Reads an RFC 3339 instant, such as `2026-11-22T16:03:00.5+01:00`, to the second.
fn parse_instant(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let zone = text
        .get(19..)?
        .trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset_s = match zone.as_bytes().first()? {
        b'Z' | b'z' => 0,
        sign @ (b'+' | b'-') => {
            let minutes = zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?;
            minutes * if *sign == b'-' { -60 } else { 60 }
        }
        _ => return None,
    };
    // Days since 1970-01-01 of a proleptic Gregorian date; years begin in March so that a leap day comes last.
    let year_from_march = if month > 2 { year } else { year - 1 };
    let era = year_from_march.div_euclid(400);
    let year_of_era = year_from_march.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset_s;
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (4_661_211_424, "4.7 GB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations() {
        for (ns, text) in [
            (0, "0us"),
            (1_500, "2us"),
            (130_079_000, "130.1ms"),
            (1_254_000_000, "1.25s"),
            (200_000_000_000, "3m20s"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn instants() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(parse_instant("1970-01-01T00:00:00Z"), Some(at(0)));
        assert_eq!(parse_instant("2024-02-29T00:00:00.123456789Z"), Some(at(1_709_164_800)));
        assert_eq!(parse_instant("2024-02-29T02:00:00+02:00"), Some(at(1_709_164_800)));
        assert_eq!(parse_instant("0001-01-01T00:00:00Z"), None);
        assert_eq!(parse_instant("yesterday"), None);
        assert_eq!(ago("1970-01-01T00:00:00Z", at(7200)), "2 hours ago");
        assert_eq!(ago("1970-01-01T00:00:01Z", at(0)), "just now");
        assert_eq!(until("1970-01-01T00:05:00Z", at(0)), "5 minutes from now");
        assert_eq!(until("2318-01-01T00:00:00Z", at(0)), "for ever");
    }
}
