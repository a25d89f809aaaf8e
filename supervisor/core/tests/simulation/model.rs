//! A slow and obvious second opinion: what the core may do, told from what happened and what it
//! ordered alone, without a look at its state.
//!
//! It keeps lists of everything and goes through them each time. Where a rule of the core has more
//! cases than can be told from outside, the model asks for less, never for something else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use insula_contract::id::{Attempt, ContractId, Epoch, Instance, ServiceName};
use insula_contract::line::ToService;
use insula_contract::route::{RouteState, Target};
use insula_core::event::{Action, Event, Message, Order, Record, Rest};
use insula_core::process::Outcome;
use insula_core::restart::RestartLimits;
use insula_core::spec::{Kind, RestartPolicy, ServiceSpec};

/// Longer than any replacement of all instances takes.
const ROLLOUT: Duration = Duration::from_secs(60);

/// One process, from its launch to its end.
#[derive(Debug, Clone)]
struct Life {
    attempt: Attempt,
    instance: Instance,
    step: bool,
    launched: u64,
    served: bool,
    /// It was launched while another one of its instance lived.
    beside: bool,
    /// It was told to go, or was launched beside another.
    excused: bool,
    /// It said that it owes no answer, and served nothing since.
    owes_nothing: bool,
    ended: Option<(u64, Outcome)>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    lives: Vec<Life>,
    goals: BTreeMap<ServiceName, bool>,
    /// When somebody last ordered something of a service, or it was configured, or cut over.
    meddled: BTreeMap<ServiceName, u64>,
    /// When this daemon began.
    daemon: u64,
    targets: BTreeMap<(u32, usize), Target>,
    epochs: BTreeMap<ServiceName, Epoch>,
    done: BTreeSet<ServiceName>,
    ending: bool,
    /// Instances that are down for good, until somebody meddles.
    rested: BTreeSet<Instance>,
    /// Instances that are put away, until somebody wants them.
    dormant: BTreeSet<Instance>,
    /// Of which it was recorded in this turn that they are so no more.
    stirred: BTreeSet<Instance>,
}

/// What the model has to know of the world beside events and actions.
pub(crate) struct Facts<'a> {
    pub(crate) now: u64,
    pub(crate) specs: &'a [ServiceSpec],
    /// The index of each contract's route.
    pub(crate) routes: &'a BTreeMap<ContractId, u32>,
}

impl Facts<'_> {
    fn specs_of(&self, name: &ServiceName) -> impl Iterator<Item = &ServiceSpec> {
        self.specs.iter().filter(move |spec| spec.name == *name)
    }
}

impl Model {
    /// The daemon died: what it waited for is forgotten, what runs goes on.
    pub(crate) fn daemon_died(&mut self, now: u64) {
        self.daemon = now;
        for (service, _) in self.goals.clone() {
            self.meddled.insert(service, now);
        }
        for life in &mut self.lives {
            // What is not adopted is killed, and its end says nothing about its service.
            life.excused = true;
        }
    }

    /// A process that nobody waits for any more has ended unseen.
    pub(crate) fn ended_unseen(&mut self, attempt: Attempt, now: u64) {
        for life in &mut self.lives {
            if life.attempt == attempt {
                life.ended.get_or_insert((now, Outcome::Unknown));
            }
        }
    }

