//! Expected values come from Python's `datetime` and `zoneinfo`, not from the code under test.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

#[test]
fn texts_are_rfc_3339() {
    let good = [
        ("1970-01-01T00:00:00Z", 0),
        ("2024-02-09T14:05:00Z", 1_707_487_500_000),
        ("2024-02-09t14:05:00z", 1_707_487_500_000),
        ("2024-02-09T14:05:00.123Z", 1_707_487_500_123),
        ("2024-02-09T14:05:00.123999Z", 1_707_487_500_123),
        ("2024-02-09T19:35:00+05:30", 1_707_487_500_000),
        ("2024-02-09T09:05:00-05:00", 1_707_487_500_000),
        ("1969-12-31T23:59:59.999Z", -1),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        // A leap second is the second after.
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
    ];
    for (text, ms) in good {
        assert_eq!(parse_rfc3339(text), Ok(ms), "{text}");
        assert_eq!(parse_time_text(text), Ok(ms), "{text}");
    }
    let range = [
        "0000-12-31T23:59:59Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T23:59:60Z",
    ];
    for text in range {
        assert_eq!(parse_rfc3339(text), Err(BadTime::OutOfRange), "{text}");
    }
    for text in [
        "",
        "now",
        "2024-02-09",
        "2024-02-09T14:05",
        "2024-02-30T00:00:00Z",
        "2024-02-09T14:05:00",
        "10000-01-01T00:00:00Z",
        "2024-02-09T25:00:00Z",
        "Fri, 09 Feb 2024 14:05:00 GMT",
        "٢٠٢٤-02-09T14:05:00Z",
    ] {
        assert_eq!(parse_rfc3339(text), Err(BadTime::Unreadable), "{text}");
    }
    assert_eq!(
        parse_rfc3339(&format!("2024-02-09T14:05:00.{}Z", "0".repeat(10_000))),
        Err(BadTime::Unreadable)
    );
}

#[test]
fn numbers_are_seconds_below_ten_to_the_eleventh() {
    let good = [
        (0, 0),
        (1_707_487_500, 1_707_487_500_000),
        (99_999_999_999, 99_999_999_999_000),
        (100_000_000_000, 100_000_000_000),
        (1_707_487_500_123, 1_707_487_500_123),
        (253_402_300_799_999, 253_402_300_799_999),
        (-1, -1_000),
        (-62_135_596_800, -62_135_596_800_000),
        (-100_000_000_000, -100_000_000_000),
        (-62_135_596_800_000, -62_135_596_800_000),
    ];
    for (n, ms) in good {
        assert_eq!(from_number(n), Ok(ms), "{n}");
        assert_eq!(parse_time_text(&n.to_string()), Ok(ms), "{n}");
    }
    for n in [
        -62_135_596_801,
        -99_999_999_999,
        253_402_300_800_000,
        -62_135_596_800_001,
        i64::MAX,
        i64::MIN,
    ] {
        assert_eq!(from_number(n), Err(BadTime::OutOfRange), "{n}");
    }
    assert_eq!(
        parse_time_text("9223372036854775808"),
        Err(BadTime::OutOfRange)
    );
    for text in ["-", "+1", " 1", "1.5", "1e3", "0x10"] {
        assert_eq!(parse_time_text(text), Err(BadTime::Unreadable), "{text}");
    }
}

#[test]
fn instants_are_written_with_milliseconds() {
    assert_eq!(to_rfc3339(1_707_487_500_007), "2024-02-09T14:05:00.007Z");
    assert_eq!(to_rfc3339(-1), "1969-12-31T23:59:59.999Z");
    assert_eq!(to_rfc3339(i64::MIN), "0001-01-01T00:00:00.000Z");
    assert_eq!(to_rfc3339(i64::MAX), "9999-12-31T23:59:59.999Z");
}

#[test]
fn offsets_are_those_in_force() {
    let table = [
        ("Australia/Lord_Howe", 1_712_415_599, 39_600),
        ("Australia/Lord_Howe", 1_712_415_600, 37_800),
        ("Australia/Lord_Howe", 1_728_142_199, 37_800),
        ("Australia/Lord_Howe", 1_728_142_200, 39_600),
        ("Asia/Kolkata", 1_704_067_200, 19_800),
        ("Asia/Kolkata", -852_076_800, 23_400),
        ("Asia/Kolkata", -3_786_825_600, 21_208),
        ("America/New_York", 1_710_053_999, -18_000),
        ("America/New_York", 1_710_054_000, -14_400),
        ("America/New_York", 1_730_613_599, -14_400),
        ("America/New_York", 1_730_613_600, -18_000),
        ("America/New_York", -2_840_140_800, -17_762),
        ("America/New_York", -62_135_596_800, -17_762),
        ("Asia/Kathmandu", 1_704_067_200, 20_700),
        ("UTC", 1_704_067_200, 0),
        ("UTC", 253_402_300_799, 0),
    ];
    for (zone, seconds, offset) in table {
        let tz: Tz = zone.parse().unwrap();
        assert_eq!(offset_at(tz, seconds * 1_000), offset, "{zone} {seconds}");
    }
    // Out of the accepted years, and out of what a calendar can hold: the nearest end's.
    assert_eq!(offset_at(Tz::America__New_York, i64::MIN), -17_762);
    assert_eq!(offset_at(Tz::UTC, i64::MAX), 0);
}

