//! Edges and channels: who may meet whom, and which two attempts have a channel now.
//!
//! An edge is made when its consumer is first to start, and stays while the daemon knows both
//! ends; a local client's edge ends with its connection. A channel belongs to two attempts and
//! dies with either, so what a dead process left in it is never opened again.

use std::collections::{BTreeMap, BTreeSet};

use insula_contract::id::{Attempt, ContractId, EdgeId, ServiceName};
use insula_contract::line::{ServedEdge, ToService, UsedEdge};
use insula_contract::policy::EdgePolicy;

use crate::event::{Action, Consumer, Message};
use crate::service::Service;
use crate::turn::Turn;

/// One consumer's use of one provider's contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Its number.
    pub id: EdgeId,
    /// Who provides.
    pub provider: ServiceName,
    /// Who consumes.
    pub consumer: Consumer,
    /// What.
    pub contract: ContractId,
    /// The provider's route.
    pub route: u32,
    /// The channels: provider's and consumer's attempt, and whether the provider was told.
    pub pairs: BTreeMap<(Attempt, Attempt), bool>,
    /// The consumer's attempts that were told.
    pub told: BTreeSet<Attempt>,
    /// A local client's attempt.
    pub client_attempt: Option<Attempt>,
}

/// All edges, with an index by the services at their ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edges {
    edges: BTreeMap<EdgeId, Edge>,
    by_service: BTreeMap<ServiceName, BTreeSet<EdgeId>>,
}

impl Edges {
    /// All edges, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Edge> {
        self.edges.values()
    }

    /// The edge of this number.
    pub fn get(&self, edge: EdgeId) -> Option<&Edge> {
        self.edges.get(&edge)
    }

    /// The edge between these, for this contract.
    pub fn find(
        &self,
        provider: &ServiceName,
        consumer: &Consumer,
        contract: &ContractId,
    ) -> Option<&Edge> {
        self.by_service
            .get(provider)?
            .iter()
            .map(|id| &self.edges[id])
            .find(|edge| {
                edge.provider == *provider
                    && edge.consumer == *consumer
                    && edge.contract == *contract
            })
    }

    /// The services that use one, or were to.
    pub(crate) fn consumers_of(
        &self,
        provider: &ServiceName,
    ) -> impl Iterator<Item = &ServiceName> {
        self.by_service
            .get(provider)
            .into_iter()
            .flatten()
            .filter_map(|id| self.edges.get(id))
            .filter(move |edge| edge.provider == *provider)
            .filter_map(|edge| match &edge.consumer {
                Consumer::Service(name) => Some(name),
                Consumer::Client { .. } => None,
            })
    }

    /// The services that one uses, or was to.
    pub(crate) fn providers_of(
        &self,
        consumer: &ServiceName,
    ) -> impl Iterator<Item = &ServiceName> {
        self.by_service
            .get(consumer)
            .into_iter()
            .flatten()
            .filter_map(|id| self.edges.get(id))
            .map(|edge| &edge.provider)
            .filter(move |provider| *provider != consumer)
    }

    pub(crate) fn open(
        &mut self,
        turn: &mut Turn,
        provider: &ServiceName,
        consumer: Consumer,
        contract: &ContractId,
        route: u32,
        client_attempt: Option<Attempt>,
    ) -> EdgeId {
        let id = EdgeId(turn.ids.edge);
        turn.ids.edge += 1;
        turn.actions.push(Action::OpenEdge {
            edge: id,
            provider: provider.clone(),
            consumer: consumer.clone(),
        });
        self.by_service
            .entry(provider.clone())
            .or_default()
            .insert(id);
        if let Consumer::Service(name) = &consumer {
            self.by_service.entry(name.clone()).or_default().insert(id);
        }
        self.edges.insert(
            id,
            Edge {
                id,
                provider: provider.clone(),
                consumer,
                contract: contract.clone(),
                route,
                pairs: BTreeMap::new(),
                told: BTreeSet::new(),
                client_attempt,
            },
        );
        turn.dirty.insert(provider.clone());
        id
    }

    /// Ends the edges of a local client's attempt.
    pub(crate) fn close_client(
        &mut self,
        turn: &mut Turn,
        services: &BTreeMap<ServiceName, Service>,
        attempt: Attempt,
    ) {
        let gone: Vec<_> = self
            .edges
            .values()
            .filter(|edge| edge.client_attempt == Some(attempt))
            .map(|edge| edge.id)
            .collect();
        for id in gone {
            let Some(mut edge) = self.edges.remove(&id) else {
                continue;
            };
            if let Some(ids) = self.by_service.get_mut(&edge.provider) {
                ids.remove(&id);
            }
            edge.client_attempt = None;
            edge.fit(turn, services);
            turn.actions.push(Action::CloseEdge {
                edge: id,
                provider: edge.provider,
                consumer: edge.consumer,
            });
        }
    }

    /// A process said hello on a new line: it is told of all its edges again.
    pub(crate) fn forget_telling(&mut self, service: &ServiceName, attempt: Attempt) {
        for id in self.by_service.get(service).into_iter().flatten() {
            let Some(edge) = self.edges.get_mut(id) else {
                continue;
            };
            edge.told.remove(&attempt);
            for ((provider, _), told) in &mut edge.pairs {
                if *provider == attempt {
                    *told = false;
                }
            }
        }
    }

    /// Makes the channels of a service fit its processes, and tells the ends.
    pub(crate) fn fit(
        &mut self,
        turn: &mut Turn,
        services: &BTreeMap<ServiceName, Service>,
        service: &ServiceName,
    ) {
        for id in self.by_service.get(service).into_iter().flatten() {
            if let Some(edge) = self.edges.get_mut(id) {
                edge.fit(turn, services);
            }
        }
    }
}

