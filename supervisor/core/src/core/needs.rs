//! What services wait for, and who goes before whom at the end.

use insula_contract::id::{ContractId, ServiceName};

use super::{Core, dependencies};
use crate::event::{Action, Done, RefusalKind};
use crate::service::{Dependency, Goal, Place, Service};
use crate::turn::Turn;

impl Core {
    /// What a service needs and is not there now.
    pub(crate) fn missing(&self, service: &Service) -> Vec<Dependency> {
        let served = |contract: &ContractId| {
            self.providers
                .get(contract)
                .is_some_and(|provider| self.services[provider].is_served(contract))
        };
        let is_there = |name: &ServiceName| self.services.get(name).is_some_and(Service::is_there);
        let spec = service.spec();
        let contracts = spec.requires.keys().filter(|contract| !served(contract));
        let services = spec.after.iter().filter(|name| !is_there(name));
        contracts
            .cloned()
            .map(Dependency::Contract)
            .chain(services.cloned().map(Dependency::Service))
            .collect()
    }

    /// Why waiting for something is in vain unless a person does something.
    pub(super) fn hopeless(&self, needed: &Dependency) -> Option<String> {
        let provider = match needed {
            Dependency::Contract(contract) => match self.providers.get(contract) {
                Some(provider) => provider,
                None => {
                    return Some(format!(
                        "it waits for {contract}, which no installed service provides"
                    ));
                }
            },
            Dependency::Service(name) => name,
            Dependency::Room(_) => return None,
        };
        let Some(service) = self.services.get(provider) else {
            return Some(format!("it waits for {provider}, which is not installed"));
        };
        let states = service.replicas.iter().map(|replica| match &replica.place {
            Place::Stopped if service.goal == Goal::Down => Some("stopped"),
            Place::Exited { .. } => Some("exited"),
            Place::Fatal { .. } => Some("fatal"),
            Place::Waiting { on, .. } if on.iter().any(|on| matches!(on, Dependency::Room(_))) => {
                Some("without a place on the host")
            }
            Place::Stopped
            | Place::Waiting { .. }
            | Place::Up(_)
            | Place::Vacant
            | Place::Backoff { .. }
            | Place::Dormant { .. } => None,
        });
        // One that may still come is hope.
        let state = states.collect::<Option<Vec<_>>>()?.first().copied()?;
        Some(match needed {
            Dependency::Contract(contract) => {
                format!("it waits for {contract}, and its provider `{provider}` is {state}")
            }
            Dependency::Service(name) => format!("it waits for {name}, which is {state}"),
            Dependency::Room(_) => return None,
        })
    }

    /// Ends everything in order: who has no living consumer goes first.
    pub(super) fn wind_down(&mut self, turn: &mut Turn) {
        if self.shutdown.is_none() {
            return;
        }
        if !self.winding_down {
            self.followers = dependencies::followers(&self.services);
        }
        // In the turn of the order all services are looked at, later those whose user is gone.
        let mut looked_at: Vec<ServiceName> = if self.winding_down {
            let gone = turn.dirty.iter().filter_map(|name| self.services.get(name));
            gone.filter(|service| service.processes().next().is_none())
                .flat_map(|service| {
                    let providers = self.edges.providers_of(&service.name);
                    providers.chain(&service.spec().after)
                })
                .chain(&turn.dirty)
                .cloned()
                .collect()
        } else {
            self.services.keys().cloned().collect()
        };
        self.winding_down = true;
        while let Some(name) = looked_at.pop() {
            let followers = self.followers.get(&name).into_iter().flatten();
            let used = self
                .edges
                .consumers_of(&name)
                .chain(followers)
                .any(|consumer| {
                    self.services
                        .get(consumer)
                        .is_some_and(|service| service.processes().next().is_some())
                });
            let Some(service) = self.services.get_mut(&name).filter(|_| !used) else {
                continue;
            };
            if service.goal == Goal::Up {
                // Not recorded: after a reboot it is wanted again.
                service.goal = Goal::Down;
                let text = "the daemon is shutting down";
                service.fail_orders(turn, RefusalKind::ShuttingDown, text);
                service.settle(turn);
                if service.processes().next().is_none() {
                    looked_at.extend(self.edges.providers_of(&name).cloned());
                    looked_at.extend(service.spec().after.iter().cloned());
                }
                turn.touched.insert(name);
            }
        }
        self.note_touched(turn);
        if !self.ended && self.agenda.nothing_runs() {
            self.ended = true;
            for request in self.shutdown.clone().unwrap_or_default() {
                turn.answer(request, Ok(Done::ShutDown));
            }
            turn.actions.push(Action::Exit);
        }
    }
}
