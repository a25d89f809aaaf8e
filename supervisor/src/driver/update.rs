//! `update`: what the host's files say, compared with what holds; only what changed is applied, and
//! only what must is restarted.
//!
//! Everything is checked first, on a copy of the core: a mistake anywhere leaves all as it was.
//! What holds from then on is stored before it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use insula_contract::id::ServiceName;
use insula_core::event::{Done, Event, Order, Refusal, RequestId};
use insula_core::service::Goal;
use insula_core::spec::{IdleSpec, ServiceSpec};
use semver::Version;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Driver, DriverError, now, setup};
use crate::config::{Applied, Facts, HostFiles, Installed, Profiles, Subject, Wanted};

/// Where what holds is kept, below the directory of the ledger.
pub(crate) const APPLIED: &str = "applied.json";

/// What is done about a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It is new, and is started.
    Start,
    /// It is new, and stays down.
    Add,
    /// Its processes are replaced.
    Restart,
    /// The change holds at once, or from the next start on.
    Apply,
    /// It is stopped and forgotten.
    Remove,
}

/// A service that is otherwise than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// Which.
    pub name: ServiceName,
    /// What is done.
    pub effect: Effect,
    /// The keys whose values changed.
    pub keys: Vec<String>,
    /// What came of it, once that is known; the refusal's text where it failed.
    pub outcome: Option<Result<Done, String>>,
}

/// What came of an update, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UpdateReport {
    /// Everything that is wrong, a text of one or more lines each; then nothing changed.
    pub problems: Vec<String>,
    /// What changed, by name.
    pub changes: Vec<Change>,
}

/// An update that was begun.
#[derive(Debug, Default)]
pub struct Updated {
    report: UpdateReport,
    pending: BTreeMap<usize, oneshot::Receiver<Result<Done, Refusal>>>,
}

impl Updated {
    /// Waits until everything holds, or cannot.
    pub async fn wait(mut self) -> UpdateReport {
        for (index, answer) in self.pending {
            self.report.changes[index].outcome = Some(match answer.await {
                Ok(Ok(done)) => Ok(done),
                Ok(Err(refusal)) => Err(refusal.text),
                Err(_) => Err("the daemon is ending".to_owned()),
            });
        }
        self.report
    }
}

/// What an update comes to.
struct Plan {
    files: HostFiles,
    wanted: Wanted,
    steps: Vec<Step>,
}

enum Step {
    Define(Box<ServiceSpec>),
    Configure {
        specs: Vec<ServiceSpec>,
        restart: bool,
        change: Change,
    },
    Retire(ServiceName),
}

impl Step {
    fn change(&self) -> Change {
        let (name, effect) = match self {
            Self::Define(spec) if spec.autostart => (&spec.name, Effect::Start),
            Self::Define(spec) => (&spec.name, Effect::Add),
            Self::Configure { change, .. } => return change.clone(),
            Self::Retire(name) => (name, Effect::Remove),
        };
        Change {
            name: name.clone(),
            effect,
            keys: Vec::new(),
            outcome: None,
        }
    }
}

impl Driver {
    /// Takes in what the host's files say, or only tells what that would come to.
    pub(super) fn update(&mut self, dry_run: bool) -> Result<Updated, DriverError> {
        let Plan {
            files,
            wanted,
            steps,
        } = match self.plan() {
            Ok(plan) => plan,
            Err(problems) => {
                if !dry_run {
                    self.tell_mistakes(problems.len());
                }
                return Ok(Updated {
                    report: UpdateReport {
                        problems,
                        changes: Vec::new(),
                    },
                    ..Updated::default()
                });
            }
        };
        let mut updated = Updated::default();
        updated.report.changes = steps.iter().map(Step::change).collect();
        if dry_run {
            return Ok(updated);
        }
        self.tell_mistakes(0);
        self.hold(files, wanted, &steps)?;
        for (index, step) in steps.into_iter().enumerate() {
            let (reply, answer) = oneshot::channel();
            let request = self.request(reply);
            if let Some(event) = self.begin(step, request)? {
                self.turn(event)?;
                updated.pending.insert(index, answer);
            }
        }
        self.watch_idle_anew()?;
        Ok(updated)
    }

    /// Says in the unit's status how many mistakes the host's files have.
    fn tell_mistakes(&mut self, mistakes: usize) {
        self.mistakes = mistakes;
        self.unit.note();
    }

