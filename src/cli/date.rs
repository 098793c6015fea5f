//! Dates and spans as an operator writes and reads them: `30d`, `2027-01-31`, `2027-01-31T12:00:00Z`. Always UTC.

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Nothing here lasts longer, and every date has four digits of year.
const SPAN_DAYS_MAX: u64 = 36_525;

/// A whole number and a unit: `90s`, `15m`, `1h`, `30d`, `2w`. In milliseconds.
pub(super) fn span(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{}` is not a span such as 15m, 1h or 30d, of a century at most", text.escape_debug());
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let unit_ms = match unit {
        "s" => 1_000,
        "m" => MINUTE_MS,
        "h" => HOUR_MS,
        "d" => DAY_MS,
        "w" => 7 * DAY_MS,
        _ => return Err(wrong()),
    };
    let number = digits(number).and_then(|number| number.checked_mul(unit_ms));
    number.filter(|ms| *ms <= SPAN_DAYS_MAX * DAY_MS).ok_or_else(wrong)
}

/// When something ends: after a span from now, or at the beginning of a day, or at a moment. Unix milliseconds, always
/// after `now_unix_ms`.
pub(super) fn end(text: &str, now_unix_ms: u64) -> Result<u64, String> {
    let end = if text.contains('-') {
        moment(text)
    } else {
        span(text).map(|span| now_unix_ms.saturating_add(span))
    };
    let end = end?;
    if end <= now_unix_ms {
        return Err(format!("`{}` is not in the future", text.escape_debug()));
    }
    Ok(end)
}

/// `2027-01-31` or `2027-01-31T12:00:00Z`.
fn moment(text: &str) -> Result<u64, String> {
    let parse = || {
        let (date, time) = match text.split_once('T') {
            Some((date, time)) => (date, Some(time.strip_suffix('Z')?)),
            None => (text, None),
        };
        let (y, m, d) = three(date, '-', [4, 2, 2])?;
        let (h, min, s) = time.map_or(Some((0, 0, 0)), |time| three(time, ':', [2, 2, 2]))?;
        if !(1970..=9999).contains(&y) || h > 23 || min > 59 || s > 59 {
            return None;
        }
        let days = days(y, m, d);
        // A day that its month doesn't have comes back as another.
        (date_of(days) == (y, m, d)).then(|| days * DAY_MS + h * HOUR_MS + min * MINUTE_MS + s * 1_000)
    };
    let wrong = || {
        format!("`{}` is no date: write 30d, 2027-01-31 or 2027-01-31T12:00:00Z (UTC)", text.escape_debug())
    };
    parse().ok_or_else(wrong)
}

/// As `2027-01-31T12:00:00Z`.
pub(super) fn render(unix_ms: u64) -> String {
    let (y, m, d) = date_of(unix_ms / DAY_MS);
    let secs = unix_ms % DAY_MS / 1_000;
    format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z", secs / 3_600, secs / 60 % 60, secs % 60)
}

fn three(text: &str, between: char, widths: [usize; 3]) -> Option<(u64, u64, u64)> {
    let mut parts = text.split(between).zip(widths);
    let mut next =
        || parts.next().filter(|(part, width)| part.len() == *width).and_then(|(part, _)| digits(part));
    let three = (next()?, next()?, next()?);
    (text.split(between).count() == 3).then_some(three)
}

fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Days since 1970 of a date in the Gregorian calendar: years are counted from March, so that a leap day is a year's last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day;
    // 719,469: from the first of March of the year 0 to 1970, and one, because days are counted from 1.
    (365 * year + year / 4 - year / 100 + year / 400 + of_year).saturating_sub(719_469)
}

/// The other way round, by counting: what is shown to people need not be fast.
fn date_of(days_since: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days_since / 366;
    while days(year + 1, 1, 1) <= days_since {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= days_since).unwrap_or(1);
    (year, month, days_since - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix_s, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(render(unix_s * 1_000), text);
            assert_eq!(moment(text), Ok(unix_s * 1_000));
        }
        assert_eq!(moment("2027-01-31"), moment("2027-01-31T00:00:00Z"));
        for day in 0..60_000 {
            let text = render(day * DAY_MS);
            assert_eq!(moment(&text), Ok(day * DAY_MS), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for wrong in [
            "2027-02-29",
            "2027-13-01",
            "2027-00-10",
            "2027-04-31",
            "2027-1-1",
            "1969-12-31",
            "27-01-01",
            "2027-01-01T",
            "2027-01-01T24:00:00Z",
            "2027-01-01T12:00:00",
            "2027-01-01T12:00:00+02:00",
            "2027-01-01-01",
            "-",
            "+2027-01-01",
        ] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_span_has_a_number_and_a_unit() {
        for (text, ms) in
            [("90s", 90_000), ("15m", 900_000), ("1h", HOUR_MS), ("30d", 30 * DAY_MS), ("0s", 0)]
        {
            assert_eq!(span(text), Ok(ms));
        }
        for wrong in ["", "d", "30", "30 d", "-1d", "1.5h", "1D", "36526d", "99999999999999999999d", "1é"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        assert_eq!(end("1h", 5), Ok(HOUR_MS + 5));
        assert!(end("0s", 5).is_err() && end("1970-01-01", 5).is_err());
    }
}
