//! Identifiers: what a service, an attempt, a contract and an edge are called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidId {
    /// The refused text.
    pub text: String,
    /// What it should have been.
    pub expected: &'static str,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not {}", self.text, self.expected)
    }
}

impl std::error::Error for InvalidId {}

/// The longest name of a service or contract, in bytes: paths of sockets and channels stay short.
pub const NAME_MAX: usize = 32;

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && text.len() <= NAME_MAX
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.ends_with('-')
}

/// The name of a service: `kv`.
///
/// Lower-case letters, digits and inner hyphens, a letter first, at most [`NAME_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

impl ServiceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ServiceName {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        if is_name(&text) && text != "all" {
            Ok(Self(text))
        } else {
            Err(InvalidId {
                text,
                expected: "a service name (lower-case letters, digits and inner hyphens, a letter \
                           first, at most 32 bytes, and not `all`)",
            })
        }
    }
}

impl FromStr for ServiceName {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.to_owned().try_into()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A contract's name and major version: `kv@1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContractId {
    name: String,
    major: u16,
}

impl ContractId {
    /// The contract called `name` in its major version `major`.
    pub fn new(name: &str, major: u16) -> Result<Self, InvalidId> {
        if is_name(name) {
            Ok(Self {
                name: name.to_owned(),
                major,
            })
        } else {
            Err(InvalidId {
                text: name.to_owned(),
                expected: "a contract name like `kv`",
            })
        }
    }

    /// The name without the version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The major version.
    pub fn major(&self) -> u16 {
        self.major
    }
}

impl TryFrom<String> for ContractId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl FromStr for ContractId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wrong = || InvalidId {
            text: text.to_owned(),
            expected: "a contract with its major version, like `kv@1`",
        };
        let (name, major) = text.split_once('@').ok_or_else(wrong)?;
        Self::new(name, major.parse().map_err(|_| wrong())?).map_err(|_| wrong())
    }
}

impl From<ContractId> for String {
    fn from(id: ContractId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ContractId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.major)
    }
}

/// One place of a service: `kv:0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// Whose place it is.
    pub service: ServiceName,
    /// Which of the service's places.
    pub index: u16,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.index)
    }
}

/// The number of one process in an instance's place, or of one local client.
///
/// Never reused on a host, not even after a reboot: the upper bits are the number of the daemon's
/// run, which is counted in the durable ledger. Names of channels and the keys of recorded `once`
/// answers rest on that. At most [`Attempt::BITS`] bits, so that it fits into a route word.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Attempt(pub u64);

impl Attempt {
    /// Bits that an attempt number may use.
    pub const BITS: u32 = 48;
    /// Bits that number the attempts of one run of the daemon.
    pub const RUN_BITS: u32 = 26;

    /// The first attempt number of the daemon's run number `run`.
    pub fn first_of_run(run: u32) -> Self {
        assert!(
            run < 1 << (Self::BITS - Self::RUN_BITS),
            "the daemon's runs are used up"
        );
        Self((u64::from(run) << Self::RUN_BITS) | 1)
    }

    /// The number of the daemon's run that began it.
    pub fn run(self) -> u64 {
        self.0 >> Self::RUN_BITS
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a writer's turn at a store: an older one can no longer write.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of an edge, unique among the edges of one run of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EdgeId(pub u64);

impl fmt::Display for EdgeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_words_with_inner_hyphens() {
        for good in ["kv", "a", "hotel-rate", "x9"] {
            assert_eq!(good.parse::<ServiceName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "Kv",
            "9x",
            "kv-",
            "-kv",
            "a/b",
            "..",
            "all",
            "a b",
            &"a".repeat(33),
        ] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_contract_id_reads_what_it_prints() {
        let id: ContractId = "kv@12".parse().unwrap();
        assert_eq!((id.name(), id.major()), ("kv", 12));
        assert_eq!(id.to_string(), "kv@12");
        for bad in ["kv", "kv@", "@1", "kv@x", "kv@70000", "K@1"] {
            assert!(bad.parse::<ContractId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn attempts_of_a_later_run_are_greater_and_fit_a_route_word() {
        let last = Attempt::first_of_run((1 << (Attempt::BITS - Attempt::RUN_BITS)) - 1);
        assert!(last.0 < 1 << Attempt::BITS);
        assert!(Attempt::first_of_run(2).0 - Attempt::first_of_run(1).0 == 1 << Attempt::RUN_BITS);
        assert_eq!(Attempt::first_of_run(7).run(), 7);
        assert_eq!(Attempt::default().run(), 0);
    }
}