    /// Begins a step; the event that it comes to, if somebody is to wait for it.
    fn begin(&mut self, step: Step, request: RequestId) -> Result<Option<Event>, DriverError> {
        Ok(match step {
            Step::Define(spec) => {
                let (service, start) = (spec.name.clone(), spec.autostart);
                self.turn(Event::Installed { spec })?;
                start.then_some(Event::Ordered {
                    request,
                    service,
                    order: Order::Start,
                })
            }
            Step::Configure { specs, restart, .. } => Some(Event::Configured {
                request,
                specs,
                restart,
            }),
            Step::Retire(service) => Some(Event::Retired { request, service }),
        })
    }

    /// Stores what holds from now on, and the profiles with it.
    fn hold(
        &mut self,
        files: HostFiles,
        wanted: Wanted,
        steps: &[Step],
    ) -> Result<(), DriverError> {
        let mut retired: BTreeSet<ServiceName> = self
            .applied
            .retired
            .iter()
            .filter(|name| self.core.services().contains_key(*name))
            .cloned()
            .collect();
        retired.extend(steps.iter().filter_map(|step| match step {
            Step::Retire(name) => Some(name.clone()),
            Step::Define(_) | Step::Configure { .. } => None,
        }));
        let released: BTreeMap<(ServiceName, Version), ServiceSpec> = self
            .depot
            .specs()
            .into_iter()
            .map(|spec| ((spec.name.clone(), spec.version.clone()), spec))
            .collect();
        let changed = wanted.specs.into_iter();
        let changed = changed.filter(|(key, spec)| released.get(key) != Some(spec));
        let gone = self.applied.specs.iter();
        let gone = gone.filter(|spec| retired.contains(&spec.name)).cloned();
        let specs = changed.map(|(_, spec)| spec).chain(gone).collect();
        let applied = Applied {
            files,
            specs,
            retired,
        };
        if applied != self.applied {
            applied
                .store(&self.paths.lib().join(APPLIED))
                .map_err(setup("keep what the host's files say"))?;
            self.applied = applied;
        }
        self.core.set_profiles(wanted.profiles.specs().clone());
        self.profiles = wanted.profiles;
        Ok(())
    }

    /// Compares what the files say with what holds.
    fn plan(&self) -> Result<Plan, Vec<String>> {
        let files = HostFiles::read(self.paths.etc())?;
        let releases = self.depot.specs();
        let depot = &self.depot;
        let installed: Vec<Installed<'_>> = releases
            .iter()
            .map(|spec| Installed {
                spec,
                program: Box::new(|program| {
                    depot.why_no_program(&spec.name, &spec.version, program)
                }),
            })
            .collect();
        let wanted = files.resolve(self.paths.etc(), &installed)?;
        let mut problems = Vec::new();
        let mut steps = Vec::new();
        let mut changed: BTreeMap<&ServiceName, Vec<&ServiceSpec>> = BTreeMap::new();
        for spec in wanted.specs.values() {
            changed.entry(&spec.name).or_default().push(spec);
        }
        for (name, specs) in changed {
            let Some(service) = self.core.services().get(name) else {
                let Some(spec) = specs.first().filter(|_| wanted.defined.contains(name)) else {
                    continue;
                };
                steps.push(Step::Define(Box::new((*spec).clone())));
                continue;
            };
            if self.applied.retired.contains(name) {
                problems.push(format!(
                    "{name} is being removed: try again when it is down"
                ));
                continue;
            }
            let specs: Vec<ServiceSpec> = specs
                .into_iter()
                .filter(|spec| service.releases.get(&spec.version).map(Arc::as_ref) != Some(*spec))
                .cloned()
                .collect();
            let new = specs.iter().find(|spec| spec.version == service.active);
            let new = new.unwrap_or_else(|| service.spec()).clone();
            let profile = differ(&self.profiles, &wanted.profiles, &new.profile);
            if specs.is_empty() && !profile {
                continue;
            }
            let restart = (profile || !service.spec().runs_as(&new)) && service.goal == Goal::Up;
            if restart && service.rollout.is_some() {
                problems.push(format!(
                    "{name} is being upgraded or restarted: try again when that is done"
                ));
            }
            let mut keys = keys(service.spec(), &new);
            if profile && !keys.iter().any(|key| key == "profile") {
                keys.push(format!("profile {}", new.profile));
            }
            let change = Change {
                name: name.clone(),
                effect: if restart {
                    Effect::Restart
                } else {
                    Effect::Apply
                },
                keys,
                outcome: None,
            };
            let mut all = specs;
            if all.is_empty() {
                all.push(new);
            }
            steps.push(Step::Configure {
                specs: all,
                restart: profile,
                change,
            });
        }
        // What only a file defined goes with it.
        for spec in &self.applied.specs {
            let defined = depot.directory(&spec.name, &spec.version).is_none();
            let known = self.core.services().contains_key(&spec.name);
            let gone = !wanted.defined.contains(&spec.name);
            if defined && known && gone && !self.applied.retired.contains(&spec.name) {
                steps.push(Step::Retire(spec.name.clone()));
            }
        }
        problems.extend(self.objections(&steps));
        if problems.is_empty() {
            Ok(Plan {
                files,
                wanted,
                steps,
            })
        } else {
            Err(problems)
        }
    }

