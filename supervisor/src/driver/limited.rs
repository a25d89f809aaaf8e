//! Who is limited how, for people.

use super::Driver;
use crate::cgroup;
use crate::limits::{Sight, Sights};

impl Driver {
    /// All processes with what limits them.
    pub(super) fn limited(&self) -> Sights {
        let mut sights = Sights::default();
        for service in self.core.services().values() {
            for process in service.processes() {
                let (Some(pid), Some(instance)) =
                    (process.pid, service.instance_of(process.attempt))
                else {
                    continue;
                };
                let spec = service.spec_of(process);
                let (_, holds) = self.resources(spec);
                let uid = service.uid.filter(|_| self.has_own_quota(spec));
                sights.instances.push(Sight {
                    instance,
                    attempt: process.attempt,
                    profile: spec.profile.clone(),
                    pid,
                    holds,
                    data: uid.and_then(|uid| self.quotas.usage(uid).ok()),
                    group: self.groups.as_ref().and_then(|of| of.path(process.attempt)),
                });
            }
        }
        let walls = [
            cgroup::report(self.groups.as_ref()),
            self.quotas.report(self.walls.has_own_uids()),
        ];
        let lacking = walls.into_iter().filter(|wall| !wall.holds);
        sights.not_enforced = lacking.map(|wall| wall.text).collect();
        sights
    }
}
