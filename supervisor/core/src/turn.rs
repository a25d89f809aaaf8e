//! What one turn of the core has at hand: time, numbers, and what it collects.

use std::collections::BTreeSet;

use insula_contract::id::{Attempt, ServiceName};
use insula_contract::line::ToService;

use crate::event::{Action, Done, Message, Record, Refusal, RequestId};
use crate::pace::Pace;
use crate::seats::Seats;
use crate::time::Time;

/// What one turn of the core collects.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) now: Time,
    pub(crate) ids: Ids,
    /// The host and who sits where; the core has it back at the end.
    pub(crate) seats: Seats,
    /// Of those whose starts do not help; the core has it back as well.
    pub(crate) pace: Pace,
    pub(crate) records: Vec<Record>,
    pub(crate) actions: Vec<Action>,
    /// Launches come after the directories that they need.
    pub(crate) launches: Vec<(ServiceName, Attempt)>,
    /// Services whose processes or routes changed.
    pub(crate) dirty: BTreeSet<ServiceName>,
    /// Services that changed in any way.
    pub(crate) touched: BTreeSet<ServiceName>,
}

impl Turn {
    pub(crate) fn say(&mut self, attempt: Attempt, message: ToService) {
        self.actions.push(Action::Say {
            attempt,
            message: Message::Plain(message),
        });
    }

    pub(crate) fn note(&mut self, service: &ServiceName, text: String) {
        self.actions.push(Action::Note {
            service: Some(service.clone()),
            text,
        });
    }

    /// The user ids that were given out in this turn.
    pub(crate) fn new_uids(&self) -> impl Iterator<Item = (ServiceName, u32)> {
        self.records.iter().filter_map(|record| match record {
            Record::Uid { service, uid } => Some((service.clone(), *uid)),
            _ => None,
        })
    }

    pub(crate) fn answer(&mut self, request: RequestId, answer: Result<Done, Refusal>) {
        self.actions.push(Action::Answer { request, answer });
    }
}

/// Numbers that are handed out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ids {
    /// The next attempt.
    pub attempt: Attempt,
    /// The next edge.
    pub edge: u64,
    /// The next route.
    pub route: u32,
    /// The next user id, where services have one of their own.
    pub uid: Option<u32>,
    /// The state of the chance that jitter takes.
    pub chance: u64,
}

impl Ids {
    pub(crate) fn next_attempt(&mut self) -> Attempt {
        let attempt = self.attempt;
        self.attempt.0 += 1;
        attempt
    }

    /// splitmix64 (Steele, Lea, Flood 2014): jitter needs no more.
    pub(crate) fn next_chance(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
