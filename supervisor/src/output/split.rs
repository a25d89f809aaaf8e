//! Bytes to lines: ended, not too long, and stamped.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memchr::memchr;

/// The longest line, in bytes; a longer one is split.
pub(super) const LINE_MAX: usize = 16 * 1024;

/// A time of UTC as lines begin with: `2026-11-23T03:56:00.123456Z`.
///
/// The calendar is Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>).
pub(super) fn stamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        since.subsec_micros()
    )
}

/// What stands before each line of a stream.
#[derive(Debug)]
pub(super) struct Mark<'a> {
    /// When it was read; `None` leaves lines bare.
    pub(super) stamp: Option<&'a str>,
    /// Of which attempt.
    pub(super) attempt: &'a str,
    /// Of which stream.
    pub(super) stream: &'a str,
}

impl Mark<'_> {
    /// Writes a line; `more` marks one that goes on in the next.
    pub(super) fn write(&self, into: &mut Vec<u8>, line: &[u8], more: bool) {
        if let Some(stamp) = self.stamp {
            let more = if more { "+" } else { "" };
            for part in [stamp, " ", self.attempt, " ", self.stream, more, " "] {
                into.extend_from_slice(part.as_bytes());
            }
        }
        into.extend_from_slice(line);
        into.push(b'\n');
    }

    /// Writes how much is missing at this place.
    pub(super) fn write_lost(&self, into: &mut Vec<u8>, lost: Lost, why: &str) {
        let mut text = Vec::new();
        let Lost { lines, bytes } = lost;
        write!(
            text,
            "[insulad: {lines} lines ({bytes} bytes) dropped: {why}]"
        )
        .expect("memory takes all writes");
        self.write(into, &text, false);
    }
}

/// What was dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Lines of the file.
    pub(super) lines: u64,
    /// Bytes of the file.
    pub(super) bytes: u64,
}

impl Lost {
    pub(super) fn is_none(self) -> bool {
        self.lines == 0
    }

    pub(super) fn add(&mut self, lines: u64, bytes: u64) {
        self.lines += lines;
        self.bytes += bytes;
    }
}

/// A stream's line that is not ended yet.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// Takes bytes in; every line that is complete or too long goes to `line`, with whether it goes
    /// on in the next.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8], bool)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (head, tail) = (&bytes[..end], &bytes[end + 1..]);
            if self.partial.is_empty() && head.len() <= LINE_MAX {
                line(head, false);
            } else {
                self.fill(head, &mut line);
                line(&self.partial, false);
                self.partial.clear();
            }
            bytes = tail;
        }
        self.fill(bytes, &mut line);
    }

    /// Keeps at most [`LINE_MAX`] bytes of a line that goes on.
    fn fill(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8], bool)) {
        while self.partial.len() + bytes.len() > LINE_MAX {
            let (head, tail) = bytes.split_at(LINE_MAX - self.partial.len());
            self.partial.extend_from_slice(head);
            line(&self.partial, true);
            self.partial.clear();
            bytes = tail;
        }
        self.partial.extend_from_slice(bytes);
    }

    /// The stream ended: what is left is a line.
    pub(super) fn finish(&mut self, mut line: impl FnMut(&[u8], bool)) {
        if !self.partial.is_empty() {
            line(&self.partial, false);
        }
        self.partial = Vec::new();
    }

    /// Gives back memory that a long line took.
    pub(super) fn shrink(&mut self) {
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stamp_is_the_time_of_utc() {
        for (seconds, micros, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000001Z"),
            (1_709_251_200, 0, "2024-03-01T00:00:00.000000Z"),
            (1_795_406_160, 123_456, "2026-11-23T03:56:00.123456Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, micros * 1_000);
            assert_eq!(stamp(time), expected);
        }
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_come(
            lines in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..50),
                    (0..3 * LINE_MAX).prop_map(|length| vec![b'x'; length]),
                ],
                0..6
            ),
            cuts in prop::collection::vec(1..30_000_usize, 1..20),
        ) {
            let text = lines.join(&b'\n');
            let (mut splitter, mut got, mut rest) = (Splitter::default(), Vec::new(), &text[..]);
            let mut take = |line: &[u8], more: bool| {
                assert!(line.len() <= LINE_MAX);
                assert!(!more || line.len() == LINE_MAX);
                got.extend_from_slice(line);
                if !more {
                    got.push(b'\n');
                }
            };
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                splitter.feed(head, &mut take);
                rest = tail;
            }
            splitter.finish(&mut take);
            let mut expected = text.clone();
            if !expected.is_empty() && expected.last() != Some(&b'\n') {
                expected.push(b'\n');
            }
            prop_assert!(got == expected);
        }
    }
}
