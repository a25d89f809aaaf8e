//! What the core is told, and what it answers: events, records, actions.

use std::collections::BTreeSet;
use std::time::Duration;

use insula_contract::id::{Attempt, ContractId, EdgeId, Epoch, Instance, ServiceName};
use insula_contract::line::{ContractView, Leadership, ServedEdge, ToService, UsedEdge};
use insula_contract::route::Target;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::placement::{CpuSet, MemoryPolicy};
use crate::process::Outcome;
use crate::seats::Held;
use crate::spec::ServiceSpec;
use crate::time::Time;
use crate::views::Verdict;

/// The number of a person's order, to which [`Action::Answer`] belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The number of a local client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// What a person orders of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Have it up.
    Start,
    /// Have it down.
    Stop,
    /// Replace its process, beside the old one where it can.
    Restart,
    /// Cut over to this release, or to the newest installed.
    Upgrade(Option<Version>),
    /// Cut over to the release before this one.
    Rollback,
    /// Have this many instances.
    Scale(u16),
}

/// Who a local client is, by the kernel's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group ids.
    pub gids: BTreeSet<u32>,
    /// Process id, for people only.
    pub pid: i32,
}

/// What a program says of itself by sd_notify(3), beside that it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A text for people; empty takes it back.
    Status(String),
    /// It lives.
    Watchdog,
    /// It found out itself that it does not work.
    WatchdogTrigger,
    /// How often it will say that it lives; zero never.
    WatchdogUsec(Duration),
    /// Its start or its stop takes at least this long from now on.
    ExtendTimeout(Duration),
    /// It reads its configuration again.
    Reloading,
    /// It is ending by itself.
    Stopping,
}

/// What the world knows about a process that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vitality {
    /// It does its work.
    Working,
    /// It would, and gets no processor.
    Starved,
    /// It does not: why that is thought.
    Stuck(String),
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A verified release lies in the depot.
    Installed {
        /// What it says of itself.
        spec: Box<ServiceSpec>,
    },
    /// The host wants the releases of a service otherwise than before.
    Configured {
        /// The number by which it is answered when that holds.
        request: RequestId,
        /// All that changed: releases of one service.
        specs: Vec<ServiceSpec>,
        /// Whether its processes must be replaced even if what runs did not change.
        restart: bool,
    },
    /// A service that has no release is not wanted any more: it is stopped and forgotten.
    Retired {
        /// The number by which it is answered when that is done.
        request: RequestId,
        /// Which.
        service: ServiceName,
    },
    /// A person orders something.
    Ordered {
        /// The order's number.
        request: RequestId,
        /// Of whom.
        service: ServiceName,
        /// What.
        order: Order,
    },
    /// Everything is to be stopped, in order, and the daemon to end.
    ShutdownOrdered {
        /// The order's number, if somebody waits for it.
        request: Option<RequestId>,
    },
    /// A launch worked.
    Launched {
        /// Whose.
        attempt: Attempt,
        /// Its process id, for people only.
        pid: i32,
    },
    /// A launch did not work; there is no process.
    LaunchFailed {
        /// Whose.
        attempt: Attempt,
        /// Why.
        reason: String,
    },
    /// A process is gone.
    Exited {
        /// Which.
        attempt: Attempt,
        /// How.
        outcome: Outcome,
    },
    /// What the kernel tells about the end of a process, before that is told.
    Blamed {
        /// Which.
        attempt: Attempt,
        /// Why it ended, for people.
        reason: String,
    },
    /// A service's first word on a new line.
    Greeted {
        /// Who.
        attempt: Attempt,
        /// What it offers.
        provides: Vec<ContractView>,
        /// What it uses.
        requires: Vec<ContractView>,
        /// Whether it writes its store.
        leadership: Leadership,
        /// Whether it was ready before.
        ready: bool,
        /// Edges that it serves already.
        serving: Vec<EdgeId>,
        /// Whether its forms of contracts go together with those of other ends that differ.
        verdicts: Vec<Verdict>,
    },
    /// A service can do its work.
    Ready {
        /// Who.
        attempt: Attempt,
    },
    /// A service writes its store.
    Leading {
        /// Who.
        attempt: Attempt,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// A service writes its store no more.
    Yielded {
        /// Who.
        attempt: Attempt,
        /// The epoch that ended.
        epoch: Epoch,
    },
    /// A service owes no answer.
    Drained {
        /// Who.
        attempt: Attempt,
    },
    /// A program said something about itself by sd_notify(3).
    Notified {
        /// Who.
        attempt: Attempt,
        /// What.
        notice: Notice,
    },
    /// Answer to [`Action::Probe`].
    Probed {
        /// Whom.
        attempt: Attempt,
        /// The number of the probe.
        number: u64,
        /// What came of it: the reason, where it failed.
        result: Result<(), String>,
    },
    /// A request to it waits too long.
    Suspected {
        /// The provider's process.
        attempt: Attempt,
        /// How long the request has waited.
        waited: Duration,
    },
    /// Answer to a ping.
    Ponged {
        /// Who.
        attempt: Attempt,
        /// The number of the ping.
        ping: u64,
    },
    /// Answer to [`Action::Examine`].
    Examined {
        /// Whom.
        attempt: Attempt,
        /// What was found.
        vitality: Vitality,
    },
    /// A local client asks for an edge.
    ClientAsked {
        /// Its connection.
        client: ClientId,
        /// Who it is.
        caller: Caller,
        /// To whose contract.
        contract: ContractId,
        /// Hash of its view of the schema.
        schema: u64,
        /// Whether that goes together with the provider's, where it differs.
        verdicts: Vec<Verdict>,
    },
    /// A local client's connection is closed.
    ClientLeft {
        /// Which.
        client: ClientId,
    },
    /// Nobody used a service for as long as it is to be idle before it is put away.
    Idle {
        /// Which.
        service: ServiceName,
        /// The processes that were looked at: the only ones that it has.
        attempts: BTreeSet<Attempt>,
    },
    /// Somebody wants a service that may have been put away.
    Wanted {
        /// Which.
        service: ServiceName,
    },
    /// Only time passed.
    Ticked,
}

