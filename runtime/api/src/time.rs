//! Instants as text: RFC 3339 in UTC with nanoseconds, without a calendar library.

use std::time::{SystemTime, UNIX_EPOCH};

/// What stands where no time is known: Go's zero time, which Ollama's clients recognise.
pub const UNKNOWN_TIME: &str = "0001-01-01T00:00:00Z";

/// Returns `2024-08-05T01:02:03.000000004Z`. Instants before 1970 give [`UNKNOWN_TIME`].
///
/// The calendar is the proleptic Gregorian one; days are turned into dates by counting 400-year eras of 146,097 days that begin in March.
pub fn rfc3339(instant: SystemTime) -> String {
    let Ok(since) = instant.duration_since(UNIX_EPOCH) else {
        return UNKNOWN_TIME.to_owned();
    };
    let seconds = since.as_secs();
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date_of(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
        since.subsec_nanos()
    )
}

/// Returns year, month and day of a number of days since 1970-01-01.
fn date_of(days: u64) -> (u64, u64, u64) {
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    let from_march = days + 719_468;
    let (era, day_of_era) = (from_march / 146_097, from_march % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    // Dates around leap days and century borders; the seconds were computed by `date -u -d .. +%s`.
    #[test]
    fn known_instants() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, 5, "2000-02-28T23:59:59.000000005Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
            (1_709_164_800, 0, "2024-02-29T00:00:00.000000000Z"),
            (1_722_819_723, 999_999_999, "2024-08-05T01:02:03.999999999Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::new(seconds, nanos)), text);
        }
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), UNKNOWN_TIME);
    }
}
