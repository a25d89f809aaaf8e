//! The store in one process; what needs two is in `tests/`.

use std::collections::BTreeMap;
use std::ops::Bound;

use insula_ipc::protocol::id::Attempt;
use insula_ipc::server::{AnswerKind, Journal, OnceKey, Recorded};

use super::*;

fn open(directory: &Path, durability: Durability) -> Store {
    Store::open(
        directory,
        &StoreOptions {
            durability,
            size_max: 1 << 26,
            ..Default::default()
        },
    )
    .unwrap()
}

fn once(consumer: u64, slot: u8, sequence: u64) -> OnceKey {
    OnceKey {
        consumer: Attempt(consumer),
        slot,
        sequence,
    }
}

#[test]
fn only_a_leader_writes_and_what_it_committed_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Durability::Grouped);
    let table = store.table("entries").unwrap();
    let put = |value: &[u8]| store.write(|writer| table.put(writer, b"k", value));
    assert!(matches!(put(b"1"), Err(StoreError::NotLeading)));
    store.lead(Epoch(3)).unwrap();
    put(b"1").unwrap();
    let get = || {
        store
            .read(|reader| Ok(table.get(reader, b"k")?.map(<[u8]>::to_vec)))
            .unwrap()
    };
    assert_eq!(get(), Some(b"1".to_vec()));
    put(b"2").unwrap();
    assert_eq!(get(), Some(b"2".to_vec()));
    store.give_up().unwrap();
    assert!(matches!(put(b"3"), Err(StoreError::NotLeading)));
    assert_eq!(get(), Some(b"2".to_vec()));
    assert_eq!(store.stored_epoch().unwrap(), Epoch(3));
    let old = store.lead(Epoch(2)).unwrap_err();
    assert!(
        matches!(
            old,
            StoreError::Fenced {
                ours: Epoch(2),
                current: Epoch(3)
            }
        ),
        "{old}"
    );
}

#[test]
fn an_epoch_never_goes_back_even_for_the_process_that_had_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Durability::Grouped);
    store.lead(Epoch(3)).unwrap();
    store.lead(Epoch(3)).unwrap();
    let env = store.inner.env;
    let mut txn = env.write_txn().unwrap();
    meta::set_epoch(&store.inner.meta, &mut txn, Epoch(4)).unwrap();
    txn.commit().unwrap();
    assert!(matches!(
        store.lead(Epoch(3)),
        Err(StoreError::Fenced { .. })
    ));
    assert_eq!(store.stored_epoch().unwrap(), Epoch(4));
}

#[test]
fn a_change_that_fails_undoes_its_batch_and_no_later_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path(), Durability::Grouped);
    let table = store.table("entries").unwrap();
    store.lead(Epoch(1)).unwrap();
    let put = |store: &Store, key: &[u8]| store.write(|writer| table.put(writer, key, b"1"));
    Journal::begin(&mut store).unwrap();
    put(&store, b"a").unwrap();
    assert!(put(&store, b"").is_err(), "LMDB has no empty keys");
    assert!(matches!(
        store.commit(),
        Err(StoreError::Undone | StoreError::Database(_))
    ));
    Journal::begin(&mut store).unwrap();
    put(&store, b"b").unwrap();
    Journal::commit(&mut store).unwrap();
    let len = store.read(|reader| table.len(reader)).unwrap();
    assert_eq!(len, 1);
}

#[test]
fn a_batch_is_seen_as_a_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path(), Durability::Grouped);
    let table = store.table("entries").unwrap();
    store.lead(Epoch(1)).unwrap();
    let len = |store: &Store| store.read(|reader| table.len(reader)).unwrap();
    Journal::begin(&mut store).unwrap();
    store.write(|writer| table.put(writer, b"a", b"1")).unwrap();
    store.write(|writer| table.put(writer, b"b", b"1")).unwrap();
    assert_eq!(len(&store), 0, "a read sees what is not committed");
    Journal::abort(&mut store);
    assert_eq!(len(&store), 0);
    Journal::begin(&mut store).unwrap();
    store.write(|writer| table.put(writer, b"a", b"1")).unwrap();
    Journal::commit(&mut store).unwrap();
    assert_eq!(len(&store), 1);
}

