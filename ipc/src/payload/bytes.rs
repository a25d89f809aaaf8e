//! Bytes as they are.

use std::fmt;
use std::ops::Deref;

use insula_contract::schema::TypeSchema;

use crate::contract::Message;

/// At most `MAX` bytes, the whole of a request, a response or a value of a stream.
///
/// Read in place; to write them in place see [`super::WriteInPlace`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes<'a, const MAX: usize>(&'a [u8]);

impl<'a, const MAX: usize> Bytes<'a, MAX> {
    /// These bytes. More than `MAX` cannot be sent.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes, for as long as what they came in.
    #[inline]
    pub const fn get(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a, const MAX: usize> From<&'a [u8]> for Bytes<'a, MAX> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::new(bytes)
    }
}

impl<const MAX: usize> Deref for Bytes<'_, MAX> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl<const MAX: usize> fmt::Debug for Bytes<'_, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

impl<const MAX: usize> Message for Bytes<'static, MAX> {
    type View<'a> = Bytes<'a, MAX>;
    const ENCODED_MAX: usize = MAX;
    const IS_WHOLE: bool = true;

    fn schema() -> TypeSchema {
        TypeSchema::Raw { max: MAX as u64 }
    }

    #[inline]
    fn encode(value: &Bytes<'_, MAX>, place: &mut [u8]) -> Option<usize> {
        let length = value.len();
        let place = place.get_mut(..length).filter(|_| length <= MAX)?;
        place.copy_from_slice(value);
        Some(length)
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Option<Bytes<'_, MAX>> {
        (bytes.len() <= MAX).then_some(Bytes(bytes))
    }
}