/// What must be stored before the actions of a decision are done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The user id of a service, for ever. Durable.
    Uid {
        /// Whose.
        service: ServiceName,
        /// Which.
        uid: u32,
    },
    /// What is wanted of a service. Durable.
    Goal {
        /// Of whom.
        service: ServiceName,
        /// Up, or down.
        up: bool,
    },
    /// Which release serves, and which did before. Durable.
    Active {
        /// Whose.
        service: ServiceName,
        /// Serves.
        active: Version,
        /// Did before.
        previous: Option<Version>,
    },
    /// The newest epoch that was ever handed out for a store. Durable.
    Epoch {
        /// Whose store.
        service: ServiceName,
        /// Which.
        epoch: Epoch,
    },
    /// How far an upgrade is; `None` when there is none. Durable.
    Upgrade {
        /// Whose.
        service: ServiceName,
        /// From which release, to which, and how far.
        step: Option<(Version, Version, UpgradeStep)>,
    },
    /// An attempt begins. Run state.
    Began {
        /// Its number.
        attempt: Attempt,
        /// Its place.
        instance: Instance,
        /// Its release.
        version: Version,
        /// Its slot in edge pages.
        slot: u8,
        /// Which of the commands before the start it runs; `None` for the program itself.
        step: Option<u16>,
        /// Whether it is to take over from another attempt that serves in its place, and has not yet;
        /// recorded anew when it has.
        beside: bool,
        /// Its instance's seat, where the host is known.
        seat: Option<Box<Held>>,
    },
    /// An attempt ended. Run state.
    Ended {
        /// Its number.
        attempt: Attempt,
    },
    /// The route of a service's contract. Run state.
    Route {
        /// Whose.
        service: ServiceName,
        /// Which contract.
        contract: ContractId,
        /// The index in the table.
        route: u32,
    },
    /// How many instances a person asked for. Durable.
    Scale {
        /// Of whom.
        service: ServiceName,
        /// How many; 0 takes it back.
        instances: u16,
    },
    /// An instance is down for good, or put away, or is so no more. Run state.
    Rested {
        /// Which.
        instance: Instance,
        /// How it is down.
        rest: Option<Rest>,
    },
}

