//! What checks and tests came to, and which of them may be left out.

use std::fmt::{self, Display, Formatter};

/// Reasons for which something may be skipped even where `CI=true`; README.md says why.
pub(crate) const ALLOWED_SKIPS: [&str; 7] = [
    "needs root",
    "needs two cores",
    "needs Landlock",
    "needs Linux 6.15",
    "needs a delegated cgroup v2",
    "needs the RustSec database",
    "needs a virtual machine",
];

/// Something that was not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skip {
    /// What was left out.
    pub(crate) what: String,
    /// Why, in words that [`ALLOWED_SKIPS`] may begin with.
    pub(crate) reason: String,
}

impl Skip {
    /// Whether the reason is one of those that README.md explains.
    pub(crate) fn is_allowed(&self) -> bool {
        ALLOWED_SKIPS
            .iter()
            .any(|reason| self.reason.starts_with(reason))
    }
}

impl Display for Skip {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "SKIPPED ({}): {}", self.reason, self.what)
    }
}

/// How many checks and tests passed, and which did not.
///
/// A check that runs tests counts as its tests, every other check as one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    /// What failed, by name.
    pub(crate) failed: Vec<String>,
    pub(crate) skipped: Vec<Skip>,
}

impl Tally {
    /// The tally of a check that passed as a whole.
    pub(crate) fn passed() -> Self {
        Self {
            passed: 1,
            ..Self::default()
        }
    }

    /// The tally of a check that failed as a whole.
    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self {
            failed: vec![what.into()],
            ..Self::default()
        }
    }

    /// The tally of a check that was not run.
    pub(crate) fn skipped(what: &str, reason: impl Into<String>) -> Self {
        Self {
            skipped: vec![Skip {
                what: what.to_owned(),
                reason: reason.into(),
            }],
            ..Self::default()
        }
    }

    /// Adds another tally to this one.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    /// Turns the skips that are not allowed into failures, as continuous integration wants it.
    pub(crate) fn refuse_other_skips(&mut self) {
        let refused: Vec<Skip> = self
            .skipped
            .extract_if(.., |skip| !skip.is_allowed())
            .collect();
        for skip in refused {
            self.failed
                .push(format!("{skip} (not an allowed reason, see README.md)"));
        }
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allowed_skip_is_explained_in_the_readme() {
        let readme = include_str!("../../README.md");
        for reason in ALLOWED_SKIPS {
            assert!(readme.contains(&format!("| {reason} |")), "{reason}");
        }
    }

    #[test]
    fn a_skip_for_another_reason_is_refused() {
        let mut tally = Tally::skipped("walls", "needs root");
        tally.add(Tally::skipped("speed", "no reason given"));
        tally.refuse_other_skips();
        assert_eq!(tally.skipped.len(), 1);
        assert_eq!(tally.failed.len(), 1);
        assert_eq!(tally.to_string(), "0 passed, 1 failed, 1 skipped");
    }
}
