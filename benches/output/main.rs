//! What output costs: lines of services on their way to files, through insulad, through supervisord
//! and straight into a file.
//!
//! Timed from the moment when all writers, which run and wait, are let go, to the one when the last
//! line of each lies in its file; the processor time is that of the supervisor's process between
//! the two. Writers of lines make a system call for each line, as a program does that logs;
//! writers of blocks fill 4 KiB and more at a time. MB are what was written, without the stamps that
//! insulad puts before each line.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// A line, with its end.
const LINE: usize = 100;
/// Lines of all writers of a round.
const LINES: usize = 400_000;
const ROUNDS: usize = 3;
const WATCHDOG: Duration = Duration::from_secs(300);
/// What a writer says last.
const END: &str = "that was all\n";

/// How a writer writes.
#[derive(Debug, Clone, Copy)]
enum Style {
    Lines,
    Blocks,
}

impl Style {
    fn name(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::Blocks => "blocks",
        }
    }

    /// A script that waits for the file `go` and writes so many lines.
    fn script(self, go: &Path, lines: usize) -> String {
        let text = "x".repeat(LINE - 1);
        let pass = match self {
            Self::Lines => "| grep --line-buffered x",
            Self::Blocks => "",
        };
        format!(
            "until [ -e {} ]; do sleep 0.02; done; yes {text} | head -n {lines} {pass}; \
             echo that was all; exec sleep 100000",
            go.display()
        )
    }
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) -> Result<(), String> {
    let started = Instant::now();
    while !ready() {
        if started.elapsed() > WATCHDOG {
            return Err(format!("{what} did not come within {WATCHDOG:?}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Whether the last line of a file is the last that its writer says.
fn is_whole(path: &Path) -> bool {
    let Ok(mut file) = File::open(path) else {
        return false;
    };
    let mut end = String::new();
    let from = SeekFrom::End(-(END.len() as i64));
    file.seek(from).is_ok() && file.read_to_string(&mut end).is_ok() && end == END
}

/// Processor time of a process.
fn cpu(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let mut fields = text
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .skip(11);
    let mut ticks = || fields.next().and_then(|of| of.parse::<u64>().ok());
    let (user, system) = (ticks().unwrap_or(0), ticks().unwrap_or(0));
    Duration::from_millis((user + system) * 10)
}

/// One who takes the output of writers that wait for `go`.
struct Round {
    /// The supervisor, if there is one.
    daemon: Option<u32>,
    files: Vec<PathBuf>,
}

/// What a round took.
#[derive(Debug, Clone, Copy)]
struct Took {
    time: Duration,
    cpu: Duration,
    /// Lines that are not there.
    lost: usize,
}

fn measure(round: &Round, go: &Path) -> Result<Took, String> {
    let of_daemon = || round.daemon.map_or(Duration::ZERO, cpu);
    let before = of_daemon();
    let started = Instant::now();
    File::create(go).map_err(|error| error.to_string())?;
    wait_for("the last line", || {
        round.files.iter().all(|file| is_whole(file))
    })?;
    let time = started.elapsed();
    let cpu = of_daemon().saturating_sub(before);
    let whole: usize = round
        .files
        .iter()
        .map(|file| {
            let text = fs::read(file).unwrap_or_default();
            text.split(|byte| *byte == b'\n')
                .filter(|line| line.ends_with(b"xxxx"))
                .count()
        })
        .sum();
    Ok(Took {
        time,
        cpu,
        lost: LINES - whole,
    })
}

/// A directory that is removed when dropped.
struct Root(PathBuf);

impl Root {
    fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("insula-output-{}", std::process::id()));
        fs::create_dir(&path)
            .map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        let root = Self(path);
        // Services of their own users pass through it.
        fs::set_permissions(&root.0, fs::Permissions::from_mode(0o755))
            .map_err(|error| error.to_string())?;
        Ok(root)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start {:?}: {error}", command.get_program()))
}

fn names(writers: usize) -> Vec<String> {
    (0..writers)
        .map(|number| format!("writer-{number}"))
        .collect()
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    }
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Straight into files: what writing costs by itself.
fn plain(root: &Path, style: Style, writers: usize) -> Result<Took, String> {
    let go = root.join("go");
    let script = style.script(&go, LINES / writers);
    let mut files = Vec::new();
    let mut children = Vec::new();
    for name in names(writers) {
        let path = root.join(name);
        let file = File::create(&path).map_err(|error| error.to_string())?;
        let child = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(file)
            .spawn()
            .map_err(|error| error.to_string())?;
        children.push(child);
        files.push(path);
    }
    let round = Round {
        daemon: None,
        files,
    };
    let took = measure(&round, &go);
    for mut child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
    took
}

fn insula(programs: &Path, root: &Path, style: Style, writers: usize) -> Result<Took, String> {
    // The writers' walls let them look here.
    let go = root.join("lib/go");
    let script = style.script(&go, LINES / writers);
    let names = names(writers);
    for name in &names {
        let text = format!(
            "[run]\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\nprofile = \"dense\"\n\
             reads = [\"{}\"]\nautostart = false\n[run.output]\nmax-size = \"1GiB\"\n",
            root.join("lib").display()
        );
        write(&root.join(format!("etc/services/{name}.toml")), &text)?;
    }
    let mut daemon = spawn(
        Command::new(programs.join("insulad"))
            .arg("--root")
            .arg(root),
    )?;
    let control = |words: &[&str]| {
        let mut command = Command::new(programs.join("insulactl"));
        command.arg("--root").arg(root).args(words);
        command.output().map_err(|error| error.to_string())
    };
    let took = (|| {
        wait_for("insulad", || {
            control(&["releases"]).is_ok_and(|said| said.status.success())
        })?;
        let started = control(&["start", "all"])?;
        if !started.status.success() {
            return Err(String::from_utf8_lossy(&started.stdout).into_owned()
                + &String::from_utf8_lossy(&started.stderr));
        }
        let round = Round {
            daemon: Some(daemon.id()),
            files: names
                .iter()
                .map(|name| root.join(format!("log/{name}-0/current")))
                .collect(),
        };
        measure(&round, &go)
    })();
    let _ = control(&["shutdown"]);
    let ended = wait_for("the end of insulad", || {
        daemon.try_wait().ok().flatten().is_some()
    });
    took.and_then(|took| ended.map(|()| took))
}

fn supervisord(root: &Path, style: Style, writers: usize) -> Result<Took, String> {
    let go = root.join("go");
    // A percent sign would be an expansion, and there is none.
    let script = style.script(&go, LINES / writers);
    let at = root.display();
    let mut text = format!(
        "[unix_http_server]\nfile={at}/socket\n[supervisord]\nnodaemon=true\nlogfile={at}/log\n\
         pidfile={at}/pid\nchildlogdir={at}\nminfds=4096\n[rpcinterface:supervisor]\n\
         supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\
         [supervisorctl]\nserverurl=unix://{at}/socket\n"
    );
    let names = names(writers);
    let launcher = root.join("writer");
    write(&launcher, &format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755))
        .map_err(|error| error.to_string())?;
    for name in &names {
        text += &format!(
            "[program:{name}]\ncommand={at}/writer\nstartsecs=0\nstdout_logfile={at}/{name}.log\n\
             stdout_logfile_maxbytes=0\nkillasgroup=true\nstopasgroup=true\n"
        );
    }
    let configuration = root.join("supervisord.conf");
    write(&configuration, &text)?;
    let mut daemon = spawn(
        Command::new("supervisord")
            .arg("-n")
            .arg("-c")
            .arg(&configuration),
    )?;
    let control = |words: &[&str]| {
        let mut command = Command::new("supervisorctl");
        command.arg("-c").arg(&configuration).args(words);
        command.output().map_err(|error| error.to_string())
    };
    let took = (|| {
        wait_for("all writers", || {
            control(&["status"]).is_ok_and(|said| {
                let said = String::from_utf8_lossy(&said.stdout).into_owned();
                said.lines().filter(|line| line.contains("RUNNING")).count() == writers
            })
        })?;
        let round = Round {
            daemon: Some(daemon.id()),
            files: names
                .iter()
                .map(|name| root.join(format!("{name}.log")))
                .collect(),
        };
        measure(&round, &go)
    })();
    let _ = control(&["shutdown"]);
    let ended = wait_for("the end of supervisord", || {
        daemon.try_wait().ok().flatten().is_some()
    });
    took.and_then(|took| ended.map(|()| took))
}

/// Where cargo puts the workspace's optimised programs; built if they are not there.
fn programs() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = own.ancestors().nth(2).ok_or("no target directory")?;
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "-p", "insula-supervisor"]);
    if target.ends_with("release") {
        build.arg("--release");
    }
    let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
    match built {
        Ok(status) if status.success() => Ok(target.to_owned()),
        Ok(status) => Err(format!("insulad does not build: {status}")),
        Err(error) => Err(format!("cannot build insulad: {error}")),
    }
}

