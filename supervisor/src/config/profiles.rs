//! `profiles.toml`: what the host gives to services, by the profile that they ask for.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use insula_core::limits::Resources;
use insula_core::placement::Policy;
use insula_core::spec::{Cpus, IdleSpec, PlaceSpec, ProfileSpec, Spin};
use thiserror::Error;

use super::document::{self, Section, Value};
use super::limits::{self, Whose};
use super::{Problems, places, units};
use crate::paths::Paths;

/// The profiles that are there without any file of the host's.
const SHIPPED: &str = include_str!("../../../profiles.toml");
/// The profile that a service gets whose own was taken away.
pub const FALLBACK: &str = "shared";
/// Shortest delay that others step aside for: a process that sleeps takes so long to wake up.
const QUEUE_DELAY_MIN: Duration = Duration::from_micros(100);
/// Shortest time after which a service counts as idle: shorter ones would have it come and go all
/// the time.
const IDLE_MIN: Duration = Duration::from_millis(100);
/// Longest spin: whoever wants more wants `forever`.
const SPIN_MAX: Duration = Duration::from_secs(1);

/// Why there are no profiles.
#[derive(Debug, Error)]
pub enum ProfilesError {
    /// The host's file is there and cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The CPUs that this process may use cannot be told.
    #[error("cannot tell which CPUs this host has")]
    Cpus(#[source] io::Error),
    /// What the file says is wrong.
    #[error("{0}")]
    Problems(Problems),
}

/// The host's profiles by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profiles {
    specs: BTreeMap<String, ProfileSpec>,
    policy: Policy,
}

impl Profiles {
    /// The shipped ones, with those of the host's `profiles.toml` over them.
    ///
    /// # Errors
    /// The file is there and cannot be read, or something in it is wrong.
    pub fn load(paths: &Paths) -> Result<Self, ProfilesError> {
        let path = paths.etc().join("profiles.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ProfilesError::Read { path, source }),
        };
        let cpus = usable_cpus().map_err(ProfilesError::Cpus)?;
        Self::check(&path, &text, &cpus).map_err(ProfilesError::Problems)
    }

    /// The shipped ones, with those of a host's file over them.
    ///
    /// # Errors
    /// Something in the text is wrong.
    pub fn of_text(file: &Path, text: &str) -> Result<Self, ProfilesError> {
        let cpus = usable_cpus().map_err(ProfilesError::Cpus)?;
        Self::check(file, text, &cpus).map_err(ProfilesError::Problems)
    }

    /// The shipped ones.
    pub fn shipped() -> Self {
        let none = Self {
            specs: BTreeMap::new(),
            policy: Policy::default(),
        };
        none.with("profiles.toml", SHIPPED, &[])
            .expect("a test reads the shipped profiles")
    }

    /// Checks a host's file, which may name these CPUs.
    pub(super) fn check(file: &Path, text: &str, cpus: &[usize]) -> Result<Self, Problems> {
        Self::shipped().with(&file.to_string_lossy(), text, cpus)
    }

    /// These, with those of `text` over them: a key that is not there keeps what it was.
    fn with(mut self, file: &str, text: &str, cpus: &[usize]) -> Result<Self, Problems> {
        let (found, policy) = document::read(file, text, |root| {
            let policy = root.optional("placement", self.policy.clone(), |value| {
                places::policy(value, &self.policy)
            });
            let found = root.optional("profiles", Vec::new(), |value| {
                value.entries(|name, profile| {
                    let spec = profile.section(|keys| read_profile(keys, self.get(name), cpus));
                    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                    if name.is_empty() || !name.chars().all(word) {
                        return profile.wrong("a name is lower-case letters, digits and hyphens");
                    }
                    Some((name.to_owned(), spec?))
                })
            });
            Some((found?, policy?))
        })?;
        self.specs.extend(found);
        self.policy = policy;
        Ok(self)
    }

    /// The profile of this name.
    pub fn get(&self, name: &str) -> Option<&ProfileSpec> {
        self.specs.get(name)
    }

    /// What a service gets whose own profile was taken away: `shared`.
    pub fn fallback(&self) -> &ProfileSpec {
        &self.specs[FALLBACK]
    }

    /// All by their names.
    pub fn specs(&self) -> &BTreeMap<String, ProfileSpec> {
        &self.specs
    }

    /// What the host keeps back, and promises twice.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.specs.keys().map(String::as_str)
    }
}

