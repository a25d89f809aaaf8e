//! What a decision of the supervisor costs, without any effect: the death of a process and the
//! start of its successor, until it serves again, among many services.
//!
//! Timed is one whole cycle of seven events through [`Core::handle`]: ended, ticked, launched,
//! greeted, ready, leading, and what each brings about.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use insula_contract::id::{Attempt, Epoch, ServiceName};
use insula_contract::line::{ContractView, Leadership, ToService};
use insula_core::core::{Core, Settings};
use insula_core::event::{Action, Event, Message, Order, RequestId};
use insula_core::process::Outcome;
use insula_core::restart::RestartLimits;
use insula_core::spec::{
    DataSpec, Kind, Limits, Network, Offer, Principal, RestartPolicy, ServiceSpec,
};
use insula_core::time::Time;
use semver::Version;

fn spec(name: &ServiceName) -> ServiceSpec {
    let contract = format!("{name}@1").parse().expect("a contract");
    ServiceSpec {
        name: name.clone(),
        version: Version::new(1, 0, 0),
        description: String::new(),
        command: vec!["x".to_owned()],
        profile: "dense".to_owned(),
        kind: Kind::Native,
        sockets: BTreeMap::new(),
        instances: 1,
        ready_timeout: Duration::from_secs(30),
        drain_timeout: Duration::from_secs(5),
        stop_timeout: Duration::from_secs(5),
        stop_signal: 15,
        before_start: Vec::new(),
        liveness: None,
        watchdog: None,
        restarts: RestartLimits {
            intensity: usize::MAX,
            ..RestartLimits::default()
        },
        host: Default::default(),
        after: BTreeSet::new(),
        autostart: true,
        restart: RestartPolicy::Always,
        expected_exit_codes: BTreeSet::from([0]),
        network: Network::None,
        listen: Vec::new(),
        environment: BTreeMap::new(),
        limits: Limits::default(),
        output: Default::default(),
        provides: BTreeMap::from([(
            contract,
            Offer {
                allow: vec![Principal::Anyone],
                limits: Default::default(),
            },
        )]),
        requires: BTreeMap::new(),
        dormancy: Default::default(),
        data: Some(DataSpec {
            schema: 1,
            size_max: 1,
        }),
    }
}

struct Host {
    core: Core,
    now: u64,
}

impl Host {
    fn new(services: usize) -> Self {
        let settings = Settings {
            first_attempt: Attempt::first_of_run(1),
            first_uid: Some(1_000),
            seed: 1,
        };
        let mut host = Self {
            core: Core::new(settings),
            now: 1,
        };
        for number in 0..services {
            let name: ServiceName = format!("s{number}").parse().expect("a name");
            host.turn(Event::Installed {
                spec: Box::new(spec(&name)),
            });
            let request = RequestId(number as u64);
            host.turn(Event::Ordered {
                request,
                service: name,
                order: Order::Start,
            });
        }
        host
    }

    /// Takes in an event, and plays the processes that it starts until they serve.
    fn turn(&mut self, event: Event) {
        self.now += 20_000_000_000;
        let decision = self.core.handle(Time(self.now), event);
        let actions = decision
            .record(|_| Ok::<_, ()>(()))
            .expect("nothing is stored");
        for action in actions {
            match action {
                Action::Launch {
                    attempt, instance, ..
                } => {
                    self.turn(Event::Launched { attempt, pid: 1 });
                    let contract = format!("{}@1", instance.service)
                        .parse()
                        .expect("a contract");
                    self.turn(Event::Greeted {
                        attempt,
                        provides: vec![ContractView {
                            contract,
                            schema: 1,
                        }],
                        requires: Vec::new(),
                        leadership: Leadership::Following,
                        ready: false,
                        serving: Vec::new(),
                        verdicts: Vec::new(),
                    });
                    self.turn(Event::Ready { attempt });
                }
                Action::Say {
                    attempt,
                    message: Message::Plain(ToService::Lead { epoch }),
                } => {
                    self.turn(Event::Leading { attempt, epoch });
                }
                action => {
                    black_box(action);
                }
            }
        }
    }

    /// Kills the first service's process, and waits until another one serves.
    fn cycle(&mut self) -> Epoch {
        let name: ServiceName = "s0".parse().expect("a name");
        let attempt = self.core.services()[&name].replicas[0]
            .current()
            .expect("it serves")
            .attempt;
        self.turn(Event::Exited {
            attempt,
            outcome: Outcome::Signal(9),
        });
        self.turn(Event::Ticked);
        let service = &self.core.services()[&name];
        assert!(
            service.is_ready(),
            "the cycle ends with a process that serves"
        );
        service.epoch
    }
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a death and the successor's start");
    for services in [1, 100, 1_000] {
        let mut host = Host::new(services);
        group.bench_with_input(
            BenchmarkId::from_parameter(services),
            &services,
            |bencher, _| {
                bencher.iter(|| black_box(host.cycle()));
            },
        );
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