#[test]
fn a_full_store_refuses_entries_answers_on_and_takes_them_once_others_are_gone() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        size_max: 4 << 20,
        durability: Durability::Periodic(Duration::from_millis(50)),
        ..Default::default()
    };
    let mut store = Store::open(directory.path(), &options).unwrap();
    let table = store.table("entries").unwrap();
    store.lead(Epoch(1)).unwrap();
    let mut sequence = 0;
    for value in [1000, 5000, 300_000] {
        let value = vec![7; value];
        for _ in 0..2 {
            let mut keys = 0_u32;
            loop {
                Journal::begin(&mut store).unwrap();
                let put = store.write(|w| table.put(w, &keys.to_be_bytes(), &value));
                // Refused or not: the answer is recorded, in the same transaction.
                sequence += 1;
                let key = once(1, 0, sequence);
                Journal::record(&mut store, key, sequence, AnswerKind::Response, b"").unwrap();
                Journal::commit(&mut store).unwrap();
                match put {
                    Ok(()) => keys += 1,
                    Err(StoreError::Full) => break,
                    Err(other) => panic!("{other:?}"),
                }
            }
            let bytes = u64::from(keys) * value.len() as u64;
            assert!(bytes > options.size_max / 3, "{bytes} in {keys} entries");
            for key in 0..keys {
                let deleted = store.write(|w| table.delete(w, &key.to_be_bytes()));
                assert!(deleted.unwrap());
            }
        }
    }
    assert_eq!(store.recorded().unwrap(), 1);
}

#[test]
fn a_recorded_answer_is_recalled_until_it_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path(), Durability::Grouped);
    store.lead(Epoch(1)).unwrap();
    store.begin().unwrap();
    for (consumer, slot, sequence) in [(7, 0, 1), (7, 0, 2), (7, 1, 1), (8, 0, 1)] {
        let key = once(consumer, slot, sequence);
        Journal::record(&mut store, key, 1, AnswerKind::Error, &[sequence as u8]).unwrap();
    }
    assert_eq!(
        Journal::recall(&mut store, once(7, 0, 2)).unwrap(),
        Some(Recorded {
            kind: AnswerKind::Error,
            body: vec![2]
        })
    );
    assert_eq!(Journal::recall(&mut store, once(7, 0, 3)).unwrap(), None);
    // The third says that all below it are answered.
    Journal::record(&mut store, once(7, 0, 3), 3, AnswerKind::Response, b"x").unwrap();
    assert_eq!(Journal::recall(&mut store, once(7, 0, 2)).unwrap(), None);
    assert!(
        Journal::recall(&mut store, once(7, 1, 1))
            .unwrap()
            .is_some(),
        "another connection"
    );
    Journal::commit(&mut store).unwrap();
    assert_eq!(store.recorded().unwrap(), 3);
    Journal::forget(&mut store, Attempt(7)).unwrap();
    assert_eq!(store.recorded().unwrap(), 1);
}

#[test]
fn a_new_leader_keeps_the_answers_of_those_that_live() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path(), Durability::Grouped);
    store.lead(Epoch(1)).unwrap();
    store.begin().unwrap();
    for consumer in [1, 2, 5, 9, u64::MAX] {
        for slot in 0..3 {
            let key = once(consumer, slot, 4);
            Journal::record(&mut store, key, 1, AnswerKind::TooLong, b"").unwrap();
        }
    }
    Journal::commit(&mut store).unwrap();
    Journal::retain(&mut store, &[Attempt(3), Attempt(2), Attempt(9)]).unwrap();
    assert_eq!(store.recorded().unwrap(), 6);
    store.begin().unwrap();
    for (consumer, kept) in [(1, false), (2, true), (5, false), (9, true)] {
        let found = Journal::recall(&mut store, once(consumer, 2, 4)).unwrap();
        let expected = kept.then_some(Recorded {
            kind: AnswerKind::TooLong,
            body: vec![],
        });
        assert_eq!(found, expected, "{consumer}");
    }
    Journal::abort(&mut store);
    Journal::retain(&mut store, &[]).unwrap();
    assert_eq!(store.recorded().unwrap(), 0);
}

