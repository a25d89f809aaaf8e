//! Calls between two processes, beside those of every peer in the same run.
//!
//! Timed, one by one: from before the client writes its request until it has read every byte of
//! the answer; the server reads every byte of the request and gives the same bytes back. The two
//! processes are pinned, to one core or to two. Cases take turns in rounds, so that what else the
//! host does hits all of them; each figure is the median over the rounds, each ratio the median of
//! the rounds' ratios.
//!
//! Processors' time is user and system time of both processes, spinning counted. System calls are
//! counted by the kernel's tracepoint in a run of their own, in which nothing is timed.

mod cases;
mod figures;
mod meter;
mod peers;
mod tables;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use insula_benches::process::{Role, cores, pin};

use cases::{Case, Placement};
use figures::Figures;
use meter::{Meter, Outcome, Purpose};

const USAGE: &str = "\
usage: cargo bench -p insula-benches --bench rpc [--features peers] -- [OPTION]...
  --quick        one short round
  --only WORDS   only cases whose names contain all of WORDS (`insula parked`); repeatable
  --all          print every case with every figure, too
  --list         print the names of the cases
  --json FILE    write every figure of every case";

/// What the command line asks for.
#[derive(Debug, Default)]
struct Arguments {
    quick: bool,
    all: bool,
    list: bool,
    only: Vec<String>,
    json: Option<PathBuf>,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => parsed.quick = true,
                "--all" => parsed.all = true,
                "--list" => parsed.list = true,
                "--only" => parsed.only.push(value()?),
                "--json" => parsed.json = Some(value()?.into()),
                // Cargo's own.
                "--bench" => {}
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(parsed)
    }

    fn wants(&self, case: Case) -> bool {
        let name = case.to_string();
        let in_name = |words: &String| words.split(' ').all(|word| name.contains(word));
        self.only.is_empty() || self.only.iter().any(in_name)
    }
}

fn run(case: Case, cores: &[usize], purpose: Purpose) -> Result<Outcome, String> {
    let server_core = match (case.placement, cores) {
        (Placement::OneCore, [core, ..]) | (Placement::TwoCores, [_, core, ..]) => *core,
        _ => return Err("needs two cores".to_owned()),
    };
    pin(cores[0]);
    let mut client = peers::connect(case, server_core)?;
    let mut meter = Meter::new(purpose, client.server().pid());
    let payload: Vec<u8> = (0..case.size).map(|index| index as u8).collect();
    client.run(&payload, &mut meter);
    Ok(meter.outcome())
}

fn main() -> ExitCode {
    if let Some(role) = Role::of_this_process() {
        peers::serve(Case::from_role(&role.name), &role);
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("error: {error}\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    let mut cases: Vec<Case> = Case::all();
    cases.retain(|case| arguments.wants(*case));
    if arguments.list {
        cases.iter().for_each(|case| println!("{case}"));
        return ExitCode::SUCCESS;
    }
    let (rounds, time, calls) = match arguments.quick {
        true => (1, Duration::from_millis(60), 200),
        false => (7, Duration::from_millis(250), 2000),
    };
    let cores = cores();
    let mut figures = Figures::default();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for case in &cases {
            match run(*case, &cores, Purpose::Time(time)) {
                Ok(outcome) => figures.add(*case, outcome),
                Err(reason) => figures.skip(*case, reason),
            }
        }
    }
    eprintln!("counting system calls");
    for case in &cases {
        if let Ok(outcome) = run(*case, &cores, Purpose::Count(calls)) {
            figures.add(*case, outcome);
        }
    }
    tables::print(&figures, arguments.all);
    if let Some(path) = arguments.json
        && let Err(error) = std::fs::write(&path, figures.to_json())
    {
        eprintln!("error: cannot write {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
