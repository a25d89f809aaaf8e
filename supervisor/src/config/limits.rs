//! Limits that the kernel enforces by cgroup and quota: `[profiles.NAME.limits]` and `[run.limits]`.

use insula_core::limits::Resources;

use super::document::{Section, Value};
use super::units::{self, size_text};

/// Least and most files of a service; its own directory is one of them.
const FILES: std::ops::RangeInclusive<i64> = 16..=1 << 40;
/// Least and most memory, and space on the disk.
const MEMORY: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;
/// As many processes as a kernel can number.
const PIDS_MAX: i64 = 1 << 22;
/// Hundredths of a processor at most: 1,024 of them.
const PERCENT_MAX: u64 = 102_400;
/// The weight that the kernel gives unless told otherwise.
const WEIGHT: i64 = 100;

/// Whose limits are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose<'a> {
    /// Those that a profile gives.
    Profile,
    /// Those that a service asks for, below what the profile of this name gives.
    Service(&'a str, &'a Resources),
}

impl Whose<'_> {
    /// Says what is wrong with more than the profile gives.
    fn within(
        self,
        value: &Value<'_>,
        asked: u64,
        limit: impl Fn(&Resources) -> Option<u64>,
        text: impl Fn(u64) -> String,
    ) -> Option<u64> {
        match self {
            Self::Service(name, given) if limit(given).is_some_and(|given| asked > given) => {
                let most = text(limit(given).unwrap_or_default());
                value.wrong(format!("more than {most}, which profile `{name}` gives"))
            }
            Self::Profile | Self::Service(..) => Some(asked),
        }
    }

    /// The largest weight: a service cannot have more than others of its profile.
    fn weight_max(self) -> i64 {
        match self {
            Self::Profile => 10_000,
            Self::Service(..) => WEIGHT,
        }
    }
}

/// Reads the keys; what is not there keeps what it was.
pub(super) fn read(keys: &Section<'_>, was: Resources, whose: Whose<'_>) -> Option<Resources> {
    let memory_high = keys.optional("memory-high", was.memory_high, |value| {
        let asked = bytes(value)?;
        whose
            .within(value, asked, |given| given.memory_high, size_text)
            .map(Some)
    });
    let memory_max = keys.optional("memory-max", was.memory_max, |value| {
        let asked = bytes(value)?;
        whose
            .within(value, asked, |given| given.memory_max, size_text)
            .map(Some)
    });
    let pids_max = keys.optional("pids-max", was.pids_max, |value| {
        let asked = u64::try_from(value.integer(1..=PIDS_MAX)?).ok()?;
        whose
            .within(
                value,
                asked,
                |given| given.pids_max,
                |most| most.to_string(),
            )
            .map(Some)
    });
    let cpu_max = keys.optional("cpu-max", was.cpu_max, |value| {
        let asked = share(value)?;
        let text = |most: u64| format!("{}%", most / 10);
        whose
            .within(value, asked, |given| given.cpu_max, text)
            .map(Some)
    });
    let weight = |value: &Value<'_>| {
        let weight = value.integer(1..=whose.weight_max())?;
        Some(u64::try_from(weight).ok())
    };
    let cpu_weight = keys.optional("cpu-weight", was.cpu_weight, weight);
    let io_weight = keys.optional("io-weight", was.io_weight, weight);
    let data_max = keys.optional("data-max", was.data_max, |value| {
        let asked = bytes(value)?;
        whose
            .within(value, asked, |given| given.data_max, size_text)
            .map(Some)
    });
    let data_files_max = keys.optional("data-files-max", was.data_files_max, |value| {
        let asked = u64::try_from(value.integer(FILES)?).ok()?;
        let text = |most: u64| most.to_string();
        whose
            .within(value, asked, |given| given.data_files_max, text)
            .map(Some)
    });
    Some(Resources {
        memory_high: memory_high?,
        memory_max: memory_max?,
        pids_max: pids_max?,
        cpu_max: cpu_max?,
        cpu_weight: cpu_weight?,
        io_weight: io_weight?,
        data_max: data_max?,
        data_files_max: data_files_max?,
    })
}

fn bytes(value: &Value<'_>) -> Option<u64> {
    let text = value.text()?;
    match units::size(&text) {
        Some(size) if MEMORY.contains(&size) => Some(size),
        Some(_) => value.wrong(format!(
            "not between {} and {}",
            size_text(*MEMORY.start()),
            size_text(*MEMORY.end())
        )),
        None => value.wrong_but(
            format!("`{text}` is no size"),
            "write a whole number and its unit, like \"512MiB\" or \"4GiB\"",
        ),
    }
}

/// Thousandths of a processor.
fn share(value: &Value<'_>) -> Option<u64> {
    let text = value.text()?;
    match text
        .strip_suffix('%')
        .and_then(|number| number.parse::<u64>().ok())
    {
        Some(percent @ 1..=PERCENT_MAX) => Some(percent * 10),
        Some(_) => value.wrong(format!("not between 1% and {PERCENT_MAX}%")),
        None => value.wrong_but(
            format!("`{text}` is no share of the processors"),
            "write percents of one processor, like \"50%\" or \"200%\"",
        ),
    }
}
