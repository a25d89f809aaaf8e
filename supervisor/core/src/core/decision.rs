//! What the core decided, and the proof that it is stored before it is done.

use crate::event::{Action, Record};

/// What a decision consists of: actions come out only against proof that the records are stored.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    pub(super) records: Vec<Record>,
    pub(super) actions: Vec<Action>,
}

impl Decision {
    /// What must be stored first.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Whether its actions can be done after the next decision was made: none of them looks up, when
    /// it is done, what that one may have changed.
    pub fn can_wait(&self) -> bool {
        self.actions.iter().all(|action| match action {
            Action::Say { .. }
            | Action::AnswerClient { .. }
            | Action::DropClient { .. }
            | Action::Exit => false,
            Action::Launch { .. }
            | Action::Confine { .. }
            | Action::Stop { .. }
            | Action::Kill { .. }
            | Action::Probe { .. }
            | Action::Examine { .. }
            | Action::Forget { .. }
            | Action::Publish { .. }
            | Action::CleanRoute { .. }
            | Action::OpenEdge { .. }
            | Action::CloseEdge { .. }
            | Action::OpenPair { .. }
            | Action::ClosePair { .. }
            | Action::Answer { .. }
            | Action::Note { .. } => true,
        })
    }

    /// Adds the decision that was made next, to be recorded and done after this one.
    pub fn join(&mut self, next: Self) {
        self.records.extend(next.records);
        self.actions.extend(next.actions);
    }

    /// Stores the records and only then gives the actions out.
    ///
    /// # Errors
    /// That of `store`; the actions are lost with it, and the core must not be used on, since it
    /// has decided what nobody knows.
    pub fn record<E>(
        self,
        store: impl FnOnce(&[Record]) -> Result<(), E>,
    ) -> Result<Vec<Action>, E> {
        if !self.records.is_empty() {
            store(&self.records)?;
        }
        Ok(self.actions)
    }
}
