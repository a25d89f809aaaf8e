//! What supervision costs: starting, replacing, stopping, asking, idling, dying, beside the bare
//! posix_spawn loop and the supervisors of Debian in the same run; and what a storm of crashing
//! services does to the others.
//!
//! Every contestant runs the same static program, which says by itself when its first instruction
//! ran (see `payload.rs`). README.md says what is timed between which two points.

mod contestants;
mod density;
mod measure;
mod process;
mod stamps;
mod storm;
mod tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use insula_benches::process::Role;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use contestants::{Contestant, Insula, Task};
use measure::{Plan, Results};

const USAGE: &str = "\
usage: cargo bench -p insula-benches --bench supervision -- [OPTION]...
  --count N      so many services; repeatable; 100 and 1000 unless given
  --rounds N     how often all take turns, 3 unless given
  --idle SECONDS how long wake-ups are counted, 20 unless given
  --only NAME    floor, insula, bare (insulad without walls), supervisord, runit, s6; storm,
                 density (with as many services as the largest count); repeatable
  --programs DIR insulad, insulactl and echo of another build, which are not built then
  --quick        one round, 100 services, 3 s idle
  --install      install the packages of the peers that lack (root, apt-get)";

/// What the command line asks for.
#[derive(Debug)]
struct Arguments {
    counts: Vec<usize>,
    rounds: usize,
    idle: u64,
    only: Vec<String>,
    install: bool,
    programs: Option<PathBuf>,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let mut parsed = Self {
            counts: Vec::new(),
            rounds: 3,
            idle: 20,
            only: Vec::new(),
            install: false,
            programs: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            let number = |text: String| text.parse().map_err(|_| format!("{text} is no number"));
            match word.as_str() {
                "--count" => parsed.counts.push(number(value()?)?),
                "--rounds" => parsed.rounds = number(value()?)?,
                "--idle" => parsed.idle = number(value()?)? as u64,
                "--only" => parsed.only.push(value()?),
                "--programs" => parsed.programs = Some(PathBuf::from(value()?)),
                "--install" => parsed.install = true,
                "--quick" => {
                    (parsed.rounds, parsed.idle) = (1, 3);
                    parsed.counts = vec![100];
                }
                // Cargo's own.
                "--bench" => {}
                other => return Err(format!("unknown option {other}")),
            }
        }
        if parsed.counts.is_empty() {
            parsed.counts = vec![100, 1000];
        }
        Ok(parsed)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// A directory that goes when dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> Result<Self, String> {
        let path = parent.join(format!("insula-supervision-{}", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's own clearing of these places.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn main() -> ExitCode {
    // A service takes some descriptors of its supervisor, and every contestant may have as many.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    if let Some(role) = Role::of_this_process() {
        match role.name.as_str() {
            contestants::FLOOR_ROLE => contestants::serve_floor(&role.words),
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
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED (needs root): all of it; walls are root's to build");
        return ExitCode::SUCCESS;
    }
    if cfg!(not(target_arch = "x86_64")) {
        println!("SKIPPED (needs x86-64): all of it; the payload is written for it");
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let programs = match &arguments.programs {
        Some(programs) => programs.clone(),
        None => contestants::programs()?,
    };
    if arguments.install {
        contestants::install_peers()?;
    }
    // In memory, as /run is; and on the disk, as /var/lib is.
    let scratch = Scratch::new(Path::new("/dev/shm"))?;
    let disk = Scratch::new(&std::env::temp_dir())?;
    for directory in [&scratch.0, &disk.0] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755))
            .map_err(|error| error.to_string())?;
    }
    let payload = stamps::build_payload(&disk.0)?;
    let mut results = Results::default();
    let alone = |name: &str| !arguments.only.is_empty() && arguments.only.iter().all(|o| o == name);
    let compared = !alone("storm") && !alone("density");
    for count in arguments.counts.iter().filter(|_| compared) {
        let task = Task {
            count: *count,
            payload: payload.clone(),
            stamps: stamps::Stamps::create(*count).map_err(|error| error.to_string())?,
            scratch: scratch.0.join(count.to_string()),
        };
        compare(arguments, &programs, &disk.0, &task, &mut results)?;
    }
    if compared {
        tables::print(&results, &arguments.counts);
    }
    if let Some(count) = arguments.counts.iter().max()
        && arguments.wants("density")
    {
        let task = Task {
            count: *count,
            payload: payload.clone(),
            stamps: stamps::Stamps::create(*count).map_err(|error| error.to_string())?,
            scratch: scratch.0.join("density"),
        };
        let idle = std::time::Duration::from_secs(arguments.idle);
        // By itself it is beside all others.
        let wants = |name: &str| alone("density") || arguments.wants(name);
        let found = density::run(&programs, &disk.0, &task, idle, wants)?;
        tables::print_density(&found, *count);
    }
    if arguments.wants("storm") {
        let storm = storm::run(&programs, &disk.0, &payload)?;
        tables::print_storm(&storm);
    }
    Ok(())
}

/// Runs all rounds with one number of services.
fn compare(
    arguments: &Arguments,
    programs: &Path,
    disk: &Path,
    task: &Task,
    results: &mut Results,
) -> Result<(), String> {
    let mut others: Vec<Box<dyn Contestant>> = Vec::new();
    if arguments.wants("floor") {
        others.push(contestants::floor(task));
    }
    let mut insulas = Vec::new();
    for (name, walls) in [("bare", false), ("insula", true)] {
        if arguments.wants(name) {
            eprintln!("{} services: installing for insulad ({name})", task.count);
            let root = disk.join(format!("{name}-{}", task.count));
            let insula = Insula::with(programs, root, walls, task)?;
            if walls {
                results.host = insula.doctor();
            }
            insulas.push(insula);
        }
    }
    let mut peers = contestants::peers(task, |name| arguments.wants(name))?;
    for round in 0..arguments.rounds {
        let plan = Plan {
            round,
            idle: (round == 0).then_some(arguments.idle),
        };
        for contestant in &mut others {
            measure::round(contestant.as_mut(), task, &plan, results)?;
        }
        for insula in &mut insulas {
            measure::round(insula, task, &plan, results)?;
            measure::adoption(insula, task, &plan, results)?;
        }
        // The peers' figures are far from any ratio that is claimed: one round of theirs is enough.
        if round == 0 {
            for peer in &mut peers {
                measure::round(peer.as_mut(), task, &plan, results)?;
            }
        }
    }
    Ok(())
}
