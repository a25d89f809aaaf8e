//! Many ends at once: what an edge costs when there are 200 of them, what a flooding consumer does
//! to a polite one, and what is left of a provider that is asked for three times what it can do.
//!
//! Each bench prints what it times between which two points.

mod fan;
mod figures;
mod flood;
mod overload;
mod provider;

use std::process::ExitCode;

use insula_benches::process::{Role, cores};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const USAGE: &str = "\
usage: cargo bench -p insula-benches --bench crowd -- [OPTION]...
  --quick        less of everything
  --only NAME    fan, flood or overload; repeatable
  --edges N      how many edges a fan has, 200 unless given";

/// What the command line asks for.
#[derive(Debug)]
struct Arguments {
    quick: bool,
    only: Vec<String>,
    edges: usize,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let mut parsed = Self {
            quick: false,
            only: Vec::new(),
            edges: 200,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => parsed.quick = true,
                "--only" => parsed.only.push(value()?),
                "--edges" => {
                    let number = value()?.parse().map_err(|_| "--edges needs a number")?;
                    parsed.edges = number;
                }
                // Cargo's own.
                "--bench" => {}
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(parsed)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn main() -> ExitCode {
    // Two hundred channels take more descriptors than a shell allows at first.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    if let Some(role) = Role::of_this_process() {
        match role.name.as_str() {
            provider::ROLE => provider::serve(&role),
            fan::CONSUMER_ROLE => fan::consume(&role),
            flood::FLOODER_ROLE => flood::flood(&role),
            other => panic!("no role {other}"),
        }
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("error: {error}\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    let cores = cores();
    let [first, second, ..] = cores[..] else {
        println!("SKIPPED (needs two cores): all of it");
        return ExitCode::SUCCESS;
    };
    insula_benches::process::pin(first);
    if arguments.wants("fan") {
        fan::run(arguments.edges, second);
    }
    if arguments.wants("flood") {
        flood::run(arguments.quick, first, second);
    }
    if arguments.wants("overload") {
        overload::run(arguments.quick, second);
    }
    ExitCode::SUCCESS
}
