//! The fake world: processes that obey late, never, or wrongly.

mod daemon;
mod dormant;
mod host;
mod kernel;
mod run;
mod specs;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use insula_contract::id::{Attempt, EdgeId, Epoch, ServiceName};
use insula_contract::route::Target;
use insula_core::core::{Core, Settings};
use insula_core::event::{Event, Notice, Order, Record, RequestId};
use insula_core::invariants::violations;
use insula_core::placement::CpuSet;
use insula_core::spec::ServiceSpec;
use insula_core::time::Time;

use crate::model::{Facts, Model};
use specs::spec;

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
    /// Which instance's it is.
    instance: String,
    /// What it runs on.
    cpus: CpuSet,
    /// What of it nobody else may use.
    own: CpuSet,
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
    /// Whether each turn is printed.
    traced: bool,
    /// Services for which somebody holds a request.
    wanted: BTreeSet<ServiceName>,
    /// Processes that a daemon that just began must leave alone.
    undisturbed: BTreeSet<Attempt>,
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
            core: host::on_host(Core::new(Self::settings(seed, 1)), seed),
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
            traced: std::env::var_os("INSULA_SIM_TRACE").is_some(),
            wanted: BTreeSet::new(),
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
        if self.traced {
            println!("{:.6} {shown}", self.now as f64 / 1e9);
            for record in &records {
                println!("      record {record:?}");
            }
            for action in &actions {
                println!("      {} {action:?}", if dies { "lost" } else { "do" });
            }
        }
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
        self.check_cores(shown);
        self.tell_wishes();
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
}
