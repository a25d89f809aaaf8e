//! The one loop: collect, decide, record, execute; the only owner of state.
//!
//! Everything that happens reaches `Driver::turn` as an event: orders from the control API,
//! exits and words of services from the tasks that wait for them, deadlines from the core. The
//! core decides, the ledgers store what it decided, and only then `Driver::execute` acts. What
//! acting brings about (a launch that failed) is an event again.

pub mod ask;
mod clients;
mod confine;
mod execute;
mod forms;
mod health;
mod idle;
mod install;
mod limited;
mod limits;
mod processes;
mod restore;
pub mod signals;
pub mod update;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use insula_contract::id::{Attempt, ContractId};
use insula_contract::schema::Schema;
use insula_core::core::{Core, Decision, Settings};
use insula_core::event::{ClientId, Done, Event, Refusal, RefusalKind, RequestId};
use insula_core::placement::{Placement, Topology};
use insula_core::report::{self, State};
use insula_core::spec::ProfileSpec;
use insula_core::time::Time;
use nix::time::{ClockId, clock_gettime};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::aside::Watch;
use crate::cgroup::Groups;
use crate::channel::Channels;
use crate::config::{self, Applied, Profiles};
use crate::foreign::sockets::Sockets;
use crate::launch::{Isolation, Rulesets, Walls};
use crate::ledger::{Identity, Ledger};
use crate::memory::{EdgePage, RouteTable};
use crate::meters::Meters;
use crate::output::Lines;
use crate::paths::Paths;
use crate::places::Places;
use crate::quota::Quotas;
use crate::release::Depot;
use crate::systemd::notify::Unit;
use crate::systemd::store::Store;
use ask::{Ask, ReleaseRow};
use clients::ClientLine;
use forms::Forms;
use health::Suspect;
pub use idle::Gains;
use idle::Idlers;
use processes::ProcessHandle;

