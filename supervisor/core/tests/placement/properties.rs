//! What must hold of every account, whatever comes and goes.

use std::collections::{BTreeMap, BTreeSet};

use insula_core::placement::plan::plan;
use insula_core::placement::{
    CpuSet, Lack, MemoryPolicy, Numa, Placement, Policy, Pool, Processors, Request, Smt, Spot,
    Topology, Whole,
};

use crate::{Chance, Class, GIB, host, request};

fn exclusive(service: &str, cores: u32) -> Request {
    Request {
        processors: Processors::Exclusive {
            cores,
            whole: Whole::Core,
            smt: Smt::Share,
        },
        ..Request::nothing(service.parse().unwrap())
    }
}

fn cpus(host: &Placement, id: u64) -> String {
    host.cpus(host.seat(id).unwrap()).to_string()
}

/// Whatever is on a core that is somebody's own.
fn check_owners(host: &Placement) {
    let mut owned: BTreeMap<u32, u64> = BTreeMap::new();
    for id in host.ids() {
        if let Spot::Cores { taken, cpus } = &host.seat(id).unwrap().spot {
            assert!(!cpus.is_empty() && cpus.without(taken).is_empty());
            for cpu in taken.iter() {
                assert_eq!(owned.insert(cpu, id), None, "CPU {cpu} is given away twice");
                assert_eq!(host.owner(cpu), Some(id));
            }
        }
    }
    for id in host.ids() {
        if let Spot::Pool(_) = host.seat(id).unwrap().spot {
            let cpus = host.cpus(host.seat(id).unwrap());
            assert!(!cpus.is_empty(), "{id} has no CPU");
            assert!(cpus.iter().all(|cpu| !owned.contains_key(&cpu)));
        }
    }
    let shared = host.cpus(&insula_core::placement::Seat {
        spot: Spot::Pool(Pool::Host),
        memory: BTreeMap::new(),
        memory_anywhere: 0,
        policy: MemoryPolicy::Default,
    });
    assert!(!shared.is_empty(), "nothing is left to the daemon");
}

#[test]
fn whatever_comes_and_goes_nobody_shares_what_is_somebodys_own() {
    for seed in 0..100 {
        let mut chance = Chance(seed);
        let class =
            [Class::Exclusive, Class::Shared, Class::Numa, Class::Mixed][chance.below(4) as usize];
        let topology = host(&mut chance, class);
        let mut host = Placement::new(topology.clone(), Policy::default());
        let mut twin = host.clone();
        let mut next = 0;
        for _ in 0..25 {
            let seated: Vec<_> = host.ids().collect();
            if !seated.is_empty() && chance.below(3) == 0 {
                let id = seated[chance.below(seated.len() as u64) as usize];
                let others: Vec<_> = seated.iter().filter(|other| **other != id).collect();
                let before: Vec<_> = others.iter().map(|id| host.seat(**id).cloned()).collect();
                assert!(host.remove(id) && twin.remove(id));
                let after: Vec<_> = others.iter().map(|id| host.seat(**id).cloned()).collect();
                assert_eq!(before, after, "somebody moved");
            } else {
                let request = request(&mut chance, class);
                let before = host.clone();
                let added = host.add(next, request.clone()).cloned();
                assert_eq!(added, twin.add(next, request.clone()).cloned(), "by chance");
                match added {
                    Ok(seat) => {
                        let mut taken_up = before.clone();
                        taken_up.take_up(next, request.clone(), seat.clone());
                        assert_eq!(taken_up, host, "a seat that is taken up is another");
                        let mut back = host.clone();
                        back.remove(next);
                        assert_eq!(back.add(next, request).cloned(), Ok(seat));
                        back.remove(next);
                        assert_eq!(free(&back), free(&before), "leaving leaves a trace");
                    }
                    Err(why) => {
                        assert_eq!(host, before);
                        assert!(!why.to_string().is_empty());
                    }
                }
                next += 1;
            }
            check_owners(&host);
        }
        for id in host.ids().collect::<Vec<_>>() {
            host.remove(id);
        }
        let empty = Placement::new(topology, Policy::default());
        assert_eq!(
            free(&host),
            free(&empty),
            "all left, and something stays taken"
        );
    }
}

