//! What the driver, the kernel and the processes would do with an action.

use insula_contract::id::{Attempt, ServiceName};
use insula_contract::line::{ContractView, Leadership, ToService};
use insula_contract::route::RouteState;
use insula_core::event::{Action, Event, Message, Vitality};
use insula_core::process::Outcome;

use super::{Fake, SCHEMA, World};

impl World {
    pub(super) fn greet(&mut self, attempt: Attempt, fake: &Fake) {
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

    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Launch {
                attempt,
                instance,
                uses,
                step,
                cpus,
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
                let (cpus, own) = self.seat(attempt, cpus);
                let fake = Fake {
                    service: instance.service.to_string(),
                    exists: true,
                    instance: instance.to_string(),
                    cpus,
                    own,
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
            Action::Confine { attempts, cpus } => {
                for attempt in attempts {
                    if let Some(fake) = self.fakes.get_mut(&attempt) {
                        fake.cpus = cpus.clone();
                    }
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
            Action::CleanRoute { route, keep } => {
                self.routes
                    .retain(|(of, _), target| *of != route || keep.contains(&target.attempt));
            }
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

    pub(super) fn said(&mut self, attempt: Attempt, message: Message) {
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

    /// During a shutdown, whoever is told to go has no living user.
    pub(super) fn check_order(&self, attempt: Attempt) {
        let Some(service) = self.core.service_of(attempt).filter(|_| self.shutting_down) else {
            return;
        };
        // One that nobody used was on its way before.
        if service
            .processes()
            .any(|p| p.attempt == attempt && p.sleeps)
        {
            return;
        }
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
