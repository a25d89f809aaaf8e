//! Limits of a process and all that it starts, which the kernel enforces by its cgroup, and of what
//! its user keeps on the disk, which it enforces by quotas.
//!
//! A profile says what each of its services may have; a service may ask for less.

use serde::{Deserialize, Serialize};

/// What may be used; `None` sets no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes of memory from which on it is slowed down and its memory taken back.
    pub memory_high: Option<u64>,
    /// Bytes of memory beyond which it is killed as a whole.
    pub memory_max: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u64>,
    /// Time of processors, in thousandths of one.
    pub cpu_max: Option<u64>,
    /// Share of the processors when they are all busy, from 1 to 10,000. Of a profile: all its
    /// services together, beside other profiles. Of a service: each instance, beside others of the
    /// profile, which have 100.
    pub cpu_weight: Option<u64>,
    /// The same of the disks.
    pub io_weight: Option<u64>,
    /// Bytes that the service's user may have on the file system of the data: all instances together.
    pub data_max: Option<u64>,
    /// Files, directories and links, likewise.
    pub data_files_max: Option<u64>,
}

impl Resources {
    /// What holds of each instance that asks for this under a profile: the smaller of both, and its
    /// own weights.
    pub fn under(&self, profile: &Self) -> Self {
        let least = |own: Option<u64>, given: Option<u64>| match (own, given) {
            (Some(own), Some(given)) => Some(own.min(given)),
            (own, given) => own.or(given),
        };
        Self {
            memory_high: least(self.memory_high, profile.memory_high),
            memory_max: least(self.memory_max, profile.memory_max),
            pids_max: least(self.pids_max, profile.pids_max),
            cpu_max: least(self.cpu_max, profile.cpu_max),
            cpu_weight: self.cpu_weight,
            io_weight: self.io_weight,
            data_max: least(self.data_max, profile.data_max),
            data_files_max: least(self.data_files_max, profile.data_files_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_gets_no_more_than_its_profile_gives() {
        let profile = Resources {
            memory_max: Some(100),
            pids_max: Some(10),
            cpu_weight: Some(500),
            ..Resources::default()
        };
        let own = Resources {
            memory_max: Some(200),
            cpu_max: Some(1_500),
            cpu_weight: Some(50),
            ..Resources::default()
        };
        let holds = Resources {
            memory_max: Some(100),
            pids_max: Some(10),
            cpu_max: Some(1_500),
            cpu_weight: Some(50),
            ..Resources::default()
        };
        assert_eq!(own.under(&profile), holds);
    }
}
