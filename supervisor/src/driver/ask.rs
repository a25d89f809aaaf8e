//! What the control API asks of the driver.

use insula_contract::id::ServiceName;
use insula_core::event::{Done, Order, Refusal};
use insula_core::report::Row;
use semver::Version;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::doctor::Known;
use crate::meters::Survey;
use crate::places::Places;
use crate::utilisation::Sights;

/// An installed release, for `releases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReleaseRow {
    /// Whose.
    pub name: ServiceName,
    /// Its version.
    pub version: Version,
    /// SHA-256 of its content, in hexadecimal.
    pub hash: String,
    /// Bytes of its files.
    pub size: u64,
    /// When it was installed, in seconds since 1970.
    pub installed_at: u64,
    /// Whether it serves or would.
    pub active: bool,
    /// Whether `rollback` goes to it.
    pub previous: bool,
}

/// What became of an installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstallNews {
    /// Copying goes on: bytes done and in all.
    Progress {
        /// Copied so far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// It lies in the depot.
    Installed {
        /// Whose.
        name: ServiceName,
        /// Which.
        version: Version,
        /// SHA-256 of its content.
        hash: String,
        /// Whether it was there before.
        already: bool,
    },
    /// It was refused; nothing changed.
    Refused {
        /// All problems, a line each.
        problems: Vec<String>,
        /// What to do.
        hint: Option<String>,
    },
}

/// A question to the driver, with where the answer goes.
#[derive(Debug)]
pub enum Ask {
    /// Do something with a service.
    Order {
        /// With which.
        service: ServiceName,
        /// What.
        order: Order,
        /// The answer comes when the goal is reached, or cannot be.
        reply: oneshot::Sender<Result<Done, Refusal>>,
    },
    /// Send a signal to its processes.
    Signal {
        /// Whose.
        service: ServiceName,
        /// Only those of this instance.
        index: Option<u16>,
        /// Its number.
        signal: i32,
        /// Who got it; `None` if there is no such service.
        reply: oneshot::Sender<Option<Vec<super::signals::Signalled>>>,
    },
    /// Install the release at this path.
    Install {
        /// A directory or a tarball, absolute.
        path: std::path::PathBuf,
        /// Progress, then the end.
        news: mpsc::UnboundedSender<InstallNews>,
    },
    /// What is installed?
    Releases {
        /// The answer.
        reply: oneshot::Sender<Vec<ReleaseRow>>,
    },
    /// How is everybody?
    Status {
        /// The answer.
        reply: oneshot::Sender<Vec<Row>>,
    },
    /// What is to be read for the figures of edges?
    Edges {
        /// The answer.
        reply: oneshot::Sender<Survey>,
    },
    /// Who is to be looked at for what services use?
    Utilisation {
        /// The answer.
        reply: oneshot::Sender<Sights>,
    },
    /// Who is to be looked at for what limits services?
    Limits {
        /// The answer.
        reply: oneshot::Sender<crate::limits::Sights>,
    },
    /// Leave the services to this program, which was asked whether it understands them.
    Succeed {
        /// The program.
        program: std::path::PathBuf,
        /// Whether the loop ends for it.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Who sits where?
    Places {
        /// The answer.
        reply: oneshot::Sender<Box<Places>>,
    },
    /// Take in what the host's files say.
    Update {
        /// Only say what would be done.
        dry_run: bool,
        /// What is done, and what is waited for.
        reply: oneshot::Sender<super::update::Updated>,
    },
    /// What does this host give?
    Doctor {
        /// The answer.
        reply: oneshot::Sender<Box<Known>>,
    },
    /// Stop everything in order and end.
    Shutdown {
        /// The answer comes when all are down.
        reply: oneshot::Sender<Result<Done, Refusal>>,
    },
}
