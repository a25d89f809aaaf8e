//! What has to be in the store, by what it has acknowledged.
//!
//! Writes are told apart by the stamps in their values and ordered by the revisions that the
//! contract gives them, so that clients may write the same records at once. Per record this keeps
//! the acknowledged write of the highest revision and the writes whose outcome nobody knows:
//!
//! * a read that began after a write was acknowledged finds this revision or a later one;
//! * at the end the record has the acknowledged value at the acknowledged revision, or, at a
//!   later one, the value of a write whose outcome was unknown;
//! * where records are counted, the counter has grown by every acknowledged increment, and by at
//!   most those of unknown outcome besides.
//!
//! It rests on being the only writer of its records.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::record::{Damage, Record, Stamp};

/// What the store did that it must not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// Nothing lies under the key of a record that was written.
    #[error("record {record} is not there, though revision {acknowledged} was acknowledged")]
    Missing { record: u64, acknowledged: u64 },
    /// Nothing lies under the key of a record that was never loaded.
    #[error("record {record} was never loaded")]
    NeverLoaded { record: u64 },
    /// The value is not what anybody wrote.
    #[error("record {record} at revision {revision} is damaged: {damage}")]
    Damaged {
        record: u64,
        revision: u64,
        damage: Damage,
    },
    /// The value belongs to another record.
    #[error("record {record} at revision {revision} has the value of record {found}")]
    Misplaced {
        record: u64,
        revision: u64,
        found: u64,
    },
    /// A read found less than was acknowledged before it began.
    #[error(
        "stale read of record {record}: revision {revision}, though {acknowledged} was \
         acknowledged before"
    )]
    Stale {
        record: u64,
        revision: u64,
        acknowledged: u64,
    },
    /// An acknowledged write is gone.
    #[error(
        "lost write: record {record} is at revision {revision}, though {acknowledged} was \
         acknowledged"
    )]
    Lost {
        record: u64,
        revision: u64,
        acknowledged: u64,
    },
    /// The revision is the acknowledged one, the value is another.
    #[error("record {record} at revision {revision} has {found} instead of {acknowledged}")]
    OtherValue {
        record: u64,
        revision: u64,
        found: Stamp,
        acknowledged: Stamp,
    },
    /// The value is newer than all acknowledged ones, and nobody waits for it.
    #[error(
        "record {record} has at revision {revision} {found}, which is neither acknowledged last \
         nor of unknown outcome"
    )]
    Unasked {
        record: u64,
        revision: u64,
        found: Stamp,
    },
    /// The counter lacks acknowledged increments.
    #[error("lost increment: record {record} counts {counter}, at least {least} were acknowledged")]
    LostIncrement {
        record: u64,
        counter: u64,
        least: u64,
    },
    /// The counter has more than was asked for.
    #[error("doubled increment: record {record} counts {counter}, at most {most} were asked for")]
    DoubledIncrement {
        record: u64,
        counter: u64,
        most: u64,
    },
}

/// A write that was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    revision: u64,
    stamp: Stamp,
}

#[derive(Debug, Default)]
struct Expectation {
    acknowledged: Option<Acknowledged>,
    unknown: BTreeSet<Stamp>,
    counter_before: u64,
    increments: u64,
    unknown_increments: u64,
}

/// The least revision that a read may find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Floor(Option<u64>);

/// What kind of write a client made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// It set the whole record.
    Set,
    /// It added one to its counter.
    Increment,
}

/// The expectations of all records, shared by all clients.
#[derive(Debug)]
pub(crate) struct Expectations {
    records: Vec<Mutex<Expectation>>,
    counted: bool,
}