/// What can still be given away: the same for accounts that are the same.
fn free(host: &Placement) -> String {
    let mut shown = format!("{host:?}");
    // How often cores changed hands, and room became free, is not a part of it.
    let at = shown.find("handed_over: ").unwrap();
    shown.truncate(at);
    shown
}

#[test]
fn one_core_of_two_is_given_away_and_no_more() {
    let mut host = Placement::new(Topology::uniform(1, 1, 2, 1, GIB), Policy::default());
    host.add(1, Request::nothing("s".parse().unwrap())).unwrap();
    host.add(2, exclusive("x", 1)).unwrap();
    assert_eq!(cpus(&host, 1), "0");
    assert_eq!(cpus(&host, 2), "1");
    let why = host.add(3, exclusive("y", 1)).unwrap_err();
    assert_eq!(
        why.to_string(),
        "asks for 1 exclusive cores; that would leave 0 CPUs of the host to those who share \
         them, who need 1"
    );
    assert!(why.fits_alone);
    host.remove(2);
    assert_eq!(cpus(&host, 1), "0-1");
}

#[test]
fn a_refusal_says_what_each_node_has() {
    let topology = Topology::uniform(2, 1, 64, 2, 64 * GIB);
    let mut host = Placement::new(topology, Policy::default());
    for (id, cores) in [(1, 62), (2, 61)] {
        let request = Request {
            numa: Numa::Local,
            ..exclusive("big", cores)
        };
        host.add(id, request).unwrap();
    }
    let four = Request {
        numa: Numa::Local,
        ..exclusive("x", 4)
    };
    let why = host.add(3, four).unwrap_err();
    assert_eq!(
        why.to_string(),
        "asks for 4 exclusive cores; node 0 has 3 of 64 free, node 1 has 2 of 64 free"
    );
    let much = Request {
        numa: Numa::Bind,
        memory: 65 * GIB,
        ..Request::nothing("much".parse().unwrap())
    };
    let why = host.add(4, much).unwrap_err();
    assert_eq!(
        why.to_string(),
        "asks for 65 GiB of memory; node 0 has 64 GiB of 64 GiB free, node 1 has 64 GiB of 64 GiB \
         free; it does not fit this host even alone"
    );
}

#[test]
fn whole_cache_groups_are_nobody_elses() {
    let topology = Topology::uniform(1, 4, 4, 2, GIB);
    let mut host = Placement::new(topology, Policy::default());
    let groups = |cores| Request {
        processors: Processors::Exclusive {
            cores,
            whole: Whole::L3,
            smt: Smt::Own,
        },
        ..Request::nothing("x".parse().unwrap())
    };
    host.add(1, groups(3)).unwrap();
    assert_eq!(
        cpus(&host, 1),
        "12-15",
        "one thread of each core of a whole group"
    );
    host.add(2, groups(5)).unwrap();
    assert_eq!(cpus(&host, 2), "4-11");
    let why = host.add(3, groups(1)).unwrap_err();
    assert!(matches!(why.lack, Lack::SharedCores { .. }), "{why}");
    host.add(4, exclusive("y", 3)).unwrap();
    assert_eq!(cpus(&host, 4), "1-3,17-19");
}

#[test]
fn holes_are_left_out() {
    let mut topology = Topology::uniform(1, 1, 4, 2, GIB);
    topology.cpus.retain(|cpu| cpu.id != 7);
    topology.cpus[2].allowed = false;
    for cpu in &mut topology.cpus {
        cpu.isolated = cpu.core == 1;
    }
    let mut host = Placement::new(topology, Policy::default());
    host.add(1, Request::nothing("s".parse().unwrap())).unwrap();
    assert_eq!(cpus(&host, 1), "0,3-4,6");
    host.add(2, exclusive("x", 1)).unwrap();
    assert_eq!(cpus(&host, 2), "1,5", "isolated cores come first");
    host.add(3, exclusive("x", 1)).unwrap();
    assert_eq!(cpus(&host, 3), "3", "of core 2 one thread is not ours");
    assert_eq!(cpus(&host, 1), "0,4,6");
}

#[test]
fn a_list_of_cpus_keeps_at_least_one() {
    let mut host = Placement::new(Topology::uniform(1, 1, 4, 1, GIB), Policy::default());
    let listed = Request {
        within: Some(CpuSet::from_iter([3])),
        ..Request::nothing("s".parse().unwrap())
    };
    host.add(1, listed).unwrap();
    host.add(2, exclusive("x", 1)).unwrap_err();
    let inside = Request {
        within: Some(CpuSet::from_iter([1, 2])),
        ..exclusive("x", 2)
    };
    host.add(3, inside).unwrap();
    assert_eq!(cpus(&host, 3), "1-2");
    assert_eq!(cpus(&host, 1), "3");
}

