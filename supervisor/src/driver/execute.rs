//! Doing what was decided.

use std::os::fd::OwnedFd;
use std::time::Duration;

use insula_contract::id::{Attempt, EdgeId, ServiceName};
use insula_contract::line::{ToService, UsedEdge};
use insula_contract::route::{TARGETS, Target};
use insula_core::event::{Action, Consumer, Event, Message};
use insula_core::service::Goal;
use insula_core::spec::{ProfileSpec, Spin};

use super::forms::Owner;
use super::{Driver, End, because, log_io};
use crate::memory::EdgePage;
use crate::meters::{Meters, Survey};
use crate::removal::remove_tree;
use crate::utilisation::Sights;

/// A spin time as services read it.
pub(super) fn spin_ns(spin: Spin) -> u64 {
    match spin {
        Spin::For(duration) => u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1),
        Spin::Forever => u64::MAX,
    }
}

impl Driver {
    /// Does one thing that was decided and stored. What fails is told as an event where the core
    /// waits for it, and logged where it does not.
    pub(super) fn execute(&mut self, action: Action) {
        match action {
            Action::Launch {
                attempt,
                instance,
                version,
                step,
                uid,
                uses,
                cpus,
                memory,
            } => match self.launch(
                attempt,
                &instance,
                (&version, step),
                uid,
                &uses,
                (&cpus, &memory),
            ) {
                Ok(pid) => self.pending.push_back(Event::Launched { attempt, pid }),
                Err(error) => {
                    let reason = because("launch failed", &error);
                    self.pending
                        .push_back(Event::LaunchFailed { attempt, reason });
                }
            },
            Action::Confine { attempts, cpus } => self.confine(&attempts, &cpus),
            Action::Stop { attempt } => self.stop(attempt),
            Action::Kill { attempt } => self.kill(attempt),
            Action::Probe { attempt, number } => self.probe(attempt, number),
            Action::Examine { attempt } => self.examine(attempt),
            Action::Forget { attempt } => self.forget(attempt),
            Action::Say { attempt, message } => self.say(attempt, message),
            Action::Publish {
                route,
                place,
                target,
                drained,
            } => {
                self.routes.publish(route, place, target, drained);
                self.ring_consumers(route);
            }
            Action::CleanRoute { route, keep } => {
                for place in 0..TARGETS {
                    let target = self.routes.target(route, place);
                    if target != Target::NONE && !keep.contains(&target.attempt) {
                        self.routes.publish(route, place, Target::NONE, None);
                    }
                }
                self.ring_consumers(route);
            }
            Action::OpenEdge {
                edge,
                provider,
                consumer,
            } => {
                let uids = self.uids(&provider, &consumer);
                let opened = self
                    .channels
                    .open_edge(&provider, &consumer.directory(), uids);
                log_io(&format!("open edge {edge}"), opened);
            }
            Action::CloseEdge {
                edge,
                provider,
                consumer,
            } => {
                let closed = self.channels.close_edge(&provider, &consumer.directory());
                log_io(&format!("close edge {edge}"), closed);
            }
            Action::OpenPair {
                edge,
                provider,
                consumer,
                pair,
            } => {
                let uids = self.uids(&provider, &consumer);
                let directory = consumer.directory();
                self.place_channels(&provider, &directory);
                let opened = self.channels.open_pair(&provider, &directory, pair, uids);
                log_io(&format!("open a channel on edge {edge}"), opened);
            }
            Action::ClosePair {
                edge,
                provider,
                consumer,
                pair,
            } => {
                let directory = consumer.directory();
                let closed = self.channels.close_pair(&provider, &directory, pair);
                log_io(&format!("remove a channel on edge {edge}"), closed);
                let channel = self.channels.pair(&provider, &directory, pair);
                tokio::spawn(async move {
                    tokio::time::sleep(OPENED_BY_THEN).await;
                    // The next daemon clears what this one does not come to.
                    let _ = tokio::task::spawn_blocking(move || remove_tree(&channel)).await;
                });
            }
            Action::AnswerClient {
                client,
                answer,
                profile,
            } => {
                self.answer_client(client, answer, profile);
            }
            Action::DropClient { client, reason } => self.drop_client(client, &reason),
            Action::Answer { request, answer } => {
                if let Some(reply) = self.orders.remove(&request) {
                    // Who asked may have gone.
                    let _ = reply.send(answer);
                }
            }
            Action::Note { service, text } => match service {
                Some(service) => tracing::info!("{service}: {text}"),
                None => tracing::info!("{text}"),
            },
            Action::Exit => self.ended = Some(End::Stopped),
        }
    }