/// Why the daemon cannot go on.
#[derive(Debug, Error)]
pub enum DriverError {
    /// What is decided cannot be stored, so it must not be done.
    #[error("cannot record a decision")]
    Record(#[source] crate::ledger::LedgerError),
    /// Something that it needs from the start.
    #[error("cannot {what}")]
    Setup {
        /// What.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

pub(crate) fn setup<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
) -> impl FnOnce(E) -> DriverError {
    move |source| DriverError::Setup {
        what,
        source: source.into(),
    }
}

/// Events that are decided about before what was decided is recorded and done, at most: the first
/// of them waits for the last.
const TOGETHER: usize = 64;

/// Nanoseconds of `CLOCK_BOOTTIME`, as the core counts.
pub fn now() -> Time {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the kernel has CLOCK_BOOTTIME");
    let seconds = u64::try_from(time.tv_sec()).expect("boot time is positive");
    let nanos = u64::try_from(time.tv_nsec()).expect("boot time is positive");
    Time(seconds * 1_000_000_000 + nanos)
}

/// The daemon's state.
pub struct Driver {
    core: Core,
    ledger: Ledger,
    paths: Paths,
    profiles: Profiles,
    /// What of the host's files holds.
    applied: Applied,
    /// How many mistakes keep what the files say now from being taken in.
    mistakes: usize,
    depot: Depot,
    walls: Walls,
    groups: Option<Groups>,
    quotas: Quotas,
    channels: Channels,
    rulesets: Rulesets,
    routes: RouteTable,
    /// The page of an edge, by its route and one attempt of its consumer.
    pages: BTreeMap<(u32, Attempt), EdgePage>,
    /// Whether services can tell the time by the processor's counter.
    steady_tsc: bool,
    /// By attempt: of a service's process, or of a local client's edge.
    meters: BTreeMap<Attempt, Meters>,
    processes: BTreeMap<Attempt, ProcessHandle>,
    /// Who steps aside, and for whom.
    aside: Watch,
    /// Those that are not recorded yet.
    launched: Vec<(Attempt, Identity)>,
    /// Those that were found not to answer, and are watched.
    suspects: BTreeMap<Attempt, Suspect>,
    /// How many suspicions there were.
    suspicions: u64,
    /// What services write.
    lines: Lines,
    /// What foreign programs listen on.
    sockets: Sockets,
    clients: BTreeMap<ClientId, ClientLine>,
    /// Who is idle.
    idlers: Idlers,
    forms: Forms,
    orders: BTreeMap<RequestId, oneshot::Sender<Result<Done, Refusal>>>,
    next_request: u64,
    next_client: u64,
    /// Events that acting brought about.
    pending: VecDeque<Event>,
    news: mpsc::UnboundedSender<News>,
    inbox: mpsc::UnboundedReceiver<News>,
    /// Whether the out-of-memory killer spares the daemon, which its children must not inherit.
    sheltered: bool,
    /// The daemon's own unit.
    unit: Unit,
    /// What systemd keeps for the next daemon.
    store: Store,
    /// Attempts whose processes it is to keep, too.
    to_keep: Vec<Attempt>,
    ended: Option<End>,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Stop everything in order and end.
    Stop,
    /// End and leave the services to the next daemon, as a crash does.
    Leave,
    /// Take in what the host's files say.
    Reload,
}

/// How the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Everything is down.
    Stopped,
    /// The services go on.
    Left,
    /// So they do, and this program is to take over.
    Succeeded(PathBuf),
}

/// What the waiting tasks tell the loop.
#[derive(Debug)]
pub(crate) enum News {
    /// An event for the core.
    Event(Event),
    /// A local client is connected.
    Client(Box<clients::Arrival>),
    /// A process said hello, and before it these schemas.
    Greeted(Box<Event>, Vec<Schema>),
    /// A local client's connection is closed.
    ClientLeft(ClientId),
    /// A local client asks something.
    Asked(ClientId, Box<insula_contract::local::Ask>),
    /// A request to a contract waits too long, at a service or a local client.
    Late(Option<Attempt>, ContractId, Duration),
    /// A suspect can be judged: which, and under which suspicion.
    LookDue(Attempt, u64),
    /// Services that may be idle were looked at.
    Looked(Box<idle::Looked>),
    /// So many bytes of memory were taken back from an idle service.
    Reclaimed(u64),
    /// A local client has waited long enough for what a service says of itself.
    DescribeDue(ClientId, ContractId),
    /// An installation ended.
    Installed(Box<install::Outcome>),
}

impl Driver {
    /// Opens what the daemon keeps, and takes charge of what an earlier one left.
    ///
    /// `kept` are the descriptors of processes that systemd kept, if it could be asked to.
    pub fn open(
        paths: Paths,
        isolation: Isolation,
        kept: Option<Vec<OwnedFd>>,
    ) -> Result<Self, DriverError> {
        paths
            .create()
            .map_err(setup("make the daemon's directories"))?;
        let walls = Walls::probe().with(isolation);
        let groups = Groups::open(&walls, &paths);
        let quotas = Quotas::of(&paths.data_root()).map_err(setup("open the data's directory"))?;
        let applied = Applied::load(&paths.lib().join(update::APPLIED));
        let applied = applied.map_err(setup("read what the host's files said last"))?;
        let profiles =
            Profiles::of_text(&paths.etc().join("profiles.toml"), &applied.files.profiles)
                .unwrap_or_else(|error| {
                    tracing::warn!("the profiles that held last do not fit this host: {error}");
                    Profiles::shipped()
                });
        let depot = Depot::open(&paths).map_err(setup("open the depot"))?;
        let mut ledger = Ledger::open(&paths).map_err(setup("open the ledgers"))?;
        let channels = Channels::open(&paths).map_err(setup("mount the channels"))?;
        let run = ledger
            .begin_run()
            .map_err(setup("count this run in the ledger"))?;
        let settings = Settings {
            first_attempt: Attempt::first_of_run(run),
            first_uid: walls.has_own_uids().then_some(crate::ledger::FIRST_UID),
            seed: now().0,
        };
        let (news, inbox) = mpsc::unbounded_channel();
        let kept_count = kept.as_ref().map(Vec::len);
        let found = restore::find(
            &ledger,
            &depot,
            &paths,
            &applied,
            groups.as_ref(),
            kept.unwrap_or_default(),
        )
        .map_err(setup("read the ledgers"))?;
        let unit = Unit::from_environment();
        let routes = restore::routes(&found).map_err(setup("make the route table"))?;
        let lines = Lines::start(&paths).map_err(setup("read the output of services"))?;
        let mut driver = Self {
            core: core_on(settings, &profiles),
            ledger,
            paths,
            profiles,
            applied,
            mistakes: 0,
            depot,
            walls,
            groups,
            quotas,
            channels,
            rulesets: Rulesets::default(),
            routes,
            pages: restore::pages(&found),
            steady_tsc: insula_ipc::meters::has_steady_tsc(),
            meters: restore::meters(&found),
            processes: BTreeMap::new(),
            aside: Watch::start().map_err(setup("start a thread"))?,
            launched: Vec::new(),
            suspects: BTreeMap::new(),
            suspicions: 0,
            lines,
            sockets: Sockets::default(),
            clients: BTreeMap::new(),
            idlers: Idlers::default(),
            forms: Forms::default(),
            orders: BTreeMap::new(),
            next_request: 0,
            // Clients of an earlier daemon keep their directories.
            next_client: u64::from(run) << 32,
            pending: VecDeque::new(),
            news,
            inbox,
            sheltered: std::fs::read_to_string("/proc/self/oom_score_adj")
                .is_ok_and(|value| value.trim() != "0"),
            store: Store::new(unit.is_watched(), kept_count),
            to_keep: Vec::new(),
            unit,
            ended: None,
        };
        driver.take_up(found)?;
        driver.retire_again()?;
        driver.update_at_start()?;
        driver.watch_idle_anew()?;
        give_back();
        Ok(driver)
    }

