//! Which forms of contracts processes offer and use, and whether two of them go together.
//!
//! The core knows a form of a contract by the hash of its schema only. Equal hashes go together;
//! about any other pair the event that brings one of its ends says a [`Verdict`], since the shell
//! has the schemas. Without one they do not go together.

use std::collections::BTreeMap;

use insula_contract::id::{Attempt, ContractId, ServiceName};
use insula_contract::line::ContractView;

use crate::edges::Edges;
use crate::event::{ClientId, Consumer};
use crate::process::{Phase, Process};
use crate::service::Service;

/// Whether a consumer built against one form of a contract can use a provider built against
/// another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which contract.
    pub contract: ContractId,
    /// Hash of the consumer's form.
    pub consumer: u64,
    /// Hash of the provider's form.
    pub provider: u64,
    /// The places where they do not go together, and why; `None` where they do.
    pub misfit: Option<String>,
}

/// The forms that one process offers and uses, by their hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Views {
    provides: BTreeMap<ContractId, u64>,
    requires: BTreeMap<ContractId, u64>,
}

impl Views {
    pub(crate) fn new(provides: &[ContractView], requires: &[ContractView]) -> Self {
        let by_contract = |views: &[ContractView]| {
            views
                .iter()
                .map(|view| (view.contract.clone(), view.schema))
                .collect()
        };
        Self {
            provides: by_contract(provides),
            requires: by_contract(requires),
        }
    }

    pub(crate) fn offers(&self, contract: &ContractId) -> bool {
        self.provides.contains_key(contract)
    }
}

/// The forms of all processes that said hello, and of local clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    processes: BTreeMap<Attempt, Views>,
    clients: BTreeMap<(ClientId, ContractId), u64>,
}

impl Known {
    pub(crate) fn greeted(&mut self, attempt: Attempt, views: Views) {
        self.processes.insert(attempt, views);
    }

    pub(crate) fn forget(&mut self, attempt: Attempt) {
        self.processes.remove(&attempt);
    }

    pub(crate) fn asked(&mut self, client: ClientId, contract: &ContractId, form: u64) {
        self.clients.insert((client, contract.clone()), form);
    }

    pub(crate) fn left(&mut self, client: ClientId) {
        self.clients.retain(|(known, _), _| *known != client);
    }

    /// What speaks against a consumer with this form: the staying processes of the provider that
    /// serve another one.
    pub(crate) fn against_consumer(
        &self,
        provider: &Service,
        contract: &ContractId,
        form: u64,
        verdicts: &[Verdict],
    ) -> Option<String> {
        provider.processes().filter(|p| stays(p)).find_map(|p| {
            let offered = *self.processes.get(&p.attempt)?.provides.get(contract)?;
            misfit(contract, form, offered, verdicts)
        })
    }

    /// What speaks against what a process of `service` uses.
    pub(crate) fn against_uses(
        &self,
        services: &BTreeMap<ServiceName, Service>,
        providers: &BTreeMap<ContractId, ServiceName>,
        views: &Views,
        verdicts: &[Verdict],
    ) -> Vec<String> {
        let against = views.requires.iter().filter_map(|(contract, form)| {
            let provider = providers.get(contract)?;
            let misfit =
                self.against_consumer(services.get(provider)?, contract, *form, verdicts)?;
            Some(format!("it does not fit `{provider}`: {misfit}"))
        });
        against.collect()
    }

    /// Who, of those with an edge to `service`, cannot go on with a process that offers `views`.
    pub(crate) fn against_offers(
        &self,
        services: &BTreeMap<ServiceName, Service>,
        edges: &Edges,
        service: &ServiceName,
        views: &Views,
        verdicts: &[Verdict],
    ) -> Vec<(Consumer, String)> {
        let edges = edges.iter().filter(|edge| edge.provider == *service);
        let against = edges.filter_map(|edge| {
            let offered = *views.provides.get(&edge.contract)?;
            let fit = |form: u64| misfit(&edge.contract, form, offered, verdicts);
            let misfit = match &edge.consumer {
                Consumer::Service(name) => services
                    .get(name)?
                    .processes()
                    .filter(|p| stays(p))
                    .filter_map(|p| self.processes.get(&p.attempt)?.requires.get(&edge.contract))
                    .find_map(|form| fit(*form))?,
                Consumer::Client { client, .. } => {
                    fit(*self.clients.get(&(*client, edge.contract.clone()))?)?
                }
            };
            Some((edge.consumer.clone(), misfit))
        });
        against.collect()
    }
}

/// Whether a process is not on its way out.
pub(crate) fn stays(process: &Process) -> bool {
    match process.phase {
        Phase::Launching
        | Phase::Starting
        | Phase::Running
        | Phase::Prepared
        | Phase::Leading(_)
        | Phase::Ready
        | Phase::Yielding(_) => true,
        Phase::Draining | Phase::Stopping | Phase::Killing => false,
    }
}

fn misfit(
    contract: &ContractId,
    consumer: u64,
    provider: u64,
    verdicts: &[Verdict],
) -> Option<String> {
    if consumer == provider {
        return None;
    }
    let verdict = verdicts.iter().find(|verdict| {
        verdict.contract == *contract
            && verdict.consumer == consumer
            && verdict.provider == provider
    });
    match verdict {
        Some(verdict) => verdict.misfit.clone(),
        None => Some(format!(
            "{contract}: the two forms differ, and one of them is not known"
        )),
    }
}