impl Edge {
    fn fit(&mut self, turn: &mut Turn, services: &BTreeMap<ServiceName, Service>) {
        let ends = |name: &ServiceName| -> BTreeMap<Attempt, bool> {
            services
                .get(name)
                .into_iter()
                .flat_map(Service::processes)
                // A command before the start has no line and uses nothing.
                .filter(|process| process.step.is_none())
                .map(|process| (process.attempt, process.greeted))
                .collect()
        };
        let providers = ends(&self.provider);
        let consumers = match &self.consumer {
            Consumer::Service(name) => ends(name),
            Consumer::Client { .. } => self
                .client_attempt
                .iter()
                .map(|&attempt| (attempt, true))
                .collect(),
        };

        let over: Vec<_> = self
            .pairs
            .iter()
            .filter(|((p, c), _)| !providers.contains_key(p) || !consumers.contains_key(c))
            .map(|(&pair, &told)| (pair, told))
            .collect();
        for (pair, told) in over {
            self.pairs.remove(&pair);
            self.told.remove(&pair.1);
            if told && providers.contains_key(&pair.0) {
                turn.actions.push(Action::Say {
                    attempt: pair.0,
                    message: Message::Plain(ToService::Unserve {
                        edge: self.id,
                        consumer: pair.1,
                    }),
                });
            }
            turn.actions.push(Action::ClosePair {
                edge: self.id,
                provider: self.provider.clone(),
                consumer: self.consumer.clone(),
                pair,
            });
        }
        self.told.retain(|attempt| consumers.contains_key(attempt));

        let limits_of = |attempt: Attempt| {
            let service = services.get(&self.provider)?;
            let process = service.processes().find(|p| p.attempt == attempt)?;
            let offer = service.spec_of(process).provides.get(&self.contract)?;
            Some(offer.limits)
        };
        for (&p, &greeted) in &providers {
            for &c in consumers.keys() {
                let told = *self.pairs.entry((p, c)).or_insert_with(|| {
                    turn.actions.push(Action::OpenPair {
                        edge: self.id,
                        provider: self.provider.clone(),
                        consumer: self.consumer.clone(),
                        pair: (p, c),
                    });
                    false
                });
                if greeted && !told {
                    self.pairs.insert((p, c), true);
                    let served = ServedEdge {
                        edge: self.id,
                        contract: self.contract.clone(),
                        parent: String::new(),
                        consumer_name: self.consumer.to_string(),
                        consumer: c,
                        limits: limits_of(p).unwrap_or_default(),
                    };
                    turn.actions.push(Action::Say {
                        attempt: p,
                        message: Message::Serve(
                            served,
                            self.provider.clone(),
                            self.consumer.clone(),
                        ),
                    });
                }
            }
        }
        if let Consumer::Service(_) = &self.consumer {
            for (&c, &greeted) in &consumers {
                if greeted && self.told.insert(c) {
                    turn.actions.push(Action::Say {
                        attempt: c,
                        message: Message::Use(self.used_by(services, c), self.consumer.clone()),
                    });
                }
            }
        }
    }

    /// This edge as its consumer's attempt sees it.
    pub(crate) fn used_by(
        &self,
        services: &BTreeMap<ServiceName, Service>,
        consumer: Attempt,
    ) -> UsedEdge {
        let policy = match &self.consumer {
            Consumer::Service(name) => services
                .get(name)
                .and_then(|service| service.spec().requires.get(&self.contract))
                .map_or_else(EdgePolicy::default, |need| need.policy),
            Consumer::Client { .. } => EdgePolicy::default(),
        };
        UsedEdge {
            edge: self.id,
            contract: self.contract.clone(),
            provider: self.provider.clone(),
            parent: String::new(),
            route: self.route,
            consumer,
            policy,
        }
    }
}
