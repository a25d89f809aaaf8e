//! The whole: services, edges, orders, and the turn that an event makes.

mod clients;
mod decision;
mod dependencies;
mod needs;
mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use insula_contract::id::{Attempt, ContractId, ServiceName};

use crate::agenda::Agenda;
use crate::edges::Edges;
use crate::event::{
    Action, ClientId, Consumer, Done, Event, Order, Record, Refusal, RefusalKind, RequestId,
};
use crate::pace::Pace;
use crate::placement::Placement;
use crate::process::Said;
use crate::seats::Seats;
use crate::service::{Place, Service};
use crate::spec::{ProfileSpec, ServiceSpec};
use crate::time::Time;
use crate::turn::{Ids, Turn};
use crate::views::Known;
use clients::welcome;
pub use decision::Decision;
pub use restore::Stored;
use restore::install;

/// How long after an order to start those who wait are told that a provider is down.
const TELL_AFTER: Duration = Duration::from_millis(200);

/// What the core is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The first attempt number of this run.
    pub first_attempt: Attempt,
    /// The first user id to hand out, where services have one of their own.
    pub first_uid: Option<u32>,
    /// Where chance begins.
    pub seed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Client {
    attempt: Attempt,
    uid: u32,
}

/// The supervisor's decisions: (state, event) -> (state, records, actions).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    settings: Settings,
    ids: Ids,
    services: BTreeMap<ServiceName, Service>,
    providers: BTreeMap<ContractId, ServiceName>,
    attempts: BTreeMap<Attempt, ServiceName>,
    agenda: Agenda,
    edges: Edges,
    clients: BTreeMap<ClientId, Client>,
    /// The forms of contracts that their ends are built for.
    known: Known,
    /// Set once everything is to end, with those who wait for it.
    shutdown: Option<Vec<RequestId>>,
    /// Whether the services were told that everything is to end.
    winding_down: bool,
    /// Who comes after each service, and ends before it; known once everything is to end.
    followers: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
    ended: bool,
    /// User ids of all services that ever were.
    uids: BTreeMap<ServiceName, u32>,
    /// The host, and who sits where.
    seats: Seats,
    /// Of services whose starts do not help.
    pace: Pace,
}

