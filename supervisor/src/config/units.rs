//! Durations and sizes as text: `"30s"`, `"512MiB"`.

use std::time::Duration;

const DURATIONS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

const SIZES: [(&str, u64); 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads a whole number of one unit; `None` where it is none, or more than 64 bits hold.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Reads a duration: a whole number and `ns`, `us`, `ms`, `s`, `m` or `h`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    quantity(text, &DURATIONS).map(Duration::from_nanos)
}

/// Reads a size in bytes: a whole number and `B`, `KiB`, `MiB`, `GiB` or `TiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    quantity(text, &SIZES)
}

/// A number in the largest unit that divides it.
fn in_words(number: u64, units: &[(&str, u64)]) -> String {
    let (name, factor) = units
        .iter()
        .rev()
        .find(|(_, factor)| number >= *factor && number.is_multiple_of(*factor))
        .unwrap_or(&units[0]);
    format!("{}{name}", number / factor)
}

/// Writes a duration as [`duration`] reads it.
pub(super) fn duration_text(duration: Duration) -> String {
    in_words(
        u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
        &DURATIONS,
    )
}

/// Writes a size as [`size`] reads it.
pub(crate) fn size_text(bytes: u64) -> String {
    in_words(bytes, &SIZES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_and_its_unit() {
        for (text, nanos) in [
            ("0us", 0),
            ("20us", 20_000),
            ("30s", 30_000_000_000),
            ("2h", 7_200_000_000_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in [
            "",
            "s",
            "30",
            "1.5s",
            "-1s",
            "30 s",
            "30S",
            "1d",
            "99999999999999999999s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(
            duration("9999999999999h"),
            None,
            "more than 64 bits of nanoseconds"
        );
    }

    #[test]
    fn a_size_is_a_whole_number_and_its_binary_unit() {
        assert_eq!(size("4GiB"), Some(4 << 30));
        assert_eq!(size("0B"), Some(0));
        for text in ["4", "4G", "4GB", "4 GiB", "99999999TiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["20us", "30s", "90m", "1h", "0ns"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
        for text in ["512MiB", "1TiB", "7B", "0B"] {
            assert_eq!(size_text(size(text).unwrap()), text);
        }
    }
}
