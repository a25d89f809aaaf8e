//! What placement costs: 10,000 instances on 256 cores planned at once, and one more added, and
//! refused, beside them.
//!
//! The host has two nodes of eight cache groups of 16 cores with two threads. A hundred instances
//! have cores of their own, the others are of 1,000 services that share, each near another one.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use insula_core::placement::plan::{STEPS, plan};
use insula_core::placement::{Numa, Placement, Policy, Processors, Request, Smt, Topology, Whole};

const GIB: u64 = 1 << 30;
const INSTANCES: usize = 10_000;

fn request(index: usize) -> Request {
    let service = format!("service-{}", index % 1_000);
    let near = format!("service-{}", (index * 7 + 1) % 1_000);
    let processors = if index.is_multiple_of(100) {
        Processors::Exclusive {
            cores: 1 + (index / 100 % 3) as u32,
            whole: Whole::Core,
            smt: Smt::Share,
        }
    } else {
        Processors::Shared { share: 5 }
    };
    Request {
        service: service.parse().expect("a name"),
        processors,
        within: None,
        memory: GIB / 64,
        numa: if index.is_multiple_of(2) {
            Numa::Local
        } else {
            Numa::Any
        },
        labels: BTreeSet::new(),
        near: BTreeMap::from([(near.parse().expect("a name"), 1)]),
    }
}

fn placement(criterion: &mut Criterion) {
    let topology = Topology::uniform(2, 8, 16, 2, 512 * GIB);
    let empty = Placement::new(topology, Policy::default());
    let requests: Vec<_> = (0..INSTANCES).map(request).collect();
    let planned = plan(&empty, &requests, STEPS);
    assert_eq!(planned.worth.0, INSTANCES, "all have a seat");

    let mut group = criterion.benchmark_group("placement");
    group.sample_size(20);
    group.bench_function("10,000 instances on 256 cores", |bencher| {
        bencher.iter(|| black_box(plan(&empty, &requests, STEPS)));
    });
    let mut host = planned.host;
    let next = INSTANCES as u64;
    for (name, index) in [("one more, shared", 10_001), ("one more, exclusive", 100)] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || request(index),
                |request| {
                    black_box(host.add(next, request)).expect("there is room");
                    host.remove(next);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.bench_function("one more, refused", |bencher| {
        bencher.iter_batched(
            || Request {
                memory: 2_000 * GIB,
                ..request(100)
            },
            |request| black_box(host.add(next, request)).expect_err("there is no room"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, placement);
criterion_main!(benches);
