//! From hello to exit.

use std::process::Command;

use insula::ipc::protocol::id::Epoch;
use insula::ipc::protocol::line::{FromService, Leadership, ToService};
use kv_contract::{Get, KvClient, Put};
use nix::sys::signal::Signal;

use crate::supervisor::{EDGE, KV, World};

fn put(client: &KvClient, key: &[u8], value: &[u8]) -> u64 {
    let written = client.put(&Put { key, value }).unwrap();
    written.get().unwrap().revision
}

fn get(client: &KvClient, key: &[u8]) -> Option<Vec<u8>> {
    let lookup = client.get(&Get { key }).unwrap();
    let found = lookup.get().unwrap().found;
    found.map(|found| found.value.to_vec())
}

#[test]
fn a_service_that_nobody_supervises_says_who_starts_it() {
    let output = Command::new(KV).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("error: ") && text.contains("insulad") && text.contains("hint: "),
        "{text}"
    );
    let version = Command::new(KV).arg("--version").output().unwrap();
    assert!(version.status.success() && version.stdout.starts_with(b"kv "));
}

#[test]
fn a_service_leads_answers_drains_and_ends_when_it_is_told() {
    let world = World::new("kv-life");
    let mut kv = world.start_leader(1, 1);
    let client = KvClient::connect(&world.edge()).unwrap();
    assert_eq!(put(&client, b"k", b"v"), 1);
    assert_eq!(get(&client, b"k"), Some(b"v".to_vec()));
    let stats = client.stats().unwrap();
    let stats = stats.get().unwrap();
    assert_eq!(
        (stats.entries, stats.epoch, stats.durability, stats.release),
        (1, 1, "grouped".into(), "1.2.3".into())
    );
    kv.tell(&ToService::Ping { ping: 9 }, None);
    kv.expect(&FromService::Pong { ping: 9 });
    kv.drain();
    kv.signal(Signal::SIGTERM);
    assert_eq!(kv.end().code(), Some(0));
}

#[test]
fn a_stopped_server_does_not_answer_pings_but_its_line_is_kept() {
    let world = World::new("kv-stop");
    let mut kv = world.start_leader(1, 1);
    let client = KvClient::connect(&world.edge()).unwrap();
    put(&client, b"k", b"v");
    // Not drained before: it drains by itself.
    kv.signal(Signal::SIGTERM);
    assert_eq!(kv.end().code(), Some(0));
    assert_eq!(kv.hear(), None);
    world.bury(&kv);
    let _next = world.start_leader(2, 2);
    assert_eq!(get(&client, b"k"), Some(b"v".to_vec()));
}

#[test]
fn services_and_clients_outlive_the_supervisor_and_tell_the_next_one() {
    let world = World::new("kv-adopt");
    let mut kv = world.start_leader(1, 7);
    let client = KvClient::connect(&world.edge()).unwrap();
    kv.disconnect();
    assert_eq!(put(&client, b"k", b"v"), 1);
    for round in 0..3 {
        kv.connect();
        let (_, leadership, ready, serving, routes) = kv.hello();
        assert_eq!(leadership, Leadership::Leading(Epoch(7)));
        assert!(ready && routes.is_some());
        assert_eq!(serving, [EDGE]);
        kv.welcome(&world.host);
        kv.tell(&ToService::Ping { ping: round }, None);
        kv.expect(&FromService::Pong { ping: round });
        // A supervisor that talks nonsense is left, and the next one is heard.
        let nonsense = [0xff; 40];
        nix::unistd::write(kv.line(), &nonsense).unwrap();
        assert_eq!(kv.hear(), None);
    }
    kv.connect();
    kv.hello();
    kv.give_up(7);
    kv.connect();
    assert_eq!(kv.hello().1, Leadership::Following);
}

#[test]
fn a_turn_that_is_over_ends_the_process_that_is_given_it() {
    let world = World::new("kv-late");
    let mut first = world.start_leader(1, 5);
    first.kill();
    let mut late = world.start(2);
    late.tell(&ToService::Lead { epoch: Epoch(4) }, None);
    match late.hear() {
        Some(FromService::Failing { reason }) => assert!(reason.contains("epoch"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(late.end().code(), Some(70));
}
