//! What one use of the program does, phase by phase.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use insula::ipc::contract::CONNECTIONS;
use insula::ipc::local::{LocalClient, LocalError};
use insula::ipc::protocol::local::SOCKET;
use kv_contract::{Kv, KvClient};

use crate::arguments::{Arguments, Command, Extent, Running};
use crate::bulk::{Pass, Passed};
use crate::client::Tally;
use crate::expect::{self, Expectations, Violation};
use crate::progress;
use crate::report::{Phase, Report, Run};
use crate::run::{self, Connect, Order, StartError};
use crate::stop::{Marks, Stop};

/// The report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the report to `{path}`")]
struct ReportError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Does what the command line says and prints the report; whether all went well.
pub(crate) fn perform(arguments: &Arguments, stop: &Stop) -> Result<bool, Box<dyn Error>> {
    let clients = match &arguments.command {
        Command::Load(extent) | Command::Verify(extent) => extent.clients,
        Command::Run(running) | Command::Exercise(running) => running.extent.clients,
    };
    let socket = arguments.run_directory().join(SOCKET);
    let locals = local_clients(&socket, clients)?;
    let connect = |number: u64| {
        let local = &locals[number as usize / CONNECTIONS];
        let connection = local.connection::<Kv>();
        connection
            .map(KvClient::new)
            .map_err(|source| StartError::Connect {
                number,
                source: Box::new(source),
            })
    };
    let session = Session {
        connect: &connect,
        prefix: &arguments.prefix,
        stop,
        run: rand::random(),
    };
    let mut report = match &arguments.command {
        Command::Load(extent) => session.load(extent)?,
        Command::Run(running) => session.exercise(running, false)?,
        Command::Verify(extent) => session.verify(extent)?,
        Command::Exercise(running) => session.exercise(running, true)?,
    };
    report.interrupted = stop.was_signalled();
    report.judge();
    print!("{report}");
    if let Some(path) = &arguments.json {
        write_json(&report, path).map_err(|source| ReportError {
            path: path.clone(),
            source,
        })?;
    }
    Ok(report.passed)
}

/// As many leases as the clients need: each has room for a few connections.
fn local_clients(socket: &Path, clients: u64) -> Result<Vec<LocalClient>, LocalError> {
    let leases = (clients as usize).div_ceil(CONNECTIONS);
    (0..leases).map(|_| LocalClient::connect(socket)).collect()
}

fn write_json(report: &Report, path: &Path) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(report)?;
    text.push(b'\n');
    fs::write(path, text)
}

/// The phases, on given connections.
pub(crate) struct Session<'a> {
    /// Makes connections.
    pub connect: &'a Connect<'a>,
    /// What the keys begin with.
    pub prefix: &'a str,
    /// Ends it early.
    pub stop: &'a Stop,
    /// A number of its own.
    pub run: u64,
}

impl Session<'_> {
    fn load(&self, extent: &Extent) -> Result<Report, StartError> {
        let expectations = Expectations::new(extent.records, false);
        Ok(Report {
            load: Some(self.load_phase(extent, &expectations)?),
            ..Report::default()
        })
    }

    fn verify(&self, extent: &Extent) -> Result<Report, StartError> {
        let verification = self.inspect("verifying", extent, |number, found| {
            let (revision, value) = found.ok_or(Violation::NeverLoaded { record: number })?;
            expect::read(number, revision, value).map(drop)
        })?;
        Ok(Report {
            verification: Some(verification),
            ..Report::default()
        })
    }

    /// Runs a workload, after loading the records or taking those that are there, and verifies.
    pub(crate) fn exercise(&self, running: &Running, load: bool) -> Result<Report, Box<dyn Error>> {
        let marks = if running.marks {
            Marks::from_stdin(self.stop.clone())?
        } else {
            Marks::default()
        };
        let extent = &running.extent;
        let expectations = Expectations::new(extent.records, running.workload.counts());
        let mut report = Report::default();
        if load {
            report.load = Some(self.load_phase(extent, &expectations)?);
        } else {
            let survey = |number, found: Option<(u64, &[u8])>| expectations.survey(number, found);
            let phase = self.inspect("surveying", extent, survey)?;
            let complete = phase.good == phase.records;
            report.survey = Some(phase);
            if !complete {
                // What is there is not known, so nothing could be verified.
                if !self.stop.was_signalled() {
                    eprintln!("hint: `kv-load load` writes the records");
                }
                return Ok(report);
            }
        }
        let order = Order {
            workload: running.workload,
            clients: extent.clients,
            duration: running.duration(),
            operations: running.operations,
            rate: running.rate,
            deadline: running.deadline,
            prefix: self.prefix.to_owned(),
            run: self.run,
        };
        let tally = Tally::default();
        let outcome = progress::show("running", order.operations, &tally, || {
            let begun = || eprintln!("running workload {}", order.workload.name());
            run::run(
                &order,
                self.connect,
                &expectations,
                self.stop,
                &tally,
                begun,
            )
        })?;
        let window = running.mark_window;
        report.run = Some(Run::new(&order, outcome, &marks.list(), window));
        if self.stop.was_signalled() {
            eprintln!("verifying; a second interrupt exits at once");
        }
        let settle = |number, found: Option<(u64, &[u8])>| expectations.settle(number, found);
        // What ended the run does not end its verification.
        let unstopped = Session {
            stop: &Stop::default(),
            ..*self
        };
        report.verification = Some(unstopped.inspect("verifying", extent, settle)?);
        Ok(report)
    }

    fn load_phase(
        &self,
        extent: &Extent,
        expectations: &Expectations,
    ) -> Result<Phase, StartError> {
        self.pass("loading", extent, |pass| pass.load(self.run, expectations))
    }

    fn inspect(
        &self,
        title: &str,
        extent: &Extent,
        check: impl Fn(u64, Option<(u64, &[u8])>) -> Result<(), Violation> + Sync,
    ) -> Result<Phase, StartError> {
        self.pass(title, extent, |pass| pass.inspect(check))
    }

    fn pass(
        &self,
        title: &str,
        extent: &Extent,
        work: impl FnOnce(&Pass<'_>) -> Result<Passed, StartError>,
    ) -> Result<Phase, StartError> {
        let tally = Tally::default();
        let pass = Pass {
            connect: self.connect,
            threads: extent.clients.min(CONNECTIONS as u64),
            prefix: self.prefix,
            records: extent.records,
            stop: self.stop.flag(),
            tally: &tally,
        };
        let begin = Instant::now();
        let passed = progress::show(title, Some(extent.records), &tally, || work(&pass))?;
        let took: Duration = begin.elapsed();
        Ok(Phase::new(extent.records, passed, took))
    }
}