    /// What this host gives to services.
    pub fn walls(&self) -> &Walls {
        &self.walls
    }

    /// What services write.
    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Runs until everything was shut down, or the services are left to the next daemon.
    pub async fn run(
        mut self,
        mut asks: mpsc::Receiver<Ask>,
        mut wishes: mpsc::Receiver<Wish>,
    ) -> Result<End, DriverError> {
        let listener = clients::listen(&self.paths).map_err(setup("open the clients' socket"))?;
        let arrivals = tokio::spawn(clients::accept(listener, self.news.clone()));
        self.unit.ready();
        let end = loop {
            self.settle()?;
            self.keep();
            if let Some(end) = self.ended.take() {
                break end;
            }
            let (core, mistakes) = (&self.core, self.mistakes);
            self.unit.turn(Instant::now(), || summary(core, mistakes));
            let due = self.core.next_deadline().map(|at| at.since(now()));
            let word = self
                .unit
                .next()
                .map(|at| at.saturating_duration_since(Instant::now()));
            let idle = self.idlers.next().map(|at| at.since(now()));
            let due = due.into_iter().chain(word).chain(idle).min();
            tokio::select! {
                biased;
                Some(news) = self.inbox.recv() => self.take_all(news)?,
                Some(ask) = asks.recv() => self.answer_all(ask, &mut asks)?,
                Some(wish) = wishes.recv() => self.heed(wish)?,
                () = sleep(due) => {
                    if self.core.next_deadline().is_some_and(|at| at <= now()) {
                        self.turn(Event::Ticked)?;
                    }
                    self.look_at_idlers();
                }
            }
        };
        arrivals.abort();
        if end != End::Stopped {
            self.hear_the_last()?;
        }
        match end {
            End::Stopped => {
                self.unit.stopping();
                self.leave();
            }
            End::Left => self.unit.stopping(),
            End::Succeeded(_) => {}
        }
        Ok(end)
    }

