//! Both ledgers: what is stored is read again, whatever happened in between.

use std::collections::BTreeMap;

use insula_contract::id::{Epoch, Instance};
use insula_core::event::{Rest, UpgradeStep};
use insula_core::placement::{MemoryPolicy, Pool, Request, Seat, Spot};
use insula_core::process::Outcome;
use insula_core::seats::Held;
use semver::Version;

use super::*;

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn open(directory: &Path, boot: &str) -> Ledger {
    Ledger::open_at(&directory.join("ledger"), &directory.join("state"), boot).unwrap()
}

fn samples() -> Vec<Record> {
    let kv = || name("kv");
    vec![
        Record::Uid {
            service: kv(),
            uid: FIRST_UID,
        },
        Record::Goal {
            service: kv(),
            up: true,
        },
        Record::Active {
            service: kv(),
            active: Version::new(1, 1, 0),
            previous: Some(Version::new(1, 0, 0)),
        },
        Record::Epoch {
            service: kv(),
            epoch: Epoch(3),
        },
        Record::Scale {
            service: kv(),
            instances: 3,
        },
        Record::Upgrade {
            service: kv(),
            step: Some((
                Version::new(1, 0, 0),
                Version::new(1, 1, 0),
                UpgradeStep::Leading,
            )),
        },
        Record::Route {
            service: kv(),
            contract: "kv@1".parse().unwrap(),
            route: 2,
        },
        Record::Began {
            attempt: Attempt(9),
            instance: Instance {
                service: kv(),
                index: 0,
            },
            version: Version::new(1, 1, 0),
            slot: 1,
            step: None,
            beside: false,
            seat: Some(Box::new(Held {
                id: 9,
                request: Request::nothing(kv()),
                seat: Seat {
                    spot: Spot::Pool(Pool::Node(1)),
                    memory: BTreeMap::from([(1, 4096)]),
                    memory_anywhere: 0,
                    policy: MemoryPolicy::Bind(1),
                },
            })),
        },
        Record::Rested {
            instance: Instance {
                service: kv(),
                index: 0,
            },
            rest: Some(Rest::Exited(Outcome::Code(3))),
        },
    ]
}

#[test]
fn what_is_stored_is_read_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = open(directory.path(), "a");
    ledger.store(&samples()).unwrap();
    drop(ledger);
    assert_eq!(open(directory.path(), "a").records().unwrap(), samples());
}

#[test]
fn a_reboot_takes_the_run_state_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = open(directory.path(), "a");
    ledger.store(&samples()).unwrap();
    drop(ledger);
    let durable: Vec<_> = samples().into_iter().filter(Record::is_durable).collect();
    assert_eq!(open(directory.path(), "b").records().unwrap(), durable);
}

#[test]
fn a_later_record_takes_the_place_of_an_earlier_one_and_an_end_removes_both() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = open(directory.path(), "a");
    ledger.store(&samples()).unwrap();
    let identity = Identity {
        pid: 5,
        inode: 6,
        start: 7,
    };
    ledger
        .store_processes(&[(Attempt(9), identity.clone())])
        .unwrap();
    assert_eq!(
        ledger.processes().unwrap(),
        BTreeMap::from([(Attempt(9), identity)])
    );
    let goal = Record::Goal {
        service: name("kv"),
        up: false,
    };
    ledger
        .store(&[
            goal.clone(),
            Record::Ended {
                attempt: Attempt(9),
            },
        ])
        .unwrap();
    let records = ledger.records().unwrap();
    assert!(records.contains(&goal));
    assert_eq!(records.len(), samples().len() - 1);
    assert!(ledger.processes().unwrap().is_empty());
}

#[test]
fn runs_are_counted_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    for run in 1..5 {
        assert_eq!(
            open(directory.path(), &run.to_string())
                .begin_run()
                .unwrap(),
            run
        );
    }
}

