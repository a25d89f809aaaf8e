//! Signals that a person has sent to the processes of a service.
//!
//! The core is told nothing: what comes of it, it sees as it sees everything that a process does.

use insula_contract::id::{Attempt, Instance, ServiceName};
use serde::{Deserialize, Serialize};

use super::Driver;

/// A process that got a signal, or did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Signalled {
    /// Whose process.
    pub instance: Instance,
    /// Which.
    pub attempt: Attempt,
    /// Its number, for people.
    pub pid: Option<i32>,
    /// Why it was not sent.
    pub error: Option<String>,
}

impl Driver {
    /// Sends a signal to the processes of a service, or of one of its instances; `None` if there is
    /// no such service. What it runs before its start gets none.
    pub(super) fn signal(
        &self,
        name: &ServiceName,
        index: Option<u16>,
        signal: i32,
    ) -> Option<Vec<Signalled>> {
        let service = self.core.services().get(name)?;
        let sent = service
            .processes()
            .filter(|process| process.step.is_none())
            .filter_map(|process| {
                let instance = service.instance_of(process.attempt)?;
                let handle = self.processes.get(&process.attempt)?;
                let wanted = index.is_none_or(|index| index == instance.index);
                wanted.then(|| Signalled {
                    instance,
                    attempt: process.attempt,
                    pid: process.pid,
                    error: handle.signal(signal).err().map(|error| error.to_string()),
                })
            });
        Some(sent.collect())
    }
}
