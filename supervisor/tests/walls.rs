//! Real processes behind real walls.
//!
//! The walled program is this test's own binary: run with [`ROLE`], `walled_child` tries what it is
//! told to try and writes what came of it to its standard output.

#![expect(unsafe_code, reason = "sockets by number, and ptrace")]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock};

use insula_supervisor::launch::{
    Access, Calls, Launch, LaunchError, Launched, Network, Step, Walls, system_access,
};
use nix::sys::resource::Resource;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

const ROLE: &str = "INSULA_TEST_TRIES";
const UID: u32 = 60_011;

/// A child of another test, until its exec, has a copy of every descriptor: of a program that is
/// being written, too, which then cannot be run.
static WRITING: RwLock<()> = RwLock::new(());

fn spawn(launch: &Launch<'_>) -> Result<Launched, LaunchError> {
    let _nobody_writes = WRITING.read().unwrap_or_else(PoisonError::into_inner);
    insula_supervisor::launch::spawn(launch)
}

fn copy_program(from: &Path, to: &Path) {
    let _nobody_launches = WRITING.write().unwrap_or_else(PoisonError::into_inner);
    fs::copy(from, to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o755)).unwrap();
}

/// Whether this is root; says so where it is not, since the test then shows nothing.
fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED (needs root): {what}");
    }
    root
}

/// A walled program that tries things; otherwise nothing.
#[test]
fn walled_child() {
    let Ok(tries) = std::env::var(ROLE) else {
        return;
    };
    for line in tries.lines() {
        let (action, what) = line
            .split_once(' ')
            .expect("an action and what it is about");
        let result = match action {
            "read" => fs::read(what).map(drop),
            "list" => fs::read_dir(what).map(drop),
            "write" => File::create(what).and_then(|mut file| file.write_all(b"x")),
            "run" => Command::new(what).arg("--list").output().map(drop),
            "listen" => TcpListener::bind(("127.0.0.1", what.parse().unwrap())).map(drop),
            "connect" => TcpStream::connect(("127.0.0.1", what.parse().unwrap())).map(drop),
            "signal" => {
                let pid = nix::unistd::Pid::from_raw(what.parse().unwrap());
                nix::sys::signal::kill(pid, None).map_err(io::Error::from)
            }
            "thread" => std::thread::spawn(|| ())
                .join()
                .map_err(|_| io::Error::other("it panicked")),
            "socket" => socket(what),
            "unshare" => nix::sched::unshare(nix::sched::CloneFlags::from_bits_retain(
                what.parse().unwrap(),
            ))
            .map_err(io::Error::from),
            "affinity" => {
                let mut cpus = nix::sched::CpuSet::new();
                cpus.set(what.parse().unwrap()).unwrap();
                let itself = nix::unistd::Pid::from_raw(0);
                nix::sched::sched_setaffinity(itself, &cpus).map_err(io::Error::from)
            }
            "trace" => {
                let pid: i32 = what.parse().unwrap();
                // SAFETY: with this request the last two arguments are integers of 0.
                let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
                nix::Error::result(seized)
                    .map(drop)
                    .map_err(io::Error::from)
            }
            "close" => nix::unistd::close(what.parse::<i32>().unwrap()).map_err(io::Error::from),
            other => panic!("unknown action {other}"),
        };
        let text = match result {
            Ok(()) => "ok".to_owned(),
            Err(error) => nix::Error::from_raw(error.raw_os_error().unwrap_or(0)).to_string(),
        };
        println!("\n=> {line}: {}", text.split(':').next().unwrap());
    }
}