#[test]
fn those_that_talk_sit_together_and_kin_apart() {
    let topology = Topology::uniform(2, 2, 4, 1, 4 * GIB);
    let mut host = Placement::new(topology.clone(), Policy::default());
    let local = |mut request: Request, near: &[&str]| {
        request.numa = Numa::Local;
        let near = near.iter().map(|name| (name.parse().unwrap(), 1));
        request.near = near.collect();
        request
    };
    host.add(1, local(exclusive("store", 2), &[])).unwrap();
    host.add(2, local(exclusive("front", 1), &["store"]))
        .unwrap();
    let l3 = |host: &Placement, id| {
        let cpus = host.cpus(host.seat(id).unwrap());
        let cpu = cpus.iter().next().unwrap();
        topology.cpus[cpu as usize].l3
    };
    assert_eq!(l3(&host, 1), l3(&host, 2));
    host.add(3, local(exclusive("front", 1), &[])).unwrap();
    let node = |host: &Placement, id| topology.cpus[l3(host, id) as usize].node;
    assert_ne!(node(&host, 2), node(&host, 3), "kin sits apart");
}

#[test]
fn labels_are_what_the_host_is() {
    let mut policy = Policy::default();
    policy.labels.insert("ssd".to_owned());
    let mut host = Placement::new(Topology::uniform(2, 1, 2, 1, 16 * GIB), policy);
    let asks = |labels: &[&str]| Request {
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        ..Request::nothing("s".parse().unwrap())
    };
    host.add(1, asks(&["ssd", "numa", "high-memory"])).unwrap();
    let why = host.add(2, asks(&["gpu", "ssd"])).unwrap_err();
    assert_eq!(
        why.to_string(),
        "asks for a host that is gpu; it is high-memory, numa, ssd; it does not fit this host even \
         alone"
    );
}

#[test]
fn memory_policies_name_the_nodes() {
    let mut host = Placement::new(Topology::uniform(2, 1, 2, 1, GIB), Policy::default());
    let mut policy = |id, numa| {
        let request = Request {
            numa,
            memory: GIB / 4,
            ..Request::nothing("s".parse().unwrap())
        };
        host.add(id, request).unwrap().policy.clone()
    };
    assert_eq!(policy(1, Numa::Any), MemoryPolicy::Default);
    assert_eq!(policy(2, Numa::Bind), MemoryPolicy::Bind(0));
    assert_eq!(policy(3, Numa::Local), MemoryPolicy::Preferred(1));
    assert_eq!(
        policy(4, Numa::Interleave),
        MemoryPolicy::Interleave(BTreeSet::from([0, 1]))
    );
}

#[test]
fn a_move_is_found_that_makes_room() {
    let topology = Topology::uniform(2, 1, 3, 1, 4 * GIB);
    let mut host = Placement::new(topology, Policy::default());
    let one = |service| Request {
        numa: Numa::Local,
        ..exclusive(service, 1)
    };
    // Two of one kind sit apart, so no node has three cores.
    host.add(1, one("a")).unwrap();
    host.add(2, one("a")).unwrap();
    let three = Request {
        numa: Numa::Local,
        ..exclusive("big", 3)
    };
    assert!(host.clone().add(3, three.clone()).is_err());
    let (moved, seat) = host.move_for(&three).unwrap();
    host.remove(moved);
    host.add(3, three).unwrap();
    assert_eq!(host.add(moved, one("a")).unwrap(), &seat);
}

#[test]
fn what_was_placed_before_stays_in_a_plan() {
    let mut host = Placement::new(Topology::uniform(2, 2, 4, 2, 8 * GIB), Policy::default());
    host.add(7, exclusive("old", 3)).unwrap();
    let before = host.seat(7).cloned();
    let requests: Vec<_> = (0..4).map(|_| exclusive("new", 2)).collect();
    let made = plan(&host, &requests, 1000);
    assert_eq!(made.host.seat(7).cloned(), before);
    assert_eq!(made.worth.0, 4);
    check_owners(&made.host);
}
