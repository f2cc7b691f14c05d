//! Dates for `strftime_now`. The time is passed in; this module only counts days and writes them out.

/// A date and time of day, as a wall clock shows them. Which zone it is in is the caller's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    /// Year of the Gregorian calendar.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl CivilTime {
    /// Returns the date and time in UTC of a count of seconds since 1970. Seconds beyond the year 9999 are taken as its end.
    pub fn from_unix(seconds: i64) -> Self {
        let seconds = seconds.clamp(-62_135_596_800, 253_402_300_799);
        let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Years begin in March here, so that the leap day is the last of its year; 400 years have 146,097 days.
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            hour: (second_of_day / 3600) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            second: (second_of_day % 60) as u8,
        }
    }

    /// Returns the day of the year, from 1.
    fn day_of_year(self) -> u16 {
        let is_leap = (self.year % 4 == 0 && self.year % 100 != 0) || self.year % 400 == 0;
        let before: [u16; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let index = usize::from(self.month.clamp(1, 12)) - 1;
        before[index] + u16::from(is_leap && self.month > 2) + u16::from(self.day)
    }

    /// Returns the day of the week, 0 = Sunday.
    fn weekday(self) -> usize {
        let years = self.year - 1;
        let days = years * 365 + years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
        // 1 January of the year 1 was a Monday.
        (days + i64::from(self.day_of_year())).rem_euclid(7) as usize
    }

    /// Writes the time as C's `strftime` does in the C locale. What is not known stays as it is written, as in Python on Linux.
    pub(crate) fn format(self, pattern: &str) -> String {
        let mut out = String::new();
        let mut rest = pattern.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut flag = None;
            let mut directive = rest.next();
            if let Some(sign @ ('-' | '_' | '0' | '^')) = directive {
                flag = Some(sign);
                directive = rest.next();
            }
            match directive.and_then(|directive| self.field(directive, flag)) {
                Some(text) if flag == Some('^') => out.push_str(&text.to_uppercase()),
                Some(text) => out.push_str(&text),
                None => {
                    out.push('%');
                    out.extend(flag);
                    out.extend(directive);
                }
            }
        }
        out
    }

    fn field(self, directive: char, flag: Option<char>) -> Option<String> {
        let padded = |value: i64, width: usize, fill: char| match flag.unwrap_or(fill) {
            '-' => value.to_string(),
            '_' | ' ' => format!("{value:>width$}"),
            _ => format!("{value:0>width$}"),
        };
        let number = |value: i64| padded(value, 2, '0');
        let month = MONTHS[usize::from(self.month.clamp(1, 12)) - 1];
        let hour_of_12 = i64::from((self.hour + 11) % 12 + 1);
        Some(match directive {
            'Y' => self.year.to_string(),
            'C' => number(self.year.div_euclid(100)),
            'y' => number(self.year.rem_euclid(100)),
            'm' => number(i64::from(self.month)),
            'd' => number(i64::from(self.day)),
            'e' => padded(i64::from(self.day), 2, ' '),
            'H' => number(i64::from(self.hour)),
            'I' => number(hour_of_12),
            'k' => padded(i64::from(self.hour), 2, ' '),
            'l' => padded(hour_of_12, 2, ' '),
            'M' => number(i64::from(self.minute)),
            'S' => number(i64::from(self.second)),
            'j' => padded(i64::from(self.day_of_year()), 3, '0'),
            'f' => "000000".to_owned(),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'P' => if self.hour < 12 { "am" } else { "pm" }.to_owned(),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => DAYS[self.weekday()].to_owned(),
            'a' => DAYS[self.weekday()][..3].to_owned(),
            'w' => self.weekday().to_string(),
            'u' => (if self.weekday() == 0 { 7 } else { self.weekday() }).to_string(),
            'F' => self.format("%Y-%m-%d"),
            'T' | 'X' => self.format("%H:%M:%S"),
            'R' => self.format("%H:%M"),
            'D' | 'x' => self.format("%m/%d/%y"),
            'c' => self.format("%a %b %e %H:%M:%S %Y"),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::CivilTime;

    #[test]
    fn days_are_counted_as_everybody_counts_them() {
        let check = |seconds, expected: &str| {
            assert_eq!(
                CivilTime::from_unix(seconds).format("%Y-%m-%d %H:%M:%S %a %j"),
                expected
            );
        };
        // Checked against Python's datetime.
        check(0, "1970-01-01 00:00:00 Thu 001");
        check(951_827_696, "2000-02-29 12:34:56 Tue 060");
        check(1_735_689_599, "2024-12-31 23:59:59 Tue 366");
        check(-1, "1969-12-31 23:59:59 Wed 365");
        check(4_102_444_800, "2100-01-01 00:00:00 Fri 001");
        assert_eq!(CivilTime::from_unix(i64::MAX).year, 9999);
        assert_eq!(CivilTime::from_unix(i64::MIN).year, 1);
    }

    #[test]
    fn fields_and_flags() {
        let time = CivilTime::from_unix(1_720_170_305); // 2024-07-05 09:05:05, a Friday
        assert_eq!(
            time.format("%d %b %Y|%B %-d, %Y|%A|%I:%M %p|%e|%y|%%|%Q|%"),
            "05 Jul 2024|July 5, 2024|Friday|09:05 AM| 5|24|%|%Q|%"
        );
    }
}