/// Opens a socket of this family, type and protocol.
fn socket(of: &str) -> io::Result<()> {
    let of: Vec<i32> = of.split(',').map(|word| word.parse().unwrap()).collect();
    // SAFETY: three integers.
    let fd = unsafe { libc::socket(of[0], of[1], of[2]) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    nix::unistd::close(fd).map_err(io::Error::from)
}

/// A release with this test's binary, a data directory, and something that is nobody's.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Self { directory };
        fs::set_permissions(place.directory.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["release", "data", "other"] {
            fs::create_dir(place.path(name)).unwrap();
            fs::set_permissions(place.path(name), Permissions::from_mode(0o755)).unwrap();
        }
        copy_program(
            &std::env::current_exe().unwrap(),
            &place.path("release/program"),
        );
        fs::write(place.path("other/file"), "x").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn access(&self) -> Access {
        system_access().and(Access {
            read_only: vec![],
            execute: vec![self.path("release")],
            read_write: vec![self.path("data")],
            reuse: vec![],
        })
    }

    fn launch(&self, executable: impl AsRef<Path>, arguments: &[&str]) -> Launch<'static> {
        Launch {
            executable: executable.as_ref().to_owned(),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: vec![("LANG".into(), "C".into())],
            directory: self.path("data"),
            output: None,
            errors: None,
            line: None,
            sockets: Vec::new(),
            watchdog: None,
            tied: false,
            uid: None,
            cpus: vec![],
            idle: false,
            memory: None,
            nice: None,
            limits: vec![],
            access: None,
            network: Network::default(),
            calls: None,
            cgroup: None,
        }
    }

    /// Has the walled program try these things, and tells what came of each.
    fn try_all(
        &self,
        uid: Option<u32>,
        network: Network,
        tries: &[String],
    ) -> BTreeMap<String, String> {
        self.try_behind(uid, network, Calls::ForeignOnNetwork, tries)
    }

    fn try_behind(
        &self,
        uid: Option<u32>,
        network: Network,
        calls: Calls,
        tries: &[String],
    ) -> BTreeMap<String, String> {
        if let Some(uid) = uid {
            std::os::unix::fs::chown(self.path("data"), Some(uid), Some(uid)).unwrap();
        }
        let output = File::create(self.path("output")).unwrap();
        let mut launch = self.launch(
            self.path("release/program"),
            &["walled_child", "--exact", "--nocapture", "--test-threads=1"],
        );
        launch.environment = vec![(ROLE.into(), tries.join("\n").into())];
        launch.output = Some(output.as_fd());
        launch.uid = uid;
        launch.access = Some(self.access());
        launch.network = network;
        launch.calls = Walls::probe().has_filters().then_some(calls);
        let status = end(&spawn(&launch).unwrap());
        let text = fs::read_to_string(self.path("output")).unwrap();
        assert!(
            matches!(status, WaitStatus::Exited(_, 0)),
            "{status:?}: {text}"
        );
        text.lines()
            .filter_map(|line| line.strip_prefix("=> ")?.rsplit_once(": "))
            .map(|(action, result)| (action.to_owned(), result.to_owned()))
            .collect()
    }
}

fn end(launched: &Launched) -> WaitStatus {
    waitid(Id::PIDFd(launched.pidfd.as_fd()), WaitPidFlag::WEXITED).unwrap()
}

/// A process that is killed when the test is done with it.
struct Running(Launched);

impl Running {
    fn status(&self) -> BTreeMap<String, String> {
        fs::read_to_string(format!("/proc/{}/status", self.0.pid))
            .unwrap()
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| {
                (
                    key.to_owned(),
                    value.split_whitespace().collect::<Vec<_>>().join(" "),
                )
            })
            .collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.pid);
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        end(&self.0);
    }
}

fn expect(results: &BTreeMap<String, String>, expected: &[(String, &str)]) {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(action, result)| (action.clone(), (*result).to_owned()))
        .collect();
    assert_eq!(results, &expected);
}

#[test]
fn a_walled_process_opens_what_it_was_given_and_nothing_else() {
    if !Walls::probe().has_landlock() {
        eprintln!("SKIPPED (needs Landlock): files behind a wall");
        return;
    }
    let place = Place::new();
    copy_program(Path::new("/bin/true"), &place.path("data/copy"));
    let uid = nix::unistd::geteuid().is_root().then_some(UID);
    let expected = [
        (format!("read {}", place.text("release/program")), "ok"),
        (format!("write {}", place.text("release/new")), "EACCES"),
        (format!("write {}", place.text("data/new")), "ok"),
        (format!("read {}", place.text("data/new")), "ok"),
        (format!("run {}", place.text("data/copy")), "EACCES"),
        (format!("read {}", place.text("other/file")), "EACCES"),
        (format!("list {}", place.text("other")), "EACCES"),
        (format!("list {}", place.text("")), "EACCES"),
        ("read /etc/hosts".to_owned(), "ok"),
        ("read /etc/hostname".to_owned(), "EACCES"),
        ("read /proc/version".to_owned(), "EACCES"),
        ("run /bin/true".to_owned(), "EACCES"),
        ("list /sys".to_owned(), "EACCES"),
        ("list /dev/shm".to_owned(), "EACCES"),
        ("write /dev/null".to_owned(), "ok"),
        ("close 3".to_owned(), "EBADF"),
    ];
    let tries: Vec<_> = expected.iter().map(|(action, _)| action.clone()).collect();
    expect(&place.try_all(uid, Network::default(), &tries), &expected);
}

