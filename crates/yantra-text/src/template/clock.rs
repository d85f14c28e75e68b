//! `strftime_now`: the current date in C's `strftime` notation, in UTC, from a clock that tests can set.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the present moment comes from.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

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
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A moment split into calendar fields (proleptic Gregorian, UTC).
struct Calendar {
    year: i64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: i64,
    /// 0 is Sunday.
    weekday: usize,
    /// 1 to 366.
    day_of_year: i64,
    hour: i64,
    minute: i64,
    second: i64,
    microsecond: u32,
}

impl Calendar {
    fn new(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX / 2);
        let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Years counted from March make the leap day the last of its year (Hinnant, "chrono-compatible date algorithms").
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let day = day_from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        // 1 March is day 60 of a common year and day 61 of a leap year.
        let day_of_year = if month <= 2 { day_from_march - 305 } else { day_from_march + 60 + i64::from(is_leap) };
        Self {
            year,
            month: usize::try_from(month).unwrap_or(1),
            day,
            weekday: usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0),
            day_of_year,
            hour: second_of_day / 3_600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
            microsecond: since_epoch.subsec_micros(),
        }
    }
}

/// Formats `time` as Python's `datetime.strftime` does in the C locale; in UTC; unknown directives stay as they are.
pub fn strftime(time: SystemTime, format: &str) -> String {
    let calendar = Calendar::new(time);
    let mut out = String::with_capacity(format.len() * 2);
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut directive = characters.next();
        let padding = matches!(directive, Some('-' | '_'));
        let flag = if padding { directive } else { None };
        if padding {
            directive = characters.next();
        }
        let Some(directive) = directive else {
            out.push('%');
            out.extend(flag);
            break;
        };
        write_directive(&mut out, &calendar, flag, directive);
    }
    out
}

/// Reads a moment as RFC 3339 writes it (`2026-11-28T10:30:00Z`, `2026-11-28T16:00:00+05:30`), or the beginning of a day in
/// UTC (`2026-11-28`). `None`: it is none, or before 1970.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let number = |text: &str| -> Option<i64> {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let (date, time) = text.split_at_checked(10)?;
    let [year, month, day] = fields(date, '-', number)?;
    let seconds = if time.is_empty() { 0 } else { seconds_of_day(time.strip_prefix(['T', 't', ' '])?, number)? };
    // Years counted from March, as in `Calendar::new`.
    let (year_from_march, month_from_march) = (year - i64::from(month <= 2), (month + 9) % 12);
    let (era, year_of_era) = (year_from_march.div_euclid(400), year_from_march.rem_euclid(400));
    let day_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * month_from_march + 2) / 5 + day - 1;
    let days = era * 146_097 + day_of_era - 719_468;
    let midnight = UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(days * 86_400).ok()?))?;
    let calendar = Calendar::new(midnight);
    let is_real = (calendar.year, calendar.month as i64, calendar.day) == (year, month, day);
    let seconds = u64::try_from(days * 86_400 + seconds).ok().filter(|_| is_real)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// `10:30:00.5+05:30` as seconds since midnight in UTC, fractions left out.
fn seconds_of_day(text: &str, number: impl Fn(&str) -> Option<i64>) -> Option<i64> {
    let (time, zone) = text.split_at_checked(8)?;
    let [hour, minute, second] = fields(time, ':', &number)?;
    let digits = zone.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count() + 1);
    let zone = &zone[digits..];
    let offset = match zone.as_bytes().first()? {
        b'Z' | b'z' if zone.len() == 1 && digits != 1 => 0,
        sign @ (b'+' | b'-') if digits != 1 => {
            let [hours, minutes] = fields(&zone[1..], ':', &number)?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    // 60 is a leap second.
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second - offset)
}

/// Numbers between separators: of two digits, but a year of four.
fn fields<const N: usize>(text: &str, separator: char, number: impl Fn(&str) -> Option<i64>) -> Option<[i64; N]> {
    let fields: Vec<i64> = text
        .split(separator)
        .enumerate()
        .map(|(place, field)| {
            let digits = if separator == '-' && place == 0 { 4 } else { 2 };
            number(field).filter(|_| field.len() == digits)
        })
        .collect::<Option<_>>()?;
    fields.try_into().ok()
}

