//! What processes and local clients offer and ask for, against what is known of both ends.

use insula_contract::id::{Attempt, ContractId, ServiceName};
use insula_contract::line::ContractView;

use super::{Client, Core};
use crate::event::{Action, Caller, ClientId, Consumer, Message};
use crate::service::Service;
use crate::turn::Turn;
use crate::views::{Verdict, Views, stays};

impl Core {
    /// Compares what a process offers with what its release promised, and with what those who
    /// use it expect.
    pub(super) fn take_views(
        &mut self,
        turn: &mut Turn,
        name: &ServiceName,
        attempt: Attempt,
        provides: &[ContractView],
        requires: &[ContractView],
        verdicts: &[Verdict],
    ) -> bool {
        let Some(process) = self.services[name]
            .processes()
            .find(|process| process.attempt == attempt)
        else {
            return false;
        };
        let views = Views::new(provides, requires);
        let mut objections: Vec<_> = self.services[name]
            .spec_of(process)
            .provides
            .keys()
            .filter(|contract| !views.offers(contract))
            .map(|contract| format!("its program does not serve {contract}"))
            .collect();
        let (services, known) = (&self.services, &self.known);
        objections.extend(known.against_uses(services, &self.providers, &views, verdicts));
        let mut clients = Vec::new();
        // A process that comes beside another replaces it, or helps it.
        let beside = services[name]
            .processes()
            .any(|other| other.attempt != attempt && stays(other));
        for (consumer, misfit) in
            known.against_offers(services, &self.edges, name, &views, verdicts)
        {
            match consumer {
                // A start does not wait for a program that nobody supervises; an upgrade does.
                Consumer::Client { client, .. } if !beside => clients.push((client, misfit)),
                consumer @ (Consumer::Client { .. } | Consumer::Service(_)) => {
                    objections.push(format!("{consumer} could not use it: {misfit}"));
                }
            }
        }
        if objections.is_empty() {
            for (client, reason) in clients {
                turn.actions.push(Action::DropClient { client, reason });
            }
            self.known.greeted(attempt, views);
            true
        } else {
            if let Some(service) = self.services.get_mut(name) {
                service.object(turn, attempt, &objections.join("; "));
            }
            false
        }
    }

    pub(super) fn client_asked(
        &mut self,
        turn: &mut Turn,
        client: ClientId,
        caller: &Caller,
        contract: &ContractId,
        schema: u64,
        verdicts: &[Verdict],
    ) {
        let mut refuse = |reason: String| {
            turn.actions.push(Action::AnswerClient {
                client,
                answer: Err(reason),
                profile: None,
            });
        };
        let Some(provider) = self.providers.get(contract).cloned() else {
            let known: Vec<_> = self.providers.keys().map(ToString::to_string).collect();
            return refuse(format!(
                "nobody provides {contract}; provided are {}",
                known.join(", ")
            ));
        };
        let service = &self.services[&provider];
        let offer = service.spec().provides.get(contract);
        let allowed = offer.is_some_and(|offer| offer.allows(caller));
        if !allowed {
            return refuse(format!(
                "uid {} may not use {contract}: `{provider}` does not allow it in its \
                 service.toml",
                caller.uid
            ));
        }
        if let Some(misfit) = self
            .known
            .against_consumer(service, contract, schema, verdicts)
        {
            return refuse(format!("it does not fit `{provider}`: {misfit}"));
        }
        let profile = Some(service.spec().profile.clone());
        let route = service.routes[contract].index;
        let attempt = match self.clients.get(&client) {
            Some(client) => client.attempt,
            None => {
                let attempt = turn.ids.next_attempt();
                self.clients.insert(
                    client,
                    Client {
                        attempt,
                        uid: caller.uid,
                    },
                );
                attempt
            }
        };
        self.known.asked(client, contract, schema);
        let uid = self.clients[&client].uid;
        let consumer = Consumer::Client { client, uid };
        if self.edges.find(&provider, &consumer, contract).is_none() {
            self.edges.open(
                turn,
                &provider,
                consumer.clone(),
                contract,
                route,
                Some(attempt),
            );
        }
        let edge = self
            .edges
            .find(&provider, &consumer, contract)
            .expect("it was just opened");
        let answer = Ok(edge.used_by(&self.services, attempt));
        turn.actions.push(Action::AnswerClient {
            client,
            answer,
            profile,
        });
    }
}

pub(super) fn welcome(turn: &mut Turn, service: &Service, attempt: Attempt) {
    let Some(process) = service
        .processes()
        .find(|process| process.attempt == attempt)
    else {
        return;
    };
    turn.actions.push(Action::Say {
        attempt,
        message: Message::Welcome {
            instance: service.instance_of(attempt).expect("it has this process"),
            slot: process.slot,
            profile: service.spec_of(process).profile.clone(),
        },
    });
}
