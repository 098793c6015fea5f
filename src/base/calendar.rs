//! Calendar days and months (UTC) as numbers, for what is counted by them.

/// Milliseconds in a day.
const DAY_MS: u64 = 86_400_000;

/// Days since 1970-01-01.
pub fn day(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms / DAY_MS).unwrap_or(u32::MAX)
}

/// Months since January of the year 0.
pub fn month(unix_ms: u64) -> u32 {
    let (year, month, _) = date(day(unix_ms));
    year * 12 + month - 1
}

/// Year, month (1 to 12) and day of the month of a day since 1970-01-01, by the proleptic Gregorian calendar.
pub fn date(day: u32) -> (u32, u32, u32) {
    // Years begin in March here, so that a leap day is a year's last; an era is 400 of them, 146,097 days.
    let shifted = u64::from(day) + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    (narrow(year), narrow(month), narrow(day_of_month))
}

/// The day since 1970-01-01 of a date; `None` for what is no date, or lies before.
pub fn day_of(year: u32, month: u32, day: u32) -> Option<u32> {
    if !(1970..=9_999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // The inverse of `date`, which also judges it: the 31st of February is another day's date.
    let shifted_year = u64::from(year - u32::from(month <= 2));
    let shifted_month = u64::from((month + 9) % 12);
    let year_of_era = shifted_year % 400;
    let day_of_year = (153 * shifted_month + 2) / 5 + u64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let number = u32::try_from((shifted_year / 400 * 146_097 + day_of_era).checked_sub(719_468)?).ok()?;
    (date(number) == (year, month, day)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (number, expect) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_779, (2026, 11, 22)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(number), expect, "{number}");
            assert_eq!(day_of(expect.0, expect.1, expect.2), Some(number));
        }
    }

    #[test]
    fn what_is_no_date_has_no_day() {
        for (year, month, day) in [
            (1969, 12, 31),
            (2023, 2, 29),
            (2024, 4, 31),
            (2024, 0, 1),
            (2024, 13, 1),
            (2024, 1, 0),
            (2024, 1, 32),
        ] {
            assert_eq!(day_of(year, month, day), None);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = date(0);
        for number in 1..60_000 {
            let (year, month, day) = date(number);
            let follows = (year, month, day) == (before.0, before.1, before.2 + 1)
                || (year, month, day) == (before.0, before.1 + 1, 1)
                || (year, month, day) == (before.0 + 1, 1, 1) && (before.1, before.2) == (12, 31);
            assert!(follows, "{before:?} {:?}", (year, month, day));
            before = (year, month, day);
        }
    }

    #[test]
    fn a_month_is_another_number_than_the_next() {
        let last_of_october = 20_757 * DAY_MS + DAY_MS - 1;
        assert_eq!(month(last_of_october) + 1, month(last_of_october + 1));
        assert_eq!((month(0), day(DAY_MS - 1)), (1970 * 12, 0));
    }
}
