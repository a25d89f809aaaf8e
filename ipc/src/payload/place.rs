//! Messages that are written where they will be read.

use super::{Bytes, Fixed, InPlace, fixed};
use crate::contract::Message;

/// A message that can be written straight into shared memory, without a value before it.
///
/// [`Bytes`] are written as a slice of `MAX` bytes, of which the writer says how many it wrote; a
/// fixed message as [`InPlace`], all of it. What lies there before is left over from an earlier
/// message between the same two ends, and goes out if it is not written over.
pub trait WriteInPlace: Message {
    /// What the writer sees.
    type Place: ?Sized;
    /// What the writer says about what it wrote.
    type Written;

    /// Lets `write` write a message into a chunk; its length, `None` where it has no room.
    #[doc(hidden)]
    fn write(
        chunk: &mut [u8],
        write: impl FnOnce(&mut Self::Place) -> Self::Written,
    ) -> Option<usize>;
}

impl<const MAX: usize> WriteInPlace for Bytes<'static, MAX> {
    type Place = [u8];
    type Written = usize;

    #[inline]
    fn write(chunk: &mut [u8], write: impl FnOnce(&mut [u8]) -> usize) -> Option<usize> {
        let length = write(chunk.get_mut(..MAX)?);
        (length <= MAX).then_some(length)
    }
}

impl<T: Fixed> WriteInPlace for InPlace<'static, T> {
    type Place = T;
    type Written = ();

    #[inline]
    fn write(chunk: &mut [u8], write: impl FnOnce(&mut T)) -> Option<usize> {
        match fixed::place(chunk) {
            Some(place) => {
                write(place);
                Some(size_of::<T>())
            }
            // Not a chunk, which is aligned, but the place of a request that is kept.
            None => {
                let mut value = fixed::zeroed();
                write(&mut value);
                fixed::encode_fixed(&value, chunk)
            }
        }
    }
}