#[test]
fn a_walled_process_uses_the_ports_of_its_manifest_and_signals_nobody() {
    let report = Walls::probe().report();
    if !report
        .iter()
        .any(|wall| wall.name == "signals" && wall.holds)
    {
        eprintln!("SKIPPED (needs Landlock ABI 6): ports and signals behind a wall");
        return;
    }
    let place = Place::new();
    let uid = nix::unistd::geteuid().is_root().then_some(UID);
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = open.local_addr().unwrap().port();
    // Two that nobody listens on now; the walled process is denied one before anybody asks.
    let free = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let (granted, denied) = (free(), free());
    let mut launch = place.launch("/bin/sleep", &["1000"]);
    launch.uid = uid;
    let neighbour = Running(spawn(&launch).unwrap());
    let tries = [
        format!("listen {granted}"),
        format!("listen {denied}"),
        format!("connect {port}"),
        format!("signal {}", neighbour.0.pid),
    ];
    let with = |connect| Network {
        listen: vec![granted],
        connect,
    };
    let results = ["ok", "EACCES", "EACCES", "EPERM"];
    let expected: Vec<_> = tries.iter().cloned().zip(results).collect();
    expect(&place.try_all(uid, with(false), &tries), &expected);
    let results = ["ok", "EACCES", "ok", "EPERM"];
    let expected: Vec<_> = tries.iter().cloned().zip(results).collect();
    expect(&place.try_all(uid, with(true), &tries), &expected);
}

