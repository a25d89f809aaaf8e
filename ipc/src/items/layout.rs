//! How requests for items and their answers lie in their chunks.
//!
//! | request | |
//! |---|---|
//! | 0..8 | what is asked: 0 open, 1 pull, 2 close |
//! | 8..16 | the source's number, which the client chose |
//! | 16.. | the method's request, to open |
//!
//! | answer | |
//! |---|---|
//! | 0..8 | what follows these items: 0 more, 1 nothing; 2 there is no such source |
//! | 8..16 | 0 |
//! | 16.. | items, each behind its length in 8 bytes and 8 bytes of 0, from multiples of 16 |
//!
//! Words have their low byte first. Items lie aligned, so that fixed ones are read in place.

use crate::payload::decode_fixed;

/// Bytes before a request, before the items of an answer, and before each item.
pub(crate) const PREFIX: usize = 16;

/// Small items share a chunk of at least this length.
const SHARED: usize = 4096;

/// The longest request for items of a method, in bytes.
pub const fn request_max(encoded_max: usize) -> usize {
    PREFIX + encoded_max
}

/// The longest answer with items, in bytes.
pub const fn response_max(encoded_max: usize) -> usize {
    let one = 2 * PREFIX + encoded_max;
    if one < SHARED { SHARED } else { one }
}

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Open,
    Pull,
    Close,
}

/// What follows the items of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    More,
    End,
    /// The source is not there, or no more.
    NoSource,
}

fn put(place: &mut [u8], words: [u64; 2]) -> Option<()> {
    let place = place.get_mut(..PREFIX)?;
    place[..8].copy_from_slice(&words[0].to_le_bytes());
    place[8..].copy_from_slice(&words[1].to_le_bytes());
    Some(())
}

/// Two words, each read once.
fn take(bytes: &[u8]) -> Option<[u64; 2]> {
    decode_fixed::<[u64; 2]>(bytes.get(..PREFIX)?).map(|words| words.map(u64::from_le))
}

/// Writes what is before a request.
pub(crate) fn write_ask(place: &mut [u8], ask: Ask, number: u64) -> Option<()> {
    let ask = match ask {
        Ask::Open => 0,
        Ask::Pull => 1,
        Ask::Close => 2,
    };
    put(place, [ask, number])
}

/// Reads what is before a request: what it asks, the source's number and the request itself.
pub(crate) fn read_ask(bytes: &[u8]) -> Option<(Ask, u64, &[u8])> {
    let [ask, number] = take(bytes)?;
    let ask = match ask {
        0 => Ask::Open,
        1 => Ask::Pull,
        2 => Ask::Close,
        _ => return None,
    };
    Some((ask, number, &bytes[PREFIX..]))
}

/// Writes what is before the items of an answer.
pub(crate) fn write_after(place: &mut [u8], after: After) -> Option<()> {
    let after = match after {
        After::More => 0,
        After::End => 1,
        After::NoSource => 2,
    };
    put(place, [after, 0])
}

/// Reads what is before the items of an answer.
pub(crate) fn read_after(bytes: &[u8]) -> Option<After> {
    match take(bytes)?[0] {
        0 => Some(After::More),
        1 => Some(After::End),
        2 => Some(After::NoSource),
        _ => None,
    }
}

/// Writes what is before an item.
pub(crate) fn write_length(place: &mut [u8], length: usize) -> Option<()> {
    put(place, [length as u64, 0])
}

/// The beginning and the end of the item behind the prefix at `at`; `None` where it has none.
pub(crate) fn read_item(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let [length, _] = take(bytes.get(at..)?)?;
    let begin = at + PREFIX;
    let end = begin.checked_add(usize::try_from(length).ok()?)?;
    (end <= bytes.len()).then_some((begin, end))
}

/// Where the prefix of the item after one that ends here lies.
pub(crate) const fn next(end: usize) -> usize {
    end.next_multiple_of(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_written_is_read() {
        let mut place = [0xff; 20];
        for ask in [Ask::Open, Ask::Pull, Ask::Close] {
            write_ask(&mut place, ask, u64::MAX - 3).unwrap();
            let (read, number, request) = read_ask(&place).unwrap();
            assert_eq!((read, number, request), (ask, u64::MAX - 3, &[0xff; 4][..]));
        }
        for after in [After::More, After::End, After::NoSource] {
            write_after(&mut place, after).unwrap();
            assert_eq!(read_after(&place), Some(after));
        }
        write_length(&mut place, 4).unwrap();
        assert_eq!(read_item(&place, 0), Some((16, 20)));
        write_length(&mut place, 5).unwrap();
        assert_eq!(read_item(&place, 0), None);
        assert!(write_ask(&mut place[..15], Ask::Open, 1).is_none());
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_an_item_within_or_none(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            length in any::<u64>(),
            at in 0_usize..90,
        ) {
            let mut bytes = bytes;
            if let Some(place) = bytes.get_mut(at..at.saturating_add(8)) {
                place.copy_from_slice(&length.to_le_bytes());
            }
            let _ = (read_ask(&bytes), read_after(&bytes));
            if let Some((begin, end)) = read_item(&bytes, at) {
                prop_assert!(begin <= end && end <= bytes.len());
            }
        }
    }
}
