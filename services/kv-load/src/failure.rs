//! Failed calls: their kinds, and what they leave open.

use std::collections::BTreeMap;
use std::fmt;

use insula::ipc::client::CallError;
use kv_contract::KvError;
use serde::Serialize;

/// A failed call, for counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Its kind in reports.
    pub kind: &'static str,
    /// Whether a write may have been, or may still be, executed.
    pub unknown: bool,
    /// What the call said.
    pub text: String,
}

/// Failures of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Counted {
    /// How many.
    pub count: u64,
    /// What the first one said.
    pub first: String,
}

/// Failures by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Failures(BTreeMap<&'static str, Counted>);

impl Failures {
    /// One more.
    pub(crate) fn add(&mut self, Failure { kind, text, .. }: Failure) {
        let first = Counted {
            count: 0,
            first: text,
        };
        self.0.entry(kind).or_insert(first).count += 1;
    }

    /// Those of another.
    pub(crate) fn merge(&mut self, other: Self) {
        for (kind, Counted { count, first }) in other.0 {
            let known = self.0.entry(kind).or_insert(Counted { count: 0, first });
            known.count += count;
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.values().map(|counted| counted.count).sum()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, Counted { count, first }) in &self.0 {
            writeln!(f, "  failed: {count} {kind}, the first: {first}")?;
        }
        Ok(())
    }
}

impl From<CallError<KvError>> for Failure {
    fn from(error: CallError<KvError>) -> Self {
        let text = error.to_string();
        let (kind, unknown) = match error {
            CallError::Failed(KvError::Storage(_)) => ("storage", false),
            CallError::Failed(
                KvError::KeyEmpty
                | KvError::KeyTooLong { .. }
                | KvError::ValueTooLong { .. }
                | KvError::LimitOutOfRange { .. }
                | KvError::BadCursor,
            ) => ("invalid-request", false),
            CallError::DeadlineExceeded => ("deadline-exceeded", true),
            CallError::Unavailable => ("unavailable", false),
            CallError::OutcomeUnknown => ("outcome-unknown", true),
            CallError::Overloaded => ("overloaded", false),
            CallError::QuotaExceeded => ("quota-exceeded", false),
            CallError::TooLarge { .. } => ("too-large", false),
            CallError::TooManyInFlight { .. } => ("too-many-in-flight", false),
            CallError::Refused(_) => ("refused", false),
            CallError::Broken(_) => ("broken", true),
        };
        Self {
            kind,
            unknown,
            text,
        }
    }
}
