//! The course of a run: random events, rest, the end.

use std::collections::BTreeSet;
use std::time::Duration;

use insula_contract::id::{Attempt, Epoch, ServiceName};
use insula_core::event::{Caller, ClientId, Event, Notice, Order, RequestId, Vitality};
use insula_core::process::Outcome;
use insula_core::service::{Goal, Place, Service};
use insula_core::spec::{Kind, RestartPolicy};

use super::specs::spec;
use super::{NAMES, REST, SCHEMA, World};

impl World {
    /// Takes the next event, or lets time pass to the next deadline; false when nothing is due.
    pub(super) fn step(&mut self) -> bool {
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
                9 => self.use_or_not(),
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

    pub(super) fn request(&mut self) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.open_requests.insert(request);
        request
    }

    /// The host wants a release otherwise than before.
    pub(super) fn configure(&mut self) {
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
    pub(super) fn retire_or_install(&mut self) {
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
        // A launch that fails is told by then, and what it left down is started below.
        self.run_for(Duration::from_millis(10));
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
                    Place::Stopped
                    | Place::Up(_)
                    | Place::Vacant
                    | Place::Backoff { .. }
                    | Place::Dormant { .. } => false,
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
        self.check_room();
        let store: ServiceName = "store".parse().unwrap();
        if !self.core.services()[&store].is_ready() {
            self.fail("the store does not come up");
        }
        self.sleep_and_wake();
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
        // Some end while they sleep, or are about to.
        if self.random(2) == 0 {
            self.put_away("store", &BTreeSet::new());
            self.put_away("front", &BTreeSet::new());
        }
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
}
