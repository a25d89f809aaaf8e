//! The entries against a map, with scans and cursors.

use std::collections::BTreeMap;

use insula::StoreOptions;
use insula::ipc::protocol::id::Epoch;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

#[derive(Debug, Clone)]
enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Swap(Vec<u8>, Option<u64>, Vec<u8>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, 1, b'a', 254, 255]), 1..5)
}

fn change() -> impl Strategy<Value = Change> {
    let value = || prop::collection::vec(any::<u8>(), 0..30);
    prop_oneof![
        (key(), value()).prop_map(|(k, v)| Change::Put(k, v)),
        key().prop_map(Change::Delete),
        (key(), prop::option::of(1_u64..200), value()).prop_map(|(k, r, v)| Change::Swap(k, r, v)),
    ]
}

fn store() -> (tempfile::TempDir, Store, Entries) {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        size_max: 1 << 28,
        ..StoreOptions::default()
    };
    let store = Store::open(directory.path(), &options).unwrap();
    let entries = Entries::open(&store).unwrap();
    store.lead(Epoch(1)).unwrap();
    (directory, store, entries)
}

fn scan(store: &Store, entries: Entries, keys: Keys<'_>, limit: usize) -> Vec<(Vec<u8>, u64)> {
    let mut all = Vec::new();
    let mut cursor: Option<Vec<u8>> = None;
    loop {
        let (page, next) = store
            .read(|reader| {
                let page = entries.page(reader, keys, limit, cursor.as_deref())?;
                let (page, next) = page.expect("it is this scan's cursor");
                let page: Vec<_> = page.iter().map(|e| (e.key.to_vec(), e.revision)).collect();
                Ok((page, next))
            })
            .unwrap();
        assert!(page.len() <= limit);
        assert!(
            !page.is_empty() || next.is_none(),
            "an empty page and more to come"
        );
        all.extend(page);
        match next {
            Some(next) => cursor = Some(next),
            None => return all,
        }
    }
}

#[test]
fn entries_do_what_a_map_does() {
    let (_directory, store, entries) = store();
    let mut runner = TestRunner::deterministic();
    let changes = prop::collection::vec(change(), 1_000)
        .new_tree(&mut runner)
        .unwrap()
        .current();
    let mut model: BTreeMap<Vec<u8>, (u64, Vec<u8>)> = BTreeMap::new();
    let mut newest = 0;
    for change in changes {
        match change {
            Change::Put(k, v) => {
                let revision = store.write(|w| entries.put(w, &k, &v)).unwrap();
                assert!(revision > newest);
                newest = revision;
                model.insert(k, (revision, v));
            }
            Change::Delete(k) => {
                let existed = store.write(|w| entries.delete(w, &k)).unwrap();
                assert_eq!(existed, model.remove(&k).is_some());
            }
            Change::Swap(k, expected, v) => {
                let current = model.get(&k).map(|(revision, _)| *revision);
                // Half of the time what is there is expected.
                let expected = expected.filter(|r| r % 2 == 0).or(current);
                let given = expected.map_or(Expected::Absent, Expected::Revision);
                let swap = store
                    .write(|w| entries.compare_and_swap(w, &k, given, &v))
                    .unwrap();
                if expected == current {
                    let Swap::Swapped { revision } = swap else {
                        panic!("{swap:?}")
                    };
                    assert!(revision > newest);
                    newest = revision;
                    model.insert(k, (revision, v));
                } else {
                    assert_eq!(swap, Swap::Conflict { current });
                }
            }
        }
    }
    for (k, (revision, value)) in &model {
        store
            .read(|reader| {
                assert_eq!(
                    entries.get(reader, k)?,
                    Some(Found {
                        revision: *revision,
                        value
                    })
                );
                Ok(())
            })
            .unwrap();
    }
    let bytes: usize = model.iter().map(|(k, (_, v))| k.len() + v.len()).sum();
    let figures = store.read(|reader| entries.figures(reader)).unwrap();
    assert_eq!(figures, (model.len() as u64, bytes as u64));

    let edges: Vec<Vec<u8>> = vec![vec![], vec![0], vec![1, 255], vec![255], vec![255, 255]];
    for limit in [1, 2, 7, 1_000] {
        for prefix in &edges {
            let expected: Vec<_> = model
                .iter()
                .filter(|(k, _)| k.starts_with(prefix))
                .map(|(k, (revision, _))| (k.clone(), *revision))
                .collect();
            assert_eq!(
                scan(&store, entries, Keys::Prefix(prefix), limit),
                expected,
                "{prefix:?}"
            );
        }
        for from in &edges {
            for to in edges.iter().map(Some).chain([None]) {
                let keys = Keys::Range {
                    from,
                    to: to.map(Vec::as_slice),
                };
                let expected: Vec<_> = model
                    .iter()
                    .filter(|(k, _)| *k >= from && to.is_none_or(|to| *k < to))
                    .map(|(k, (revision, _))| (k.clone(), *revision))
                    .collect();
                assert_eq!(scan(&store, entries, keys, limit), expected, "{keys:?}");
            }
        }
    }
}

#[test]
fn a_page_ends_at_its_weight_and_the_next_goes_on() {
    let (_directory, store, entries) = store();
    let value = vec![7; 400_000];
    for k in [b"a", b"b", b"c", b"d", b"e"] {
        store.write(|w| entries.put(w, k, &value)).unwrap();
    }
    let page = |cursor: Option<&[u8]>| {
        store
            .read(|reader| {
                let page = entries.page(reader, Keys::Prefix(b""), 10, cursor)?;
                let (page, next) = page.unwrap();
                Ok((page.len(), next))
            })
            .unwrap()
    };
    assert_eq!(page(None), (2, Some(b"b".to_vec())));
    assert_eq!(page(Some(b"b")), (2, Some(b"d".to_vec())));
    assert_eq!(page(Some(b"d")), (1, None));
}

#[test]
fn a_cursor_of_another_scan_is_refused() {
    let (_directory, store, entries) = store();
    for cursor in [&b""[..], b"b", b"a", &[0; 512]] {
        let page = store
            .read(|reader| {
                let keys = Keys::Range {
                    from: b"b1",
                    to: Some(b"b2"),
                };
                Ok(entries.page(reader, keys, 10, Some(cursor))?.is_err())
            })
            .unwrap();
        assert!(page, "{cursor:?}");
    }
}
