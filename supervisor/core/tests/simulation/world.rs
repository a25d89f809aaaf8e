//! The fake world: processes that obey late, never, or wrongly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use insula_contract::id::{Attempt, ContractId, EdgeId, Epoch, ServiceName};
use insula_contract::line::{ContractView, Leadership, ToService};
use insula_contract::route::{RouteState, Target};
use insula_core::core::{Core, Settings, Stored};
use insula_core::event::{
    Action, Caller, ClientId, Event, Message, Notice, Order, Record, RequestId, Vitality,
};
use insula_core::invariants::violations;
use insula_core::process::Outcome;
use insula_core::restart::RestartLimits;
use insula_core::service::{Goal, Place, Service};
use insula_core::spec::{
    DataSpec, Kind, Limits, Liveness, Need, Network, Offer, Principal, Probe, Readiness,
    RestartPolicy, ServiceSpec,
};
use insula_core::time::Time;
use semver::Version;

use crate::model::{Facts, Model};

const SCHEMA: u64 = 7;
/// How long after the last fault all must be well: some times the longest wait before a restart.
const REST: Duration = Duration::from_secs(120);
const NAMES: [&str; 5] = ["task", "store", "middle", "front", "guest"];

#[derive(Debug, Default, Clone)]
struct Fake {
    service: String,
    exists: bool,
    greeted: bool,
    ready: bool,
    /// The epoch it writes under.
    leads: Option<Epoch>,
    stubborn: bool,
    /// Runs a command before the start, or a task: it has no line and ends by itself.
    passing: bool,
}

impl Fake {
    fn has_line(&self) -> bool {
        !self.passing && self.service != "guest"
    }
}

pub(crate) struct World {
    seed: u64,
    chance: u64,
    now: u64,
    core: Core,
    /// What was stored, as the ledgers would have it.
    stored: Vec<Record>,
    releases: Vec<ServiceSpec>,
    fakes: BTreeMap<Attempt, Fake>,
    queue: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    routes: BTreeMap<(u32, usize), Target>,
    edges: BTreeSet<EdgeId>,
    pairs: BTreeSet<(EdgeId, Attempt, Attempt)>,
    next_request: u64,
    open_requests: BTreeSet<RequestId>,
    runs: u32,
    faults: bool,
    shutting_down: bool,
    ended: bool,
    /// The guest is to go for good; the host remembers it until it has.
    retiring: bool,
    model: Model,
    /// Processes that a daemon that just began must leave alone.
    undisturbed: BTreeSet<Attempt>,
}

