//! What must hold after every turn, whatever happened.

use std::collections::BTreeSet;

use insula_contract::route::RouteState;

use crate::core::Core;
use crate::event::{Consumer, UpgradeStep};
use crate::process::{Phase, Process};
use crate::service::{Goal, Place, Service};

/// Everything that does not hold, in words; empty when all is well.
pub fn violations(core: &Core) -> Vec<String> {
    let mut found = Vec::new();
    for service in core.services().values() {
        check_service(core, service, &mut found);
    }
    for edge in core.edges().iter() {
        let provider = &core.services()[&edge.provider];
        for (p, c) in edge.pairs.keys() {
            if !provider.processes().any(|process| process.attempt == *p) {
                found.push(format!(
                    "edge {} has a channel of the dead attempt {p}",
                    edge.id
                ));
            }
            let living = match &edge.consumer {
                Consumer::Service(name) => core.services()[name]
                    .processes()
                    .any(|process| process.attempt == *c),
                Consumer::Client { .. } => edge.client_attempt == Some(*c),
            };
            if !living {
                found.push(format!(
                    "edge {} has a channel of the dead attempt {c}",
                    edge.id
                ));
            }
        }
    }
    found
}

fn check_service(core: &Core, service: &Service, found: &mut Vec<String>) {
    let name = &service.name;
    let writers = service
        .processes()
        .filter(|process| process.may_write())
        .count();
    if writers > 1 {
        found.push(format!(
            "{name} has {writers} processes that may write its store"
        ));
    }
    let slots: BTreeSet<_> = service.processes().map(|process| process.slot).collect();
    if slots.len() != service.processes().count() {
        found.push(format!("{name} has two processes with one slot"));
    }
    for process in service.processes() {
        if core.service_of(process.attempt).map(|s| &s.name) != Some(name) {
            found.push(format!("{name} forgot its attempt {}", process.attempt));
        }
        if must_end(process) && process.deadline.is_none() {
            found.push(format!("{name} waits for ever for attempt {process:?}"));
        }
    }
    for (contract, route) in &service.routes {
        let serves = route.target.state == RouteState::Serve;
        let ready = service
            .current()
            .is_some_and(|p| p.phase == Phase::Ready && p.attempt == route.target.attempt);
        if serves != ready {
            found.push(format!(
                "{name} is {} and the route of {contract} says {:?}",
                if service.is_ready() {
                    "ready"
                } else {
                    "not ready"
                },
                route.target
            ));
        }
    }
    let leading = service
        .upgrade
        .as_ref()
        .is_some_and(|u| u.step == UpgradeStep::Leading);
    if service.place == Place::Vacant && !leading {
        found.push(format!("{name} has an empty place and nobody takes it"));
    }
    if service.goal == Goal::Down && (service.is_ready() || service.upgrade.is_some()) {
        found.push(format!("{name} should be down and works on"));
    }
    let coming = match &service.place {
        Place::Up(_) | Place::Waiting { .. } | Place::Vacant | Place::Backoff { .. } => true,
        Place::Stopped | Place::Exited { .. } | Place::Fatal { .. } => false,
    };
    if !service.until_ready.is_empty() && !coming {
        found.push(format!(
            "{name} lets those wait who started it, and does not start"
        ));
    }
    if !service.until_stopped.is_empty() && service.processes().next().is_none() {
        found.push(format!(
            "{name} lets those wait who stopped it, and is down"
        ));
    }
}

/// Whether a process may not stay where it is.
fn must_end(process: &Process) -> bool {
    match process.phase {
        Phase::Launching
        | Phase::Starting
        | Phase::Running
        | Phase::Leading(_)
        | Phase::Yielding(_)
        | Phase::Draining
        | Phase::Stopping => true,
        // A kill cannot be answered; the other two are what is wanted.
        Phase::Prepared | Phase::Ready | Phase::Killing => false,
    }
}