impl Core {
    /// A core that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            ids: Ids {
                attempt: settings.first_attempt,
                edge: 1,
                route: 0,
                uid: settings.first_uid,
                chance: settings.seed,
            },
            settings,
            services: BTreeMap::new(),
            providers: BTreeMap::new(),
            attempts: BTreeMap::new(),
            agenda: Agenda::default(),
            edges: Edges::default(),
            clients: BTreeMap::new(),
            known: Known::default(),
            shutdown: None,
            winding_down: false,
            followers: BTreeMap::new(),
            ended: false,
            uids: BTreeMap::new(),
            seats: Seats::default(),
            pace: Pace::default(),
        }
    }

    /// One that knows the host, and gives its services places there as these profiles ask; `fallback`
    /// is the profile of a service whose own is not there.
    pub fn on_host(
        mut self,
        host: Placement,
        profiles: BTreeMap<String, ProfileSpec>,
        fallback: &str,
    ) -> Self {
        self.pace = Pace::on(host.topology().allowed().len());
        self.seats = Seats::new(host, profiles, fallback);
        self
    }

    /// Takes other profiles; who sits stays, and is asked again at his next start.
    pub fn set_profiles(&mut self, profiles: BTreeMap<String, ProfileSpec>) {
        self.seats.set_profiles(profiles);
    }

    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Who sits where.
    pub fn seats(&self) -> &Seats {
        &self.seats
    }

    /// The services by name.
    pub fn services(&self) -> &BTreeMap<ServiceName, Service> {
        &self.services
    }

    /// The edges.
    pub fn edges(&self) -> &Edges {
        &self.edges
    }

    /// Who provides a contract.
    pub fn provider_of(&self, contract: &ContractId) -> Option<&ServiceName> {
        self.providers.get(contract)
    }

    /// Whose an attempt is.
    pub fn service_of(&self, attempt: Attempt) -> Option<&Service> {
        self.services.get(self.attempts.get(&attempt)?)
    }

    /// When something is late, or due.
    pub fn next_deadline(&self) -> Option<Time> {
        self.agenda.first()
    }

    /// Whether a release could be installed: everything that speaks against it.
    pub fn check_install(&self, spec: &ServiceSpec) -> Vec<String> {
        let taken = spec.provides.keys().filter_map(|contract| {
            let owner = self
                .providers
                .get(contract)
                .filter(|owner| **owner != spec.name)?;
            Some(format!("{contract} is provided by `{owner}` already"))
        });
        let missing = spec.requires.keys().filter_map(|contract| {
            let known =
                self.providers.contains_key(contract) || spec.provides.contains_key(contract);
            (!known).then(|| {
                let offered: Vec<_> = self.providers.keys().map(ToString::to_string).collect();
                if offered.is_empty() {
                    format!("no installed service provides {contract}")
                } else {
                    format!(
                        "no installed service provides {contract}; provided are {}",
                        offered.join(", ")
                    )
                }
            })
        });
        let after = spec.after.iter().filter_map(|name| {
            let known = *name == spec.name || self.services.contains_key(name);
            (!known).then(|| format!("it comes after `{name}`, which is not installed"))
        });
        let cycle = dependencies::cycle(spec, &self.services, &self.providers).map(|path| {
            let path: Vec<_> = path.iter().map(ServiceName::as_str).collect();
            format!("it would wait for itself: {}", path.join(" -> "))
        });
        taken.chain(missing).chain(after).chain(cycle).collect()
    }

    /// Takes in an event.
    pub fn handle(&mut self, now: Time, event: Event) -> Decision {
        let mut turn = self.begin(now);
        turn.touched.extend(self.whose(&event));
        match event {
            Event::Installed { spec } => {
                install(
                    &mut turn,
                    &mut self.services,
                    &mut self.providers,
                    *spec,
                    |name| self.uids.get(name).copied(),
                    |_, _| None,
                    |_| false,
                );
                self.uids.extend(turn.new_uids());
                turn.seats.providers.clone_from(&self.providers);
            }
            Event::Configured {
                request,
                specs,
                restart,
            } => {
                let name = specs.first().map(|spec| spec.name.clone());
                match name.and_then(|name| self.services.get_mut(&name)) {
                    Some(service) => service.configure(&mut turn, request, specs, restart),
                    None => turn.answer(request, Ok(Done::Configured)),
                }
            }
            Event::Retired { request, service } => match self.services.get_mut(&service) {
                Some(service) => {
                    service.retired = true;
                    service.order_stop(&mut turn, request);
                }
                None => turn.answer(request, Ok(Done::NotRunning)),
            },
            Event::Ordered {
                request,
                service,
                order,
            } => {
                if self.shutdown.is_some() {
                    let text = "the daemon is shutting down".to_owned();
                    turn.answer(request, Err(refusal(RefusalKind::ShuttingDown, text)));
                } else if let Some(service) = self.services.get_mut(&service).filter(|s| !s.retired)
                {
                    obey(&mut turn, service, request, order);
                } else {
                    turn.answer(request, Err(no_such(&service, &self.services)));
                }
            }
            Event::ShutdownOrdered { request } => {
                self.shutdown.get_or_insert_default().extend(request);
            }
            Event::Launched { attempt, pid } => {
                if let Some(service) = hearer(&self.attempts, &mut self.services, attempt) {
                    if let Some(process) = service.process_mut(attempt) {
                        process.pid = Some(pid);
                    }
                    service.launched(&mut turn, attempt);
                }
            }
            Event::LaunchFailed { attempt, reason } => {
                if let Some(service) = hearer(&self.attempts, &mut self.services, attempt) {
                    service.launch_failed(&mut turn, attempt, &reason);
                }
            }
            Event::Exited { attempt, outcome } => {
                if let Some(service) = hearer(&self.attempts, &mut self.services, attempt) {
                    service.hear(&mut turn, attempt, Said::Exited(outcome));
                }
            }
            Event::Blamed { attempt, reason } => {
                if let Some(service) = hearer(&self.attempts, &mut self.services, attempt)
                    && let Some(process) = service.process_mut(attempt)
                    && !process.dismissed
                {
                    // What the supervisor killed, it killed for its own reason.
                    process.blame.get_or_insert(reason);
                }
            }
            Event::Greeted {
                attempt,
                provides,
                requires,
                leadership,
                ready,
                verdicts,
                ..
            } => {
                if let Some(service) = hearer(&self.attempts, &mut self.services, attempt) {
                    let name = service.name.clone();
                    welcome(&mut turn, service, attempt);
                    // One whose hello does not fit comes no further.
                    if self.take_views(&mut turn, &name, attempt, &provides, &requires, &verdicts) {
                        self.edges.forget_telling(&name, attempt);
                        let service = self.services.get_mut(&name).expect("it was just there");
                        service.greeted(&mut turn, attempt, leadership, ready);
                    }
                }
            }
            Event::Ready { attempt } => {
                self.hear(&mut turn, attempt, Said::Ready);
            }
            Event::Leading { attempt, epoch } => {
                self.hear(&mut turn, attempt, Said::Leading(epoch));
            }
            Event::Yielded { attempt, epoch } => {
                self.hear(&mut turn, attempt, Said::Yielded(epoch));
            }
            Event::Drained { attempt } => {
                self.hear(&mut turn, attempt, Said::Drained);
            }
            Event::Notified { attempt, notice } => {
                if let Some(service) = hearer(&self.attempts, &mut self.services, attempt) {
                    service.notified(&mut turn, attempt, notice);
                }
            }
            Event::Probed {
                attempt,
                number,
                result,
            } => {
                if let Some(service) = hearer(&self.attempts, &mut self.services, attempt) {
                    service.probed(&mut turn, attempt, number, result);
                }
            }
            Event::Suspected { attempt, waited } => {
                if let Some(service) = hearer(&self.attempts, &mut self.services, attempt) {
                    service.suspected(&mut turn, attempt, waited);
                }
            }
            Event::Ponged { attempt, ping } => {
                if let Some(service) = hearer(&self.attempts, &mut self.services, attempt) {
                    service.ponged(attempt, ping);
                }
            }
            Event::Examined { attempt, vitality } => {
                if let Some(service) = hearer(&self.attempts, &mut self.services, attempt) {
                    service.examined(&mut turn, attempt, vitality);
                }
            }
            Event::ClientAsked {
                client,
                caller,
                contract,
                schema,
                verdicts,
            } => {
                self.client_asked(&mut turn, client, &caller, &contract, schema, &verdicts);
            }
            Event::ClientLeft { client } => {
                self.known.left(client);
                if let Some(client) = self.clients.remove(&client) {
                    self.edges
                        .close_client(&mut turn, &self.services, client.attempt);
                }
            }
            Event::Idle { service, attempts } => {
                if let Some(service) = self.services.get_mut(&service)
                    && self.shutdown.is_none()
                {
                    service.put_away(&mut turn, &attempts);
                }
            }
            Event::Wanted { service } => {
                if let Some(service) = self.services.get_mut(&service)
                    && self.shutdown.is_none()
                {
                    service.wake(&mut turn);
                }
            }
            Event::Ticked => {}
        }
        self.finish(&mut turn);
        self.decide(turn)
    }

    /// The service that an event is about.
    fn whose(&self, event: &Event) -> Option<ServiceName> {
        match event {
            Event::Installed { spec } => Some(spec.name.clone()),
            Event::Configured { specs, .. } => specs.first().map(|spec| spec.name.clone()),
            Event::Ordered { service, .. }
            | Event::Retired { service, .. }
            | Event::Idle { service, .. }
            | Event::Wanted { service } => Some(service.clone()),
            Event::Launched { attempt, .. }
            | Event::LaunchFailed { attempt, .. }
            | Event::Exited { attempt, .. }
            | Event::Blamed { attempt, .. }
            | Event::Greeted { attempt, .. }
            | Event::Ready { attempt }
            | Event::Leading { attempt, .. }
            | Event::Yielded { attempt, .. }
            | Event::Drained { attempt }
            | Event::Notified { attempt, .. }
            | Event::Probed { attempt, .. }
            | Event::Suspected { attempt, .. }
            | Event::Ponged { attempt, .. }
            | Event::Examined { attempt, .. } => self.attempts.get(attempt).cloned(),
            Event::ShutdownOrdered { .. }
            | Event::ClientAsked { .. }
            | Event::ClientLeft { .. }
            | Event::Ticked => None,
        }
    }

    /// Puts what was touched on the agenda.
    fn note_touched(&mut self, turn: &mut Turn) {
        for name in std::mem::take(&mut turn.touched) {
            let Some(service) = self.services.get_mut(&name) else {
                continue;
            };
            service.release_seats(&mut turn.seats);
            self.agenda.note(service);
            turn.pace.note(service, turn.now);
            if service.retired && service.processes().next().is_none() {
                service.leave_seats(&mut turn.seats);
                if service.scale.is_some() {
                    // Not what somebody asks for who defines one of that name again.
                    turn.records.push(Record::Scale {
                        service: name.clone(),
                        instances: 0,
                    });
                }
                self.services.remove(&name);
                self.agenda.forget(&name);
                turn.pace.forget(&name, turn.now);
                turn.dirty.remove(&name);
            }
        }
    }

    fn begin(&mut self, now: Time) -> Turn {
        Turn {
            now,
            ids: self.ids.clone(),
            seats: std::mem::take(&mut self.seats),
            pace: std::mem::take(&mut self.pace),
            records: Vec::new(),
            actions: Vec::new(),
            launches: Vec::new(),
            dirty: BTreeSet::new(),
            touched: BTreeSet::new(),
        }
    }

    fn hear(&mut self, turn: &mut Turn, attempt: Attempt, said: Said) {
        if let Some(service) = hearer(&self.attempts, &mut self.services, attempt) {
            service.hear(turn, attempt, said);
        }
    }

    /// What every event may have made due: late phases, waits that are over, channels, the end.
    fn finish(&mut self, turn: &mut Turn) {
        loop {
            self.note_touched(turn);
            let freed = self.freed(turn);
            // A route that serves again lets those start who waited for it; a first end is
            // followed by a start at once.
            let served = self.agenda.waiting().filter(|name| {
                let service = &self.services[*name];
                (0..service.replicas.len()).any(|at| service.may_try(at, freed))
                    && self.missing(service).is_empty()
            });
            let due: BTreeSet<ServiceName> =
                self.agenda.due(turn.now).chain(served).cloned().collect();
            if due.is_empty() {
                break;
            }
            for name in due {
                self.pass_deadlines(turn, &name);
                turn.touched.insert(name);
            }
        }
        self.wind_down(turn);
        self.fit_edges(turn);
        self.confine(turn);
        for (name, attempt) in std::mem::take(&mut turn.launches) {
            let service = &self.services[&name];
            let Some(process) = service.processes().find(|p| p.attempt == attempt) else {
                continue;
            };
            let uses = service
                .spec_of(process)
                .requires
                .keys()
                .filter_map(|contract| {
                    Some((self.providers.get(contract)?.clone(), name.to_string()))
                });
            let (cpus, memory) = turn.seats.given(process.seat);
            turn.actions.push(Action::Launch {
                attempt,
                instance: service.instance_of(attempt).expect("it has this process"),
                version: process.version.clone(),
                step: process.step,
                uid: service.uid,
                uses: uses.collect(),
                cpus,
                memory,
            });
        }
    }

    /// How often room has become free, for those who wait for some.
    fn freed(&self, turn: &Turn) -> Option<u64> {
        let freed = turn.seats.host().freed();
        self.shutdown.is_none().then_some(freed)
    }

    /// Has those who share CPUs leave the ones that somebody got for himself, and gives them back
    /// those that became free.
    fn confine(&self, turn: &mut Turn) {
        let changed = turn.seats.changed();
        for (pool, cpus) in changed {
            let new = |attempt: Attempt| turn.launches.iter().any(|(_, new)| *new == attempt);
            let attempts: Vec<_> = self
                .services
                .values()
                .flat_map(Service::processes)
                .filter(|process| {
                    let seat = process.seat.and_then(|seat| turn.seats.pool(seat));
                    seat == Some(&pool) && !new(process.attempt)
                })
                .map(|process| process.attempt)
                .collect();
            if !attempts.is_empty() {
                turn.actions.push(Action::Confine { attempts, cpus });
            }
        }
    }

    fn pass_deadlines(&mut self, turn: &mut Turn, name: &ServiceName) {
        let missing = self.missing(&self.services[name]);
        let hopeless = missing.iter().find_map(|needed| self.hopeless(needed));
        let freed = self.freed(turn);
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        let late: Vec<_> = service
            .processes()
            .filter(|process| process.deadline.is_some_and(|at| at <= turn.now))
            .map(|process| process.attempt)
            .collect();
        for attempt in late {
            if let Some(process) = service.process_mut(attempt) {
                process.deadline = None;
            }
            service.hear(turn, attempt, Said::Late);
        }
        service.check_health(turn);
        for at in 0..service.replicas.len() {
            let start = match &service.replicas[at].place {
                Place::Waiting { .. } => service.may_try(at, freed),
                Place::Backoff { until } => *until <= turn.now,
                Place::Stopped
                | Place::Up(_)
                | Place::Vacant
                | Place::Exited { .. }
                | Place::Fatal { .. }
                | Place::Dormant { .. } => false,
            };
            if !start {
                continue;
            }
            if missing.is_empty() {
                service.launch(turn, at);
                if let Some(process) = service.replicas[at].current() {
                    self.attempts.insert(process.attempt, name.clone());
                }
                continue;
            }
            let tell_at = match &service.replicas[at].place {
                Place::Waiting { tell_at, .. } => *tell_at,
                Place::Backoff { .. }
                | Place::Stopped
                | Place::Up(_)
                | Place::Vacant
                | Place::Exited { .. }
                | Place::Fatal { .. }
                | Place::Dormant { .. } => Some(turn.now + TELL_AFTER),
            };
            let tell = tell_at.is_some_and(|at| at <= turn.now);
            service.replicas[at].place = Place::Waiting {
                on: missing.clone(),
                tell_at: tell_at.filter(|_| !tell),
            };
            if let (true, Some(text)) = (tell, &hopeless) {
                service.fail_orders(turn, RefusalKind::Waiting, text);
            }
        }
    }

    fn fit_edges(&mut self, turn: &mut Turn) {
        for name in std::mem::take(&mut turn.dirty) {
            let service = &self.services[&name];
            for process in service.processes() {
                self.attempts.insert(process.attempt, name.clone());
            }
            let mut needs: BTreeSet<ContractId> = BTreeSet::new();
            for process in service.processes() {
                needs.extend(service.spec_of(process).requires.keys().cloned());
            }
            for contract in needs {
                let Some(provider) = self.providers.get(&contract).cloned() else {
                    continue;
                };
                let consumer = Consumer::Service(name.clone());
                if self.edges.find(&provider, &consumer, &contract).is_none() {
                    let route = self.services[&provider].routes[&contract].index;
                    self.edges
                        .open(turn, &provider, consumer, &contract, route, None);
                }
            }
            self.edges.fit(turn, &self.services, &name);
        }
        // Opening an edge marks its provider; everything is fitted already.
        turn.dirty.clear();
    }

    fn decide(&mut self, turn: Turn) -> Decision {
        for record in &turn.records {
            if let Record::Ended { attempt } = record {
                self.attempts.remove(attempt);
                self.known.forget(*attempt);
            }
        }
        self.ids = turn.ids;
        self.seats = turn.seats;
        self.pace = turn.pace;
        Decision {
            records: turn.records,
            actions: turn.actions,
        }
    }
}