fn spec(name: &str, version: (u64, u64), provides: &[&str], requires: &[&str]) -> ServiceSpec {
    let contract = |text: &&str| text.parse::<ContractId>().unwrap();
    ServiceSpec {
        name: name.parse().unwrap(),
        version: Version::new(version.0, version.1, 0),
        description: String::new(),
        command: vec!["x".into()],
        kind: match name {
            "guest" => Kind::Foreign(Readiness::Notify),
            "task" => Kind::Task,
            _ => Kind::Native,
        },
        sockets: BTreeMap::new(),
        profile: "dense".into(),
        ready_timeout: Duration::from_millis(300),
        drain_timeout: Duration::from_millis(100),
        stop_timeout: Duration::from_millis(100),
        stop_signal: 15,
        instances: if name == "middle" {
            version.0 as u16 + 1
        } else {
            1
        },
        // The front is asked whether it works, and so is the guest; both are made ready first.
        before_start: match name {
            "guest" => vec![vec!["a".into()], vec!["b".into()]],
            "front" => vec![vec!["a".into()]],
            _ => vec![],
        },
        liveness: matches!(name, "guest" | "front").then(|| Liveness {
            probe: Probe::Tcp(([127, 0, 0, 1], 1).into()),
            every: Duration::from_secs(5),
            timeout: Duration::from_millis(500),
            failures: 2,
        }),
        watchdog: match name {
            "guest" => Some(Duration::from_secs(3)),
            "store" => None,
            _ => Some(Duration::from_millis(400)),
        },
        // The front is given up when it ends too often; the others come back for ever.
        restarts: match name {
            "front" => RestartLimits::default(),
            _ => RestartLimits {
                intensity: 1_000_000,
                start_tries: 1_000_000,
                ..RestartLimits::default()
            },
        },
        host: Default::default(),
        after: match name {
            "guest" => BTreeSet::from(["task".parse().unwrap(), "store".parse().unwrap()]),
            "middle" => BTreeSet::from(["task".parse().unwrap()]),
            _ => BTreeSet::new(),
        },
        autostart: true,
        restart: RestartPolicy::Always,
        expected_exit_codes: BTreeSet::from([0]),
        network: Network::None,
        listen: if name == "front" { vec![80] } else { vec![] },
        environment: BTreeMap::new(),
        limits: Limits::default(),
        output: Default::default(),
        provides: provides
            .iter()
            .map(|c| {
                (
                    contract(c),
                    Offer {
                        allow: vec![Principal::Anyone],
                        limits: Default::default(),
                    },
                )
            })
            .collect(),
        requires: requires
            .iter()
            .map(|c| (contract(c), Need::default()))
            .collect(),
        data: (name == "store").then_some(DataSpec {
            schema: 1,
            size_max: 1,
        }),
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let releases = vec![
            spec("task", (1, 0), &[], &[]),
            spec("store", (1, 0), &["store@1"], &[]),
            spec("store", (1, 1), &["store@1"], &[]),
            spec("middle", (1, 0), &["middle@1"], &["store@1"]),
            spec("middle", (2, 0), &["middle@1"], &["store@1"]),
            spec("front", (1, 0), &[], &["middle@1", "store@1"]),
            spec("guest", (1, 0), &[], &[]),
            spec("guest", (1, 1), &[], &[]),
        ];
        let mut world = Self {
            seed,
            chance: seed,
            now: 1,
            core: Core::new(Self::settings(seed, 1)),
            stored: Vec::new(),
            releases: releases.clone(),
            fakes: BTreeMap::new(),
            queue: BTreeMap::new(),
            next_event: 0,
            routes: BTreeMap::new(),
            edges: BTreeSet::new(),
            pairs: BTreeSet::new(),
            next_request: 0,
            open_requests: BTreeSet::new(),
            runs: 1,
            faults: true,
            shutting_down: false,
            ended: false,
            retiring: false,
            model: Model::default(),
            undisturbed: BTreeSet::new(),
        };
        for spec in releases {
            assert_eq!(world.core.check_install(&spec), Vec::<String>::new());
            world.turn(Event::Installed {
                spec: Box::new(spec),
            });
        }
        for name in NAMES {
            world.order(name, Order::Start);
        }
        world
    }

    fn settings(seed: u64, run: u32) -> Settings {
        Settings {
            first_attempt: Attempt::first_of_run(run),
            first_uid: Some(1000),
            seed,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance.wrapping_add(self.seed) % below
    }

    fn odds(&mut self, one_in: u64) -> bool {
        self.faults && self.random(one_in) == 0
    }

    fn later(&mut self, most_ms: u64, event: Event) {
        let at = self.now + self.random(most_ms * 1_000_000) + 1;
        self.next_event += 1;
        self.queue.insert((at, self.next_event), event);
    }

    fn order(&mut self, name: &str, order: Order) {
        let request = self.request();
        let service = name.parse().unwrap();
        self.turn(Event::Ordered {
            request,
            service,
            order,
        });
    }

    /// A program says after a while that it lives.
    fn feed(&mut self, attempt: Attempt) {
        let notice = Notice::Watchdog;
        self.later(1_000, Event::Notified { attempt, notice });
    }

    fn notice(&mut self) -> Notice {
        match self.random(6) {
            0 => Notice::Status("busy".to_owned()),
            1 => Notice::WatchdogTrigger,
            2 => Notice::WatchdogUsec(Duration::from_millis(self.random(2_000))),
            3 => Notice::ExtendTimeout(Duration::from_millis(500)),
            4 => Notice::Stopping,
            _ => Notice::Watchdog,
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}: {what}\n{:#?}", self.seed, self.core.services())
    }

    fn turn(&mut self, event: Event) {
        let shown = format!("{event:?}");
        let decision = self.core.handle(Time(self.now), event.clone());
        self.carry_out(decision, Some(&event), &shown);
    }

    fn carry_out(
        &mut self,
        decision: insula_core::core::Decision,
        event: Option<&Event>,
        shown: &str,
    ) {
        let mut records = Vec::new();
        let actions = decision
            .record(|stored| {
                records = stored.to_vec();
                Ok::<_, ()>(())
            })
            .unwrap();
        if !records.is_empty() && self.odds(3_000) {
            // The disk is full: nothing is stored, so nothing is done, and the daemon ends.
            self.restart_daemon(false);
            return;
        }
        self.stored.extend(records.iter().cloned());
        let routes = self.core.services().values();
        let routes = routes
            .flat_map(|service| &service.routes)
            .map(|(contract, route)| (contract.clone(), route.index))
            .collect();
        // The daemon may die after it stored and before it acted.
        let dies = self.odds(2_000);
        let facts = Facts {
            now: self.now,
            specs: &self.releases,
            routes: &routes,
        };
        let done = if dies { &[] } else { &actions[..] };
        let wrong = self.model.turn(&facts, event, &records, done);
        // What a daemon that died has not done is the next one's to do.
        if let Some(wrong) = wrong.filter(|_| !dies) {
            self.fail(&format!("{wrong}\nafter {shown}"));
        }
        if dies {
            self.restart_daemon(true);
            return;
        }
        for action in actions {
            self.act(action);
        }
        if let Some(violation) = violations(&self.core).first() {
            self.fail(&format!("{violation}\nafter {shown}"));
        }
        let mut writers = BTreeMap::<&str, u32>::new();
        for fake in self
            .fakes
            .values()
            .filter(|fake| fake.exists && fake.leads.is_some())
        {
            *writers.entry(&fake.service).or_default() += 1;
        }
        if let Some((name, n)) = writers.into_iter().find(|(_, n)| *n > 1) {
            let name = name.to_owned();
            self.fail(&format!(
                "{n} processes of {name} write its store\nafter {shown}"
            ));
        }
    }

    /// The daemon dies, and the next one takes up what is stored; `known` if that is all that the
    /// dead one had decided.
    fn restart_daemon(&mut self, known: bool) {
        self.runs += 1;
        self.model.daemon_died(self.now);
        // Lines and orders died with the daemon; exits wait to be seen.
        self.open_requests.clear();
        self.queue
            .retain(|_, event| matches!(event, Event::Exited { .. }));
        let alive = self
            .fakes
            .iter()
            .filter(|(_, f)| f.exists)
            .map(|(a, _)| (*a, 1))
            .collect();
        // Nothing was under way: the next daemon has nothing to give up.
        let quiet = |service: &&Service| service.rollout.is_none();
        let undisturbed: BTreeSet<Attempt> = self
            .core
            .services()
            .values()
            .filter(quiet)
            .flat_map(|service| &service.replicas)
            .filter(|replica| replica.wanted && replica.is_ready())
            .filter_map(|replica| Some(replica.current()?.attempt))
            .collect();
        self.core = Core::new(Self::settings(self.seed, self.runs));
        // The edges and channels of the last run are made anew.
        self.edges.clear();
        self.pairs.clear();
        let stored = Stored {
            releases: self.releases.clone(),
            records: self.stored.clone(),
            alive,
            new_boot: false,
        };
        let decision = self.core.restore(Time(self.now), stored);
        if known {
            self.undisturbed = undisturbed;
        }
        self.carry_out(decision, None, "a restart of the daemon");
        self.undisturbed.clear();
        if self.retiring {
            let service = "guest".parse().unwrap();
            let request = self.request();
            self.turn(Event::Retired { request, service });
        }
        let living: Vec<_> = self
            .fakes
            .iter()
            .filter(|(_, f)| f.exists)
            .map(|(a, _)| *a)
            .collect();
        for attempt in living {
            let fake = self.fakes[&attempt].clone();
            if !fake.has_line() {
                self.feed(attempt);
                continue;
            }
            // It is adopted only if the core still knows it.
            self.greet(attempt, &fake);
        }
    }

    fn greet(&mut self, attempt: Attempt, fake: &Fake) {
        let view = |name: &str| ContractView {
            contract: name.parse().unwrap(),
            schema: SCHEMA,
        };
        let (provides, requires) = match fake.service.as_str() {
            "store" => (vec![view("store@1")], vec![]),
            "middle" => (vec![view("middle@1")], vec![view("store@1")]),
            _ => (vec![], vec![view("middle@1"), view("store@1")]),
        };
        let leadership = match (fake.service.as_str(), fake.leads) {
            ("store", Some(epoch)) => Leadership::Leading(epoch),
            ("store", None) => Leadership::Following,
            _ => Leadership::NotNeeded,
        };
        let event = Event::Greeted {
            attempt,
            provides,
            requires,
            leadership,
            ready: fake.ready,
            serving: vec![],
            verdicts: vec![],
        };
        self.later(5, event);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Launch {
                attempt,
                instance,
                uses,
                step,
                ..
            } => {
                for (provider, _) in uses {
                    let made = self
                        .core
                        .edges()
                        .iter()
                        .any(|edge| edge.provider == provider && self.edges.contains(&edge.id));
                    if !made {
                        self.fail("a consumer is launched before its edges are made");
                    }
                }
                if self.odds(60) {
                    let reason = "no such file".to_owned();
                    self.later(2, Event::LaunchFailed { attempt, reason });
                    return;
                }
                let stubborn = self.odds(20);
                let fake = Fake {
                    service: instance.service.to_string(),
                    exists: true,
                    stubborn,
                    passing: step.is_some() || instance.service.as_str() == "task",
                    ..Fake::default()
                };
                self.later(
                    2,
                    Event::Launched {
                        attempt,
                        pid: attempt.0 as i32,
                    },
                );
                if fake.passing {
                    if !self.odds(30) {
                        let code = i32::from(self.odds(8));
                        let outcome = Outcome::Code(code);
                        self.later(30, Event::Exited { attempt, outcome });
                    }
                } else if fake.service == "guest" {
                    self.feed(attempt);
                    // It has no line, and is found to be ready some time.
                    if !self.odds(30) {
                        self.later(20, Event::Ready { attempt });
                    }
                } else if !self.odds(40) {
                    self.greet(attempt, &fake);
                }
                self.fakes.insert(attempt, fake);
                if self.odds(15) {
                    let code = self.random(3) as i32;
                    self.later(
                        50,
                        Event::Exited {
                            attempt,
                            outcome: Outcome::Code(code),
                        },
                    );
                }
            }
            Action::Stop { attempt } | Action::Kill { attempt }
                if self.undisturbed.contains(&attempt) =>
            {
                self.fail(&format!("the next daemon disturbs attempt {attempt}"));
            }
            Action::Stop { attempt } => {
                self.check_order(attempt);
                if self
                    .fakes
                    .get(&attempt)
                    .is_some_and(|f| f.exists && !f.stubborn)
                {
                    self.later(
                        20,
                        Event::Exited {
                            attempt,
                            outcome: Outcome::Code(0),
                        },
                    );
                }
            }
            Action::Kill { attempt } => {
                if self.fakes.get(&attempt).is_some_and(|f| f.exists) {
                    self.later(
                        20,
                        Event::Exited {
                            attempt,
                            outcome: Outcome::Signal(9),
                        },
                    );
                }
            }
            Action::Probe { attempt, number } => {
                if !self
                    .fakes
                    .get(&attempt)
                    .is_some_and(|f| f.exists && !f.passing)
                {
                    self.fail("somebody is probed who cannot answer");
                }
                if !self.odds(20) {
                    let result = if self.odds(4) {
                        Err("refused".to_owned())
                    } else {
                        Ok(())
                    };
                    let answer = Event::Probed {
                        attempt,
                        number,
                        result,
                    };
                    self.later(500, answer);
                }
            }
            Action::Examine { attempt } => {
                let vitality = match self.random(3) {
                    0 => Vitality::Working,
                    1 if self.faults => Vitality::Stuck("it does nothing".to_owned()),
                    _ => Vitality::Starved,
                };
                if !self.odds(20) {
                    self.later(20, Event::Examined { attempt, vitality });
                }
            }
            Action::Forget { attempt } => {
                if self.fakes.get(&attempt).is_some_and(|f| f.exists) {
                    self.fail(&format!("the living attempt {attempt} is forgotten"));
                }
            }
            Action::Say { attempt, message } => self.said(attempt, message),
            Action::CleanRoute { .. } => {}
            Action::Publish {
                route,
                place,
                target,
                drained,
            } => {
                if drained == Some(target.attempt) {
                    self.fail(&format!("{target:?} is a target and has drained"));
                }
                if target.state == RouteState::Serve
                    && !self.fakes.get(&target.attempt).is_some_and(|f| f.ready)
                {
                    self.fail(&format!(
                        "a route leads to {target:?}, which was never ready"
                    ));
                }
                self.routes.insert((route, place), target);
            }
            Action::OpenEdge { edge, .. } => {
                if !self.edges.insert(edge) {
                    self.fail("an edge is opened twice");
                }
            }
            Action::CloseEdge { edge, .. } => {
                if !self.edges.remove(&edge) || self.pairs.iter().any(|(e, ..)| *e == edge) {
                    self.fail("an edge is closed that is not there, or has channels");
                }
            }
            Action::OpenPair { edge, pair, .. } => {
                if !self.edges.contains(&edge) || !self.pairs.insert((edge, pair.0, pair.1)) {
                    self.fail("a channel is opened twice, or without its edge");
                }
            }
            Action::ClosePair { edge, pair, .. } => {
                if !self.pairs.remove(&(edge, pair.0, pair.1)) {
                    self.fail("a channel is closed that is not there");
                }
            }
            Action::Answer { request, answer } => {
                if !self.open_requests.remove(&request) {
                    self.fail(&format!("{request:?} is answered twice: {answer:?}"));
                }
            }
            Action::AnswerClient { answer, .. } => {
                if let Err(reason) = answer {
                    self.fail(&format!("a client is refused: {reason}"));
                }
            }
            Action::DropClient { reason, .. } => {
                self.fail(&format!("a client is sent away: {reason}"));
            }
            Action::Note { .. } => {}
            Action::Exit => self.ended = true,
        }
    }

    fn said(&mut self, attempt: Attempt, message: Message) {
        if self
            .fakes
            .get(&attempt)
            .is_some_and(|fake| !fake.has_line())
        {
            self.fail(&format!("{message:?} is said to one without a line"));
        }
        if !self.fakes.get(&attempt).is_some_and(|fake| fake.exists) {
            return;
        }
        match message {
            Message::Welcome { .. } => {
                let fake = self.fakes.get_mut(&attempt).unwrap();
                fake.greeted = true;
                if !fake.ready {
                    fake.ready = true;
                    if !self.odds(30) {
                        self.later(20, Event::Ready { attempt });
                    }
                }
            }
            Message::Serve(edge, ..) => {
                if !self.pairs.contains(&(edge.edge, attempt, edge.consumer)) {
                    self.fail("an edge is to be served whose channel is not there");
                }
            }
            Message::Use(..) => {}
            Message::Plain(ToService::Lead { epoch }) => {
                self.fakes.get_mut(&attempt).unwrap().leads = Some(epoch);
                if !self.odds(30) {
                    self.later(10, Event::Leading { attempt, epoch });
                }
            }
            Message::Plain(ToService::Yield { epoch }) => {
                if !self.odds(10) {
                    self.fakes.get_mut(&attempt).unwrap().leads = None;
                    self.later(30, Event::Yielded { attempt, epoch });
                }
            }
            Message::Plain(ToService::Drain) => {
                self.check_order(attempt);
                if !self.odds(10) {
                    self.fakes.get_mut(&attempt).unwrap().leads = None;
                    self.later(30, Event::Drained { attempt });
                }
            }
            Message::Plain(
                ToService::Welcome { .. }
                | ToService::Serve(_)
                | ToService::Use(_)
                | ToService::Unserve { .. },
            ) => {}
            Message::Plain(ToService::Ping { ping }) => {
                if !self.odds(3) {
                    self.later(200, Event::Ponged { attempt, ping });
                }
            }
        }
    }

    /// Takes the next event, or lets time pass to the next deadline; false when nothing is due.
    fn step(&mut self) -> bool {
        let event_at = self.queue.keys().next().copied();
        let deadline = self.core.next_deadline().map(|time| time.0);
        let all = self.core.services().values();
        let slow = all.filter_map(Service::next_deadline).min();
        if slow.map(|time| time.0) != deadline {
            self.fail(&format!("{slow:?} is the next deadline, not {deadline:?}"));
        }
        match (event_at, deadline) {
            (Some((at, _)), Some(due)) if due < at => {
                self.now = self.now.max(due);
                self.turn(Event::Ticked);
            }
            (Some(key), _) => {
                self.now = self.now.max(key.0);
                let event = self.queue.remove(&key).unwrap();
                if let Event::Notified { attempt, notice } = &event
                    && *notice == Notice::Watchdog
                    && self.fakes.get(attempt).is_some_and(|fake| fake.exists)
                    && !self.odds(30)
                {
                    self.feed(*attempt);
                }
                if let Event::Exited { attempt, .. } = &event {
                    let Some(fake) = self.fakes.get_mut(attempt).filter(|fake| fake.exists) else {
                        return true;
                    };
                    fake.exists = false;
                    if self.core.service_of(*attempt).is_none() {
                        self.model.ended_unseen(*attempt, self.now);
                    }
                }
                self.turn(event);
            }
            (None, Some(due)) => {
                self.now = self.now.max(due);
                self.turn(Event::Ticked);
            }
            (None, None) => return false,
        }
        true
    }

    pub(crate) fn run_with_faults(&mut self, steps: u64) {
        for _ in 0..steps {
            if self.ended {
                break;
            }
            match self.random(100) {
                0..2 => {
                    let name = NAMES[self.random(NAMES.len() as u64) as usize];
                    let order = match self.random(12) {
                        10 | 11 => Order::Scale(1 + self.random(5) as u16),
                        0 | 1 => Order::Stop,
                        2..5 => Order::Start,
                        5 => Order::Restart,
                        6 => Order::Rollback,
                        _ => Order::Upgrade(None),
                    };
                    self.order(name, order);
                }
                2 => {
                    let living: Vec<_> = self
                        .fakes
                        .iter()
                        .filter(|(_, f)| f.exists)
                        .map(|(a, _)| *a)
                        .collect();
                    if !living.is_empty() {
                        let attempt = living[self.random(living.len() as u64) as usize];
                        self.later(
                            5,
                            Event::Exited {
                                attempt,
                                outcome: Outcome::Signal(11),
                            },
                        );
                    }
                }
                // A word from the dead, or one that fits nothing.
                3 => {
                    let attempts: Vec<_> = self.fakes.keys().copied().collect();
                    if !attempts.is_empty() {
                        let attempt = attempts[self.random(attempts.len() as u64) as usize];
                        let event = match self.random(10) {
                            0 if self.fakes[&attempt].ready => Event::Ready { attempt },
                            1 => Event::Leading {
                                attempt,
                                epoch: Epoch(1),
                            },
                            2 => Event::Launched { attempt, pid: 1 },
                            3 => Event::Suspected {
                                attempt,
                                waited: Duration::from_secs(1),
                            },
                            4 => Event::Notified {
                                attempt,
                                notice: self.notice(),
                            },
                            5 => Event::Ponged { attempt, ping: 1 },
                            6 => Event::Probed {
                                attempt,
                                number: 1,
                                result: Err("late".to_owned()),
                            },
                            7 => Event::Examined {
                                attempt,
                                vitality: Vitality::Stuck("it is dead".to_owned()),
                            },
                            _ => Event::Ticked,
                        };
                        self.turn(event);
                    }
                }
                4 => {
                    let client = ClientId(self.random(8));
                    let caller = Caller {
                        uid: 1,
                        gids: BTreeSet::new(),
                        pid: 1,
                    };
                    let contract = "store@1".parse().unwrap();
                    self.turn(Event::ClientAsked {
                        client,
                        caller,
                        contract,
                        schema: SCHEMA,
                        verdicts: vec![],
                    });
                }
                5 => {
                    let client = ClientId(self.random(8));
                    self.turn(Event::ClientLeft { client });
                }
                6 if self.random(4) == 0 => self.configure(),
                // The host slept.
                8 if self.random(60) == 0 => self.now += self.random(7_200) * 1_000_000_000,
                7 if self.random(8) == 0 => self.retire_or_install(),
                _ => {}
            }
            if !self.step() {
                self.now += 1_000_000;
            }
        }
    }

    fn request(&mut self) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.open_requests.insert(request);
        request
    }

    /// The host wants a release otherwise than before.
    fn configure(&mut self) {
        if self.releases.is_empty() {
            return;
        }
        let index = self.random(self.releases.len() as u64) as usize;
        let change = self.random(6);
        let spec = &mut self.releases[index];
        match change {
            0 if spec.data.is_none() && spec.kind == Kind::Native && spec.listen.is_empty() => {
                spec.instances = spec.instances % 3 + 1;
            }
            1 => spec.command.push("--more".to_owned()),
            2 => spec.liveness = None,
            3 => spec.before_start = vec![vec!["c".into()]],
            4 => spec.stop_timeout += Duration::from_millis(1),
            // One that ends as it should then stays down.
            5 if spec.name.as_str() != "store" => spec.restart = RestartPolicy::OnFailure,
            _ => {}
        }
        let specs = vec![spec.clone()];
        let restart = self.random(3) == 0;
        let request = self.request();
        self.turn(Event::Configured {
            request,
            specs,
            restart,
        });
    }

    /// The guest goes for good, or comes again.
    fn retire_or_install(&mut self) {
        let service: ServiceName = "guest".parse().unwrap();
        if !self.retiring {
            self.retiring = true;
            let request = self.request();
            self.turn(Event::Retired { request, service });
        } else if !self.core.services().contains_key(&service) {
            self.retiring = false;
            self.releases.retain(|spec| spec.name != service);
            let spec = spec("guest", (1, 0), &[], &[]);
            self.releases.push(spec.clone());
            self.turn(Event::Installed {
                spec: Box::new(spec),
            });
        }
    }

    /// Stops the faults: all that is wanted must come up, and all who wait be answered.
    pub(crate) fn run_to_rest(&mut self) {
        self.faults = false;
        for fake in self.fakes.values_mut() {
            fake.stubborn = false;
        }
        let mut steps = 0;
        // One that is to go for good does so before it can come again.
        while self.retiring {
            self.retire_or_install();
            steps += 1;
            if !self.step() && steps > 20_000 {
                self.fail("the guest does not go");
            }
        }
        for name in NAMES {
            self.order(name, Order::Start);
        }
        let mut steps = 0;
        let end = self.now + REST.as_nanos() as u64;
        while self.now < end && self.step() {
            steps += 1;
            if steps > 20_000 {
                self.fail("it never comes to rest");
            }
        }
        for service in self.core.services().values() {
            // A launch that fails is fatal until a person acts.
            for replica in &service.replicas {
                let stays = service.spec().restart != RestartPolicy::Always;
                let excused = match &replica.place {
                    Place::Fatal { .. } | Place::Waiting { .. } => true,
                    Place::Exited { .. } => stays,
                    Place::Stopped | Place::Up(_) | Place::Vacant | Place::Backoff { .. } => false,
                };
                let done = service.name.as_str() == "task" && service.is_ready();
                if service.goal == Goal::Up && !replica.is_ready() && !excused && !done {
                    self.fail(&format!("{} does not come up", service.name));
                }
                if replica.processes().count() > 1 {
                    self.fail(&format!("{} keeps old processes", service.name));
                }
                if replica
                    .current()
                    .is_some_and(|process| process.version != service.active)
                {
                    self.fail(&format!("{} runs another release", service.name));
                }
            }
            if service.replicas.len() != usize::from(service.wanted()) {
                self.fail(&format!(
                    "{} has {} instances, {} are wanted",
                    service.name,
                    service.replicas.len(),
                    service.wanted()
                ));
            }
        }
        let store: ServiceName = "store".parse().unwrap();
        if !self.core.services()[&store].is_ready() {
            self.fail("the store does not come up");
        }
        let known: BTreeSet<Attempt> = self
            .core
            .services()
            .values()
            .flat_map(|service| service.processes().map(|process| process.attempt))
            .collect();
        for (attempt, fake) in &self.fakes {
            if fake.exists && !known.contains(attempt) {
                self.fail(&format!("attempt {attempt} lives and nobody knows"));
            }
        }
    }

    /// Ends everything: users before what they use, and nothing stays.
    pub(crate) fn run_to_the_end(&mut self) {
        self.shutting_down = true;
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.open_requests.insert(request);
        let request = Some(request);
        self.turn(Event::ShutdownOrdered { request });
        let mut steps = 0;
        while !self.ended {
            steps += 1;
            if steps > 20_000 || !self.step() {
                self.fail("the shutdown comes to no end");
            }
        }
        if self.fakes.values().any(|fake| fake.exists) {
            self.fail("a process outlives the shutdown");
        }
        if !self.open_requests.is_empty() {
            self.fail("an order is not answered at the end");
        }
    }

    /// During a shutdown, whoever is told to go has no living user.
    fn check_order(&self, attempt: Attempt) {
        let Some(service) = self.core.service_of(attempt).filter(|_| self.shutting_down) else {
            return;
        };
        let users: &[&str] = match service.name.as_str() {
            "task" => &["middle", "guest"],
            "store" => &["middle", "front", "guest"],
            "middle" => &["front"],
            _ => &[],
        };
        for user in users {
            let user: ServiceName = user.parse().unwrap();
            if self.core.services()[&user].processes().next().is_some() {
                self.fail(&format!("{} is to go before {user}", service.name));
            }
        }
    }
}
