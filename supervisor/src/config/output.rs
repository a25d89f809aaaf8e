//! `[run.output]`: what becomes of what a service writes.

use std::time::Duration;

use insula_core::spec::OutputSpec;

use super::document::{Section, Value};
use super::units;

/// Smallest and largest file.
const SIZE: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 40;
/// Most files of an instance.
const FILES_MAX: i64 = 1_000;
/// Shortest age of a file: each begins another one.
const AGE_MIN: Duration = Duration::from_secs(1);
/// Smallest and largest pipe.
const PIPE: std::ops::RangeInclusive<u64> = 4 << 10..=1 << 20;

/// Reads the table.
pub(super) fn read(output: &Section<'_>, was: OutputSpec) -> Option<OutputSpec> {
    let size_max = output.optional("max-size", was.size_max, |value| size(value, SIZE));
    let files_max = output.optional("keep", was.files_max, |value| {
        u32::try_from(value.integer(1..=FILES_MAX)?).ok()
    });
    let age_max = output.optional("max-age", was.age_max, |value| {
        if value.is("off") {
            return Some(None);
        }
        let text = value.text()?;
        match units::duration(&text) {
            Some(age) if age >= AGE_MIN => Some(Some(age)),
            Some(_) => value.wrong("a file is kept for a second at least"),
            None => value.wrong_but(
                format!("`{text}` is no duration"),
                "write a whole number and `s`, `m` or `h`, or `off`",
            ),
        }
    });
    let timestamps = output.optional("timestamps", was.timestamps, Value::boolean);
    let pipe_size = output.optional("pipe-size", was.pipe_size, |value| size(value, PIPE));
    Some(OutputSpec {
        size_max: size_max?,
        files_max: files_max?,
        age_max: age_max?,
        timestamps: timestamps?,
        pipe_size: pipe_size?,
    })
}

/// A size within limits, as text with its unit.
pub(super) fn size(value: &Value<'_>, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
    let text = value.text()?;
    match units::size(&text) {
        Some(size) if range.contains(&size) => Some(size),
        Some(_) => value.wrong(format!(
            "not between {} and {}",
            units::size_text(*range.start()),
            units::size_text(*range.end())
        )),
        None => value.wrong_but(
            format!("`{text}` is no size"),
            "write a whole number and `B`, `KiB`, `MiB`, `GiB` or `TiB`",
        ),
    }
}
