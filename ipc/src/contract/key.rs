//! Keys of requests.

use std::hash::{Hash, Hasher};

/// The key of a request by one of its fields: equal values have equal keys.
///
/// The same in every process of a host, whatever it was built with; not between hosts of another
/// byte order.
pub fn key_of(field: &(impl Hash + ?Sized)) -> u64 {
    // FNV-1a: the standard library's hasher may differ between its releases.
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        fn finish(&self) -> u64 {
            self.0
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    field.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_what_it_is() {
        // Other versions of this crate send the same request to the same instance.
        assert_eq!(key_of("a"), 0x089b_c907_b544_c769);
        assert_ne!(key_of("ab"), key_of("ba"));
    }
}
