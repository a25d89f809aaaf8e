//! Reads what `cargo test -- --show-output` prints: counts, ignored tests and tests that say
//! `SKIPPED (reason): what`.

use crate::tally::{Skip, Tally};

/// A reader of the output of one run of `cargo test`.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    tally: Tally,
    /// Between the outputs of tests that passed, which are not worth showing.
    in_successes: bool,
    /// The test whose output is being read has already been counted as skipped.
    counted: bool,
    /// Tests that libtest counts as passed but that skipped themselves.
    skipped_themselves: usize,
}

impl Reader {
    /// Takes in a line; whether it is worth showing to a person.
    pub(crate) fn read(&mut self, line: &str) -> bool {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            self.tally.passed += count(result, " passed");
            return true;
        }
        if line.starts_with("---- ") {
            self.counted = false;
        }
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if let Some((reason, what)) = line
            .trim_start()
            .strip_prefix("SKIPPED (")
            .and_then(|rest| rest.split_once("): "))
        {
            self.skip(what, reason);
            return true;
        }
        if self.in_successes {
            return false;
        }
        if let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            if outcome == "FAILED" {
                self.tally.failed.push(name.to_owned());
            } else if let Some(reason) = outcome.strip_prefix("ignored") {
                let reason = reason.trim_start_matches([',', ' ']);
                let reason = if reason.is_empty() {
                    "ignored without a reason"
                } else {
                    reason
                };
                self.tally.skipped.push(Skip {
                    what: name.to_owned(),
                    reason: reason.to_owned(),
                });
            }
        }
        true
    }

    /// libtest counts a test that skips itself as passed; of such a test, only the first skip
    /// takes it out of that number.
    fn skip(&mut self, what: &str, reason: &str) {
        if self.in_successes && !self.counted {
            self.skipped_themselves += 1;
            self.counted = true;
        }
        self.tally.skipped.push(Skip {
            what: what.to_owned(),
            reason: reason.to_owned(),
        });
    }

    /// The tally of the whole run; a failed run in which no test failed is a failure of `name`
    /// (it does not build, or a test's process died).
    pub(crate) fn finish(mut self, name: &str, succeeded: bool) -> Tally {
        if !succeeded && self.tally.failed.is_empty() {
            self.tally
                .failed
                .push(format!("{name} (no test told a failure, see above)"));
        }
        self.tally.passed = self.tally.passed.saturating_sub(self.skipped_themselves);
        self.tally
    }
}

/// The number before `word` in a line like `ok. 3 passed; 0 failed; 1 ignored`.
fn count(line: &str, word: &str) -> usize {
    line.split(word)
        .next()
        .and_then(|before| before.rsplit([' ', '.']).next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 4 tests
test a ... ok
test b ... ok
test c ... FAILED
test d ... ignored, needs root and a spare disk

successes:

---- a stdout ----
noise

---- b stdout ----
SKIPPED (needs root): one thing
SKIPPED (needs Landlock): another thing

successes:
    a
    b

failures:

---- c stdout ----
assertion failed

failures:
    c

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn tests_that_skip_themselves_do_not_count_as_passed() {
        let mut reader = Reader::default();
        let shown: Vec<&str> = OUTPUT.lines().filter(|line| reader.read(line)).collect();
        assert!(!shown.contains(&"noise"), "{shown:?}");
        assert!(shown.contains(&"assertion failed"), "{shown:?}");
        let tally = reader.finish("tests", false);
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failed, ["c"]);
        let reasons: Vec<_> = tally.skipped.iter().map(|skip| &*skip.reason).collect();
        assert_eq!(
            reasons,
            [
                "needs root and a spare disk",
                "needs root",
                "needs Landlock"
            ]
        );
    }

    #[test]
    fn a_run_that_died_is_a_failure() {
        let mut reader = Reader::default();
        reader.read("test a ... ok");
        reader.read("error: test failed, to rerun pass `--lib`");
        assert_eq!(reader.finish("tests", false).failed.len(), 1);
        assert_eq!(Reader::default().finish("tests", true), Tally::default());
    }
}
