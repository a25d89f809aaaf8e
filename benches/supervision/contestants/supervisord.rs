//! supervisord: one process, configured by a file, asked by supervisorctl over a Unix socket.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{Contestant, Task};
use crate::stamps::now;

#[derive(Debug)]
pub(super) struct Supervisord {
    configuration: PathBuf,
    names: Vec<String>,
    daemon: Option<Child>,
}

impl Supervisord {
    pub(super) fn new(task: &Task) -> Result<Self, String> {
        let directory = task.directory("supervisord")?;
        let at = directory.display();
        let mut text = format!(
            "[unix_http_server]\nfile={at}/socket\n\
             [supervisord]\nnodaemon=true\nlogfile={at}/log\npidfile={at}/pid\n\
             childlogdir={at}\nminfds=20000\nminprocs=20000\n\
             [rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\
             [supervisorctl]\nserverurl=unix://{at}/socket\n"
        );
        let names: Vec<_> = (0..task.count).map(|index| task.name(index)).collect();
        for (index, name) in names.iter().enumerate() {
            text += &format!(
                "[program:{name}]\ncommand={} {}\nautorestart=true\nstartsecs=0\n\
                 stdout_logfile={at}/{name}.log\nredirect_stderr=true\n",
                task.payload.display(),
                task.argument(index)
            );
        }
        let configuration = directory.join("supervisord.conf");
        std::fs::write(&configuration, text)
            .map_err(|error| format!("cannot configure supervisord: {error}"))?;
        Ok(Self {
            configuration,
            names,
            daemon: None,
        })
    }

    fn control(&self, words: &[&str]) -> Command {
        let mut command = Command::new("supervisorctl");
        command.arg("-c").arg(&self.configuration).args(words);
        command
    }
}

impl Contestant for Supervisord {
    fn name(&self) -> String {
        "supervisord".to_owned()
    }

    fn start(&mut self) -> Result<i64, String> {
        let ordered = now();
        let daemon = Command::new("supervisord")
            .arg("-n")
            .arg("-c")
            .arg(&self.configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start supervisord: {error}"))?;
        self.daemon = Some(daemon);
        Ok(ordered)
    }

    fn stop(&mut self) -> Result<(), String> {
        crate::process::run(self.control(&["stop", "all"])).map(drop)
    }

    fn end(&mut self) -> Result<(), String> {
        if let Some(mut daemon) = self.daemon.take() {
            crate::process::run(self.control(&["shutdown"]))?;
            daemon.wait().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn processes(&self) -> Vec<i32> {
        self.daemon.iter().map(|d| d.id() as i32).collect()
    }

    fn status(&self) -> Vec<(&'static str, Command)> {
        vec![("status", self.control(&["status"]))]
    }

    fn restart(&self, index: usize) -> Option<Command> {
        Some(self.control(&["restart", &self.names[index]]))
    }

    fn pauses(&self) -> bool {
        true
    }
}