fn write_directive(out: &mut String, calendar: &Calendar, flag: Option<char>, directive: char) {
    let mut number = |value: i64, width: usize, fill: char| {
        let text = match (flag, fill) {
            (Some('-'), _) => value.to_string(),
            (Some(_), _) | (None, ' ') => format!("{value:width$}"),
            _ => format!("{value:0width$}"),
        };
        out.push_str(&text);
    };
    let hour_of_twelve = (calendar.hour + 11) % 12 + 1;
    match directive {
        'Y' => number(calendar.year, 4, '0'),
        'y' => number(calendar.year.rem_euclid(100), 2, '0'),
        'm' => number(i64::try_from(calendar.month).unwrap_or(1), 2, '0'),
        'd' => number(calendar.day, 2, '0'),
        'e' => number(calendar.day, 2, ' '),
        'H' => number(calendar.hour, 2, '0'),
        'I' => number(hour_of_twelve, 2, '0'),
        'M' => number(calendar.minute, 2, '0'),
        'S' => number(calendar.second, 2, '0'),
        'j' => number(calendar.day_of_year, 3, '0'),
        'w' => number(i64::try_from(calendar.weekday).unwrap_or(0), 1, '0'),
        'u' => number(i64::try_from((calendar.weekday + 6) % 7 + 1).unwrap_or(1), 1, '0'),
        'f' => number(i64::from(calendar.microsecond), 6, '0'),
        'B' => out.push_str(MONTHS[calendar.month - 1]),
        'b' | 'h' => out.push_str(&MONTHS[calendar.month - 1][..3]),
        'A' => out.push_str(WEEKDAYS[calendar.weekday]),
        'a' => out.push_str(&WEEKDAYS[calendar.weekday][..3]),
        'p' => out.push_str(if calendar.hour < 12 { "AM" } else { "PM" }),
        'F' => write_all(out, calendar, "Y-m-d"),
        'D' | 'x' => write_all(out, calendar, "m/d/y"),
        'T' | 'X' => write_all(out, calendar, "H:M:S"),
        'R' => write_all(out, calendar, "H:M"),
        'c' => write_all(out, calendar, "a b e H:M:S Y"),
        'n' => out.push('\n'),
        't' => out.push('\t'),
        // A Python datetime without a time zone prints nothing for these.
        'z' | 'Z' => {}
        '%' => out.push('%'),
        other => {
            out.push('%');
            out.extend(flag);
            out.push(other);
        }
    }
}

/// Writes a composite directive: letters are directives, the rest is literal.
fn write_all(out: &mut String, calendar: &Calendar, directives: &str) {
    for character in directives.chars() {
        if character.is_ascii_alphabetic() {
            write_directive(out, calendar, None, character);
        } else {
            out.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(seconds: u64, format: &str, expected: &str) {
        assert_eq!(strftime(UNIX_EPOCH + Duration::from_secs(seconds), format), expected);
    }

    /// Expected values are what `date -u -d TEXT +%s` prints.
    #[test]
    fn reads_rfc3339() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_rfc3339(text), expected.map(|it| UNIX_EPOCH + Duration::from_secs(it)), "{text}");
        };
        check("1970-01-01", Some(0));
        check("2000-02-29T12:00:00Z", Some(951_825_600));
        check("2026-11-28T10:30:00Z", Some(1_795_861_800));
        check("2026-11-28T16:00:00.25+05:30", Some(1_795_861_800));
        check("2026-11-28 02:30:00-08:00", Some(1_795_861_800));
        check("2099-12-31t23:59:59z", Some(4_102_444_799));
        for wrong in [
            "",
            "2026",
            "2026-2-29",
            "2026-02-29",
            "2026-13-01",
            "2026-00-10",
            "1969-12-31",
            "2026-11-28T10:30Z",
            "2026-11-28T24:00:00Z",
            "2026-11-28T10:30:00",
            "2026-11-28T10:30:00.Z",
            "2026-11-28T10:30:00+5:30",
            "2026-11-28T10:30:00ZZ",
            "२०२६-११-२८",
            "+026-11-28",
        ] {
            check(wrong, None);
        }
    }

    /// Expected values are what Python's `datetime.utcfromtimestamp(seconds).strftime(format)` prints.
    #[test]
    fn formats_as_strftime() {
        check(0, "%Y-%m-%d %H:%M:%S %A", "1970-01-01 00:00:00 Thursday");
        check(1_772_600_767, "%d %b %Y", "04 Mar 2026");
        check(1_772_600_767, "%B %-d, %Y; %a %e %I:%M %p %j", "March 4, 2026; Wed  4 05:06 AM 063");
        check(1_709_208_000, "%F %j %y %D %T", "2024-02-29 060 24 02/29/24 12:00:00");
        check(1_735_603_200, "%F %j", "2024-12-31 366");
        check(951_782_400, "%F%%%q%z", "2000-02-29%%q");
        check(1_772_600_767, "%-m/%-d %c", "3/4 Wed Mar  4 05:06:07 2026");
    }
}