fn read_profile(
    keys: &Section<'_>,
    shipped: Option<&ProfileSpec>,
    usable: &[usize],
) -> Option<ProfileSpec> {
    let default = ProfileSpec {
        cpus: Cpus::All,
        spin: Spin::For(Duration::ZERO),
        best_effort: false,
        queue_delay: None,
        resources: Resources::default(),
        place: PlaceSpec::default(),
        idle: IdleSpec::default(),
    };
    let default = shipped.unwrap_or(&default);
    let cpus = keys.optional("cpus", default.cpus.clone(), |value| cpus(value, usable));
    let spin = keys.optional("spin", default.spin, spin);
    let best_effort = keys.optional("best-effort", default.best_effort, Value::boolean);
    let steps_aside = best_effort.unwrap_or(false);
    let inherited = default.queue_delay.filter(|_| !steps_aside);
    let queue_delay = keys.optional("queue-delay", inherited, |value| {
        if steps_aside && !value.is("any") {
            return value.wrong("a best-effort profile cannot ask others to step aside");
        }
        queue_delay(value)
    });
    let resources = keys.optional("limits", default.resources, |value| {
        value.section(|keys| limits::read(keys, default.resources, Whose::Profile))
    });
    let place = places::place(keys, &default.place, steps_aside);
    let dormant_after = keys.optional("dormant-after", default.idle.dormant_after, idle_time);
    let reclaim_after = keys.optional("reclaim-after", default.idle.reclaim_after, idle_time);
    Some(ProfileSpec {
        cpus: cpus?,
        spin: spin?,
        best_effort: best_effort?,
        queue_delay: queue_delay?,
        resources: resources?,
        place: place?,
        idle: IdleSpec {
            dormant_after: dormant_after?,
            reclaim_after: reclaim_after?,
        },
    })
}

fn cpus(value: &Value<'_>, usable: &[usize]) -> Option<Cpus> {
    if value.is_text() {
        return value.one_of(&[("all", ())]).map(|()| Cpus::All);
    }
    let mut list = value.list(|cpu| {
        let number = usize::try_from(cpu.integer(0..=65_535)?).ok()?;
        if usable.contains(&number) {
            Some(number)
        } else {
            cpu.wrong(format!(
                "no CPU {number}; usable on this host: {}",
                ranges(usable)
            ))
        }
    })?;
    list.sort_unstable();
    list.dedup();
    if list.is_empty() {
        value.wrong("names no CPU")
    } else {
        Some(Cpus::List(list))
    }
}

fn spin(value: &Value<'_>) -> Option<Spin> {
    if value.is("forever") {
        return Some(Spin::Forever);
    }
    let duration = duration(value)?;
    if duration > SPIN_MAX {
        return value.wrong_but(
            format!("longer than {}", units::duration_text(SPIN_MAX)),
            "write \"forever\" for a service that never parks",
        );
    }
    Some(Spin::For(duration))
}

fn queue_delay(value: &Value<'_>) -> Option<Option<Duration>> {
    if value.is("any") {
        return Some(None);
    }
    let delay = duration(value)?;
    if delay < QUEUE_DELAY_MIN {
        return value.wrong_but(
            format!("shorter than {}", units::duration_text(QUEUE_DELAY_MIN)),
            "write \"any\" where nobody has to step aside",
        );
    }
    Some(Some(delay))
}

/// How long nobody uses something: `None` for "never".
pub(super) fn idle_time(value: &Value<'_>) -> Option<Option<Duration>> {
    if value.is("never") {
        return Some(None);
    }
    let after = duration(value)?;
    if after < IDLE_MIN {
        return value.wrong_but(
            format!("shorter than {}", units::duration_text(IDLE_MIN)),
            "write \"never\" where it is to stay as it is",
        );
    }
    Some(Some(after))
}

/// A duration as text.
pub(super) fn duration(value: &Value<'_>) -> Option<Duration> {
    let text = value.text()?;
    units::duration(&text).or_else(|| {
        value.wrong_but(
            format!("`{text}` is no duration"),
            "write a whole number and its unit, like \"20us\", \"500ms\" or \"30s\"",
        )
    })
}

fn usable_cpus() -> io::Result<Vec<usize>> {
    let cores = core_affinity::get_core_ids().ok_or_else(io::Error::last_os_error)?;
    let mut cpus: Vec<_> = cores.into_iter().map(|core| core.id).collect();
    cpus.sort_unstable();
    Ok(cpus)
}

