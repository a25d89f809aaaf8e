//! The releases of the simulated host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use insula_contract::id::ContractId;
use insula_core::restart::RestartLimits;
use insula_core::spec::{
    DataSpec, Kind, Limits, Liveness, Need, Network, Offer, Principal, Probe, Readiness,
    RestartPolicy, ServiceSpec,
};
use semver::Version;

pub(super) fn spec(
    name: &str,
    version: (u64, u64),
    provides: &[&str],
    requires: &[&str],
) -> ServiceSpec {
    let contract = |text: &&str| text.parse::<ContractId>().unwrap();
    ServiceSpec {
        name: name.parse().unwrap(),
        version: Version::new(version.0, version.1, 0),
        description: String::new(),
        command: vec!["x".into()],
        kind: match name {
            "guest" => Kind::Foreign(Readiness::Notify),
            "task" => Kind::Task,
            _ => Kind::Native,
        },
        sockets: BTreeMap::new(),
        // Only hosts that are known have more than the one profile.
        profile: match (name, version.0) {
            ("middle", 1) | ("front", _) => "alone",
            ("middle", _) => "pair",
            ("guest", _) => "share",
            _ => "dense",
        }
        .into(),
        ready_timeout: Duration::from_millis(300),
        drain_timeout: Duration::from_millis(100),
        stop_timeout: Duration::from_millis(100),
        stop_signal: 15,
        instances: if name == "middle" {
            version.0 as u16 + 1
        } else {
            1
        },
        // The front is asked whether it works, and so is the guest; both are made ready first.
        before_start: match name {
            "guest" => vec![vec!["a".into()], vec!["b".into()]],
            "front" => vec![vec!["a".into()]],
            _ => vec![],
        },
        liveness: matches!(name, "guest" | "front").then(|| Liveness {
            probe: Probe::Tcp(([127, 0, 0, 1], 1).into()),
            every: Duration::from_secs(5),
            timeout: Duration::from_millis(500),
            failures: 2,
        }),
        watchdog: match name {
            "guest" => Some(Duration::from_secs(3)),
            "store" => None,
            _ => Some(Duration::from_millis(400)),
        },
        // The front is given up when it ends too often; the others come back for ever.
        restarts: match name {
            "front" => RestartLimits::default(),
            _ => RestartLimits {
                intensity: 1_000_000,
                start_tries: 1_000_000,
                ..RestartLimits::default()
            },
        },
        host: Default::default(),
        after: match name {
            "guest" => BTreeSet::from(["task".parse().unwrap(), "store".parse().unwrap()]),
            "middle" => BTreeSet::from(["task".parse().unwrap()]),
            _ => BTreeSet::new(),
        },
        autostart: true,
        restart: RestartPolicy::Always,
        expected_exit_codes: BTreeSet::from([0]),
        network: Network::None,
        listen: if name == "front" { vec![80] } else { vec![] },
        environment: BTreeMap::new(),
        limits: Limits::default(),
        output: Default::default(),
        provides: provides
            .iter()
            .map(|c| {
                (
                    contract(c),
                    Offer {
                        allow: vec![Principal::Anyone],
                        limits: Default::default(),
                    },
                )
            })
            .collect(),
        requires: requires
            .iter()
            .map(|c| (contract(c), Need::default()))
            .collect(),
        data: (name == "store").then_some(DataSpec {
            schema: 1,
            size_max: 1,
        }),
        dormancy: Default::default(),
    }
}