    /// Takes in what was heard already: the end of a process is told once, and whoever reaps it must
    /// see to it. What ends from now on is the next daemon's.
    fn hear_the_last(&mut self) -> Result<(), DriverError> {
        for handle in self.processes.values() {
            handle.hear_no_more();
        }
        while let Ok(news) = self.inbox.try_recv() {
            self.take(news)?;
            self.settle()?;
            // What was started in an ended one's place is waited for by the next daemon, too.
            for handle in self.processes.values() {
                handle.hear_no_more();
            }
        }
        Ok(())
    }

    fn heed(&mut self, wish: Wish) -> Result<(), DriverError> {
        match wish {
            Wish::Stop => self.turn(Event::ShutdownOrdered { request: None }),
            Wish::Leave => {
                tracing::info!("the services are left to the next daemon");
                self.ended = Some(End::Left);
                Ok(())
            }
            Wish::Reload => {
                self.unit.reloading();
                // What is to be restarted for it goes on after the files are taken in.
                self.update_at_start()?;
                self.unit.ready();
                Ok(())
            }
        }
    }

    /// Lets the core take in what acting brought about.
    fn settle(&mut self) -> Result<(), DriverError> {
        while !self.pending.is_empty() {
            let count = self.pending.len().min(TOGETHER);
            let events: Vec<_> = self.pending.drain(..count).collect();
            self.turns(events)?;
        }
        Ok(())
    }

    /// Decides about several events that are there at once, records all of it in one transaction,
    /// and executes it: a synced commit costs as much as the start of some processes.
    fn turns(&mut self, events: impl IntoIterator<Item = Event>) -> Result<(), DriverError> {
        let mut waiting = Decision::default();
        for event in events {
            let decision = self.core.handle(now(), event);
            let can_wait = decision.can_wait();
            waiting.join(decision);
            if !can_wait {
                self.carry_out(std::mem::take(&mut waiting))?;
            }
        }
        self.carry_out(waiting)
    }

    /// Takes in what there is to hear, up to some number.
    fn take_all(&mut self, first: News) -> Result<(), DriverError> {
        let mut events = Vec::new();
        let mut next = Some(first);
        while let Some(news) = next {
            match news {
                News::Event(event) => events.push(event),
                other => {
                    self.turns(events.drain(..))?;
                    return self.take(other);
                }
            }
            next = (events.len() < TOGETHER)
                .then(|| self.inbox.try_recv().ok())
                .flatten();
        }
        self.turns(events)
    }

    /// Answers what is asked, up to some number; orders are carried out together.
    fn answer_all(
        &mut self,
        first: Ask,
        asks: &mut mpsc::Receiver<Ask>,
    ) -> Result<(), DriverError> {
        let mut events = Vec::new();
        let mut next = Some(first);
        while let Some(ask) = next {
            match ask {
                Ask::Order {
                    service,
                    order,
                    reply,
                } => {
                    let request = self.request(reply);
                    events.push(Event::Ordered {
                        request,
                        service,
                        order,
                    });
                }
                other => {
                    self.turns(events.drain(..))?;
                    return self.answer(other);
                }
            }
            next = (events.len() < TOGETHER)
                .then(|| asks.try_recv().ok())
                .flatten();
        }
        self.turns(events)
    }

    /// Decide, record, execute.
    fn turn(&mut self, event: Event) -> Result<(), DriverError> {
        let decision = self.core.handle(now(), event);
        self.carry_out(decision)
    }

    fn carry_out(&mut self, decision: Decision) -> Result<(), DriverError> {
        self.unit.note();
        let ledger = &mut self.ledger;
        let actions = decision
            .record(|records| ledger.store(records))
            .map_err(DriverError::Record)?;
        // What the system's files are by now holds for all that was decided.
        self.rulesets.look_again();
        for action in actions {
            self.execute(action);
        }
        if !self.launched.is_empty() {
            // A daemon that dies before this finds them by their environment.
            let launched = std::mem::take(&mut self.launched);
            let stored = self.ledger.store_processes(&launched);
            stored.map_err(DriverError::Record)?;
        }
        Ok(())
    }