    /// The user ids of an edge's ends; none where services have none of their own.
    fn uids(&self, provider: &ServiceName, consumer: &Consumer) -> Option<(u32, u32)> {
        let uid = |name: &ServiceName| self.core.services().get(name)?.uid;
        let consumer = match consumer {
            Consumer::Service(name) => uid(name)?,
            Consumer::Client { uid, .. } => *uid,
        };
        Some((uid(provider)?, consumer))
    }

    /// Wakes the consumers of a route that has changed.
    fn ring_consumers(&self, route: u32) {
        let of_route = (route, Attempt(0))..=(route, Attempt(u64::MAX));
        for ((_, consumer), page) in self.pages.range(of_route) {
            log_io(&format!("ring {consumer}"), page.ring());
        }
    }

    /// The descriptor of an edge's page for one attempt of its consumer; made when first needed,
    /// and kept for as long as that attempt lives.
    pub(super) fn page(&mut self, edge: EdgeId, consumer: Attempt) -> std::io::Result<OwnedFd> {
        use std::collections::btree_map::Entry;
        let route = self
            .core
            .edges()
            .get(edge)
            .map_or(u32::MAX, |edge| edge.route);
        let page = match self.pages.entry((route, consumer)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(EdgePage::create(route, consumer)?),
        };
        page.descriptor()
    }