#[test]
fn hours_and_days_are_those_of_the_clock_on_the_wall() {
    let new_york = Tz::America__New_York;
    let table = [
        // zone, instant (s), hour's start (s), civil day
        // 2024-03-10 01:59:59 EST and 03:00:00 EDT: one second apart, both of day 19,792.
        (new_york, 1_710_053_999, 1_710_050_400, 19_792),
        (new_york, 1_710_054_000, 1_710_054_000, 19_792),
        // The day of 23 hours ends at 2024-03-11 00:00 EDT = 04:00Z.
        (new_york, 1_710_129_599, 1_710_126_000, 19_792),
        (new_york, 1_710_129_600, 1_710_129_600, 19_793),
        // 2024-11-03 01:59:59 EDT, then 01:00:00 EST: the hour is lived twice and is two buckets.
        (new_york, 1_730_613_599, 1_730_610_000, 20_030),
        (new_york, 1_730_613_600, 1_730_613_600, 20_030),
        // Lord Howe goes back by half an hour at 15:00Z: 01:30..02:00 is lived twice. 01:59:59 +11:00 stands in the
        // hour that began at 14:00Z; 01:30:00 +10:30 in the hour whose label is 01:00 +10:30 = 14:30Z.
        (
            Tz::Australia__Lord_Howe,
            1_712_415_599,
            1_712_412_000,
            19_820,
        ),
        (
            Tz::Australia__Lord_Howe,
            1_712_415_600,
            1_712_413_800,
            19_820,
        ),
        // And forward at 15:30Z, 02:00 +10:30 -> 02:30 +11:00, whose hour is labelled 02:00 +11:00 = 15:00Z.
        (
            Tz::Australia__Lord_Howe,
            1_728_142_199,
            1_728_138_600,
            20_002,
        ),
        (
            Tz::Australia__Lord_Howe,
            1_728_142_200,
            1_728_140_400,
            20_002,
        ),
        // Kolkata's hours begin at the half hours of UTC: 05:30 of the new year is 05:00 there, labelled 23:30Z.
        (Tz::Asia__Kolkata, 1_704_067_200, 1_704_065_400, 19_723),
        (Tz::Asia__Kolkata, 1_704_047_400, 1_704_047_400, 19_723),
        (Tz::Asia__Kolkata, 1_704_047_399, 1_704_043_800, 19_722),
        (Tz::UTC, -1, -3_600, -1),
        (Tz::UTC, 0, 0, 0),
    ];
    for (tz, seconds, hour, day) in table {
        let offset = offset_at(tz, seconds * 1_000);
        assert_eq!(
            hour_bucket(seconds * 1_000, offset),
            (hour, offset),
            "{tz} {seconds}"
        );
        assert_eq!(civil_day(seconds * 1_000, offset), day, "{tz} {seconds}");
    }
    // 1850-01-01 05:53:28 on Kolkata's own mean time; 1850-01-01 is day -43,829.
    assert_eq!(
        hour_bucket(-3_786_825_600_000, 21_208),
        (-3_786_825_600 - 3_208, 21_208)
    );
    assert_eq!(civil_day(-3_786_825_600_000, 21_208), -43_829);
    assert_eq!(civil_day(MIN_TIME_MS, 0), -719_162);
    assert_eq!(civil_day(MIN_TIME_MS, -17_762), -719_163);
    assert_eq!(civil_day(MAX_TIME_MS, 0), 2_932_896);
    assert_eq!(minute_of(-1), -1);
    assert_eq!(minute_of(59_999), 0);
    assert_eq!(minute_of(60_000), 1);
}

proptest! {
    #[test]
    fn a_bucket_holds_its_instant(ms in MIN_TIME_MS..=MAX_TIME_MS, zone in 0..chrono_tz::TZ_VARIANTS.len()) {
        let offset = offset_at(chrono_tz::TZ_VARIANTS[zone], ms);
        let (hour, of) = hour_bucket(ms, offset);
        let seconds = ms.div_euclid(1_000);
        prop_assert!(hour <= seconds && seconds < hour + 3_600);
        prop_assert_eq!((hour + i64::from(of)).rem_euclid(3_600), 0);
        let day = i64::from(civil_day(ms, offset)) * 86_400 - i64::from(offset);
        prop_assert!(day <= seconds && seconds < day + 86_400);
    }

    #[test]
    fn what_is_written_is_read(ms in MIN_TIME_MS..=MAX_TIME_MS) {
        prop_assert_eq!(parse_rfc3339(&to_rfc3339(ms)), Ok(ms));
    }

    #[test]
    fn no_text_panics(text in ".{0,80}", n in any::<i64>()) {
        let _ = (parse_time_text(&text), parse_rfc3339(&text), from_number(n), offset_at(Tz::Asia__Kolkata, n));
    }
}