    /// What speaks against some steps, once all of them are taken.
    fn objections(&self, steps: &[Step]) -> Vec<String> {
        let mut trial = self.core.clone();
        let mut new = Vec::new();
        for step in steps {
            let event = match step {
                Step::Define(spec) => {
                    new.push(spec.as_ref());
                    Event::Installed { spec: spec.clone() }
                }
                Step::Configure { specs, .. } => {
                    new.extend(specs);
                    Event::Configured {
                        request: RequestId(0),
                        specs: specs.clone(),
                        restart: false,
                    }
                }
                Step::Retire(service) => Event::Retired {
                    request: RequestId(0),
                    service: service.clone(),
                },
            };
            // It is only looked at.
            let _ = trial.handle(now(), event);
        }
        new.into_iter()
            .flat_map(|spec| trial.check_install(spec))
            .collect()
    }

    /// A release that is being installed, as the host wants it.
    pub(super) fn as_wanted(&self, spec: &ServiceSpec) -> Result<ServiceSpec, Vec<String>> {
        let name = &spec.name;
        let defined = self.core.services().get(name).is_some_and(|service| {
            let mut versions = service.releases.keys();
            versions.any(|version| self.depot.directory(name, version).is_none())
        });
        let file = self
            .paths
            .etc()
            .join("services")
            .join(format!("{name}.toml"));
        if defined {
            return Err(vec![format!(
                "`{name}` is defined by {}: remove it and say `insulactl update` first",
                file.display()
            )]);
        }
        let Some(text) = self.applied.files.services.get(name) else {
            return Ok(spec.clone());
        };
        // Its own program was checked already; another one is checked when it is there.
        let nothing = |_: &str| None;
        let facts = Facts {
            subject: Subject::Override(spec),
            profiles: &self.profiles,
            program: &nothing,
        };
        crate::config::check_manifest(&file.to_string_lossy(), text, &facts)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    /// Goes on with removals that an earlier daemon began.
    pub(super) fn retire_again(&mut self) -> Result<(), DriverError> {
        for service in self.applied.retired.clone() {
            let (reply, _) = oneshot::channel();
            let request = self.request(reply);
            self.turn(Event::Retired { request, service })?;
        }
        Ok(())
    }

    /// Takes in what was changed while no daemon ran; mistakes are told and change nothing.
    pub(super) fn update_at_start(&mut self) -> Result<(), DriverError> {
        let updated = self.update(false)?;
        for problem in updated.report.problems {
            tracing::error!("the host's files are not taken in: {problem}");
        }
        for change in updated.report.changes {
            tracing::info!(
                "{}: {:?} ({})",
                change.name,
                change.effect,
                change.keys.join(", ")
            );
        }
        Ok(())
    }
}

/// Whether a profile is another one than before.
fn differ(before: &Profiles, after: &Profiles, name: &str) -> bool {
    // What becomes of an idle service is not its processes' affair.
    let of = |profiles: &Profiles| {
        let mut spec = profiles.get(name)?.clone();
        spec.idle = IdleSpec::default();
        Some(spec)
    };
    of(before) != of(after)
}

/// The keys of a spec whose values are not the same.
fn keys(before: &ServiceSpec, after: &ServiceSpec) -> Vec<String> {
    let [before, after] =
        [before, after].map(|spec| serde_json::to_value(spec).unwrap_or_default());
    let (Some(before), Some(after)) = (before.as_object(), after.as_object()) else {
        return Vec::new();
    };
    after
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(value))
        .map(|(key, _)| key.replace('_', "-"))
        .collect()
}
