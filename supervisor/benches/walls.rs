//! What the system call wall costs: a launch with and without it, and a call behind it.
//!
//! A launch is timed from before [`spawn`] until it returns, which is after the exec; the calls are
//! `getpid`, and an `unshare` whose argument the wall looks at, by a child of this program that times itself. Each is
//! taken in rounds, launches in turns with and without the wall, and the least is told, which is what
//! it costs on a processor that nobody else uses.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use insula_supervisor::launch::{
    Calls, Launch, Network, programs_of_the_host, spawn, system_access,
};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

const ROLE: &str = "INSULA_BENCH_CALLS";
const ROUNDS: usize = 400;
/// In a round.
const CALLS: u32 = 10_000;

fn main() {
    if std::env::var_os(ROLE).is_some() {
        return call();
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..2 * ROUNDS {
        let calls = (round % 2 == 0).then_some(Calls::Native);
        let launch = launch("/bin/true".into(), calls);
        let begin = Instant::now();
        let launched = spawn(&launch).expect("/bin/true can be launched");
        let took = begin.elapsed();
        waitid(Id::PIDFd(launched.pidfd.as_fd()), WaitPidFlag::WEXITED).expect("our child");
        if calls.is_some() {
            &mut with
        } else {
            &mut without
        }
        .push(took);
    }
    for (name, mut all) in [("without", without), ("with", with)] {
        all.sort_unstable();
        println!(
            "a launch {name} it: {:?} (least), {:?} (median)",
            all[0],
            all[all.len() / 2]
        );
    }
    let own = std::env::current_exe().expect("a bench knows its program");
    let directory = tempfile::tempdir().expect("a directory");
    for (name, calls) in [("without", None), ("with", Some(Calls::Native))] {
        let output = File::create(directory.path().join("output")).expect("our directory");
        let mut launch = launch(own.clone(), calls);
        launch.environment = vec![(ROLE.into(), OsString::new())];
        launch.output = Some(output.as_fd());
        launch.access = None;
        let launched = spawn(&launch).expect("this program can be launched");
        waitid(Id::PIDFd(launched.pidfd.as_fd()), WaitPidFlag::WEXITED).expect("our child");
        let said = std::fs::read_to_string(directory.path().join("output")).expect("our directory");
        println!("a call {name} it: {}", said.trim());
    }
}

fn launch(executable: PathBuf, calls: Option<Calls>) -> Launch<'static> {
    let mut access = system_access();
    access.execute.extend(programs_of_the_host());
    Launch {
        access: Some(access),
        executable,
        arguments: Vec::new(),
        environment: Vec::new(),
        directory: "/".into(),
        output: None,
        errors: None,
        line: None,
        sockets: Vec::new(),
        watchdog: None,
        tied: false,
        uid: None,
        cpus: Vec::new(),
        idle: false,
        memory: None,
        nice: None,
        limits: Vec::new(),
        network: Network::default(),
        calls,
        cgroup: None,
    }
}

/// Times calls and prints what one took.
fn call() {
    let each = |call: &dyn Fn()| {
        let mut rounds: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let begin = Instant::now();
                for _ in 0..CALLS {
                    call();
                }
                begin.elapsed() / CALLS
            })
            .collect();
        rounds.sort_unstable();
        rounds[0]
    };
    let number = each(&|| {
        nix::unistd::getpid();
    });
    let asked = each(&|| {
        let _ = nix::sched::unshare(nix::sched::CloneFlags::empty());
    });
    println!("{number:?} for getpid, {asked:?} for unshare of nothing");
}