    fn take(&mut self, news: News) -> Result<(), DriverError> {
        match news {
            News::Event(event) => {
                if let Event::Ponged { attempt, .. } = &event {
                    self.end_suspicion(*attempt);
                }
                self.turn(event)
            }
            News::Late(who, contract, waited) => self.late(who, &contract, waited),
            News::LookDue(attempt, number) => self.look(attempt, number),
            News::Client(arrival) => {
                self.welcome_client(*arrival);
                Ok(())
            }
            News::Greeted(event, schemas) => {
                let event = self.greeted(*event, &schemas);
                self.turn(event)?;
                self.describe_to_who_waits();
                Ok(())
            }
            News::ClientLeft(client) => self.client_left(client),
            News::Asked(client, ask) => self.asked(client, *ask),
            News::Looked(looked) => self.looked(&looked),
            News::Reclaimed(bytes) => {
                self.idlers.gains.reclaimed(bytes);
                Ok(())
            }
            News::DescribeDue(client, contract) => {
                self.describe_now(client, &contract);
                Ok(())
            }
            News::Installed(outcome) => self.installed(*outcome),
        }
    }

    fn answer(&mut self, ask: Ask) -> Result<(), DriverError> {
        // Who asked may have gone; then nobody hears the answer.
        match ask {
            Ask::Order {
                service,
                order,
                reply,
            } => {
                let request = self.request(reply);
                self.turn(Event::Ordered {
                    request,
                    service,
                    order,
                })
            }
            Ask::Shutdown { reply } => {
                let request = Some(self.request(reply));
                self.turn(Event::ShutdownOrdered { request })
            }
            Ask::Install { path, news } => {
                self.install(path, news);
                Ok(())
            }
            Ask::Signal {
                service,
                index,
                signal,
                reply,
            } => {
                let _ = reply.send(self.signal(&service, index, signal));
                Ok(())
            }
            Ask::Releases { reply } => {
                let _ = reply.send(self.releases());
                Ok(())
            }
            Ask::Status { reply } => {
                let mut rows = report::rows(&self.core, now());
                add_memory(&mut rows);
                self.add_remarks(&mut rows);
                let _ = reply.send(rows);
                Ok(())
            }
            Ask::Edges { reply } => {
                let _ = reply.send(self.survey());
                Ok(())
            }
            Ask::Succeed { program, reply } => {
                let answer = match self.under_way() {
                    Some(refusal) => Err(refusal),
                    None => {
                        self.ended = Some(End::Succeeded(program));
                        Ok(())
                    }
                };
                let _ = reply.send(answer);
                Ok(())
            }
            Ask::Utilisation { reply } => {
                let _ = reply.send(self.sights());
                Ok(())
            }
            Ask::Limits { reply } => {
                let _ = reply.send(self.limited());
                Ok(())
            }
            Ask::Places { reply } => {
                let _ = reply.send(Box::new(Places::of(&self.core)));
                Ok(())
            }
            Ask::Update { dry_run, reply } => {
                let report = self.update(dry_run)?;
                let _ = reply.send(report);
                Ok(())
            }
            Ask::Doctor { reply } => {
                let mut walls = self.walls.report();
                walls.push(crate::cgroup::report(self.groups.as_ref()));
                walls.push(self.quotas.report(self.walls.has_own_uids()));
                let _ = reply.send(Box::new(crate::doctor::Known {
                    walls,
                    landlock: self.walls.landlock_version(),
                    group: self.groups.as_ref().map(|groups| groups.root().to_owned()),
                    paths: self.paths.clone(),
                }));
                Ok(())
            }
        }
    }

    fn request(&mut self, reply: oneshot::Sender<Result<Done, Refusal>>) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.orders.insert(request, reply);
        request
    }

    fn releases(&self) -> Vec<ReleaseRow> {
        self.depot
            .releases()
            .into_iter()
            .map(|release| {
                let service = self.core.services().get(&release.name);
                ReleaseRow {
                    active: service.is_some_and(|s| s.active == release.version),
                    previous: service
                        .is_some_and(|s| s.previous.as_ref() == Some(&release.version)),
                    name: release.name,
                    version: release.version,
                    hash: release.hash,
                    size: release.size,
                    installed_at: release.installed_at,
                }
            })
            .collect()
    }