impl Record {
    /// Whether it must survive a reboot, and so is synced.
    pub fn is_durable(&self) -> bool {
        match self {
            Self::Uid { .. }
            | Self::Goal { .. }
            | Self::Active { .. }
            | Self::Scale { .. }
            | Self::Epoch { .. }
            | Self::Upgrade { .. } => true,
            Self::Began { .. } | Self::Ended { .. } | Self::Rested { .. } | Self::Route { .. } => {
                false
            }
        }
    }
}

/// How an instance is down until a person starts it, or somebody wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rest {
    /// It ended, and its policy says that this is the end.
    Exited(Outcome),
    /// It was given up.
    Fatal(String),
    /// It was idle, and is away since then.
    Dormant(Time),
}

/// The steps of an upgrade, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UpgradeStep {
    /// The new release starts beside the old.
    Starting,
    /// The routes hold; the old release yields the store.
    Yielding,
    /// The new release takes the store.
    Leading,
    /// The routes lead to the new release; the old one drains and ends.
    Finishing,
}

/// An end of an edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consumer {
    /// A supervised service.
    Service(ServiceName),
    /// A local program, by its attempt number and user id.
    Client {
        /// The number of its connection.
        client: ClientId,
        /// Its user id.
        uid: u32,
    },
}

impl std::fmt::Display for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(name) => name.fmt(f),
            Self::Client { client, uid } => write!(f, "client {} (uid {uid})", client.0),
        }
    }
}

impl Consumer {
    /// The name of its directory below the provider's.
    pub fn directory(&self) -> String {
        match self {
            Self::Service(name) => name.to_string(),
            // Not a service name, so never in a service's way.
            Self::Client { client, .. } => format!("_{}", client.0),
        }
    }
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a process.
    Launch {
        /// Its number.
        attempt: Attempt,
        /// Its place.
        instance: Instance,
        /// Its release.
        version: Version,
        /// Which of the commands before the start to run; `None` for the program itself.
        step: Option<u16>,
        /// Its user id, where services have one of their own.
        uid: Option<u32>,
        /// The directories of its edges as a consumer: provider and own directory name.
        uses: Vec<(ServiceName, String)>,
        /// The CPUs that it runs on; none leaves it all that the daemon may use.
        cpus: CpuSet,
        /// Where its memory comes from.
        memory: MemoryPolicy,
    },
    /// Have all threads of these processes run on these CPUs from now on.
    Confine {
        /// Whose.
        attempts: Vec<Attempt>,
        /// Which.
        cpus: CpuSet,
    },
    /// Send its stop signal to a process.
    Stop {
        /// Whom.
        attempt: Attempt,
    },
    /// Kill a process and all that it started.
    Kill {
        /// Whom.
        attempt: Attempt,
    },
    /// Do the liveness probe of a process once, and say [`Event::Probed`] within its time.
    Probe {
        /// Whose.
        attempt: Attempt,
        /// To be repeated in the answer.
        number: u64,
    },
    /// Find out whether a process works although it does not answer; say [`Event::Examined`].
    Examine {
        /// Whom.
        attempt: Attempt,
    },
    /// Let go of what belonged to a process that is gone.
    Forget {
        /// Whose.
        attempt: Attempt,
    },
    /// Say something on a service's line; `Welcome`, `Serve` and `Use` carry a descriptor.
    Say {
        /// To whom.
        attempt: Attempt,
        /// What.
        message: Message,
    },
    /// Publish a target and wake who waits for it.
    Publish {
        /// The index in the table.
        route: u32,
        /// Which of the route's targets.
        place: usize,
        /// The new target.
        target: Target,
        /// An attempt that answered or refused all that it had taken, and takes nothing more.
        drained: Option<Attempt>,
    },
    /// Take all targets from a route but those of these attempts.
    CleanRoute {
        /// The index in the table.
        route: u32,
        /// Whose stay.
        keep: BTreeSet<Attempt>,
    },
    /// Make an edge's directory and page.
    OpenEdge {
        /// Its number.
        edge: EdgeId,
        /// Who provides.
        provider: ServiceName,
        /// Who consumes.
        consumer: Consumer,
    },
    /// Remove them.
    CloseEdge {
        /// Its number.
        edge: EdgeId,
        /// Who provides.
        provider: ServiceName,
        /// Who consumes.
        consumer: Consumer,
    },
    /// Make the channel of two attempts on an edge.
    OpenPair {
        /// Whose channel.
        edge: EdgeId,
        /// Who provides.
        provider: ServiceName,
        /// Who consumes.
        consumer: Consumer,
        /// Which attempts: the provider's and the consumer's.
        pair: (Attempt, Attempt),
    },
    /// Remove it.
    ClosePair {
        /// Whose channel.
        edge: EdgeId,
        /// Who provides.
        provider: ServiceName,
        /// Who consumes.
        consumer: Consumer,
        /// Which attempts: the provider's and the consumer's.
        pair: (Attempt, Attempt),
    },
    /// Give a local client its edge, or the reason why not.
    AnswerClient {
        /// Whom.
        client: ClientId,
        /// What; with it go the route table and the edge's page.
        answer: Result<UsedEdge, String>,
        /// The profile that says how long the client spins.
        profile: Option<String>,
    },
    /// Close a local client's connection: what it was granted does not hold any more.
    DropClient {
        /// Whose.
        client: ClientId,
        /// Why, for the log.
        reason: String,
    },
    /// Tell a person what came of an order.
    Answer {
        /// Of which.
        request: RequestId,
        /// What.
        answer: Result<Done, Refusal>,
    },
    /// Write down for people what happened.
    Note {
        /// About whom.
        service: Option<ServiceName>,
        /// What.
        text: String,
    },
    /// End the daemon: nothing runs any more.
    Exit,
}

