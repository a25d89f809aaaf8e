//! What must hold after every turn, whatever happened.

use std::collections::BTreeSet;

use insula_contract::id::{Attempt, ContractId};
use insula_contract::route::RouteState;

use crate::core::Core;
use crate::event::{Consumer, UpgradeStep};
use crate::process::{Phase, Process};
use crate::service::{Goal, Place, Replica, Route, Service};

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
    found.extend(core.pace().violations(core.services()));
    found
}

fn check_service(core: &Core, service: &Service, found: &mut Vec<String>) {
    let name = &service.name;
    let writers: Vec<_> = service
        .processes()
        .filter(|process| process.may_write())
        .collect();
    // Of those that an earlier daemon left, several may have led, and are all being killed.
    let stays = writers.iter().any(|process| process.is_staying());
    let writers = writers.len();
    if writers > 1 && stays {
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
        check_route(service, contract, route, found);
    }
    let replacing = service
        .replicas
        .iter()
        .filter(|replica| replica.upgrade.is_some())
        .count();
    if replacing > 1 || (replacing == 1 && service.rollout.is_none()) {
        found.push(format!(
            "{name} replaces {replacing} replicas at once, rollout: {:?}",
            service.rollout
        ));
    }
    for replica in &service.replicas {
        let leading = replica
            .upgrade
            .as_ref()
            .is_some_and(|u| u.step == UpgradeStep::Leading);
        if replica.place == Place::Vacant && !leading {
            found.push(format!("{name} has an empty place and nobody takes it"));
        }
    }
    if let Some(last) = service.replicas.last()
        && !last.wanted
        && last.processes().next().is_none()
    {
        found.push(format!("{name} keeps an empty replica that nobody wants"));
    }
    let wanted = service.replicas.iter().filter(|r| r.wanted).count();
    if wanted != usize::from(service.wanted()) && service.rollout.is_none() {
        found.push(format!(
            "{name} has {wanted} replicas, {} are wanted",
            service.wanted()
        ));
    }
    if service.goal == Goal::Down && (service.is_serving() || service.rollout.is_some()) {
        found.push(format!("{name} should be down and works on"));
    }
    service.check_dormant(found);
    if !service.until_ready.is_empty() && !service.is_coming() {
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

fn check_route(service: &Service, contract: &ContractId, route: &Route, found: &mut Vec<String>) {
    let name = &service.name;
    let ready: BTreeSet<(usize, Attempt)> = service
        .replicas
        .iter()
        .filter_map(Replica::current)
        .filter(|process| process.phase == Phase::Ready)
        .map(|process| (usize::from(process.slot), process.attempt))
        .collect();
    let serving: BTreeSet<(usize, Attempt)> = route
        .targets
        .iter()
        .enumerate()
        .filter(|(_, target)| target.state == RouteState::Serve)
        .map(|(place, target)| (place, target.attempt))
        .collect();
    if ready != serving {
        found.push(format!(
            "{name} has ready {ready:?} and the route of {contract} serves {serving:?}"
        ));
    }
    for (place, target) in route.targets.iter().enumerate() {
        let dormant = target.state == RouteState::Dormant;
        let nobody = dormant || target.state == RouteState::Hold && target.attempt == Attempt(0);
        let held = service
            .replicas
            .iter()
            .any(|replica| replica.holds.map(usize::from) == Some(place));
        let sleeps = service.replicas.iter().any(|replica| {
            replica.holds.map(usize::from) == Some(place)
                && matches!(replica.place, Place::Dormant { .. })
        });
        if dormant != sleeps {
            found.push(format!(
                "{name} is asleep at {place}: {sleeps}, told: {dormant}"
            ));
        }
        if nobody != held {
            found.push(format!("{name} holds requests at {place} for no replica"));
        }
        let lives = service
            .processes()
            .any(|p| usize::from(p.slot) == place && p.attempt == target.attempt);
        if target.state == RouteState::Hold && !nobody && !lives {
            found.push(format!(
                "{name} has requests wait for {target:?}, which is gone"
            ));
        }
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
