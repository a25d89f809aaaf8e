//! What a profile says about places on the host, and what the host keeps back.

use insula_core::placement::{Numa, Policy, Smt, Whole};
use insula_core::spec::PlaceSpec;

use super::document::{Section, Value};
use super::units;

/// More cores than any host has.
const CORES_MAX: i64 = 8192;
/// A CPU, in thousandths.
const CPU: i64 = 1000;
/// A promise of more than this, in per cent, is none.
const PERCENT_MAX: i64 = 10_000;

/// The keys of a profile that say what each instance is promised; the others keep what they were.
pub(super) fn place(
    keys: &Section<'_>,
    default: &PlaceSpec,
    best_effort: bool,
) -> Option<PlaceSpec> {
    let exclusive = |value: &Value<'_>, cores: u32| -> Option<()> {
        if cores > 0 && best_effort {
            return value.wrong("a best-effort profile cannot have cores of its own");
        }
        Some(())
    };
    let cores = keys.optional("cores", default.cores, |value| {
        let cores = u32::try_from(value.integer(0..=CORES_MAX)?).ok()?;
        exclusive(value, cores)?;
        Some(cores)
    });
    let whole = keys.optional("whole", default.whole, |value| {
        value.one_of(&[("core", Whole::Core), ("l3", Whole::L3)])
    });
    let smt = keys.optional("smt", default.smt, |value| {
        value.one_of(&[("share", Smt::Share), ("own", Smt::Own)])
    });
    let of_its_own = cores.is_some_and(|cores| cores > 0);
    let inherited = if of_its_own { 0 } else { default.share };
    let share = keys.optional("share", inherited, |value| {
        let share = value.integer(0..=CORES_MAX * CPU)?;
        if share > 0 && of_its_own {
            return value.wrong("a profile has cores of its own or a share, not both");
        }
        u64::try_from(share).ok()
    });
    let memory = keys.optional("memory", default.memory, size);
    let numa = keys.optional("numa", default.numa, |value| {
        value.one_of(&[
            ("any", Numa::Any),
            ("local", Numa::Local),
            ("bind", Numa::Bind),
            ("interleave", Numa::Interleave),
            ("spread", Numa::Spread),
        ])
    });
    let needs = keys.optional("needs", default.needs.clone(), |value| {
        Some(value.list(label)?.into_iter().collect())
    });
    Some(PlaceSpec {
        cores: cores?,
        whole: whole?,
        smt: smt?,
        share: share?,
        memory: memory?,
        numa: numa?,
        needs: needs?,
    })
}

fn label(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || !text.chars().all(word) {
        return value.wrong("a label is lower-case letters, digits and hyphens");
    }
    Some(text)
}

fn size(value: &Value<'_>) -> Option<u64> {
    let text = value.text()?;
    units::size(&text).or_else(|| {
        value.wrong_but(
            format!("`{text}` is no size"),
            "write a whole number and its unit, like \"512MiB\" or \"4GiB\"",
        )
    })
}

/// The table `placement`: what the host keeps back, and promises twice.
pub(super) fn policy(value: &Value<'_>, default: &Policy) -> Option<Policy> {
    value.section(|keys| {
        let percent = |value: &Value<'_>| u64::try_from(value.integer(1..=PERCENT_MAX)?).ok();
        let keep_cores = keys.optional("keep-cores", default.keep_cores, |value| {
            usize::try_from(value.integer(1..=CORES_MAX)?).ok()
        });
        let keep_memory = keys.optional("keep-memory", default.keep_memory, size);
        let shared_percent = keys.optional("shared-percent", default.shared_percent, percent);
        let best_effort_percent =
            keys.optional("best-effort-percent", default.best_effort_percent, percent);
        let labels = keys.optional("labels", default.labels.clone(), |value| {
            Some(value.list(label)?.into_iter().collect())
        });
        Some(Policy {
            keep_cores: keep_cores?,
            keep_memory: keep_memory?,
            shared_percent: shared_percent?,
            best_effort_percent: best_effort_percent?,
            labels: labels?,
        })
    })
}