#[test]
fn a_walled_process_makes_the_calls_of_its_class_and_no_others() {
    if !Walls::probe().has_filters() {
        eprintln!("SKIPPED (needs seccomp): system calls behind a wall");
        return;
    }
    let place = Place::new();
    let uid = nix::unistd::geteuid().is_root().then_some(UID);
    let mut launch = place.launch("/bin/sleep", &["1000"]);
    launch.uid = uid;
    let neighbour = Running(spawn(&launch).unwrap());
    let sockets = [
        (libc::AF_UNIX, libc::SOCK_DGRAM, 0),
        (libc::AF_INET, libc::SOCK_STREAM, 0),
        (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
        (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        (libc::AF_NETLINK, libc::SOCK_RAW, 0),
        (libc::AF_PACKET, libc::SOCK_DGRAM, 0),
        (libc::AF_VSOCK, libc::SOCK_STREAM, 0),
    ]
    .map(|(family, kind, protocol)| format!("socket {family},{kind},{protocol}"));
    let family = "EAFNOSUPPORT";
    let rows = [
        (Calls::Native, ["EPERM"; 8]),
        (
            Calls::Foreign,
            ["ok", family, family, family, family, family, family, family],
        ),
        (
            Calls::ForeignOnNetwork,
            [
                "ok",
                "ok",
                "ok",
                "EPROTONOSUPPORT",
                "ESOCKTNOSUPPORT",
                family,
                family,
                family,
            ],
        ),
    ];
    for (calls, results) in rows {
        let mut expected: Vec<_> = sockets.iter().cloned().zip(results).collect();
        expected.extend([
            ("thread one".to_owned(), "ok"),
            (format!("unshare {}", libc::CLONE_NEWUSER), "EPERM"),
            (format!("unshare {}", libc::CLONE_FS), "ok"),
            ("affinity 0".to_owned(), "EPERM"),
            (format!("trace {}", neighbour.0.pid), "EPERM"),
        ]);
        let tries: Vec<_> = expected.iter().map(|(action, _)| action.clone()).collect();
        let network = Network {
            connect: calls == Calls::ForeignOnNetwork,
            ..Network::default()
        };
        expect(&place.try_behind(uid, network, calls, &tries), &expected);
    }
}

#[test]
fn a_process_inherits_nothing_that_was_not_named() {
    let place = Place::new();
    // What must not get through: an open descriptor, a variable, an ignored and a blocked signal.
    let inherited: OwnedFd = File::open("/dev/zero").unwrap().into();
    nix::fcntl::fcntl(
        &inherited,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let mut blocked = nix::sys::signal::SigSet::empty();
    blocked.add(nix::sys::signal::SIGUSR2);
    blocked.thread_block().unwrap();
    let (line, _peer) = io::pipe().unwrap();
    let mut launch = place.launch("/bin/sleep", &["1000"]);
    launch.line = Some(line.as_fd());
    launch.limits = vec![(Resource::RLIMIT_NOFILE, 77)];
    launch.cpus = vec![0];
    launch.nice = Some(3);
    let running = Running(spawn(&launch).unwrap());
    blocked.thread_unblock().unwrap();
    let proc = PathBuf::from(format!("/proc/{}", running.0.pid));
    let status = running.status();
    for (key, value) in [
        ("SigBlk", "0000000000000000"),
        ("SigIgn", "0000000000000000"),
        ("SigCgt", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Umask", "0027"),
        ("Cpus_allowed_list", "0"),
    ] {
        assert_eq!(status[key], value, "{key}");
    }
    // Its loader has libraries open for a moment.
    support::wait_for("nothing else to be open", || {
        let mut open: Vec<i32> = fs::read_dir(proc.join("fd"))
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        open.sort_unstable();
        (open == [0, 1, 2, 3]).then_some(())
    });
    for number in ["0", "1", "2"] {
        assert_eq!(
            fs::read_link(proc.join("fd").join(number)).unwrap(),
            Path::new("/dev/null")
        );
    }
    assert!(
        fs::read_link(proc.join("fd/3"))
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("pipe:")
    );
    // The parent goes on as soon as exec has let go of its memory, a little before this is set.
    let environment = support::wait_for("the environment", || {
        Some(fs::read(proc.join("environ")).unwrap()).filter(|text| !text.is_empty())
    });
    assert_eq!(environment, b"LANG=C\0");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), place.path("data"));
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..]
            .split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(limit("Max core file size"), "0 0");
    assert_eq!(limit("Max open files"), "77 77");
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let pid = running.0.pid.to_string();
    assert_eq!(
        (fields[2], fields[3], fields[16]),
        (&*pid, &*pid, "3"),
        "group, session, nice"
    );
}

#[test]
fn a_launch_leaves_the_descriptors_of_who_launches_alone() {
    let place = Place::new();
    let own = || {
        ["0", "1", "2"].map(|number| fs::read_link(Path::new("/proc/self/fd").join(number)).ok())
    };
    let before = own();
    // Kept open in a child until its exec: what is reserved lies above it.
    let lock = File::open("/dev/zero").unwrap();
    insula_supervisor::launch::reserve(lock.as_fd()).unwrap();
    let output = File::create(place.path("other/output")).unwrap();
    for _ in 0..3 {
        let mut launch = place.launch("/bin/sleep", &["1000"]);
        launch.output = Some(output.as_fd());
        // More than there are reserved places.
        launch.sockets = vec![("a", lock.as_fd()); 20];
        let running = Running(spawn(&launch).unwrap());
        assert_eq!(own(), before);
        let theirs =
            |number: &str| fs::read_link(format!("/proc/{}/fd/{number}", running.0.pid)).unwrap();
        assert_eq!(theirs("1"), place.path("other/output"));
        assert_eq!(theirs("22"), Path::new("/dev/zero"));
        // Its loader has libraries open for a moment.
        support::wait_for("nothing else to be open", || {
            let open = fs::read_dir(format!("/proc/{}/fd", running.0.pid)).unwrap();
            (open.count() == 23).then_some(())
        });
    }
}

#[test]
fn a_process_of_its_own_user_has_no_group_and_no_way_back() {
    if !is_root("a user id of its own") {
        return;
    }
    let place = Place::new();
    let mut launch = place.launch("/bin/sleep", &["1000"]);
    launch.uid = Some(UID);
    // Root may have none by chance.
    nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(0)]).unwrap();
    let running = Running(spawn(&launch).unwrap());
    let status = running.status();
    let four = [
        UID.to_string(),
        UID.to_string(),
        UID.to_string(),
        UID.to_string(),
    ]
    .join(" ");
    for (key, value) in [
        ("Uid", &*four),
        ("Gid", &*four),
        ("Groups", ""),
        ("CapInh", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapEff", "0000000000000000"),
    ] {
        assert_eq!(status[key], value, "{key}");
    }
}

