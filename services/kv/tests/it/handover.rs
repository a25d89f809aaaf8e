//! Writes while the writer is replaced: by agreement, by force, and against its will.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use insula::ipc::client::{CallError, CallOptions};
use insula::ipc::protocol::route::RouteState;
use kv_contract::{Get, KvClient, Put};

use crate::supervisor::{WATCHDOG, World};

/// Writes one key after the other until told to stop, each with its revision as proof that nothing
/// was lost or done twice; says how many.
fn write_on(client: &KvClient, stop: &AtomicBool, written: &AtomicU64) -> u64 {
    let mut count = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let key = count.to_be_bytes();
        let options = CallOptions {
            deadline: Some(WATCHDOG),
            ..CallOptions::default()
        };
        let put = Put {
            key: &key,
            value: &key,
        };
        let answer = client.submit_put(&put, options).unwrap().wait().unwrap();
        count += 1;
        assert_eq!(
            answer.get().unwrap().revision,
            count,
            "lost or done twice before"
        );
        written.store(count, Ordering::SeqCst);
    }
    count
}

fn wait_until_beyond(written: &AtomicU64, count: u64) {
    let until = Instant::now() + WATCHDOG;
    while written.load(Ordering::SeqCst) <= count {
        assert!(Instant::now() < until, "nothing is written any more");
        std::thread::yield_now();
    }
}

/// Checks that all that was written is there.
fn check(client: &KvClient, count: u64) {
    let stats = client.stats().unwrap();
    assert_eq!(stats.get().unwrap().entries, count);
    for key in (0..count).map(u64::to_be_bytes) {
        let lookup = client.get(&Get { key: &key }).unwrap();
        let found = lookup.get().unwrap().found.expect("a write was lost");
        assert_eq!(found.value, key);
    }
}

/// Writes all the time while `replace` puts another process in the place of the first one.
fn replaced(name: &str, rounds: u64, replace: impl Fn(&World, u64, &AtomicU64, &mut Kept)) {
    let world = World::new(name);
    let mut kept = Kept(Some(world.start_leader(1, 1)));
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let edge = world.edge();
    let count = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let client = KvClient::connect(&edge).unwrap();
            write_on(&client, &stop, &written)
        });
        for round in 2..2 + rounds {
            wait_until_beyond(&written, written.load(Ordering::SeqCst) + 10);
            replace(&world, round, &written, &mut kept);
        }
        wait_until_beyond(&written, written.load(Ordering::SeqCst) + 10);
        stop.store(true, Ordering::SeqCst);
        writer.join().unwrap()
    });
    check(&KvClient::connect(&edge).unwrap(), count);
}

/// The process that leads.
struct Kept(Option<crate::supervisor::Process>);

#[test]
fn a_handover_loses_nothing_and_does_nothing_twice() {
    replaced("kv-over", 8, |world, round, _, kept| {
        let mut old = kept.0.take().unwrap();
        let new = world.start(round);
        world.route(RouteState::Hold, &old, None);
        old.give_up(round - 1);
        new.lead(round);
        world.route(RouteState::Serve, &new, Some(old.attempt));
        old.drain();
        old.kill();
        world.bury(&old);
        kept.0 = Some(new);
    });
}

#[test]
fn a_killed_writer_loses_nothing_that_it_answered_and_its_successor_repeats_nothing() {
    let seed = std::process::id() as u64;
    replaced("kv-kill", 12, |world, round, _, kept| {
        let mut old = kept.0.take().unwrap();
        // At another place of the work each time.
        let spin = Instant::now() + Duration::from_micros(seed.wrapping_mul(round * 7919) % 3000);
        while Instant::now() < spin {}
        old.kill();
        world.route(RouteState::Gone, &old, None);
        world.bury(&old);
        kept.0 = Some(world.start_leader(round, round));
    });
}

#[test]
fn an_old_writer_that_was_overtaken_writes_nothing_that_anybody_sees() {
    let world = World::new("kv-fence");
    let mut old = world.start_leader(1, 1);
    let edge = world.edge();
    let client = KvClient::connect(&edge).unwrap();
    let put = |value: &[u8], seconds| {
        let options = CallOptions {
            deadline: Some(Duration::from_secs(seconds)),
            ..CallOptions::default()
        };
        let put = Put { key: b"k", value };
        client.submit_put(&put, options).unwrap().wait()
    };
    put(b"first", 10).unwrap();
    // The old one was not asked to yield, and requests still go to it.
    let new = world.start(2);
    new.lead(2);
    let refused = put(b"of the old writer", 1).unwrap_err();
    assert!(
        matches!(
            refused,
            CallError::DeadlineExceeded | CallError::Unavailable
        ),
        "{refused:?}"
    );
    assert_eq!(old.end().code(), Some(70), "it has nothing left to do");
    world.bury(&old);
    world.route(RouteState::Serve, &new, None);
    let lookup = client.get(&Get { key: b"k" }).unwrap();
    assert_eq!(lookup.get().unwrap().found.unwrap().value, b"first");
    assert_eq!(put(b"second", 10).unwrap().get().unwrap().revision, 2);
}
