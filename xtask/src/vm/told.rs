//! What scripts in a guest say of their checks: lines that begin with `ok: `, `FAILED: ` or
//! `SKIPPED (reason): `, and one of the agent's at the end.

use std::process::ExitCode;

use crate::tally::{Skip, Tally};

/// What the agent says before it turns the machine off.
const END: &str = "# end of all scripts: ";

/// What was said so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    tally: Tally,
    /// The scripts' status, once all have ended.
    status: Option<u8>,
}

impl Told {
    /// Takes in a line.
    pub(super) fn read(&mut self, line: &str) {
        let line = line.trim_end();
        if line.starts_with("ok: ") {
            self.tally.passed += 1;
        } else if let Some(what) = line.strip_prefix("FAILED: ") {
            self.fail(what.to_owned());
        } else if let Some(status) = line.strip_prefix(END) {
            self.status = status.parse().ok();
        } else if let Some((reason, what)) = line
            .strip_prefix("SKIPPED (")
            .and_then(|rest| rest.split_once("): "))
        {
            self.tally.skipped.push(Skip {
                what: what.to_owned(),
                reason: reason.to_owned(),
            });
        }
    }

    /// Notes what went wrong, in a script or around it.
    pub(super) fn fail(&mut self, what: String) {
        self.tally.failed.push(format!("vm: {what}"));
    }

    /// Whether all scripts ended.
    pub(super) fn is_complete(&self) -> bool {
        self.status.is_some()
    }

    /// The sum; a guest that never came to its end is a failure.
    pub(super) fn tally(mut self) -> Tally {
        match self.status {
            Some(0) => {}
            Some(_) if !self.tally.failed.is_empty() => {}
            Some(status) => self.fail(format!("a script ended with status {status}")),
            None => self.fail("the guest ended before its scripts".to_owned()),
        }
        self.tally
    }

    /// The status for the shell: that of the scripts, or 1 if a check failed or the guest did.
    pub(super) fn code(self) -> ExitCode {
        let status = self.status.unwrap_or(1);
        let tally = self.tally();
        for skip in &tally.skipped {
            println!("{skip}");
        }
        for failure in &tally.failed {
            println!("FAILED: {failure}");
        }
        println!("{tally}");
        match status {
            0 if !tally.failed.is_empty() => ExitCode::FAILURE,
            status => ExitCode::from(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[&str]) -> Tally {
        let mut told = Told::default();
        for line in lines {
            told.read(line);
        }
        told.tally()
    }

    #[test]
    fn checks_are_counted_over_all_scripts() {
        let tally = told(&[
            "# 00.boot.sh, stage 1",
            "ok: boots",
            "SKIPPED (needs two cores): pins\r",
            "ok: serves",
            "# end of all scripts: 0\r",
        ]);
        assert_eq!(tally.to_string(), "2 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_guest_that_ends_early_is_a_failure() {
        assert_eq!(told(&["ok: boots"]).failed.len(), 1);
        assert_eq!(told(&[]).failed.len(), 1);
    }

    #[test]
    fn a_script_that_fails_without_a_word_is_a_failure() {
        assert_eq!(
            told(&["ok: boots", "# end of all scripts: 3"]).failed.len(),
            1
        );
    }

    #[test]
    fn a_failed_check_is_counted_once() {
        let tally = told(&["FAILED: boots", "# end of all scripts: 1"]);
        assert_eq!(tally.failed, ["vm: boots"]);
    }
}
