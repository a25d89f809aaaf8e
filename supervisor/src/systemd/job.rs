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

/// The unit that holds the cgroup of the services: when it goes, they go.
const PAYLOAD: &str = "insula-payload.service";

/// Asks systemd for the jobs of the daemon's unit and of the payload's.
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
            PAYLOAD,
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
    let job_of = |name: &str| {
        list.lines().find_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            (fields.next() == Some(name)).then(|| fields.next().unwrap_or_default())
        })
    };
    // Services that nobody stops in order are killed with the cgroup that they live in.
    let stays = matches!(job_of(PAYLOAD), None | Some("start" | "verify-active"));
    if job_of(unit) == Some("restart") && stays {
        Job::Restart
    } else {
        Job::Stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_restart_of_the_own_unit_alone_is_one() {
        let list = " 77 insulad.service restart running\n 78 other.service   stop    waiting\n";
        assert_eq!(of_list(list, "insulad.service"), Job::Restart);
        assert_eq!(of_list(list, "other.service"), Job::Stop);
        assert_eq!(of_list("", "insulad.service"), Job::Stop);
        let list = "77 insulad.service restart running\n78 insula-payload.service start waiting\n";
        assert_eq!(of_list(list, "insulad.service"), Job::Restart);
        let list = "78 insula-payload.service restart waiting\n77 insulad.service restart running";
        assert_eq!(
            of_list(list, "insulad.service"),
            Job::Stop,
            "the cgroup goes"
        );
        assert_eq!(
            of_list("77 insulad.service stop running", "insulad.service"),
            Job::Stop
        );
    }
}
