//! A text that lies in shared memory.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A text, read in place, whose bytes may be changed by whoever wrote them.
///
/// A `&str` is UTF-8 for as long as it lives, and Rust relies on it. A text in shared memory can be
/// changed by its writer after it was checked, so it is never shown as `&str`: it is compared as
/// bytes, and copied before it is read as text. It was UTF-8 when it was decoded; what has been
/// spoilt since reads as U+FFFD.
///
/// As a field of a message it declares its greatest length: `#[message(max = 100)]`.
#[derive(Clone, Copy)]
pub struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    /// The text.
    #[inline]
    pub const fn new(text: &'a str) -> Self {
        Self(text.as_bytes())
    }

    /// What was UTF-8 a moment ago.
    #[inline]
    pub(crate) fn checked(bytes: &'a [u8]) -> Option<Self> {
        std::str::from_utf8(bytes).is_ok().then_some(Self(bytes))
    }

    /// Its bytes.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Its length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy of its own.
    pub fn to_owned_string(&self) -> String {
        String::from_utf8(self.0.to_vec())
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self::new(text)
    }
}

impl<'a> From<&'a String> for Text<'a> {
    fn from(text: &'a String) -> Self {
        Self::new(text)
    }
}

impl From<Text<'_>> for String {
    fn from(text: Text<'_>) -> Self {
        text.to_owned_string()
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_owned_string())
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_owned_string(), f)
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Text<'_> {}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<Text<'_>> for &str {
    fn eq(&self, other: &Text<'_>) -> bool {
        self.as_bytes() == other.0
    }
}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(other.0)
    }
}

impl Hash for Text<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As `str` does, so that keys made of either are the same.
        state.write(self.0);
        state.write_u8(0xff);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spoilt_reads_as_a_replacement() {
        assert_eq!(Text::checked(b"\xff"), None);
        let spoilt = Text(b"a\xffb");
        assert_eq!(spoilt.to_owned_string(), "a\u{fffd}b");
        assert_eq!(
            format!("{spoilt:>5}|{spoilt:?}"),
            "  a\u{fffd}b|\"a\u{fffd}b\""
        );
        assert_eq!(Text::new("as it is"), "as it is");
    }
}