    /// The descriptor of a process's meters; made when first needed, and kept for as long as its
    /// attempt lives.
    fn meters(&mut self, attempt: Attempt) -> std::io::Result<OwnedFd> {
        use std::collections::btree_map::Entry;
        let meters = match self.meters.entry(attempt) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Meters::create(attempt)?),
        };
        meters.descriptor()
    }

    /// What is to be read for the figures of all edges.
    pub(super) fn survey(&self) -> Survey {
        let mut survey = Survey::default();
        for edge in self.core.edges().iter() {
            let service = match &edge.consumer {
                Consumer::Service(name) => self.core.services().get(name),
                Consumer::Client { .. } => None,
            };
            let attempts = service
                .into_iter()
                .flat_map(|service| service.processes())
                .map(|process| process.attempt)
                .chain(edge.client_attempt);
            let (provider, contract) = (edge.provider.clone(), edge.contract.clone());
            let consumer = edge.consumer.to_string();
            survey.add_edge(edge.id, consumer, provider, contract, attempts);
        }
        for (attempt, meters) in &self.meters {
            let service = self.core.service_of(*attempt);
            let name = service.map(|service| service.spec().name.clone());
            survey.add_meters(*attempt, name, meters.clone());
        }
        survey
    }

    /// Whom to look at for what services use.
    pub(super) fn sights(&self) -> Sights {
        let mut sights = Sights {
            processes: Vec::new(),
            stops: self.aside.stops(),
            idle: self.idlers.gains.clone(),
        };
        for service in self.core.services().values() {
            for process in service.processes() {
                let Some(pid) = process.pid else {
                    continue;
                };
                let name = &service.spec_of(process).profile;
                let group = self.groups.as_ref().and_then(|g| g.path(process.attempt));
                let best_effort = self.profile(name).best_effort;
                sights
                    .processes
                    .push((name.clone(), best_effort, pid, group));
            }
        }
        sights
    }

    /// Fills in where an edge's channels lie.
    pub(super) fn locate(&self, mut used: UsedEdge, consumer: &Consumer) -> UsedEdge {
        let parent = self.channels.parent(&used.provider, &consumer.directory());
        used.parent = parent.to_string_lossy().into_owned();
        used
    }

    fn say(&mut self, attempt: Attempt, message: Message) {
        let ready: std::io::Result<(ToService, Vec<OwnedFd>)> = match message {
            Message::Welcome {
                instance,
                slot,
                profile,
            } => {
                let profile = self.profile(&profile);
                let spin_ns = spin_ns(profile.spin);
                let welcome = ToService::Welcome {
                    instance,
                    attempt,
                    slot,
                    spin_ns,
                    steady_tsc: self.steady_tsc,
                };
                self.routes.read_only().and_then(|routes| {
                    let meters = self.meters(attempt)?;
                    self.guard(attempt, &profile);
                    Ok((welcome, vec![routes, meters]))
                })
            }
            Message::Serve(mut served, provider, consumer) => {
                let parent = self.channels.parent(&provider, &consumer.directory());
                served.parent = parent.to_string_lossy().into_owned();
                self.page(served.edge, served.consumer)
                    .map(|page| (ToService::Serve(served), vec![page]))
            }
            Message::Use(used, consumer) => {
                let used = self.locate(used, &consumer);
                self.page(used.edge, used.consumer)
                    .map(|page| (ToService::Use(used), vec![page]))
            }
            Message::Plain(message) => {
                if matches!(message, ToService::Ping { .. }) {
                    self.begin_suspicion(attempt);
                }
                Ok((message, Vec::new()))
            }
        };
        match ready {
            Ok((message, descriptors)) => {
                if let Some(process) = self.processes.get(&attempt) {
                    process.say(message, descriptors);
                }
            }
            Err(error) => tracing::warn!(%attempt, %error, "cannot say something on a line"),
        }
    }

    /// Has others step aside for a process whose profile asks for it.
    fn guard(&self, attempt: Attempt, profile: &ProfileSpec) {
        if let (Some(bound), Some(meters)) = (profile.queue_delay, self.meters.get(&attempt)) {
            let group = self.groups.as_ref().and_then(|groups| groups.path(attempt));
            self.aside
                .is_quick(attempt, meters.clone(), bound, group.as_deref());
        }
    }

    /// Has a process step aside for others, if its profile is of that kind.
    pub(super) fn let_yield(&self, attempt: Attempt, profile: &ProfileSpec) {
        let group = self.groups.as_ref().and_then(|groups| groups.path(attempt));
        if let (true, Some(group)) = (profile.best_effort, group) {
            let told = self.aside.yields(attempt, group);
            log_io("have a best-effort service step aside", told);
        }
    }

    fn stop(&mut self, attempt: Attempt) {
        let signal = self
            .core
            .service_of(attempt)
            .map_or(15, |s| s.spec().stop_signal);
        if let Some(process) = self.processes.get(&attempt) {
            log_io("send a stop signal", process.signal(signal));
        }
    }

    fn kill(&mut self, attempt: Attempt) {
        if let Some(process) = self.processes.get(&attempt) {
            log_io("kill a process", process.kill_tree());
        }
        if let Some(groups) = &self.groups {
            log_io("kill a cgroup", groups.kill(attempt));
        }
    }

    fn forget(&mut self, attempt: Attempt) {
        if let Some(process) = self.processes.remove(&attempt) {
            process.end();
        }
        self.forms.forget(Owner::Process(attempt));
        let services = self.core.services();
        // Nobody is there to accept, and nobody will come by himself.
        self.sockets.keep(|name| {
            services.get(name).is_some_and(|service| {
                service.processes().next().is_some()
                    || (service.goal == Goal::Up && service.is_coming())
            })
        });
        self.wait_at_sockets();
        self.pages.retain(|(_, consumer), _| *consumer != attempt);
        self.meters.remove(&attempt);
        self.aside.forget(attempt);
        self.end_suspicion(attempt);
        log_io(
            "remove channels of an earlier daemon's clients",
            self.channels.forget(attempt),
        );
        if let Some(groups) = &mut self.groups {
            // What a process left in its cgroup goes with it.
            log_io("remove a cgroup", groups.remove(attempt));
        }
        log_io(
            "remove a line's socket",
            crate::line::remove(&self.paths, attempt),
        );
    }
}

/// A client that was opening a channel when it was removed may have made its directory anew, if its
/// user may write there (root, or everybody's one user without root); by now it has given up.
const OPENED_BY_THEN: Duration = Duration::from_secs(2);

/// How long a lost line is given before it is tried again.
pub(super) const LINE_RETRY: Duration = Duration::from_millis(20);
