//! `insulad` and `insulactl`: the effects around the pure core.

pub mod aside;
pub mod cgroup;
pub mod channel;
pub mod config;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod driver;
pub mod foreign;
pub mod launch;
pub mod ledger;
mod leftovers;
pub mod line;
pub mod memory;
pub mod meters;
mod output;
pub mod paths;
pub mod places;
mod probe;
pub mod release;
mod removal;
mod statm;
pub mod successor;
pub mod systemd;
pub mod topology;
pub mod utilisation;
pub mod watch;
