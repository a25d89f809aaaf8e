//! The load generator, driven from outside.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::host::Host;
use super::{Extent, Failed, look_up};

/// Waits for a child without being deaf to Ctrl-C.
fn wait(child: &mut Child) -> Result<bool, Failed> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        look_up()?;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A child that is killed when it is dropped early.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // One that has ended is not killed.
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Writes all records.
pub(crate) fn load(host: &Host, extent: Extent) -> Result<(), Failed> {
    let mut command = host.command("kv-load");
    command.args(["load", "--records", &extent.records.to_string()]);
    let mut child = Guarded(command.spawn()?);
    if wait(&mut child.0)? {
        Ok(())
    } else {
        Err(Failed::new("the records were not loaded"))
    }
}

/// A run of YCSB B.
pub(crate) struct Load {
    child: Guarded,
    words: ChildStdin,
    json: PathBuf,
}

impl Load {
    pub(crate) fn start(host: &Host, extent: Extent) -> Result<Self, Failed> {
        let json = host.root().join("load.json");
        let mut command = host.command("kv-load");
        command
            .arg("--json")
            .arg(&json)
            .args(["run", "--workload", "B", "--marks"])
            .args(["--records", &extent.records.to_string()])
            .args(["--clients", &extent.clients.to_string()])
            .args(["--mark-window", &format!("{}ms", extent.pause.as_millis())])
            .stdin(Stdio::piped())
            .stdout(fs::File::create(host.root().join("load.txt"))?);
        let mut child = command.spawn()?;
        let words = child
            .stdin
            .take()
            .ok_or_else(|| Failed::new("no way to the load"))?;
        Ok(Self {
            child: Guarded(child),
            words,
            json,
        })
    }

    /// Says that something happens now.
    pub(crate) fn mark(&mut self, name: &str) -> Result<(), Failed> {
        Ok(writeln!(self.words, "mark {name}")?)
    }

    /// Ends the run, lets it verify, and gives its report.
    pub(crate) fn finish(mut self) -> Result<Value, Failed> {
        writeln!(self.words, "stop")?;
        wait(&mut self.child.0)?;
        let report = fs::read(&self.json)?;
        serde_json::from_slice(&report)
            .map_err(|error| Failed::new(format!("the load's report is no JSON: {error}")))
    }
}
