//! `service.toml`: what a release says of itself; and what the host says of a service.

use std::collections::{BTreeMap, BTreeSet};

use insula_contract::id::{ContractId, ServiceName};
use insula_core::spec::{DataSpec, Dormancy, Kind, Need, Offer, ServiceSpec};
use semver::Version;

use super::document::{self, Section, Value};
use super::run::{self, Run};
use super::{Problems, Profiles, edges, units};

/// The manifest's name in a release.
pub const MANIFEST: &str = "service.toml";

/// Smallest and largest store.
const STORE: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 44;
/// The version of what only the host's file defines.
const DEFINED: Version = Version::new(0, 0, 0);

/// What a text is about.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A release; the text lies in it.
    Release,
    /// A service that only the host's file defines; its program is one of the host's.
    Defined(&'a ServiceName),
    /// What the host wants otherwise of an installed release: a key that is not there keeps what
    /// the release says.
    Override(&'a ServiceSpec),
}

impl<'a> Subject<'a> {
    /// What holds where the text says nothing.
    pub(super) fn base(self) -> Option<&'a ServiceSpec> {
        match self {
            Self::Override(spec) => Some(spec),
            Self::Release | Self::Defined(_) => None,
        }
    }
}

/// What a manifest is checked against.
pub struct Facts<'a> {
    /// What it is about.
    pub subject: Subject<'a>,
    /// The host's profiles.
    pub profiles: &'a Profiles,
    /// Why the release's file of this name cannot be run; `None` if it can.
    pub program: &'a dyn Fn(&str) -> Option<String>,
}

/// Checks the text of a manifest, which a person knows as `file`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_manifest(file: &str, text: &str, facts: &Facts<'_>) -> Result<ServiceSpec, Problems> {
    let base = facts.subject.base();
    document::read(file, text, |root| {
        let (name, version) = identity(root, facts.subject);
        let was = base.map_or_else(String::new, |base| base.description.clone());
        let description = root.optional("description", was, Value::text);
        let run = match base {
            Some(base) => root.optional("run", Run::of(base), |value| {
                value.section(|run| run::read(run, facts))
            }),
            None => root.required("run", |value| value.section(|run| run::read(run, facts))),
        };
        let provides = provides(root, base);
        let requires = requires(root, base);
        let was = base.map_or_else(BTreeSet::new, |base| base.after.clone());
        let after = root.optional("after", was, |value| {
            let names: Vec<ServiceName> = value.list(Value::parsed)?;
            Some(names.into_iter().collect())
        });
        let several = run.as_ref().is_some_and(|run| run.instances > 1);
        let data = root.optional("data", base.and_then(|base| base.data.clone()), |value| {
            if several {
                return value.wrong_but(
                    "a store is written by one process at a time",
                    "set `instances = 1`, or keep the data in a service of its own",
                );
            }
            if base.is_some() {
                return value.wrong("the data of a release is its own to describe");
            }
            value.section(read_data)
        });
        let (run, provides, requires) = (run?, provides?, requires?);
        let speaks = !provides.is_empty() || !requires.is_empty() || data != Some(None);
        if run.kind != Kind::Native && speaks {
            return root.find("run")?.wrong_but(
                "a foreign program or a task has no contracts and no store of Insula's",
                "leave out `provides`, `requires` and `data`",
            );
        }
        if run.instances > 1 && data.as_ref().is_some_and(Option::is_some) {
            return root
                .find("run")?
                .wrong("a store is written by one process at a time");
        }
        let spec = ServiceSpec {
            name: name?,
            version: version?,
            description: description?,
            command: run.command,
            kind: run.kind,
            before_start: run.before_start,
            liveness: run.liveness,
            watchdog: run.watchdog,
            restarts: run.restarts,
            profile: run.profile,
            sockets: run.sockets,
            instances: run.instances,
            ready_timeout: run.ready_timeout,
            drain_timeout: run.drain_timeout,
            stop_timeout: run.stop_timeout,
            stop_signal: run.stop_signal,
            autostart: run.autostart,
            restart: run.restart,
            expected_exit_codes: run.expected_exit_codes,
            network: run.network,
            listen: run.listen,
            environment: run.environment,
            host: run.host,
            limits: run.limits,
            output: run.output,
            provides,
            requires,
            after: after?,
            data: data?,
            dormancy: run.dormancy,
        };
        if let (Dormancy::After(_), Some(why)) = (spec.dormancy, spec.never_wakes()) {
            let text = format!("`dormant-after`: once put away it would stay so: {why}");
            return root
                .find("run")?
                .wrong_but(text, "write `dormant-after = \"never\"`, or leave it out");
        }
        Some(spec)
    })
}