fn hearer<'a>(
    attempts: &BTreeMap<Attempt, ServiceName>,
    services: &'a mut BTreeMap<ServiceName, Service>,
    attempt: Attempt,
) -> Option<&'a mut Service> {
    // An event of an earlier attempt finds nobody: it is ignored.
    services.get_mut(attempts.get(&attempt)?)
}

fn refusal(kind: RefusalKind, text: String) -> Refusal {
    Refusal {
        kind,
        text,
        serving: None,
        hint: None,
    }
}

fn no_such(name: &ServiceName, services: &BTreeMap<ServiceName, Service>) -> Refusal {
    let known: Vec<_> = services.keys().map(ServiceName::as_str).collect();
    let hint = if known.is_empty() {
        "nothing is installed; `insulactl install PATH` installs a release".to_owned()
    } else {
        format!("installed are {}", known.join(", "))
    };
    Refusal {
        kind: RefusalKind::BadName,
        text: format!("no such service `{name}`"),
        serving: None,
        hint: Some(hint),
    }
}

fn obey(turn: &mut Turn, service: &mut Service, request: RequestId, order: Order) {
    match order {
        Order::Start => service.order_start(turn, request, Done::Started),
        Order::Stop => service.order_stop(turn, request),
        Order::Restart => service.order_restart(turn, request),
        Order::Upgrade(to) => {
            let to = to.unwrap_or_else(|| {
                service
                    .releases
                    .keys()
                    .max()
                    .expect("a service has a release")
                    .clone()
            });
            service.order_upgrade(turn, request, to);
        }
        Order::Scale(to) => service.order_scale(turn, request, to),
        Order::Rollback => match service.previous.clone() {
            Some(previous) => service.order_upgrade(turn, request, previous),
            None => {
                let text = format!("{} has no earlier release to go back to", service.name);
                turn.answer(request, Err(refusal(RefusalKind::NoRelease, text)));
            }
        },
    }
}
