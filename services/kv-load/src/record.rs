//! Records: their keys and what is in their values.
//!
//! A value is one YCSB record of ten fields of 100 bytes, written as a whole. Its head says which
//! record it is, which write made it and how far its counter has come; all the rest follows from
//! the head, so that every bit of a value can be checked without having kept it.

use std::fmt;

/// Bytes of a value: ten fields of 100 bytes.
pub(crate) const VALUE_SIZE: usize = 10 * 100;

const HEAD: usize = 6 * 8;
const MAGIC: u64 = u64::from_le_bytes(*b"kv-load1");

/// Which write made a value. No two writes have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp {
    /// The run of this program, by a random number.
    pub run: u64,
    /// The client within the run.
    pub client: u64,
    /// The number of the write among the client's.
    pub sequence: u64,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            run,
            client,
            sequence,
        } = self;
        write!(f, "write {sequence} of client {client} in run {run:016x}")
    }
}

/// What a value says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its number.
    pub number: u64,
    /// The write that made it.
    pub stamp: Stamp,
    /// How often it was incremented.
    pub counter: u64,
}

/// Why bytes are not a value of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    /// It is shorter or longer.
    #[error("it has {0} bytes instead of {VALUE_SIZE}")]
    Length(usize),
    /// It begins otherwise.
    #[error("it was not written by this program")]
    Foreign,
    /// Its bytes do not follow from its head.
    #[error("byte {0} is not what was written")]
    Content(usize),
}

/// The next number of a fixed succession (SplitMix64, Steele et al., OOPSLA 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Record {
    /// Writes the value into `value`.
    pub(crate) fn write(&self, value: &mut [u8; VALUE_SIZE]) {
        let head = [
            MAGIC,
            self.number,
            self.stamp.run,
            self.stamp.client,
            self.stamp.sequence,
            self.counter,
        ];
        let mut state = 0;
        let (words, _) = value.as_chunks_mut::<8>();
        for (place, word) in words.iter_mut().zip(head) {
            *place = word.to_le_bytes();
            state = next(&mut state) ^ word;
        }
        for word in &mut words[HEAD / 8..] {
            *word = next(&mut state).to_le_bytes();
        }
    }

    /// The value.
    pub(crate) fn value(&self) -> [u8; VALUE_SIZE] {
        let mut value = [0; VALUE_SIZE];
        self.write(&mut value);
        value
    }

    /// Reads a value and checks each of its bytes.
    pub(crate) fn read(value: &[u8]) -> Result<Self, Damage> {
        let value: &[u8; VALUE_SIZE] = value.try_into().map_err(|_| Damage::Length(value.len()))?;
        let (words, _) = value.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(words[index]);
        if word(0) != MAGIC {
            return Err(Damage::Foreign);
        }
        let record = Self {
            number: word(1),
            stamp: Stamp {
                run: word(2),
                client: word(3),
                sequence: word(4),
            },
            counter: word(5),
        };
        let wanted = record.value();
        match wanted.iter().zip(value).position(|(a, b)| a != b) {
            None => Ok(record),
            Some(at) => Err(Damage::Content(at)),
        }
    }
}

/// The key of a record.
pub(crate) fn key(prefix: &str, number: u64) -> Vec<u8> {
    format!("{prefix}{number:012}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            number: 42,
            stamp: Stamp {
                run: 7,
                client: 3,
                sequence: 99,
            },
            counter: 5,
        }
    }

    #[test]
    fn a_value_reads_as_what_was_written() {
        assert_eq!(Record::read(&record().value()), Ok(record()));
    }

    #[test]
    fn a_changed_bit_anywhere_is_damage() {
        let good = record().value();
        for at in 0..VALUE_SIZE {
            let mut value = good;
            value[at] ^= 0x10;
            assert!(Record::read(&value).is_err(), "byte {at}");
        }
        assert_eq!(Record::read(&good[1..]), Err(Damage::Length(999)));
    }

    #[test]
    fn two_writes_of_a_record_differ_all_over() {
        let mut other = record();
        other.stamp.sequence += 1;
        let (a, b) = (record().value(), other.value());
        let same = a[HEAD..].iter().zip(&b[HEAD..]).filter(|(a, b)| a == b);
        assert!(same.count() < 30);
    }
}