#[test]
fn a_strict_store_commits_each_write_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path(), Durability::Strict);
    let table = store.table("entries").unwrap();
    store.lead(Epoch(1)).unwrap();
    Journal::begin(&mut store).unwrap();
    store.write(|writer| table.put(writer, b"a", b"1")).unwrap();
    Journal::record(&mut store, once(1, 0, 1), 1, AnswerKind::Response, b"").unwrap();
    store.write(|writer| table.put(writer, b"b", b"1")).unwrap();
    Journal::abort(&mut store);
    assert_eq!(store.read(|reader| table.len(reader)).unwrap(), 1);
}

#[test]
fn another_schema_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    // The environment stays open in the process that opened it, so a child makes it.
    if std::env::var_os("INSULA_TEST_STORE").is_none() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::another_schema_is_refused"])
            .env("INSULA_TEST_STORE", &path)
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        let options = StoreOptions {
            schema: 2,
            ..Default::default()
        };
        let refused = Store::open(&path, &options).unwrap_err();
        assert!(
            matches!(
                refused,
                StoreError::Schema {
                    found: 1,
                    wanted: 2
                }
            ),
            "{refused}"
        );
        return;
    }
    let path = PathBuf::from(std::env::var_os("INSULA_TEST_STORE").unwrap());
    Store::open(&path, &StoreOptions::default()).unwrap();
}

#[test]
fn a_table_does_what_a_map_does() {
    use proptest::prelude::*;
    let directory = tempfile::tempdir().unwrap();
    let store = open(
        directory.path(),
        Durability::Periodic(Duration::from_millis(5)),
    );
    let table = store.table("entries").unwrap();
    store.lead(Epoch(1)).unwrap();
    let key = prop::collection::vec(0_u8..4, 1..4);
    let value = prop::collection::vec(any::<u8>(), 0..20);
    let change = (key, prop::option::of(value));
    let mut model = BTreeMap::new();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let changes = prop::collection::vec(change, 400)
        .new_tree(&mut runner)
        .map(|tree| proptest::strategy::ValueTree::current(&tree))
        .unwrap();
    for (key, value) in changes {
        match value {
            Some(value) => {
                store
                    .write(|writer| table.put(writer, &key, &value))
                    .unwrap();
                model.insert(key, value);
            }
            None => {
                let removed = store.write(|writer| table.delete(writer, &key)).unwrap();
                assert_eq!(removed, model.remove(&key).is_some());
            }
        }
        let stored: Vec<_> = store
            .read(|reader| {
                let all = table.range(reader, Bound::Unbounded, Bound::Unbounded)?;
                all.map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())))
                    .collect()
            })
            .unwrap();
        assert!(stored.iter().map(|(k, v)| (k, v)).eq(model.iter()));
    }
}

#[test]
fn durabilities_are_read_by_name() {
    assert_eq!("strict".parse(), Ok(Durability::Strict));
    assert_eq!(
        "periodic=50ms".parse(),
        Ok(Durability::Periodic(Duration::from_millis(50)))
    );
    for bad in [
        "",
        "Grouped",
        "periodic",
        "periodic=50",
        "periodic=0ms",
        "periodic=99999999ms",
    ] {
        assert!(bad.parse::<Durability>().is_err(), "{bad}");
    }
}