    fn profile(&self, name: &str) -> ProfileSpec {
        // A release is installed only with a profile that there is; one that was taken away since
        // leaves the default.
        self.profiles
            .get(name)
            .unwrap_or_else(|| self.profiles.fallback())
            .clone()
    }

    /// Has systemd keep the descriptors of what was launched.
    fn keep(&mut self) {
        let new = std::mem::take(&mut self.to_keep);
        if !self.store.is_there() {
            return;
        }
        let anew = self.store.is_full(self.processes.len());
        if anew {
            self.store.empty();
        }
        let pidfds: Vec<_> = if anew {
            self.processes.values().map(ProcessHandle::pidfd).collect()
        } else {
            let handles = new.iter().filter_map(|attempt| self.processes.get(attempt));
            handles.map(ProcessHandle::pidfd).collect()
        };
        self.store.keep(&pidfds);
    }

    /// What a person waits for, and would not hear the end of from another daemon.
    fn under_way(&self) -> Option<Refusal> {
        let rolling = self
            .core
            .services()
            .values()
            .find(|service| service.rollout.is_some());
        let text = match rolling {
            Some(service) => format!("{} is being replaced", service.name),
            None if !self.orders.is_empty() => "orders are not carried out yet".to_owned(),
            None => return None,
        };
        Some(Refusal {
            kind: RefusalKind::Busy,
            text,
            serving: None,
            hint: Some("try again when that is done".to_owned()),
        })
    }

    /// Leaves nothing mounted or lying about.
    fn leave(&mut self) {
        if let Err(error) = self.channels.close() {
            tracing::warn!(%error, "the channels stay mounted");
        }
        if let Some(groups) = &self.groups {
            log_io("remove the cgroups", groups.close());
        }
    }
}

/// A core that knows this host; one that places nobody where the host cannot be told.
fn core_on(settings: Settings, profiles: &Profiles) -> Core {
    let topology = crate::topology::of_this_host().unwrap_or_else(|error| {
        tracing::warn!(
            "nobody gets cores of his own: {}",
            because("topology", &error)
        );
        Topology::default()
    });
    let host = Placement::new(topology, profiles.policy().clone());
    Core::new(settings).on_host(host, profiles.specs().clone(), config::FALLBACK)
}

/// Looks up how much memory the processes have in use; of one that has just ended the column stays
/// empty.
fn add_memory(rows: &mut [report::Row]) {
    for row in rows {
        row.memory = row.pid.and_then(crate::statm::resident);
    }
}

/// How everybody is, in a line.
fn summary(core: &Core, mistakes: usize) -> String {
    let rows = report::rows(core, now());
    let wanted = rows
        .iter()
        .filter(|row| !matches!(row.state, State::Stopped | State::Exited));
    let up = rows
        .iter()
        .filter(|row| matches!(row.state, State::Ready | State::Degraded | State::Dormant));
    let how = format!("{} of {} ready", up.count(), wanted.count());
    match mistakes {
        0 => how,
        1 => format!("{how}; the host's files are not taken in: there is a mistake"),
        _ => format!("{how}; the host's files are not taken in: there are {mistakes} mistakes"),
    }
}

/// Gives memory back to the kernel that was in use for the start only: what was read of the ledgers,
/// and a copy of the core that the host's files were tried on.
fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "malloc_trim")]
    // SAFETY: takes a number, and locks what it works on.
    unsafe {
        libc::malloc_trim(0);
    }
}

async fn sleep(due: Option<Duration>) {
    match due {
        // A timer of tokio counts milliseconds and does not end early.
        Some(due) => tokio::time::sleep(due).await,
        None => std::future::pending().await,
    }
}

/// A failure in the system's words, with what was being done.
pub(crate) fn because(what: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

pub(crate) fn log_io(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot {what}");
    }
}