    /// Takes in a turn; what was wrong with it.
    pub(crate) fn turn(
        &mut self,
        facts: &Facts<'_>,
        event: Option<&Event>,
        records: &[Record],
        actions: &[Action],
    ) -> Option<String> {
        let service = match event {
            Some(Event::Ordered { service, .. } | Event::Retired { service, .. }) => Some(service),
            Some(Event::Configured { specs, .. }) => Some(&specs[0].name),
            Some(Event::Installed { spec }) => Some(&spec.name),
            _ => None,
        };
        self.rested
            .retain(|instance| service != Some(&instance.service));
        let served_before = self.served(facts);
        let mut ended = None;
        match event {
            Some(Event::Ordered { service, order, .. }) => {
                self.meddled.insert(service.clone(), facts.now);
                match order {
                    Order::Start | Order::Restart => self.goals.insert(service.clone(), true),
                    Order::Stop => self.goals.insert(service.clone(), false),
                    _ => None,
                };
            }
            Some(Event::Configured { specs, .. }) => {
                self.meddled.insert(specs[0].name.clone(), facts.now);
            }
            Some(Event::Retired { service, .. }) => {
                self.goals.insert(service.clone(), false);
            }
            Some(Event::ShutdownOrdered { .. }) => self.ending = true,
            Some(Event::Exited { attempt, outcome }) => {
                for life in &mut self.lives {
                    if life.attempt == *attempt && life.ended.is_none() {
                        life.ended = Some((facts.now, *outcome));
                        ended = Some(life.clone());
                    }
                }
                // While two stand side by side, a replacement is under way, which begins anew.
                if let Some(life) = &ended
                    && (life.beside || self.lives(&life.instance).any(|l| l.ended.is_none()))
                {
                    let service = life.instance.service.clone();
                    self.meddled.insert(service, facts.now);
                }
            }
            Some(Event::Idle { attempts, .. }) => {
                let told = |attempt: Attempt| {
                    actions.iter().any(|action| match action {
                        Action::Say {
                            attempt: to,
                            message: Message::Plain(ToService::Drain),
                        }
                        | Action::Stop { attempt: to } => *to == attempt,
                        _ => false,
                    })
                };
                for life in &mut self.lives {
                    life.excused |= attempts.contains(&life.attempt) && told(life.attempt);
                }
            }
            Some(Event::Drained { attempt } | Event::Yielded { attempt, .. }) => {
                for life in &mut self.lives {
                    life.owes_nothing |= life.attempt == *attempt;
                }
            }
            Some(Event::LaunchFailed { attempt, .. }) => {
                self.lives.retain(|life| life.attempt != *attempt);
            }
            _ => {}
        }
        // Published before launches are looked at: what serves from this turn on lets others start.
        for action in actions {
            if let Action::Publish {
                route,
                place,
                target,
                drained,
            } = action
            {
                if let Some(left) = drained
                    && !self
                        .lives
                        .iter()
                        .any(|life| life.attempt == *left && life.owes_nothing)
                {
                    return Some(format!("attempt {left} is said to owe nothing"));
                }
                self.targets.insert((*route, *place), *target);
                for life in &mut self.lives {
                    if life.attempt == target.attempt && target.state == RouteState::Serve {
                        life.served = true;
                        life.owes_nothing = false;
                        if life.beside {
                            let service = life.instance.service.clone();
                            self.meddled.insert(service, facts.now);
                        }
                    }
                }
            }
        }
        self.note_tasks(facts);
        let stirred = records.iter().filter_map(|record| match record {
            Record::Rested {
                instance,
                rest: None,
            } => Some(instance.clone()),
            _ => None,
        });
        self.stirred = stirred.collect();
        let served: BTreeSet<_> = served_before.union(&self.served(facts)).cloned().collect();
        for action in actions {
            if let Some(wrong) = self.act(facts, action, &served) {
                return Some(wrong);
            }
        }
        for record in records {
            match record {
                Record::Rested {
                    instance,
                    rest: Some(Rest::Dormant(_)),
                } => {
                    self.dormant.insert(instance.clone());
                }
                Record::Rested {
                    instance,
                    rest: Some(_),
                } => {
                    self.rested.insert(instance.clone());
                }
                Record::Rested {
                    instance,
                    rest: None,
                } => {
                    self.rested.remove(instance);
                    // The daemon died on the way: all of a service sleep, or none does.
                    let others = self.lives.iter().any(|life| {
                        life.instance.service == instance.service && life.ended.is_none()
                    });
                    let asked = self.ending
                        || (event.is_none() && others)
                        || match event {
                            Some(Event::Wanted { service }) => *service == instance.service,
                            _ => service == Some(&instance.service),
                        };
                    if self.dormant.remove(instance) && !asked {
                        return Some(format!("{instance} sleeps, and nobody wants it"));
                    }
                }
                _ => {}
            }
        }
        ended.and_then(|life| self.check_restart(facts, &life, &served, actions))
    }