/// `0-3, 8` for ascending numbers.
fn ranges(numbers: &[usize]) -> String {
    let mut text: Vec<String> = Vec::new();
    for run in numbers.chunk_by(|a, b| a + 1 == *b) {
        text.push(match run {
            [only] => only.to_string(),
            run => format!("{}-{}", run[0], run[run.len() - 1]),
        });
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use insula_core::placement::{Numa, Smt, Whole};

    use super::*;

    #[test]
    fn the_shipped_profiles_are_there() {
        let profiles = Profiles::shipped();
        assert_eq!(
            profiles.names().collect::<Vec<_>>(),
            ["background", "dense", "latency", "shared"]
        );
        assert_eq!(
            profiles.get("dense").unwrap().spin,
            Spin::For(Duration::ZERO)
        );
        assert_eq!(profiles.fallback(), profiles.get("shared").unwrap());
    }

    #[test]
    fn a_host_changes_single_keys_and_adds_profiles() {
        let text = "[profiles.shared]\ncpus = [1, 0]\n[profiles.mine]\nspin = \"forever\"\n";
        let profiles = Profiles::check(Path::new("p.toml"), text, &[0, 1]).unwrap();
        let shipped = Profiles::shipped();
        let shared = profiles.get("shared").unwrap();
        assert_eq!(shared.cpus, Cpus::List(vec![0, 1]));
        assert_eq!(shared.spin, shipped.get("shared").unwrap().spin, "kept");
        let mine = ProfileSpec {
            cpus: Cpus::All,
            spin: Spin::Forever,
            best_effort: false,
            queue_delay: None,
            resources: Resources::default(),
            place: PlaceSpec::default(),
            idle: IdleSpec::default(),
        };
        assert_eq!(profiles.get("mine"), Some(&mine));
        assert_eq!(profiles.get("dense"), shipped.get("dense"));
    }

    #[test]
    fn everything_that_is_wrong_with_a_profile_is_said_at_once() {
        let text = "\
[profiles.shared]
cpus = [0, 7]
spin = 20
[profiles.BIG]
cpus = \"every\"
memori = \"1GiB\"
spin = \"2s\"
";
        let problems = Profiles::check(Path::new("p.toml"), text, &[0, 1, 4]).unwrap_err();
        let expected = "\
p.toml:2:12: profiles.shared.cpus[1]: no CPU 7; usable on this host: 0-1, 4
p.toml:3:8: profiles.shared.spin: expected a text, found a whole number
p.toml:4:11: profiles.BIG: a name is lower-case letters, digits and hyphens
p.toml:5:8: profiles.BIG.cpus: `every` is none of `all`
p.toml:6:1: profiles.BIG.memori: unknown key
  hint: known here: cpus, spin, best-effort, queue-delay, limits, cores, whole, smt, share, memory, numa, needs, dormant-after, reclaim-after
p.toml:7:8: profiles.BIG.spin: longer than 1s
  hint: write \"forever\" for a service that never parks";
        assert_eq!(problems.to_string(), expected);
    }

    #[test]
    fn a_profile_says_what_each_instance_is_promised() {
        let text = r#"
[placement]
keep-cores = 2
keep-memory = "1GiB"
shared-percent = 150
labels = ["ssd"]
[profiles.alone]
cores = 2
whole = "l3"
smt = "own"
memory = "4GiB"
numa = "bind"
needs = ["ssd", "numa"]
[profiles.shared]
share = 250
"#;
        let profiles = Profiles::check(Path::new("p.toml"), text, &[0]).unwrap();
        let alone = PlaceSpec {
            cores: 2,
            whole: Whole::L3,
            smt: Smt::Own,
            share: 0,
            memory: 4 << 30,
            numa: Numa::Bind,
            needs: ["numa".to_owned(), "ssd".to_owned()].into(),
        };
        assert_eq!(profiles.get("alone").unwrap().place, alone);
        assert_eq!(profiles.get("shared").unwrap().place.share, 250);
        assert_eq!(profiles.get("dense").unwrap().place, PlaceSpec::default());
        let policy = Policy {
            keep_cores: 2,
            keep_memory: 1 << 30,
            shared_percent: 150,
            labels: ["ssd".to_owned()].into(),
            ..Policy::default()
        };
        assert_eq!(profiles.policy(), &policy);
    }

    #[test]
    fn a_promise_that_makes_no_sense_is_refused() {
        let text = r#"
[placement]
keep-cores = 0
[profiles.a]
cores = 1
share = 500
[profiles.background]
cores = 1
[profiles.b]
memory = "much"
numa = "near"
needs = ["SSD"]
"#;
        let problems = Profiles::check(Path::new("p.toml"), text, &[0]).unwrap_err();
        let expected = "\
p.toml:3:14: placement.keep-cores: 0 is not between 1 and 8192
p.toml:6:9: profiles.a.share: a profile has cores of its own or a share, not both
p.toml:8:9: profiles.background.cores: a best-effort profile cannot have cores of its own
p.toml:10:10: profiles.b.memory: `much` is no size
  hint: write a whole number and its unit, like \"512MiB\" or \"4GiB\"
p.toml:11:8: profiles.b.numa: `near` is none of `any`, `local`, `bind`, `interleave`, `spread`
p.toml:12:10: profiles.b.needs[0]: a label is lower-case letters, digits and hyphens";
        assert_eq!(problems.to_string(), expected);
    }
}
