//! Why systemd ends the daemon.

use std::process::{Command, Stdio};

/// Environment variable: the name of the unit, which the unit file sets.
const UNIT: &str = "INSULA_UNIT";

/// What systemd has in mind with the daemon's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// It will start the unit again at once.
    Restart,
    /// Anything else, and where it cannot be told: the services are stopped.
    Stop,
}

/// Asks systemd for the job of the daemon's unit.
///
/// `systemctl` is asked, which as root speaks to systemd itself and needs no bus daemon. It blocks
/// for some milliseconds.
pub fn under_way() -> Job {
    let Ok(unit) = std::env::var(UNIT) else {
        return Job::Stop;
    };
    let asked = Command::new("systemctl")
        .args([
            "list-jobs",
            "--no-legend",
            "--no-pager",
            "--plain",
            "--full",
            "--",
            &unit,
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match asked {
        Ok(output) => of_list(&String::from_utf8_lossy(&output.stdout), &unit),
        Err(error) => {
            tracing::warn!(%error, "cannot ask systemd what it is about; stopping");
            Job::Stop
        }
    }
}

/// Reads `JOB UNIT TYPE STATE`.
fn of_list(list: &str, unit: &str) -> Job {
    let restarts = list.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(unit) && fields.next() == Some("restart")
    });
    if restarts { Job::Restart } else { Job::Stop }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_restart_of_the_own_unit_is_one() {
        let list = " 77 insulad.service restart running\n 78 other.service   stop    waiting\n";
        assert_eq!(of_list(list, "insulad.service"), Job::Restart);
        assert_eq!(of_list(list, "other.service"), Job::Stop);
        assert_eq!(of_list("", "insulad.service"), Job::Stop);
        assert_eq!(
            of_list("77 insulad.service stop running", "insulad.service"),
            Job::Stop
        );
    }
}