fn run() -> Result<(), String> {
    let programs = programs()?;
    let peer = Command::new("supervisord")
        .arg("--version")
        .output()
        .is_ok_and(|said| said.status.success());
    if !peer {
        println!("supervisord is not installed: left out");
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{LINES} lines of {LINE} bytes; the median of {ROUNDS} rounds; load before: {}",
        load.trim()
    );
    println!(
        "{:<12} {:>7} {:<7} {:>12} {:>8} {:>14} {:>6}",
        "", "writers", "in", "lines/s", "MB/s", "CPU ms per MB", "lost"
    );
    let megabytes = (LINES * LINE) as f64 / 1e6;
    for writers in [1, 100] {
        for style in [Style::Lines, Style::Blocks] {
            for who in ["file", "insulad", "supervisord"] {
                if who == "supervisord" && !peer {
                    continue;
                }
                let mut took = Vec::new();
                for _ in 0..ROUNDS {
                    let root = Root::new()?;
                    took.push(match who {
                        "file" => plain(&root.0, style, writers)?,
                        "insulad" => insula(&programs, &root.0, style, writers)?,
                        _ => supervisord(&root.0, style, writers)?,
                    });
                }
                took.sort_by_key(|took| took.time);
                let took = took[ROUNDS / 2];
                let seconds = took.time.as_secs_f64();
                println!(
                    "{who:<12} {writers:>7} {:<7} {:>12.0} {:>8.1} {:>14.2} {:>6}",
                    style.name(),
                    LINES as f64 / seconds,
                    megabytes / seconds,
                    took.cpu.as_secs_f64() * 1e3 / megabytes,
                    took.lost
                );
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    // `cargo test` runs every bench once.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("nothing is measured: `cargo bench -p insula-benches --bench output` does");
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
