//! The Debian releases that guests run.

use std::fmt::{self, Display, Formatter};

use clap::ValueEnum;

/// A Debian release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Debian 12: Linux 6.1, systemd 252.
    #[default]
    Bookworm,
    /// Debian 13: Linux 6.12, systemd 257.
    Trixie,
}

impl Suite {
    /// QEMU's model of the CPU: all that it can emulate.
    pub(super) fn cpu(self) -> &'static str {
        match self {
            Self::Bookworm => "max",
            // Linux 6.12 uses an instruction of this that QEMU 7.2 gets wrong.
            Self::Trixie => "max,-cx16",
        }
    }
}

impl Display for Suite {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        })
    }
}