#[test]
fn a_launch_that_fails_says_at_which_step_and_leaves_no_process() {
    let place = Place::new();
    let failure = |launch: &Launch<'_>| match spawn(launch) {
        Err(LaunchError::Step { step, source, .. }) => {
            (step, nix::Error::from_raw(source.raw_os_error().unwrap()))
        }
        other => panic!("{other:?}"),
    };
    let launch = place.launch(place.path("release/none"), &[]);
    assert_eq!(failure(&launch), (Step::Exec, nix::Error::ENOENT));
    let launch = place.launch(place.path("other/file"), &[]);
    assert_eq!(failure(&launch), (Step::Exec, nix::Error::EACCES));
    let mut launch = place.launch("/bin/true", &[]);
    launch.directory = place.path("none");
    assert_eq!(failure(&launch), (Step::Directory, nix::Error::ENOENT));
    let mut launch = place.launch("/bin/true", &[]);
    launch.cpus = vec![8000];
    assert_eq!(failure(&launch), (Step::Cpus, nix::Error::EINVAL));
    let text = spawn(&launch).unwrap_err().to_string();
    assert_eq!(text, "cannot set the CPUs for `/bin/true`");
    let launch = place.launch("/bin/true", &["a\0b"]);
    assert!(matches!(
        spawn(&launch),
        Err(LaunchError::Nul("an argument", _))
    ));
    let mut launch = place.launch("/bin/true", &[]);
    launch.access = Some(Access {
        read_only: vec![place.path("none")],
        ..Access::default()
    });
    assert!(matches!(spawn(&launch), Err(LaunchError::Rules(_))));
    if is_root("a directory that the service's user may not enter") {
        let mut launch = place.launch("/bin/true", &[]);
        launch.uid = Some(UID);
        fs::set_permissions(place.path("data"), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(failure(&launch), (Step::Directory, nix::Error::EACCES));
    }
}

#[test]
fn threads_that_launch_and_allocate_do_not_disturb_each_other() {
    let place = Place::new();
    let uid = nix::unistd::geteuid().is_root().then_some(UID);
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let place = &place;
            scope.spawn(move || {
                for round in 0..50_usize {
                    let kept: Vec<Vec<usize>> = (0..64)
                        .map(|n| vec![thread ^ round ^ n; 64 * (n + 1)])
                        .collect();
                    let good = round % 5 != 0;
                    let mut launch = place.launch(if good { "/bin/true" } else { "/none" }, &[]);
                    launch.uid = uid;
                    match spawn(&launch) {
                        Ok(launched) => {
                            assert!(good);
                            assert!(matches!(end(&launched), WaitStatus::Exited(_, 0)));
                        }
                        Err(error) => assert!(!good, "{error:?}"),
                    }
                    for (n, block) in kept.iter().enumerate() {
                        assert!(block.iter().all(|word| *word == thread ^ round ^ n));
                    }
                }
            });
        }
    });
}

#[test]
fn a_process_is_born_in_its_cgroup() {
    let walls = Walls::probe();
    let Some(base) = walls.cgroup() else {
        eprintln!("SKIPPED (needs a delegated cgroup v2): birth in a cgroup");
        return;
    };
    let own = base.join(format!("insula-test-{}", std::process::id()));
    fs::create_dir(&own).unwrap();
    let place = Place::new();
    let mut launch = place.launch("/bin/sleep", &["1000"]);
    let directory = File::open(&own).unwrap();
    launch.cgroup = Some(directory.as_fd());
    let running = Running(spawn(&launch).unwrap());
    let pids = fs::read_to_string(own.join("cgroup.procs")).unwrap();
    assert_eq!(pids.trim(), running.0.pid.to_string());
    drop(running);
    fs::remove_dir(&own).unwrap();
}
