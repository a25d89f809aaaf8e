//! The daemon as a service of systemd.
//!
//! Two units: `insulad.service` is the daemon, `insula-payload.service` is the cgroup that its
//! services are born in. So the daemon's unit restarts like any other, and no service is in it.
//! Without systemd nothing here does anything.

pub mod handed;
pub mod job;
pub mod notify;
pub mod payload;
pub mod store;
pub mod units;