/// Whose release a text is about, and which.
fn identity(root: &Section<'_>, subject: Subject<'_>) -> (Option<ServiceName>, Option<Version>) {
    let same = |own: &ServiceName| {
        root.optional("name", own.clone(), |value| {
            let name: ServiceName = value.parsed()?;
            if name == *own {
                Some(name)
            } else {
                value.wrong(format!("the file is that of `{own}`"))
            }
        })
    };
    match subject {
        Subject::Release => (
            root.required("name", Value::parsed),
            root.required("version", Value::parsed),
        ),
        Subject::Defined(name) => (
            same(name),
            root.optional("version", DEFINED, |value| {
                value.wrong("what has no release has no version")
            }),
        ),
        Subject::Override(base) => (
            same(&base.name),
            root.optional("version", base.version.clone(), |value| {
                value.wrong("`insulactl upgrade` chooses the release")
            }),
        ),
    }
}

fn provides(root: &Section<'_>, base: Option<&ServiceSpec>) -> Option<BTreeMap<ContractId, Offer>> {
    let was = base.map_or_else(BTreeMap::new, |base| base.provides.clone());
    root.optional("provides", was, |value| {
        let said = edges::contracts(value, edges::offer)?;
        match base {
            None => Some(said),
            Some(base) => over(value, &base.provides, said, "provides"),
        }
    })
}

fn requires(root: &Section<'_>, base: Option<&ServiceSpec>) -> Option<BTreeMap<ContractId, Need>> {
    let was = base.map_or_else(BTreeMap::new, |base| base.requires.clone());
    root.optional("requires", was, |value| {
        let said = edges::contracts(value, edges::need)?;
        match base {
            None => Some(said),
            Some(base) => over(value, &base.requires, said, "requires"),
        }
    })
}

/// What is said of some contracts, over what a release says of them.
fn over<T: Clone>(
    value: &Value<'_>,
    base: &BTreeMap<ContractId, T>,
    said: BTreeMap<ContractId, T>,
    what: &str,
) -> Option<BTreeMap<ContractId, T>> {
    if let Some(contract) = said.keys().find(|contract| !base.contains_key(contract)) {
        return value.wrong(format!("no installed release {what} {contract}"));
    }
    let mut all = base.clone();
    all.extend(said);
    Some(all)
}

fn read_data(data: &Section<'_>) -> Option<Option<DataSpec>> {
    let store = data.required("store", Value::boolean);
    let schema = data.optional("schema", 1, |value| {
        u32::try_from(value.integer(1..=i64::from(u32::MAX))?).ok()
    });
    let size_max = data.optional("size-max", 1 << 30, |value| {
        let text = value.text()?;
        match units::size(&text) {
            Some(bytes) if STORE.contains(&bytes) => Some(bytes),
            Some(_) => {
                let [least, most] =
                    [STORE.start(), STORE.end()].map(|size| units::size_text(*size));
                value.wrong(format!("{text} is not between {least} and {most}"))
            }
            None => value.wrong_but(
                format!("`{text}` is no size"),
                "write a whole number and its unit, like \"512MiB\" or \"4GiB\"",
            ),
        }
    });
    let spec = DataSpec {
        schema: schema?,
        size_max: size_max?,
    };
    Some(store?.then_some(spec))
}
