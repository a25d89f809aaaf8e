//! How the fields of a message are encoded within their declared capacities.
//!
//! For the code that `#[derive(Message)]` writes, which composes one type per field out of
//! [`Plain`], [`Text`], [`Bytes`], [`Items`], [`Maybe`] and [`Array`]. The bytes are those of
//! postcard with serde's own implementations, and differ from them in three ways that matter
//! here: byte strings go in one copy instead of byte by byte, a capacity is an error on both sides
//! when it is exceeded, and a text is never shown as `&str` while it lies where the other side can
//! still write: an owned one is copied *before* it is checked for UTF-8, and one that is read in
//! place is a [`text::Text`].
//!
//! No allocation is larger than what has arrived by then can account for, plus [`RESERVED`].

use std::fmt;
use std::marker::PhantomData;

pub use serde;
use serde::de::{EnumAccess, Error as _, SeqAccess, VariantAccess, Visitor};
use serde::ser::{Error as _, SerializeSeq, SerializeTuple};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text;

pub use crate::schema::{FieldSchema, MethodSchema, SafetySchema, TypeSchema, VariantSchema};

/// The most bytes that are set aside for a sequence before its items have arrived.
pub const RESERVED: usize = 64 * 1024;

/// Encodes values of type `V`.
pub trait Encode<V: ?Sized> {
    /// Encodes one.
    fn encode<S: Serializer>(value: &V, serializer: S) -> Result<S::Ok, S::Error>;
}

/// Decodes values of type `V` from what lives for `'de`.
pub trait Decode<'de, V> {
    /// Decodes one.
    fn decode<D: Deserializer<'de>>(deserializer: D) -> Result<V, D::Error>;
}

/// By its own implementation of serde's traits.
#[derive(Debug)]
pub struct Plain;

/// UTF-8 text of at most `MAX` bytes.
#[derive(Debug)]
pub struct Text<const MAX: usize>;

/// A byte string of at most `MAX` bytes.
#[derive(Debug)]
pub struct Bytes<const MAX: usize>;

/// At most `MAX` items, each encoded by `C`.
#[derive(Debug)]
pub struct Items<const MAX: usize, C>(PhantomData<C>);

/// Nothing, or a value encoded by `C`.
#[derive(Debug)]
pub struct Maybe<C>(PhantomData<C>);

/// A fixed number of items, each encoded by `C`.
#[derive(Debug)]
pub struct Array<C>(PhantomData<C>);

/// A value to be encoded by `C`.
#[derive(Debug)]
pub struct Encoded<'a, C, V: ?Sized>(&'a V, PhantomData<C>);

impl<'a, C, V: ?Sized> Encoded<'a, C, V> {
    /// `value`, to be encoded by `C`.
    #[inline]
    pub fn new(value: &'a V) -> Self {
        Self(value, PhantomData)
    }
}

impl<C: Encode<V>, V: ?Sized> Serialize for Encoded<'_, C, V> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        C::encode(self.0, serializer)
    }
}

/// A value that was decoded by `C`.
#[derive(Debug)]
pub struct Decoded<C, V>(pub V, PhantomData<C>);

impl<'de, C: Decode<'de, V>, V> Deserialize<'de> for Decoded<C, V> {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        C::decode(deserializer).map(|value| Self(value, PhantomData))
    }
}

impl<V: Serialize> Encode<V> for Plain {
    #[inline]
    fn encode<S: Serializer>(value: &V, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }
}

impl<'de, V: Deserialize<'de>> Decode<'de, V> for Plain {
    #[inline]
    fn decode<D: Deserializer<'de>>(deserializer: D) -> Result<V, D::Error> {
        V::deserialize(deserializer)
    }
}

fn too_long(length: usize, max: usize) -> String {
    format!("length {length} exceeds the declared {max}")
}

impl<const MAX: usize> Encode<String> for Text<MAX> {
    #[inline]
    fn encode<S: Serializer>(text: &String, serializer: S) -> Result<S::Ok, S::Error> {
        <Bytes<MAX> as Encode<_>>::encode(text, serializer)
    }
}

impl<'a, const MAX: usize> Encode<text::Text<'a>> for Text<MAX> {
    #[inline]
    fn encode<S: Serializer>(text: &text::Text<'a>, serializer: S) -> Result<S::Ok, S::Error> {
        <Bytes<MAX> as Encode<_>>::encode(&text.as_bytes(), serializer)
    }
}