impl Expectations {
    /// Of `records` records of which nothing is known; `counted` where all writes to come are
    /// increments.
    pub(crate) fn new(records: u64, counted: bool) -> Self {
        Self {
            records: (0..records).map(|_| Mutex::default()).collect(),
            counted,
        }
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> u64 {
        self.records.len() as u64
    }

    fn record(&self, number: u64) -> MutexGuard<'_, Expectation> {
        self.records[number as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a record has before the run as acknowledged.
    pub(crate) fn survey(&self, number: u64, found: Option<(u64, &[u8])>) -> Result<(), Violation> {
        let (revision, value) = found.ok_or(Violation::NeverLoaded { record: number })?;
        let record = read(number, revision, value)?;
        let mut expectation = self.record(number);
        expectation.acknowledged = Some(Acknowledged {
            revision,
            stamp: record.stamp,
        });
        expectation.counter_before = record.counter;
        Ok(())
    }

    /// To be asked before a read begins.
    pub(crate) fn floor(&self, number: u64) -> Floor {
        Floor(self.record(number).acknowledged.map(|last| last.revision))
    }

    /// Checks what a read found.
    pub(crate) fn read(
        &self,
        number: u64,
        Floor(floor): Floor,
        found: Option<(u64, &[u8])>,
    ) -> Result<Record, Violation> {
        let Some((revision, value)) = found else {
            return Err(match floor {
                Some(acknowledged) => Violation::Missing {
                    record: number,
                    acknowledged,
                },
                None => Violation::NeverLoaded { record: number },
            });
        };
        let record = read(number, revision, value)?;
        match floor {
            Some(acknowledged) if revision < acknowledged => {
                return Err(Violation::Stale {
                    record: number,
                    revision,
                    acknowledged,
                });
            }
            _ => {}
        }
        if let Some(last) = self.record(number).acknowledged {
            last.agrees(number, revision, record.stamp)?;
        }
        Ok(record)
    }

    /// A write was acknowledged.
    pub(crate) fn acknowledge(&self, number: u64, write: Write, revision: u64, stamp: Stamp) {
        let mut expectation = self.record(number);
        match write {
            Write::Set => {}
            Write::Increment => expectation.increments += 1,
        }
        let newer = |last: Acknowledged| last.revision < revision;
        if expectation.acknowledged.is_none_or(newer) {
            expectation.acknowledged = Some(Acknowledged { revision, stamp });
        }
    }

    /// A write failed, and may have been executed all the same.
    pub(crate) fn doubt(&self, number: u64, write: Write, stamp: Stamp) {
        let mut expectation = self.record(number);
        match write {
            Write::Set => {}
            Write::Increment => expectation.unknown_increments += 1,
        }
        expectation.unknown.insert(stamp);
    }

    /// Checks what lies under a record's key when nobody writes any more.
    pub(crate) fn settle(&self, number: u64, found: Option<(u64, &[u8])>) -> Result<(), Violation> {
        let expectation = self.record(number);
        let Some((revision, value)) = found else {
            return Err(match expectation.acknowledged {
                Some(last) => Violation::Missing {
                    record: number,
                    acknowledged: last.revision,
                },
                None => Violation::NeverLoaded { record: number },
            });
        };
        let record = read(number, revision, value)?;
        let acknowledged = expectation.acknowledged.map_or(0, |last| last.revision);
        if revision < acknowledged {
            return Err(Violation::Lost {
                record: number,
                revision,
                acknowledged,
            });
        }
        if let Some(last) = expectation.acknowledged {
            last.agrees(number, revision, record.stamp)?;
        }
        if revision > acknowledged && !expectation.unknown.contains(&record.stamp) {
            return Err(Violation::Unasked {
                record: number,
                revision,
                found: record.stamp,
            });
        }
        if self.counted {
            expectation.settle_counter(&record)?;
        }
        Ok(())
    }
}

impl Acknowledged {
    /// Whether the value found at this revision is the acknowledged one, if it is its revision.
    fn agrees(self, record: u64, revision: u64, found: Stamp) -> Result<(), Violation> {
        if revision != self.revision || found == self.stamp {
            return Ok(());
        }
        Err(Violation::OtherValue {
            record,
            revision,
            found,
            acknowledged: self.stamp,
        })
    }
}

impl Expectation {
    fn settle_counter(&self, record: &Record) -> Result<(), Violation> {
        let least = self.counter_before + self.increments;
        let most = least + self.unknown_increments;
        let (number, counter) = (record.number, record.counter);
        if counter < least {
            return Err(Violation::LostIncrement {
                record: number,
                counter,
                least,
            });
        }
        if counter > most {
            return Err(Violation::DoubledIncrement {
                record: number,
                counter,
                most,
            });
        }
        Ok(())
    }
}

/// Reads a value that lies under a record's key, whatever is expected of it.
pub(crate) fn read(number: u64, revision: u64, value: &[u8]) -> Result<Record, Violation> {
    let record = Record::read(value).map_err(|damage| Violation::Damaged {
        record: number,
        revision,
        damage,
    })?;
    if record.number != number {
        return Err(Violation::Misplaced {
            record: number,
            revision,
            found: record.number,
        });
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::VALUE_SIZE;

    fn stamp(sequence: u64) -> Stamp {
        Stamp {
            run: 1,
            client: 2,
            sequence,
        }
    }

    fn value(number: u64, sequence: u64, counter: u64) -> [u8; VALUE_SIZE] {
        let stamp = stamp(sequence);
        Record {
            number,
            stamp,
            counter,
        }
        .value()
    }

    /// Record 0 with write 1 acknowledged at revision 10, and write 2 at revision 20.
    fn twice_written() -> Expectations {
        let expectations = Expectations::new(1, false);
        expectations.acknowledge(0, Write::Set, 20, stamp(2));
        expectations.acknowledge(0, Write::Set, 10, stamp(1));
        expectations
    }

    #[test]
    fn the_last_acknowledged_value_settles() {
        let settled = twice_written().settle(0, Some((20, &value(0, 2, 0))));
        assert_eq!(settled, Ok(()));
    }

    #[test]
    fn a_lost_write_is_found() {
        let earlier = value(0, 1, 0);
        assert_eq!(
            twice_written().settle(0, Some((10, &earlier))),
            Err(Violation::Lost {
                record: 0,
                revision: 10,
                acknowledged: 20
            })
        );
        assert_eq!(
            twice_written().settle(0, None),
            Err(Violation::Missing {
                record: 0,
                acknowledged: 20
            })
        );
        // The old value under the new revision.
        assert!(matches!(
            twice_written().settle(0, Some((20, &earlier))),
            Err(Violation::OtherValue { .. })
        ));
        // An earlier write done again.
        assert!(matches!(
            twice_written().settle(0, Some((30, &earlier))),
            Err(Violation::Unasked { .. })
        ));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_be_there_or_not() {
        let expectations = twice_written();
        expectations.doubt(0, Write::Set, stamp(3));
        assert_eq!(expectations.settle(0, Some((20, &value(0, 2, 0)))), Ok(()));
        assert_eq!(expectations.settle(0, Some((30, &value(0, 3, 0)))), Ok(()));
        assert!(matches!(
            expectations.settle(0, Some((15, &value(0, 3, 0)))),
            Err(Violation::Lost { .. })
        ));
    }

    #[test]
    fn a_stale_read_is_found() {
        let expectations = Expectations::new(1, false);
        expectations.acknowledge(0, Write::Set, 10, stamp(1));
        let before = expectations.floor(0);
        expectations.acknowledge(0, Write::Set, 20, stamp(2));
        let found = value(0, 1, 0);
        // It ran beside the second write and may have missed it.
        assert!(expectations.read(0, before, Some((10, &found))).is_ok());
        let after = expectations.floor(0);
        assert_eq!(
            expectations.read(0, after, Some((10, &found))),
            Err(Violation::Stale {
                record: 0,
                revision: 10,
                acknowledged: 20
            })
        );
        assert!(matches!(
            expectations.read(0, after, None),
            Err(Violation::Missing { .. })
        ));
    }

    #[test]
    fn a_damaged_or_misplaced_value_is_found() {
        let expectations = Expectations::new(2, false);
        let floor = expectations.floor(0);
        let mut damaged = value(0, 1, 0);
        damaged[500] ^= 1;
        assert!(matches!(
            expectations.read(0, floor, Some((1, &damaged))),
            Err(Violation::Damaged { .. })
        ));
        assert_eq!(
            expectations.read(0, floor, Some((1, &value(1, 1, 0)))),
            Err(Violation::Misplaced {
                record: 0,
                revision: 1,
                found: 1
            })
        );
    }

    #[test]
    fn lost_and_doubled_increments_are_found() {
        let expectations = Expectations::new(1, true);
        expectations.survey(0, Some((1, &value(0, 0, 5)))).unwrap();
        expectations.acknowledge(0, Write::Increment, 2, stamp(1));
        expectations.acknowledge(0, Write::Increment, 3, stamp(2));
        let settle = |revision, sequence, counter| {
            expectations.settle(0, Some((revision, &value(0, sequence, counter))))
        };
        assert_eq!(settle(3, 2, 7), Ok(()));
        assert_eq!(
            settle(3, 2, 6),
            Err(Violation::LostIncrement {
                record: 0,
                counter: 6,
                least: 7
            })
        );
        assert_eq!(
            settle(3, 2, 8),
            Err(Violation::DoubledIncrement {
                record: 0,
                counter: 8,
                most: 7
            })
        );
        expectations.doubt(0, Write::Increment, stamp(3));
        assert_eq!(settle(3, 2, 7), Ok(()));
        assert_eq!(settle(4, 3, 8), Ok(()));
        assert!(settle(4, 3, 9).is_err());
    }
}
