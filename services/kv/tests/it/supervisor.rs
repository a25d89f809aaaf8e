//! The supervisor's side of a service's line, and a route to whoever is to serve.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use insula::ipc::client::Edge;
use insula::ipc::frames;
use insula::ipc::protocol::id::{Attempt, EdgeId, Epoch, Instance};
use insula::ipc::protocol::line::{
    ENV_ATTEMPT, ENV_DATA, ENV_INSTANCE, FromService, Leadership, ToService,
};
use insula::ipc::protocol::route::RouteState;
use insula::ipc::testing::Host;
use kv_contract::Kv;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

/// No wait of a test lasts longer.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);
pub(crate) const KV: &str = env!("CARGO_BIN_EXE_kv");
pub(crate) const EDGE: EdgeId = EdgeId(1);
const CONSUMER: Attempt = Attempt(500);

/// A route, an edge and a data directory.
pub(crate) struct World {
    pub(crate) host: Host,
    pub(crate) directory: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            host: Host::new(name),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn edge(&self) -> Edge {
        let used = self.host.used::<Kv>(CONSUMER);
        Edge::new(used, self.host.routes(), self.host.page(), Duration::ZERO).unwrap()
    }

    /// Starts kv, and gets it ready as a follower that serves the edge.
    pub(crate) fn start(&self, attempt: u64) -> Process {
        let mut process = Process::start(self.directory.path(), attempt);
        let (_, leadership, ready, serving, _) = process.hello();
        assert_eq!(leadership, Leadership::Following);
        assert!(!ready && serving.is_empty());
        process.welcome(&self.host);
        process.expect(&FromService::Ready);
        self.host.open_pair(process.attempt, CONSUMER);
        let served = self.host.served::<Kv>(CONSUMER);
        process.tell(&ToService::Serve(served), Some(&self.host.page()));
        process.expect(&FromService::Serving { edge: EDGE });
        process
    }

    /// Starts kv, lets it lead, and routes requests to it.
    pub(crate) fn start_leader(&self, attempt: u64, epoch: u64) -> Process {
        let process = self.start(attempt);
        process.lead(epoch);
        self.route(RouteState::Serve, &process, None);
        process
    }

    pub(crate) fn route(&self, state: RouteState, to: &Process, drained: Option<Attempt>) {
        self.host.publish(state, to.attempt, to.slot, drained);
    }

    /// What the supervisor does when a process is dead.
    pub(crate) fn bury(&self, process: &Process) {
        self.host.close_pair(process.attempt, CONSUMER);
    }
}

/// A service that runs, killed when dropped.
pub(crate) struct Process {
    child: Child,
    socket: PathBuf,
    line: Option<OwnedFd>,
    pub(crate) attempt: Attempt,
    pub(crate) slot: u8,
}

impl Process {
    fn start(directory: &Path, attempt: u64) -> Self {
        let path = directory.join(format!("line-{attempt}"));
        let listener = seqpacket();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(8).unwrap()).unwrap();
        // A shell moves the listener to its number; the process stays the same.
        let child = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 </dev/null", KV])
            .args(["--size-max", "1"])
            .env_clear()
            .env(ENV_ATTEMPT, attempt.to_string())
            .env(ENV_DATA, directory)
            .env(ENV_INSTANCE, "kv:0")
            .env("INSULA_RELEASE", "1.2.3")
            .stdin(Stdio::from(listener))
            .spawn()
            .unwrap();
        let mut process = Self {
            child,
            socket: path,
            line: None,
            attempt: Attempt(attempt),
            slot: (attempt % 16) as u8,
        };
        process.connect();
        process
    }

    /// Connects as a new supervisor does; the last one's connection ends.
    pub(crate) fn connect(&mut self) {
        self.line = None;
        let line = seqpacket();
        let wait = TimeVal::new(WATCHDOG.as_secs() as i64, 0);
        setsockopt(&line, sockopt::ReceiveTimeout, &wait).unwrap();
        connect(line.as_raw_fd(), &UnixAddr::new(&self.socket).unwrap()).unwrap();
        self.line = Some(line);
    }

    /// Ends the line, as the supervisor's death does.
    pub(crate) fn disconnect(&mut self) {
        self.line = None;
    }

    pub(crate) fn line(&self) -> &OwnedFd {
        self.line.as_ref().unwrap()
    }

    pub(crate) fn hear(&self) -> Option<FromService> {
        frames::receive(self.line())
            .unwrap()
            .map(|(message, _)| message)
    }

    pub(crate) fn expect(&self, message: &FromService) {
        assert_eq!(self.hear().as_ref(), Some(message));
    }

    pub(crate) fn tell(&self, message: &ToService, descriptor: Option<&OwnedFd>) {
        let descriptors: Vec<&dyn AsRawFd> = descriptor.iter().map(|fd| *fd as _).collect();
        frames::send(self.line(), message, &descriptors).unwrap();
    }

    /// Its first word: attempt, leadership, ready, serving, descriptor of the routes.
    pub(crate) fn hello(&mut self) -> (Attempt, Leadership, bool, Vec<EdgeId>, Option<i32>) {
        match self.hear() {
            Some(FromService::Schema(schema)) => {
                assert_eq!((schema.name.as_str(), schema.major), ("kv", 1));
                self.hello()
            }
            Some(FromService::Hello {
                attempt,
                provides,
                data_schema,
                leadership,
                ready,
                serving,
                routes_fd,
                ..
            }) => {
                assert_eq!(attempt, self.attempt);
                assert_eq!(provides[0].contract.to_string(), "kv@1");
                assert_eq!(data_schema, 1);
                (attempt, leadership, ready, serving, routes_fd)
            }
            other => panic!("no hello but {other:?}"),
        }
    }

    pub(crate) fn welcome(&self, host: &Host) {
        let welcome = ToService::Welcome {
            instance: Instance {
                service: "kv".parse().unwrap(),
                index: 0,
            },
            attempt: self.attempt,
            slot: self.slot,
            spin_ns: 0,
            steady_tsc: false,
        };
        self.tell(&welcome, Some(&host.routes()));
    }

    pub(crate) fn lead(&self, epoch: u64) {
        let epoch = Epoch(epoch);
        self.tell(&ToService::Lead { epoch }, None);
        self.expect(&FromService::Leading { epoch });
    }

    pub(crate) fn give_up(&self, epoch: u64) {
        let epoch = Epoch(epoch);
        self.tell(&ToService::Yield { epoch }, None);
        self.expect(&FromService::Yielded { epoch });
    }

    pub(crate) fn drain(&self) {
        self.tell(&ToService::Drain, None);
        self.expect(&FromService::Drained);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + WATCHDOG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::yield_now();
        }
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.end();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn seqpacket() -> OwnedFd {
    socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap()
}
