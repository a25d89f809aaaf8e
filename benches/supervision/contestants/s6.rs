//! s6: s6-svscan over a directory of services, an s6-supervise process for each of them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{Contestant, Task};
use crate::stamps::now;

#[derive(Debug)]
pub(super) struct S6 {
    services: Vec<PathBuf>,
    directory: PathBuf,
    daemon: Option<Child>,
}

impl S6 {
    pub(super) fn new(task: &Task) -> Result<Self, String> {
        let directory = task.directory("s6")?;
        let mut services = Vec::new();
        for index in 0..task.count {
            let service = task.directory(&format!("s6/{}", task.name(index)))?;
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

impl Contestant for S6 {
    fn name(&self) -> String {
        "s6".to_owned()
    }

    fn start(&mut self) -> Result<i64, String> {
        let ordered = now();
        let daemon = Command::new("s6-svscan")
            .arg("-c")
            .arg((self.services.len() + 10).to_string())
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start s6-svscan: {error}"))?;
        self.daemon = Some(daemon);
        Ok(ordered)
    }

    fn stop(&mut self) -> Result<(), String> {
        // There is no order for all services that leaves their helpers.
        let mut command = Command::new("s6-svscanctl");
        command.arg("-t").arg(&self.directory);
        crate::process::run(command).map(drop)
    }

    fn end(&mut self) -> Result<(), String> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn processes(&self) -> Vec<i32> {
        match &self.daemon {
            Some(daemon) => crate::process::tree(daemon.id() as i32, "payload"),
            None => Vec::new(),
        }
    }

    fn status(&self) -> Vec<(&'static str, Command)> {
        // It has no command for all: a shell's loop, as its documentation shows.
        let mut command = Command::new("sh");
        let each = "for service in \"$0\"/*; do s6-svstat \"$service\"; done";
        command.arg("-c").arg(each).arg(&self.directory);
        vec![("status", command)]
    }

    fn restart(&self, index: usize) -> Option<Command> {
        let mut command = Command::new("s6-svc");
        command.arg("-r").arg(&self.services[index]);
        Some(command)
    }

    fn pauses(&self) -> bool {
        true
    }
}