impl<'de: 'a, 'a, const MAX: usize> Decode<'de, text::Text<'a>> for Text<MAX> {
    #[inline]
    fn decode<D: Deserializer<'de>>(deserializer: D) -> Result<text::Text<'a>, D::Error> {
        let bytes = <Bytes<MAX> as Decode<&'a [u8]>>::decode(deserializer)?;
        text::Text::checked(bytes).ok_or_else(|| D::Error::custom("not UTF-8"))
    }
}

impl<'de, const MAX: usize> Decode<'de, String> for Text<MAX> {
    fn decode<D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        let bytes: Vec<u8> = <Bytes<MAX> as Decode<Vec<u8>>>::decode(deserializer)?;
        String::from_utf8(bytes).map_err(D::Error::custom)
    }
}

impl<const MAX: usize, V: AsRef<[u8]>> Encode<V> for Bytes<MAX> {
    #[inline]
    fn encode<S: Serializer>(value: &V, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = value.as_ref();
        if bytes.len() > MAX {
            return Err(S::Error::custom(too_long(bytes.len(), MAX)));
        }
        serializer.serialize_bytes(bytes)
    }
}

impl<'de: 'a, 'a, const MAX: usize> Decode<'de, &'a [u8]> for Bytes<MAX> {
    #[inline]
    fn decode<D: Deserializer<'de>>(deserializer: D) -> Result<&'a [u8], D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        if bytes.len() > MAX {
            return Err(D::Error::custom(too_long(bytes.len(), MAX)));
        }
        Ok(bytes)
    }
}

impl<'de, const MAX: usize> Decode<'de, Vec<u8>> for Bytes<MAX> {
    fn decode<D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Copied<const MAX: usize>;
        impl<const MAX: usize> Visitor<'_> for Copied<MAX> {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                if bytes.len() > MAX {
                    return Err(E::custom(too_long(bytes.len(), MAX)));
                }
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Copied::<MAX>)
    }
}

impl<const MAX: usize, C: Encode<V>, V> Encode<Vec<V>> for Items<MAX, C> {
    fn encode<S: Serializer>(value: &Vec<V>, serializer: S) -> Result<S::Ok, S::Error> {
        if value.len() > MAX {
            return Err(S::Error::custom(too_long(value.len(), MAX)));
        }
        let mut items = serializer.serialize_seq(Some(value.len()))?;
        for item in value {
            items.serialize_element(&Encoded::<C, V>::new(item))?;
        }
        items.end()
    }
}

impl<'de, const MAX: usize, C: Decode<'de, V>, V> Decode<'de, Vec<V>> for Items<MAX, C> {
    fn decode<D: Deserializer<'de>>(deserializer: D) -> Result<Vec<V>, D::Error> {
        struct Collected<const MAX: usize, C, V>(PhantomData<(C, V)>);
        impl<'de, const MAX: usize, C: Decode<'de, V>, V> Visitor<'de> for Collected<MAX, C, V> {
            type Value = Vec<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<V>, A::Error> {
                let reserved = RESERVED / size_of::<V>().max(1);
                let expected = items.size_hint().unwrap_or(0).min(MAX);
                let mut collected = Vec::with_capacity(expected.min(reserved));
                while let Some(item) = items.next_element::<Decoded<C, V>>()? {
                    if collected.len() == MAX {
                        return Err(A::Error::custom(too_long(MAX + 1, MAX)));
                    }
                    collected.push(item.0);
                }
                Ok(collected)
            }
        }
        deserializer.deserialize_seq(Collected::<MAX, C, V>(PhantomData))
    }
}

impl<C: Encode<V>, V> Encode<Option<V>> for Maybe<C> {
    #[inline]
    fn encode<S: Serializer>(value: &Option<V>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            None => serializer.serialize_none(),
            Some(value) => serializer.serialize_some(&Encoded::<C, V>::new(value)),
        }
    }
}

impl<'de, C: Decode<'de, V>, V> Decode<'de, Option<V>> for Maybe<C> {
    #[inline]
    fn decode<D: Deserializer<'de>>(deserializer: D) -> Result<Option<V>, D::Error> {
        let value = Option::<Decoded<C, V>>::deserialize(deserializer)?;
        Ok(value.map(|value| value.0))
    }
}

impl<C: Encode<V>, V, const N: usize> Encode<[V; N]> for Array<C> {
    fn encode<S: Serializer>(value: &[V; N], serializer: S) -> Result<S::Ok, S::Error> {
        let mut items = serializer.serialize_tuple(N)?;
        for item in value {
            items.serialize_element(&Encoded::<C, V>::new(item))?;
        }
        items.end()
    }
}

