//! runit: runsvdir over a directory of services, a runsv process for each of them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::{Contestant, Task};
use crate::stamps::now;

/// runsvdir looks at no more.
pub(super) const SERVICES_MAX: usize = 1000;

#[derive(Debug)]
pub(super) struct Runit {
    services: Vec<PathBuf>,
    directory: PathBuf,
    daemon: Option<Child>,
}

impl Runit {
    pub(super) fn new(task: &Task) -> Result<Self, String> {
        let directory = task.directory("runit")?;
        let mut services = Vec::new();
        for index in 0..task.count {
            let service = task.directory(&format!("runit/{}", task.name(index)))?;
            task.script(&service, index)?;
            services.push(service);
        }
        Ok(Self {
            services,
            directory,
            daemon: None,
        })
    }
}

impl Contestant for Runit {
    fn name(&self) -> String {
        "runit".to_owned()
    }

    fn start(&mut self) -> Result<i64, String> {
        let ordered = now();
        let daemon = Command::new("runsvdir")
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start runsvdir: {error}"))?;
        self.daemon = Some(daemon);
        Ok(ordered)
    }

    fn stop(&mut self) -> Result<(), String> {
        let mut command = Command::new("sv");
        command.arg("down").args(&self.services);
        crate::process::run(command).map(drop)
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(mut daemon) = self.daemon.take() else {
            return Ok(());
        };
        let of_services = self.helpers(daemon.id() as i32)?;
        // It tells each runsv to end.
        crate::process::signal(daemon.id() as i32, Signal::SIGHUP)?;
        daemon.wait().map_err(|error| error.to_string())?;
        crate::process::wait_for_ends(&of_services)
    }

    fn processes(&self) -> Vec<i32> {
        match &self.daemon {
            Some(daemon) => crate::process::tree(daemon.id() as i32, "payload"),
            None => Vec::new(),
        }
    }

    fn status(&self) -> Vec<(&'static str, Command)> {
        let mut command = Command::new("sv");
        command.arg("status").args(&self.services);
        vec![("status", command)]
    }

    fn restart(&self, index: usize) -> Option<Command> {
        let mut command = Command::new("sv");
        command.arg("restart").arg(&self.services[index]);
        Some(command)
    }

    fn pauses(&self) -> bool {
        false
    }
}

impl Runit {
    fn helpers(&self, daemon: i32) -> Result<Vec<std::os::fd::OwnedFd>, String> {
        crate::process::tree(daemon, "payload")
            .into_iter()
            .filter(|pid| *pid != daemon)
            .filter_map(|pid| match crate::process::pidfd(pid) {
                Ok(process) => Some(Ok(process)),
                // What runsv forked for the last service has ended since it was listed.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => None,
                Err(error) => Some(Err(format!("cannot watch {pid}: {error}"))),
            })
            .collect()
    }
}
