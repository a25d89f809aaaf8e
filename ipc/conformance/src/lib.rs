//! Runs iceoryx2's conformance tests.
//!
//! The tests of one process share counters, and some end the process when they hang. So every
//! worker is a child process that runs its tests one after the other and tells the outcome of each;
//! when it dies, the test that it was in has failed and another worker goes on behind it. The tests
//! have a watchdog that counts wall time: one that it ended is run again, alone, once all others
//! are through.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;

use iceoryx2_bb_testing::{RunMode, TestCase, inventory};

/// Workers that run at once.
const WORKERS: usize = 2;
/// Tells a worker its tests, one a line.
const TESTS: &str = "CONFORMANCE_TESTS";
/// Begins each line that a worker writes for its parent.
const MARK: &str = "@@";
/// What the tests' watchdog says before it ends the process.
const OVERDUE: &str = "Watchdog expired";

type Tests = BTreeMap<String, &'static TestCase>;
/// How a test ended; `Err` says why it failed.
type Outcome = Result<(), String>;

/// Runs every registered test, or those whose name contains a word of the command line, and prints
/// what libtest would print. `number` is how many are to be registered, so that none is forgotten.
pub fn run(number: usize) -> ExitCode {
    let mut tests = registered();
    assert_eq!(
        tests.len(),
        number,
        "tests are missing, or there are new ones"
    );
    if let Ok(names) = std::env::var(TESTS) {
        work(&tests, &names);
        return ExitCode::SUCCESS;
    }
    let arguments = || std::env::args().skip(1);
    let words: Vec<String> = arguments().filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    tests.retain(|name, _| wanted(name));
    if arguments().any(|argument| argument == "--list") {
        for name in tests.keys() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let outcomes = Mutex::new(BTreeMap::new());
    let names: Vec<&str> = tests.keys().map(String::as_str).collect();
    std::thread::scope(|threads| {
        for share in 0..WORKERS {
            let names = names.iter().copied().skip(share).step_by(WORKERS).collect();
            let outcomes = &outcomes;
            threads.spawn(move || watch(names, outcomes));
        }
    });
    for name in names {
        let overdue =
            |outcome: &Outcome| outcome.as_ref().is_err_and(|error| error.contains(OVERDUE));
        if outcomes
            .lock()
            .expect(NO_PANIC)
            .get(name)
            .is_some_and(overdue)
        {
            println!("{name} took too long beside the others");
            watch(vec![name], &outcomes);
        }
    }
    judge(&outcomes.into_inner().expect(NO_PANIC))
}

const NO_PANIC: &str = "no watcher panicked";

/// All tests by name.
fn registered() -> Tests {
    inventory::iter::<TestCase>()
        .map(|case| {
            let module = case.module.split_once("::").map_or("", |(_, rest)| rest);
            (format!("{module}::{}", case.name), case)
        })
        .collect()
}

/// Runs the named tests, as a worker.
fn work(tests: &Tests, names: &str) {
    let say = |line: &str| {
        let mut out = std::io::stdout().lock();
        // A parent that is gone wants no outcome.
        let _ = writeln!(out, "\n{MARK}{line}").and_then(|()| out.flush());
    };
    for name in names.lines() {
        let case = tests[name];
        say("begins");
        let ended = catch_unwind(AssertUnwindSafe(case.test_fn));
        let outcome = match (&case.run_mode, ended) {
            (RunMode::Ignore(_), _)
            | (RunMode::Normal, Ok(()))
            | (RunMode::ExpectPanic(_), Err(_)) => "passed".to_owned(),
            (RunMode::ExpectPanic(_), Ok(())) => "did not panic".to_owned(),
            (RunMode::Normal, Err(panic)) => {
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("panicked");
                text.replace('\n', " ")
            }
        };
        say(&outcome);
    }
}

/// Lets workers run the tests, one after the other, until all have an outcome.
fn watch(names: Vec<&str>, outcomes: &Mutex<BTreeMap<String, Outcome>>) {
    let mut rest = &names[..];
    while let Some((first, _)) = rest.split_first() {
        let mut worker = Command::new(std::env::current_exe().expect("this program's path"))
            .env(TESTS, rest.join("\n"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a worker");
        let mut errors = worker.stderr.take().expect("the errors are piped");
        let last_words = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What cannot be read is only missing in a report.
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text[text.len().saturating_sub(300)..]).replace('\n', " ")
        });
        let note = |name: &str, outcome: Outcome| {
            outcomes
                .lock()
                .expect(NO_PANIC)
                .insert(name.to_owned(), outcome);
        };
        let mut within = first;
        let lines = BufReader::new(worker.stdout.take().expect("the output is piped")).lines();
        for line in lines.map_while(Result::ok) {
            let Some(word) = line.strip_prefix(MARK) else {
                continue;
            };
            if word == "begins" {
                (within, rest) = rest
                    .split_first()
                    .expect("no worker begins more than it got");
                continue;
            }
            note(
                within,
                if word == "passed" {
                    Ok(())
                } else {
                    Err(word.to_owned())
                },
            );
            within = &"";
        }
        let status = worker.wait().expect("the worker's end");
        let last_words = last_words.join().expect("the reader does not panic");
        if !within.is_empty() {
            note(
                within,
                Err(format!("its process ended: {status}: {last_words}")),
            );
            // It may have died before it began.
            rest = rest.strip_prefix(&[*within]).unwrap_or(rest);
        }
    }
}

/// Prints the outcomes and decides.
fn judge(outcomes: &BTreeMap<String, Outcome>) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for (name, outcome) in outcomes {
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Err(error) => {
                failed += 1;
                println!("{name}: {error}\ntest {name} ... FAILED");
            }
        }
    }
    let good = failed == 0 && passed > 0;
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; 0 ignored; 0 measured",
        if good { "ok" } else { "FAILED" },
    );
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