impl<'de, C: Decode<'de, V>, V, const N: usize> Decode<'de, [V; N]> for Array<C> {
    fn decode<D: Deserializer<'de>>(deserializer: D) -> Result<[V; N], D::Error> {
        struct Filled<C, V, const N: usize>(PhantomData<(C, V)>);
        impl<'de, C: Decode<'de, V>, V, const N: usize> Visitor<'de> for Filled<C, V, N> {
            type Value = [V; N];
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{N} items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<[V; N], A::Error> {
                let mut failure = None;
                let filled: [Option<V>; N] = std::array::from_fn(|at| {
                    if failure.is_some() {
                        return None;
                    }
                    match items.next_element::<Decoded<C, V>>() {
                        Ok(Some(item)) => Some(item.0),
                        Ok(None) => {
                            failure = Some(A::Error::invalid_length(at, &self));
                            None
                        }
                        Err(error) => {
                            failure = Some(error);
                            None
                        }
                    }
                });
                match failure {
                    Some(error) => Err(error),
                    None => Ok(filled.map(|item| item.expect("no item failed"))),
                }
            }
        }
        deserializer.deserialize_tuple(N, Filled::<C, V, N>(PhantomData))
    }
}

/// What a generated enum does with the number of the variant that has arrived.
pub trait Variants<'de>: Sized {
    /// The enum's name, for errors.
    const NAME: &'static str;
    /// The names of its variants, in order.
    const VARIANTS: &'static [&'static str];
    /// Decodes the content of variant `number`.
    fn content<A: VariantAccess<'de>>(number: u32, content: A) -> Result<Self, A::Error>;
}

/// Decodes an enum.
pub fn decode_enum<'de, T: Variants<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Chosen<T>(PhantomData<T>);
    impl<'de, T: Variants<'de>> Visitor<'de> for Chosen<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a variant of {}", T::NAME)
        }
        fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<T, A::Error> {
            let (number, content) = access.variant::<u32>()?;
            T::content(number, content)
        }
    }
    deserializer.deserialize_enum(T::NAME, T::VARIANTS, Chosen(PhantomData))
}

/// The error for a variant that `T` does not have.
pub fn unknown_variant<'de, T: Variants<'de>, E: serde::de::Error>(number: u32) -> E {
    E::custom(format_args!("{} has no variant {number}", T::NAME))
}

/// Bytes that `value` takes as a varint.
pub const fn varint_length(value: usize) -> usize {
    crate::schema::varint_length(value as u64) as usize
}

/// The lesser of two.
pub const fn least(one: usize, other: usize) -> usize {
    if one < other { one } else { other }
}

/// The greatest of `values`; 0 of none.
pub const fn greatest(values: &[usize]) -> usize {
    let mut greatest = 0;
    let mut at = 0;
    while at < values.len() {
        if values[at] > greatest {
            greatest = values[at];
        }
        at += 1;
    }
    greatest
}

/// A value whose encoding is limited as a whole, and its content without the limit.
pub trait Limited {
    /// Encodes it, however long.
    fn serialize_content<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
}

/// A limited value, to be encoded however long it is.
#[derive(Debug)]
pub struct Content<'a, T>(pub &'a T);

impl<T: Limited> Serialize for Content<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_content(serializer)
    }
}

/// Encodes a part that is limited to `max` bytes. Its length is counted first, which takes time by
/// its number of fields, not by the length of its texts and byte strings.
pub fn limited<T: Limited, S: Serializer>(
    value: &T,
    max: usize,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let counter = postcard::ser_flavors::Size::default();
    let length =
        postcard::serialize_with_flavor(&Content(value), counter).map_err(S::Error::custom)?;
    if length > max {
        return Err(S::Error::custom(too_long(length, max)));
    }
    value.serialize_content(serializer)
}

/// Writes a value to the beginning of `place`; its length, `None` where it does not fit into
/// `place` or `max` bytes.
#[inline]
pub fn encode<T: Serialize + ?Sized>(value: &T, place: &mut [u8], max: usize) -> Option<usize> {
    let end = place.len().min(max);
    let written = postcard::to_slice(value, &mut place[..end]).ok()?;
    Some(written.len())
}

/// Reads what fails only in a hostile or foreign encoding.
pub fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}
