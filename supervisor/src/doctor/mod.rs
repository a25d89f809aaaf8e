//! What this host gives to services, what it lacks, and how to mend it.
//!
//! ```text
//! Walls (tried by the daemon, or by who asks) -+
//! files below a root (/proc, /sys, /etc) ------+-> Host -> findings, group by group
//! sizes of file systems, the name service -----+
//! ```
//!
//! All that a file tells is read below a root, so that other hosts can be looked at as directories;
//! what no file tells is handed in. The findings change nothing. What is required is that without
//! which services are not apart from each other or cannot be started at all; the rest costs speed,
//! room or convenience, and each finding says which.

mod cgroups;
mod host;
mod limits;
mod memory;
mod places;
mod systemd;
mod walls;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use host::{Host, Known, LookError};

/// For so many services the limits of a host are looked at, unless told otherwise.
pub const SERVICES: u64 = 1_000;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// What this version of Linux can do.
    Kernel,
    /// What keeps services apart.
    Walls,
    /// What bounds what they use.
    Cgroups,
    /// Memory and NUMA nodes.
    Memory,
    /// How many there can be of something.
    Limits,
    /// Where things lie.
    FileSystems,
    /// The daemon as a service of systemd.
    Systemd,
}

impl Group {
    /// Its heading.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Walls => "walls",
            Self::Cgroups => "cgroups",
            Self::Memory => "memory and NUMA",
            Self::Limits => "limits",
            Self::FileSystems => "file systems",
            Self::Systemd => "systemd",
        }
    }
}

/// Whether the host gives something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Verdict {
    /// It does.
    Ok,
    /// It does not.
    Missing {
        /// Whether services are not apart, or cannot be started, without it.
        required: bool,
        /// A command, a setting or a kernel that mends it.
        mend: String,
    },
}

/// One thing that a host gives or lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// What it is about.
    pub group: Group,
    /// What it is called; one word.
    pub name: String,
    /// Whether it is there.
    pub verdict: Verdict,
    /// What is found, and what it is for.
    pub text: String,
}

impl Finding {
    /// Whether a thing is missing that is required.
    pub fn is_grave(&self) -> bool {
        matches!(self.verdict, Verdict::Missing { required: true, .. })
    }

    /// Whether it is missing at all.
    pub fn is_missing(&self) -> bool {
        self.verdict != Verdict::Ok
    }
}

/// Who looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The daemon: what holds for its services.
    Insulad,
    /// Who asked, since no daemon answers: what would hold for a daemon of the same user.
    Insulactl,
}

/// What `doctor` tells; the number changes when a field changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// 1.
    pub schema: u32,
    /// Who looked.
    pub by: By,
    /// The user id of who looked.
    pub uid: u32,
    /// How many services the limits are held against.
    pub services: u64,
    /// In the order of their groups.
    pub findings: Vec<Finding>,
}

/// Looks at a host.
pub fn examine(host: &Host) -> Report {
    let mut findings = walls::findings(host);
    findings.extend(cgroups::findings(host));
    findings.extend(memory::findings(host));
    findings.extend(limits::findings(host));
    findings.extend(places::findings(host));
    findings.extend(systemd::findings(host));
    findings.sort_by_key(|finding| finding.group);
    Report {
        schema: 1,
        by: host.by,
        uid: host.uid,
        services: host.services,
        findings,
    }
}

/// How much it matters that something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    Recommended,
    Required,
}

/// Judges one thing: what to say when it is there; and what when it is not, and how to mend that.
fn judge(
    (group, name, weight): (Group, &str, Weight),
    holds: bool,
    holding: impl Into<String>,
    (missing, mend): (impl Into<String>, impl Into<String>),
) -> Finding {
    let verdict = if holds {
        Verdict::Ok
    } else {
        Verdict::Missing {
            required: weight == Weight::Required,
            mend: mend.into(),
        }
    };
    Finding {
        group,
        name: name.to_owned(),
        verdict,
        text: if holds {
            holding.into()
        } else {
            missing.into()
        },
    }
}
