//! What limits services, and what this host cannot enforce of it.

use insula_core::limits::Resources;
use insula_core::report;
use insula_core::spec::ServiceSpec;

use super::Driver;
use crate::config::units::size_text;
use crate::quota::{Bounds, Usage};

impl Driver {
    /// What holds of a release: what its profile gives, and less where it asks for less.
    pub(super) fn resources(&self, spec: &ServiceSpec) -> (Resources, Resources) {
        let given = self
            .profiles
            .get(&spec.profile)
            .unwrap_or_else(|| self.profiles.fallback())
            .resources;
        (given, spec.limits.resources.under(&given))
    }

    /// Which of a release's limits this host cannot enforce.
    pub(super) fn lacking(&self, spec: &ServiceSpec) -> Vec<String> {
        let (given, holds) = self.resources(spec);
        let mut lacking = crate::cgroup::lacking(self.groups.as_ref(), &given, &holds);
        if !(self.has_own_quota(spec) && self.quotas.are_enforced()) {
            let asked = [
                ("data-max", holds.data_max),
                ("data-files-max", holds.data_files_max),
            ];
            let asked = asked.into_iter().filter(|(_, bound)| bound.is_some());
            lacking.extend(asked.map(|(key, _)| key.to_owned()));
        }
        lacking
    }

    /// Whether the user that a release runs as is nobody else's, so that its quota is, too.
    pub(super) fn has_own_quota(&self, spec: &ServiceSpec) -> bool {
        self.walls.has_own_uids() && spec.host.user.is_none()
    }

    /// Bounds what a service keeps on the disk, or takes back what bounded it before.
    pub(super) fn bound_data(&self, spec: &ServiceSpec, uid: Option<u32>) -> std::io::Result<()> {
        let Some(uid) = uid.filter(|_| self.has_own_quota(spec)) else {
            return Ok(());
        };
        let (_, holds) = self.resources(spec);
        let bounds = Bounds {
            bytes: holds.data_max,
            files: holds.data_files_max,
        };
        if bounds != Bounds::default() && !self.quotas.are_enforced() {
            return Ok(());
        }
        self.quotas.bound(uid, bounds)
    }

    /// Tells of limits that are set and not enforced, and of disks that are full.
    pub(super) fn add_remarks(&self, rows: &mut [report::Row]) {
        for row in rows {
            let Some(service) = self.core.services().get(&row.name) else {
                continue;
            };
            let Some(spec) = service.releases.get(&row.version) else {
                continue;
            };
            let lacking = self.lacking(spec);
            if row.pid.is_some() && !lacking.is_empty() {
                remark(
                    row,
                    format!("not enforced on this host: {}", lacking.join(", ")),
                );
            }
            let (_, holds) = self.resources(spec);
            let bounded = holds.data_max.is_some() || holds.data_files_max.is_some();
            if bounded && let Some(uid) = service.uid.filter(|_| self.has_own_quota(spec)) {
                let usage = self.quotas.usage(uid).ok();
                if let Some(usage) = usage.filter(Usage::is_full) {
                    remark(row, full(&usage));
                }
            }
        }
    }
}

fn remark(row: &mut report::Row, text: String) {
    row.reason = match row.reason.take() {
        Some(reason) => Some(format!("{reason}; {text}")),
        None => Some(text),
    };
}

fn full(usage: &Usage) -> String {
    let most = |bound: Option<u64>, text: fn(u64) -> String| bound.map_or("any".to_owned(), text);
    format!(
        "its data is full: {} of {} on the disk, {} of {} files",
        size_text(usage.bytes),
        most(usage.bounds.bytes, size_text),
        usage.files,
        most(usage.bounds.files, |files| files.to_string()),
    )
}
