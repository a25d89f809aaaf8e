//! Whole manifests in, whole specs or whole reports out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use insula_contract::policy::{
    BreakerPolicy, EdgeLimits, EdgePolicy, RateLimit, RetryPolicy, Shedding,
};
use insula_core::limits::Resources;
use insula_core::restart::RestartLimits;
use insula_core::spec::{
    DataSpec, Dormancy, HostAccess, Kind, Limits, Liveness, Need, Network, Offer, Principal, Probe,
    Readiness, RestartPolicy, ServiceSpec,
};
use semver::Version;

use super::*;

fn check(text: &str) -> Result<ServiceSpec, Problems> {
    let profiles = Profiles::shipped();
    let program =
        |name: &str| (name != "bin/kv").then(|| format!("the release has no file `{name}`"));
    check_manifest(
        "kv/service.toml",
        text,
        &Facts {
            subject: Subject::Release,
            profiles: &profiles,
            program: &program,
        },
    )
}

fn report(text: &str) -> String {
    check(text).unwrap_err().to_string()
}

const LEAST: &str = "\
name = \"kv\"
version = \"1.0.0\"
[run]
command = [\"bin/kv\"]
profile = \"shared\"
";

#[test]
fn the_least_manifest_has_safe_defaults() {
    let expected = ServiceSpec {
        name: "kv".parse().unwrap(),
        version: Version::new(1, 0, 0),
        description: String::new(),
        command: vec!["bin/kv".to_owned()],
        profile: "shared".to_owned(),
        kind: Kind::Native,
        before_start: vec![],
        liveness: None,
        watchdog: Some(Duration::from_secs(10)),
        restarts: RestartLimits::default(),
        host: HostAccess::default(),
        after: BTreeSet::new(),
        sockets: BTreeMap::new(),
        instances: 1,
        ready_timeout: Duration::from_secs(30),
        drain_timeout: Duration::from_secs(5),
        stop_timeout: Duration::from_secs(10),
        stop_signal: 15,
        autostart: true,
        restart: RestartPolicy::Always,
        expected_exit_codes: BTreeSet::from([0]),
        network: Network::None,
        listen: vec![],
        environment: BTreeMap::new(),
        limits: Limits::default(),
        output: Default::default(),
        provides: BTreeMap::new(),
        requires: BTreeMap::new(),
        data: None,
        dormancy: Dormancy::AsProfile,
    };
    assert_eq!(check(LEAST), Ok(expected));
}

#[test]
fn every_key_of_a_manifest_reaches_the_spec() {
    let text = r#"
name = "kv"
version = "1.2.3-rc.1"
description = "keys and values"
[run]
command = ["bin/kv", "--durability", "grouped"]
profile = "latency"
ready-timeout = "1m"
stop-timeout = "0s"
drain-timeout = "250ms"
stop-signal = "INT"
autostart = false
restart = "on-failure"
expected-exit-codes = [0, 3]
network = "loopback"
listen = [18080]
[run.environment]
LANG = "C"
[run.limits]
open-files = 512
processes = 64
file-size = "1GiB"
locked-memory = "0B"
memory-high = "48MiB"
memory-max = "64MiB"
pids-max = 20
cpu-max = "150%"
cpu-weight = 50
io-weight = 10
data-max = "8GiB"
data-files-max = 10000
[provides."kv@1"]
allow = ["root", "uid:1000", "gid:7", "*"]
[provides."kv@1".limits]
waiting = 32
per-second = 1000
burst = 50
shed-after = "20ms"
[provides."kv-admin@2"]
[requires."clock@1"]
retries = { percent = 0 }
breaker = { fail-fast = true, open-for = "1m" }
[data]
store = true
schema = 4
size-max = "4GiB"
"#;
    let spec = check(text).unwrap();
    let expected = ServiceSpec {
        name: "kv".parse().unwrap(),
        version: "1.2.3-rc.1".parse().unwrap(),
        description: "keys and values".to_owned(),
        command: ["bin/kv", "--durability", "grouped"]
            .map(str::to_owned)
            .to_vec(),
        profile: "latency".to_owned(),
        kind: Kind::Native,
        before_start: vec![],
        liveness: None,
        watchdog: Some(Duration::from_secs(10)),
        restarts: RestartLimits::default(),
        host: HostAccess::default(),
        after: BTreeSet::new(),
        sockets: BTreeMap::new(),
        instances: 1,
        ready_timeout: Duration::from_secs(60),
        drain_timeout: Duration::from_millis(250),
        stop_timeout: Duration::ZERO,
        stop_signal: 2,
        autostart: false,
        restart: RestartPolicy::OnFailure,
        expected_exit_codes: BTreeSet::from([0, 3]),
        network: Network::Loopback,
        listen: vec![18_080],
        environment: BTreeMap::from([("LANG".to_owned(), "C".to_owned())]),
        limits: Limits {
            open_files: 512,
            processes: 64,
            file_size: Some(1 << 30),
            locked_memory: 0,
            resources: Resources {
                memory_high: Some(48 << 20),
                memory_max: Some(64 << 20),
                pids_max: Some(20),
                cpu_max: Some(1_500),
                cpu_weight: Some(50),
                io_weight: Some(10),
                data_max: Some(8 << 30),
                data_files_max: Some(10_000),
            },
        },
        output: Default::default(),
        provides: BTreeMap::from([
            (
                "kv@1".parse().unwrap(),
                Offer {
                    allow: vec![
                        Principal::Uid(0),
                        Principal::Uid(1_000),
                        Principal::Gid(7),
                        Principal::Anyone,
                    ],
                    limits: EdgeLimits {
                        waiting: Some(32),
                        rate: Some(RateLimit {
                            per_second: 1000,
                            burst: 50,
                        }),
                        shedding: Some(Shedding {
                            target: Duration::from_millis(20),
                            interval: Duration::from_millis(100),
                        }),
                    },
                },
            ),
            (
                "kv-admin@2".parse().unwrap(),
                Offer {
                    allow: vec![Principal::Uid(0)],
                    limits: EdgeLimits::default(),
                },
            ),
        ]),
        requires: BTreeMap::from([(
            "clock@1".parse().unwrap(),
            Need {
                policy: EdgePolicy {
                    retries: RetryPolicy {
                        percent: 0,
                        ..RetryPolicy::default()
                    },
                    breaker: BreakerPolicy {
                        fail_fast: true,
                        open_for: Duration::from_secs(60),
                        open_at_most: Duration::from_secs(60),
                        ..BreakerPolicy::default()
                    },
                    ..EdgePolicy::default()
                },
            },
        )]),
        dormancy: Dormancy::AsProfile,
        data: Some(DataSpec {
            schema: 4,
            size_max: 4 << 30,
        }),
    };
    assert_eq!(spec, expected);
}

#[test]
fn all_problems_are_reported_at_once_with_their_places() {
    let text = r#"name = "Kv"
vresion = "1.0.0"

[run]
command = ["bin/other", 3]
profile = "fast"
ready-timeout = "0s"
stop-timeout = "25h"
drain-timeout = 5
stop-signal = "KILL"
autostart = "yes"
restart = "sometimes"
expected-exit-codes = [0, 256]
listen = [80]
[run.environment]
INSULA_DATA = "x"
"a b" = "y"
[run.limits]
open-files = 1
memory = "1GiB"
[provides."kv"]
allow = ["me", "group:no-such-group"]
color = "red"
[requires."clock@1"]
optional = true
[data]
schema = 0
size-max = "4GB"
"#;
    let expected = r#"kv/service.toml:1:1: version: missing
kv/service.toml:1:8: name: `Kv` is not a service name (lower-case letters, digits and inner hyphens, a letter first, at most 32 bytes, and not `all`)
kv/service.toml:2:1: vresion: unknown key
  hint: known here: name, version, description, run, provides, requires, after, data
kv/service.toml:5:12: run.command[0]: the release has no file `bin/other`
kv/service.toml:5:25: run.command[1]: expected a text, found a whole number
kv/service.toml:6:11: run.profile: no profile `fast`; known: background, dense, latency, shared
  hint: profiles are defined in the host's profiles.toml
kv/service.toml:7:17: run.ready-timeout: leaves no time at all
kv/service.toml:8:16: run.stop-timeout: longer than 24h
kv/service.toml:9:17: run.drain-timeout: expected a text, found a whole number
kv/service.toml:10:15: run.stop-signal: no stop signal `KILL`; known: TERM, INT, QUIT, HUP, USR1, USR2
kv/service.toml:11:13: run.autostart: expected true or false, found a text
kv/service.toml:12:11: run.restart: `sometimes` is none of `always`, `on-failure`, `never`
kv/service.toml:13:27: run.expected-exit-codes[1]: 256 is not between 0 and 255
kv/service.toml:14:10: run.listen: a service without network cannot listen
  hint: set `network = "loopback"`, or `"any"`
kv/service.toml:16:15: run.environment.INSULA_DATA: variables that begin with INSULA_ are set by the supervisor
kv/service.toml:17:9: run.environment."a b": not the name of a variable: letters, digits and `_`
kv/service.toml:19:14: run.limits.open-files: 1 is not between 64 and 1048576
kv/service.toml:20:1: run.limits.memory: unknown key
  hint: known here: open-files, processes, file-size, locked-memory, memory-high, memory-max, pids-max, cpu-max, cpu-weight, io-weight, data-max, data-files-max
kv/service.toml:21:11: provides.kv: `kv` is not a contract with its major version, like `kv@1`
kv/service.toml:22:10: provides.kv.allow[0]: `me` names nobody
  hint: write `root`, `uid:1000`, `user:name`, `gid:100`, `group:name`, or `*` for everybody
kv/service.toml:22:16: provides.kv.allow[1]: this host has no group `no-such-group`
kv/service.toml:23:1: provides.kv.color: unknown key
  hint: known here: allow, limits
kv/service.toml:25:1: requires."clock@1".optional: unknown key
  hint: known here: retries, breaker
kv/service.toml:26:2: data.store: missing
kv/service.toml:27:10: data.schema: 0 is not between 1 and 4294967295
kv/service.toml:28:12: data.size-max: `4GB` is no size
  hint: write a whole number and its unit, like "512MiB" or "4GiB""#;
    assert_eq!(report(text), expected);
}

#[test]
fn a_broken_text_is_reported_line_by_line_and_not_guessed_at() {
    let text = "name = \"kv\"\nversion = \nname = \"kw\"\n[run\n";
    let report = report(text);
    assert!(report.lines().count() >= 3, "{report}");
    for line in [
        "kv/service.toml:2:",
        "kv/service.toml:3:",
        "kv/service.toml:4:",
    ] {
        assert!(report.contains(line), "{line} in {report}");
    }
    assert!(!report.contains("missing"), "{report}");
}

#[test]
fn an_empty_manifest_lacks_what_has_no_default() {
    let expected = "\
kv/service.toml:1:1: name: missing
kv/service.toml:1:1: version: missing
kv/service.toml:1:1: run: missing";
    assert_eq!(report(""), expected);
    assert_eq!(
        report(&LEAST.replace("[\"bin/kv\"]", "[]")),
        "kv/service.toml:4:11: run.command: names no program"
    );
}

#[test]
fn one_contract_under_two_keys_is_refused() {
    let text = format!("{LEAST}[requires.\"kv@1\"]\n[requires.\"kv@01\"]\n");
    assert_eq!(
        report(&text),
        "kv/service.toml:6:2: requires: names a contract twice"
    );
}

#[test]
fn columns_count_characters() {
    let text = format!("description = \"ä\"\n{LEAST}\"é\" = 1\n");
    let report = report(&text);
    assert!(
        report.starts_with("kv/service.toml:7:1: run.\"é\": unknown key"),
        "{report}"
    );
}

#[test]
fn limits_that_mean_nothing_are_told() {
    let text = format!(
        "{LEAST}instances = 3\nnetwork = \"loopback\"\nlisten = [80]\n[provides.\"kv@1\".limits]\nburst = 3\nshed-interval = \"1s\"\n[data]\nstore = true\n"
    );
    let said = report(&text);
    for expected in [
        "run.instances: only one process can listen on a port",
        "limits.burst: means nothing without `per-second`",
        "limits.shed-interval: means nothing without `shed-after`",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    let said = report(&format!("{LEAST}instances = 3\n[data]\nstore = true\n"));
    assert!(
        said.contains("data: a store is written by one process"),
        "{said}"
    );
    assert!(check(&format!("{LEAST}instances = 12\n")).is_ok());
    assert!(report(&format!("{LEAST}instances = 13\n")).contains("13 is not between 1 and 12"));
}

#[test]
fn a_foreign_program_says_how_it_is_known_to_be_ready() {
    let guest = format!(
        "{LEAST}type = \"foreign\"\nready = \"tcp:6379\"\n[run.sockets]\nhttp = \"127.0.0.1:8080\"\n"
    );
    let spec = check(&guest).unwrap();
    assert_eq!(
        spec.kind,
        Kind::Foreign(Readiness::Probe(Probe::Tcp(
            "127.0.0.1:6379".parse().unwrap()
        )))
    );
    assert_eq!(spec.sockets["http"], "127.0.0.1:8080".parse().unwrap());
    let spec = check(&format!("{LEAST}type = \"foreign\"\n")).unwrap();
    assert_eq!(spec.kind, Kind::Foreign(Readiness::Started));
    for (text, problem) in [
        ("ready = \"notify\"\n", "run.ready: a native service says"),
        (
            "type = \"foreign\"\nready = \"soon\"\n",
            "run.ready: `soon` is no way to be ready",
        ),
        (
            "[run.sockets]\nhttp = \"127.0.0.1:80\"\n",
            "run.sockets: only foreign programs are given sockets",
        ),
        (
            "type = \"foreign\"\n[run.sockets]\nhttp = \"8080\"\n",
            "run.sockets.http",
        ),
        (
            "type = \"foreign\"\n[provides.\"kv@1\"]\n",
            "run: a foreign program or a task has no contracts",
        ),
    ] {
        let said = report(&format!("{LEAST}{text}"));
        assert!(said.contains(problem), "{problem} in {said}");
    }
}

#[test]
fn how_a_program_is_made_ready_watched_and_started_again_is_its_own_to_say() {
    let text = r#"
name = "redis"
version = "7.0.0"
after = ["setup", "network"]
[run]
command = ["bin/kv"]
profile = "shared"
type = "foreign"
ready = "http://localhost:8080/ready?full"
before-start = [["bin/kv", "--check"]]
watchdog = "3s"
[run.liveness]
command = ["bin/kv", "ping"]
every = "1s"
timeout = "200ms"
failures = 2
[run.restarts]
wait = "1s"
longest-wait = "1m"
stable-after = "20s"
start-tries = 2
most = 3
within = "10m"
"#;
    let spec = check(text).unwrap();
    let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let names = ["setup", "network"].map(|name| name.parse().unwrap());
    assert_eq!(spec.after, BTreeSet::from(names));
    let ready = Readiness::Probe(Probe::Http {
        address: "127.0.0.1:8080".parse().unwrap(),
        path: "/ready?full".to_owned(),
        status: (200, 299),
    });
    assert_eq!(spec.kind, Kind::Foreign(ready));
    let steps: Vec<Vec<String>> = vec![strings(&["bin/kv", "--check"])];
    assert_eq!(spec.before_start, steps);
    assert_eq!(spec.watchdog, Some(Duration::from_secs(3)));
    let liveness = Liveness {
        probe: Probe::Command(strings(&["bin/kv", "ping"])),
        every: Duration::from_secs(1),
        timeout: Duration::from_millis(200),
        failures: 2,
    };
    assert_eq!(spec.liveness, Some(liveness));
    let restarts = RestartLimits {
        base: Duration::from_secs(1),
        cap: Duration::from_secs(60),
        stable: Duration::from_secs(20),
        start_tries: 2,
        intensity: 3,
        window: Duration::from_secs(600),
    };
    assert_eq!(spec.restarts, restarts);
    for (ready, expected) in [
        (
            "\"line:now serving\"",
            Readiness::Line("now serving".to_owned()),
        ),
        (
            "{ command = [\"bin/kv\"] }",
            Readiness::Probe(Probe::Command(strings(&["bin/kv"]))),
        ),
        (
            "\"tcp:[::1]:7\"",
            Readiness::Probe(Probe::Tcp("[::1]:7".parse().unwrap())),
        ),
    ] {
        let spec = check(&format!("{LEAST}type = \"foreign\"\nready = {ready}\n")).unwrap();
        assert_eq!(spec.kind, Kind::Foreign(expected));
    }
}

#[test]
fn a_task_is_done_once() {
    let task = format!("{LEAST}type = \"task\"\n");
    let spec = check(&task).unwrap();
    assert_eq!(
        (spec.kind, spec.restart, spec.watchdog),
        (Kind::Task, RestartPolicy::OnFailure, None)
    );
    for (text, problem) in [
        ("instances = 2\n", "run.instances: a task is done once"),
        ("restart = \"always\"\n", "run.restart: a task that is done"),
        ("watchdog = \"1s\"\n", "run.watchdog: a task has its"),
        ("ready = \"started\"\n", "run.ready: a task is ready when"),
        ("liveness = {}\n", "run.liveness: a task has its"),
    ] {
        let said = report(&format!("{task}{text}"));
        assert!(said.contains(problem), "{problem} in {said}");
    }
    let said = report(&format!("{LEAST}type = \"foreign\"\nliveness = {{}}\n"));
    assert!(
        said.contains("needs one of `probe` and `command`"),
        "{said}"
    );
}

#[test]
fn a_service_asks_for_no_more_than_its_profile_gives() {
    let profiles = Profiles::check(
        std::path::Path::new("profiles.toml"),
        "[profiles.shared.limits]\nmemory-max = \"64MiB\"\npids-max = 20\ncpu-weight = 500\n",
        &[],
    )
    .unwrap();
    let shared = profiles.get("shared").unwrap().resources;
    assert_eq!(shared.memory_max, Some(64 << 20));
    assert_eq!(shared.cpu_weight, Some(500));
    let check = |limits: &str| {
        let text = format!("{LEAST}[run.limits]\n{limits}");
        let facts = Facts {
            subject: Subject::Release,
            profiles: &profiles,
            program: &|_| None,
        };
        check_manifest("s.toml", &text, &facts).map_err(|problems| problems.to_string())
    };
    let least = check("memory-max = \"64MiB\"\ncpu-max = \"800%\"\n").unwrap();
    assert_eq!(least.limits.resources.pids_max, None, "its profile's holds");
    let expected = "\
s.toml:7:14: run.limits.memory-max: more than 64MiB, which profile `shared` gives
s.toml:8:12: run.limits.pids-max: more than 20, which profile `shared` gives
s.toml:9:14: run.limits.cpu-weight: 101 is not between 1 and 100
s.toml:10:11: run.limits.cpu-max: `1.5` is no share of the processors
  hint: write percents of one processor, like \"50%\" or \"200%\"";
    let said =
        check("memory-max = \"65MiB\"\npids-max = 21\ncpu-weight = 101\ncpu-max = \"1.5\"\n");
    assert_eq!(said.unwrap_err(), expected);
}

/// The keys that the reader knows at the place of a key that it does not.
fn known(report: &str, path: &str) -> Vec<String> {
    let mut lines = report.lines();
    let place = format!(": {path}: unknown key");
    lines
        .find(|line| line.ends_with(&place))
        .unwrap_or_else(|| panic!("nothing about {path}: {report}"));
    let hint = lines.next().unwrap_or_default();
    let keys = hint.trim().strip_prefix("hint: known here: ");
    let keys = keys.unwrap_or_else(|| panic!("{path}: {hint}"));
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_reference_names_every_key_and_the_right_defaults() {
    let reference = include_str!("../../../docs/service.md");
    let text = r#"
nothing = 1
name = "kv"
version = "1.0.0"
[run]
nothing = 1
command = ["bin/kv"]
profile = "shared"
liveness = { nothing = 1 }
restarts = { nothing = 1 }
limits = { nothing = 1 }
output = { nothing = 1 }
[provides."kv@1"]
nothing = 1
limits = { nothing = 1 }
[requires."clock@1"]
nothing = 1
retries = { nothing = 1 }
breaker = { nothing = 1 }
[data]
nothing = 1
store = true
"#;
    let report = report(text);
    let mut count = 0;
    for table in [
        "",
        "run.",
        "run.liveness.",
        "run.restarts.",
        "run.limits.",
        "run.output.",
        "provides.\"kv@1\".",
        "provides.\"kv@1\".limits.",
        "requires.\"clock@1\".",
        "requires.\"clock@1\".retries.",
        "requires.\"clock@1\".breaker.",
        "data.",
    ] {
        for key in known(&report, &format!("{table}nothing")) {
            assert!(reference.contains(&format!("`{key}`")), "{table}{key}");
            count += 1;
        }
    }
    assert!(count > 60, "{count} keys");
    // What the reference says of times and sizes that are left out.
    let restarts = RestartLimits::default();
    let output = insula_core::spec::OutputSpec::default();
    let spec = check(LEAST).unwrap();
    let breaker = BreakerPolicy::default();
    let time = units::duration_text;
    for said in [
        format!("in a row (`{}`)", time(restarts.base)),
        format!("up to `longest-wait` (`{}`)", time(restarts.cap)),
        format!("the first one again (`{}`)", time(restarts.stable)),
        format!("never were ready ({})", restarts.start_tries),
        format!("more than `most` ends ({})", restarts.intensity),
        format!("`within` a time (`{}`)", time(restarts.window)),
        format!("until it is ready | `{}`", time(spec.ready_timeout)),
        format!("what it accepted | `{}`", time(spec.drain_timeout)),
        format!("all that it started | `{}`", time(spec.stop_timeout)),
        format!("`open-files` ({})", spec.limits.open_files),
        format!("of its user ({})", spec.limits.processes),
        format!(
            "`locked-memory` (`{}`)",
            units::size_text(spec.limits.locked_memory)
        ),
        format!(
            "`max-size` of a file (`{}`)",
            units::size_text(output.size_max)
        ),
        format!("of an instance ({})", output.files_max),
        format!("no daemon runs (`{}`)", units::size_text(output.pipe_size)),
        format!("`open-for` a time (`{}`)", time(breaker.open_for)),
        format!("`open-at-most` (`{}`)", time(breaker.open_at_most)),
        format!("`consecutive` misses ({})", breaker.consecutive),
    ] {
        assert!(reference.contains(&said), "{said}");
    }
}
