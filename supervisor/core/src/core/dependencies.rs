//! Who comes after whom: by the contracts that a service requires, and by name.

use std::collections::{BTreeMap, BTreeSet};

use insula_contract::id::{ContractId, ServiceName};

use crate::service::Service;
use crate::spec::ServiceSpec;

/// The services that must be there before a release starts.
fn needed<'a>(
    spec: &'a ServiceSpec,
    own: &'a ServiceSpec,
    providers: &'a BTreeMap<ContractId, ServiceName>,
) -> impl Iterator<Item = &'a ServiceName> {
    let provider = move |contract: &ContractId| {
        // What the release itself provides may be new.
        if own.provides.contains_key(contract) && !providers.contains_key(contract) {
            Some(&own.name)
        } else {
            providers.get(contract)
        }
    };
    spec.requires
        .keys()
        .filter_map(provider)
        .chain(spec.after.iter())
}

/// The way from a release back to its own service, if there is one: then it would never start.
pub(super) fn cycle(
    spec: &ServiceSpec,
    services: &BTreeMap<ServiceName, Service>,
    providers: &BTreeMap<ContractId, ServiceName>,
) -> Option<Vec<ServiceName>> {
    // By which service each was reached first, so that the way found is a shortest one.
    let mut reached: BTreeMap<&ServiceName, &ServiceName> = BTreeMap::new();
    let mut edge: Vec<(&ServiceName, &ServiceSpec)> = vec![(&spec.name, spec)];
    while !edge.is_empty() {
        let mut next = Vec::new();
        for (name, of) in edge {
            for needed in needed(of, spec, providers) {
                if *needed == spec.name {
                    let mut path = vec![spec.name.clone()];
                    let mut back = name;
                    while *back != spec.name {
                        path.push(back.clone());
                        back = reached[back];
                    }
                    path.push(spec.name.clone());
                    path.reverse();
                    return Some(path);
                }
                if reached.contains_key(needed) {
                    continue;
                }
                reached.insert(needed, name);
                if let Some(service) = services.get(needed) {
                    next.push((needed, service.spec()));
                }
            }
        }
        edge = next;
    }
    None
}

/// Who comes after each service by name.
pub(super) fn followers(
    services: &BTreeMap<ServiceName, Service>,
) -> BTreeMap<ServiceName, BTreeSet<ServiceName>> {
    let mut followers: BTreeMap<ServiceName, BTreeSet<ServiceName>> = BTreeMap::new();
    for service in services.values() {
        for before in &service.spec().after {
            followers
                .entry(before.clone())
                .or_default()
                .insert(service.name.clone());
        }
    }
    followers
}