/// What is said on a line; the driver adds directories and descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// [`ToService::Welcome`], with the spin time of the release's profile.
    Welcome {
        /// Who it is.
        instance: Instance,
        /// Its slot.
        slot: u8,
        /// Its profile.
        profile: String,
    },
    /// [`ToService::Serve`]; `parent` is still to be filled in from the names.
    Serve(ServedEdge, ServiceName, Consumer),
    /// [`ToService::Use`]; `parent` is still to be filled in from the names.
    Use(UsedEdge, Consumer),
    /// Anything without a descriptor.
    Plain(ToService),
}

/// What came of an order that worked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// It is up and ready.
    Started,
    /// It was already.
    AlreadyStarted,
    /// It is down.
    Stopped,
    /// It was already.
    NotRunning,
    /// Its process was replaced.
    Restarted,
    /// It runs this release now.
    Upgraded {
        /// Before.
        from: Version,
        /// Now.
        to: Version,
    },
    /// It ran this release already.
    AlreadyActive {
        /// Which.
        version: Version,
    },
    /// It has this many instances now.
    Scaled {
        /// Before.
        from: u16,
        /// Now.
        to: u16,
    },
    /// What was changed holds, and no process was replaced for it.
    Configured,
    /// Everything is down.
    ShutDown,
}

/// Why an order did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of reason.
    pub kind: RefusalKind,
    /// What could not be done, and why.
    pub text: String,
    /// What still serves, if that is not plain.
    pub serving: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
}

/// Kinds of reasons; supervisord's fault names where they exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// No such service.
    BadName,
    /// No such release.
    NoRelease,
    /// The process could not be started.
    SpawnError,
    /// It started and ended before it was ready, or was not ready in time.
    AbnormalTermination,
    /// Another order is under way.
    Busy,
    /// A later order took this one's place.
    Superseded,
    /// The new release does not fit those who use it.
    ContractRefused,
    /// It cannot have so many instances.
    NotScalable,
    /// A dependency is not there.
    Waiting,
    /// The host has no room for it.
    NoRoom,
    /// The daemon is ending.
    ShuttingDown,
}