    /// The processes of an instance, the living and the dead.
    fn lives(&self, instance: &Instance) -> impl Iterator<Item = &Life> {
        self.lives
            .iter()
            .filter(move |life| life.instance == *instance)
    }

    /// The services whose task is done.
    fn note_tasks(&mut self, facts: &Facts<'_>) {
        for spec in facts.specs.iter().filter(|spec| spec.kind == Kind::Task) {
            let last = self
                .lives
                .iter()
                .rfind(|life| life.instance.service == spec.name && !life.step);
            if last.is_some_and(|life| matches!(life.ended, Some((_, Outcome::Code(0))))) {
                self.done.insert(spec.name.clone());
            }
        }
    }

    /// The contracts that are served now.
    fn served(&self, facts: &Facts<'_>) -> BTreeSet<ContractId> {
        let serves = |route: u32| {
            self.targets.iter().any(|((of, _), target)| {
                *of == route && matches!(target.state, RouteState::Serve | RouteState::Dormant)
            })
        };
        facts
            .routes
            .iter()
            .filter(|(_, route)| serves(**route))
            .map(|(contract, _)| contract.clone())
            .collect()
    }

    fn act(
        &mut self,
        facts: &Facts<'_>,
        action: &Action,
        served: &BTreeSet<ContractId>,
    ) -> Option<String> {
        match action {
            Action::Launch {
                attempt,
                instance,
                step,
                ..
            } => self.launched(facts, *attempt, instance, step.is_some(), served),
            Action::Stop { attempt } | Action::Kill { attempt } => {
                for life in &mut self.lives {
                    if life.attempt == *attempt {
                        life.excused = true;
                    }
                }
                None
            }
            Action::Say {
                attempt,
                message: Message::Plain(ToService::Lead { epoch }),
            } => {
                let life = self.lives.iter().find(|life| life.attempt == *attempt)?;
                let service = life.instance.service.clone();
                let last = self.epochs.insert(service, *epoch);
                last.is_some_and(|last| last >= *epoch)
                    .then(|| format!("{epoch:?} is handed out after {last:?}"))
            }
            _ => None,
        }
    }

    fn launched(
        &mut self,
        facts: &Facts<'_>,
        attempt: Attempt,
        instance: &Instance,
        step: bool,
        served: &BTreeSet<ContractId>,
    ) -> Option<String> {
        let name = &instance.service;
        let highest = self.lives.iter().map(|life| life.attempt).max();
        if highest.is_some_and(|highest| highest >= attempt) {
            return Some(format!("attempt {attempt} comes after {highest:?}"));
        }
        let beside = self
            .lives
            .iter()
            .any(|life| life.instance == *instance && life.ended.is_none());
        let before = self
            .lives
            .iter()
            .rfind(|life| life.instance == *instance)
            .cloned();
        self.lives.push(Life {
            attempt,
            instance: instance.clone(),
            step,
            launched: facts.now,
            served: false,
            beside,
            excused: beside,
            owes_nothing: false,
            ended: None,
        });
        if self.ending || self.goals.get(name) != Some(&true) {
            return Some(format!("{instance} is launched and should be down"));
        }
        // A rollout that was ordered before takes what it finds down along.
        let meddled = self.meddled.get(name).copied().unwrap_or(0);
        let long_ago =
            Duration::from_nanos(facts.now - meddled) > ROLLOUT || meddled <= self.daemon;
        if self.rested.contains(instance) && long_ago {
            return Some(format!("{instance} is down for good, and launched"));
        }
        if self.dormant.contains(instance) && !self.stirred.contains(instance) {
            return Some(format!("{instance} sleeps, and is launched"));
        }
        let continues = before.as_ref().is_some_and(|life| life.step);
        if beside || continues {
            return None;
        }
        // Every release that could be meant lacks something: so does the one that is.
        let lacks = |spec: &ServiceSpec| {
            spec.requires
                .keys()
                .any(|contract| !served.contains(contract))
                || spec
                    .after
                    .iter()
                    .any(|before| before.as_str() == "task" && !self.done.contains(before))
        };
        if facts.specs_of(name).all(lacks) {
            return Some(format!(
                "{instance} is launched before what it needs is there"
            ));
        }
        let ends = self.ends_in_a_row(instance, facts);
        let limits = self.limits(facts, name)?;
        if self.ends_within(instance, facts, limits.window) > limits.intensity {
            return Some(format!(
                "{instance} is launched although it ended too often"
            ));
        }
        let last = before.and_then(|life| Some(life.ended?.0))?;
        let least = ends
            .checked_sub(1)
            .map_or(Duration::ZERO, |row| wait(&limits, row));
        let waited = Duration::from_nanos(facts.now - last);
        (waited < least).then(|| {
            format!("{instance} is launched after {waited:?}, and {ends} ends ask for {least:?}")
        })
    }