/// The bytes that earlier versions stored.
#[test]
fn stored_bytes_stay_readable() {
    let kept: [&[u8]; 9] = [
        &[1, 0, 2, b'k', b'v', 128, 128, 128, 128, 7],
        &[1, 1, 2, b'k', b'v', 1],
        &[
            1, 2, 2, b'k', b'v', 5, b'1', b'.', b'1', b'.', b'0', 1, 5, b'1', b'.', b'0', b'.',
            b'0',
        ],
        &[1, 3, 2, b'k', b'v', 3],
        &[1, 8, 2, b'k', b'v', 3],
        &[
            1, 4, 2, b'k', b'v', 1, 5, b'1', b'.', b'0', b'.', b'0', 5, b'1', b'.', b'1', b'.',
            b'0', 2,
        ],
        &[1, 7, 2, b'k', b'v', 4, b'k', b'v', b'@', b'1', 2],
        &[
            1, 5, 9, 2, b'k', b'v', 0, 5, b'1', b'.', b'1', b'.', b'0', 1, 0, 0, 1, 9, 2, b'k',
            b'v', 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 128, 32, 0, 2, 1,
        ],
        &[1, 9, 2, b'k', b'v', 0, 1, 0, 0, 6],
    ];
    for (record, kept) in samples().iter().zip(kept) {
        assert_eq!(
            postcard::to_extend(record, vec![FORMAT]).unwrap(),
            kept,
            "{record:?}"
        );
        assert_eq!(&decode::<Record>(b"", kept).unwrap(), record);
    }
    assert!(decode::<Record>(b"x", &[2, 0]).is_err(), "another format");
}

#[test]
fn uids_are_rebuilt_from_the_owners_of_the_data() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["kv", "other", "Not-a-name"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED (needs root): giving directories to other users");
        return;
    }
    let uid = FIRST_UID + 4;
    std::os::unix::fs::chown(directory.path().join("kv"), Some(uid), None).unwrap();
    std::os::unix::fs::chown(directory.path().join("Not-a-name"), Some(uid), None).unwrap();
    assert_eq!(
        uids_of_data(directory.path()).unwrap(),
        BTreeMap::from([(name("kv"), uid)])
    );
    assert!(
        uids_of_data(&directory.path().join("none"))
            .unwrap()
            .is_empty()
    );
}

/// Says to the test's own program that it is the process to be killed, and in which directory.
const KILLED: &str = "INSULA_TEST_LEDGER";

/// Not a test of its own: stores without end in the process that the next test kills.
#[test]
fn the_process_that_is_killed_while_it_stores() {
    let Some(directory) = std::env::var_os(KILLED) else {
        return;
    };
    let mut ledger = open(Path::new(&directory), "a");
    for number in 1.. {
        let records = [
            Record::Epoch {
                service: name("kv"),
                epoch: Epoch(number),
            },
            Record::Uid {
                service: name("kv"),
                uid: u32::try_from(number).unwrap(),
            },
            Record::Route {
                service: name("kv"),
                contract: "kv@1".parse().unwrap(),
                route: u32::try_from(number).unwrap(),
            },
        ];
        ledger.store(&records).unwrap();
        println!("\nstored {number}");
    }
}

#[test]
fn what_was_stored_outlives_a_kill_whole_and_in_full() {
    use std::io::{BufRead, BufReader};
    // Each kill hits another moment of a commit.
    for later in 0..16 {
        let directory = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "ledger::tests::the_process_that_is_killed_while_it_stores",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env(KILLED, directory.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let number = |line: &str| {
            line.strip_prefix("stored ")
                .map(|n| n.parse::<u64>().unwrap())
        };
        let reached = lines.find_map(|line| number(&line.unwrap()));
        let since = std::time::Instant::now();
        while since.elapsed() < std::time::Duration::from_micros(400 * later) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it told in between was stored as well; the last line may be cut.
        let told = lines
            .filter_map(|line| number(&line.ok()?))
            .last()
            .or(reached)
            .unwrap();
        let mut found = (0, 0, 0);
        for record in open(directory.path(), "a").records().unwrap() {
            match record {
                Record::Epoch { epoch, .. } => found.0 = epoch.0,
                Record::Uid { uid, .. } => found.1 = u64::from(uid),
                Record::Route { route, .. } => found.2 = u64::from(route),
                other => panic!("{other:?} was never stored"),
            }
        }
        assert_eq!(found.0, found.1, "half of a commit");
        assert!(found.0 >= told, "told {told}, found {}", found.0);
        assert!(found.2 >= found.0, "the run state is stored first");
    }
}
