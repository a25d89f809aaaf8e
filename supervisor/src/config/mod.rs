//! What TOML may say, turned into checked specs.
//!
//! A file is read once and all of its problems are reported together, each with its file, line,
//! column and key. That is why files are not read through serde, which stops at the first:
//! `document` walks the parsed table with its positions, and each kind of file has a reader in
//! its own module that lists the keys that there are. What a reader returns has passed every
//! check. Keys that nothing enforces are not accepted.

mod document;
mod edges;
mod health;
mod host;
mod limits;
mod manifest;
mod output;
mod places;
mod profiles;
mod run;
pub(crate) mod units;

use std::fmt;

pub use host::{Applied, HostFiles, Installed, Wanted, WhyNot};
pub use manifest::{Facts, MANIFEST, Subject, check_manifest};
pub use profiles::{FALLBACK, Profiles, ProfilesError};

/// Something that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as a person knows it.
    pub file: String,
    /// The line, from 1; 0 where the problem is of the file as a whole.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The key: `run.profile`; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub text: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.text)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong in a file: at least one problem, in the order of the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// These, unless there are none.
    pub(crate) fn from_found(mut found: Vec<Problem>) -> Option<Self> {
        found.sort_by_key(|problem| (problem.line, problem.column));
        (!found.is_empty()).then_some(Self(found))
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let line_break = if index > 0 { "\n" } else { "" };
            write!(f, "{line_break}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests;