    fn limits(&self, facts: &Facts<'_>, name: &ServiceName) -> Option<RestartLimits> {
        facts.specs_of(name).map(|spec| spec.restarts).next()
    }

    /// The ends of an instance that count for its next wait: since somebody meddled, and since it
    /// ran for a stable time.
    fn ends_in_a_row(&self, instance: &Instance, facts: &Facts<'_>) -> usize {
        let meddled = self.meddled.get(&instance.service).copied().unwrap_or(0);
        let Some(limits) = self.limits(facts, &instance.service) else {
            return 0;
        };
        let mut row = 0;
        for life in self.lives.iter().filter(|life| life.instance == *instance) {
            let Some((ended, outcome)) = life.ended else {
                continue;
            };
            if life.step && outcome == Outcome::Code(0) && !life.excused {
                // What comes after it belongs to the same start. One that was killed counts, however
                // it ended.
                continue;
            }
            // One that was launched before may belong to what was ordered.
            if life.excused || life.launched <= meddled || ended <= meddled {
                row = 0;
            } else if Duration::from_nanos(ended - life.launched) >= limits.stable {
                row = 1;
            } else {
                row += 1;
            }
        }
        row
    }

    /// The ends of an instance within a time, since somebody meddled.
    fn ends_within(&self, instance: &Instance, facts: &Facts<'_>, window: Duration) -> usize {
        let meddled = self.meddled.get(&instance.service).copied().unwrap_or(0);
        let counts = |life: &&Life| {
            let ended = life
                .ended
                .filter(|(_, outcome)| !(life.step && *outcome == Outcome::Code(0)));
            life.instance == *instance
                && !life.excused
                && life.launched > meddled
                && ended.is_some_and(|(at, _)| {
                    at > meddled && Duration::from_nanos(facts.now - at) < window
                })
        };
        self.lives.iter().filter(counts).count()
    }

    /// One that ran for a stable time and ended by itself is started again in the same turn.
    fn check_restart(
        &mut self,
        facts: &Facts<'_>,
        life: &Life,
        served: &BTreeSet<ContractId>,
        actions: &[Action],
    ) -> Option<String> {
        let name = &life.instance.service;
        let (ended, _) = life.ended?;
        let mut specs = facts.specs_of(name);
        let limits = self.limits(facts, name)?;
        let needed = specs.all(|spec| {
            spec.restart == RestartPolicy::Always
                && spec.kind == Kind::Native
                && spec.restarts.intensity > 1_000
                && spec
                    .requires
                    .keys()
                    .all(|contract| served.contains(contract))
                && spec.after.is_empty()
        });
        let meddled = self.meddled.get(name).copied().unwrap_or(0);
        let ran = Duration::from_nanos(ended - life.launched);
        let due = needed
            && life.served
            && !life.excused
            && !life.step
            && !self.ending
            && self.goals.get(name) == Some(&true)
            && life.launched > meddled
            && ran >= limits.stable;
        let again = actions.iter().any(|action| {
            matches!(action, Action::Launch { instance, .. } if *instance == life.instance)
        });
        (due && !again).then(|| {
            format!(
                "{} ran for {ran:?}, ended and is not started at once",
                life.instance
            )
        })
    }
}

/// The wait before the start after so many ends in a row, without jitter; the first is for free.
fn wait(limits: &RestartLimits, row: usize) -> Duration {
    match row {
        0 => Duration::ZERO,
        row => (1..row).fold(limits.base, |wait, _| (wait * 2).min(limits.cap)),
    }
}
