//! The structural schema of a contract, its hash, and whether two of them go together.
//!
//! A [`Schema`] says what can travel on an edge: which methods, under which numbers, and what each
//! request, response and error is made of. `#[contract]` and `#[derive(Message)]` produce it. It
//! holds what the bytes mean and how long they can be: names of methods, fields and variants,
//! their order, types and capacities, and each method's safety. It leaves out what only one side
//! acts on: deadlines, documentation, and the names of Rust types.
//!
//! [`compatibility`] has the rules by which a consumer built against one schema may use a provider
//! built against another.

pub mod compatibility;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

pub use compatibility::{Incompatibility, Reason, check};

/// What a contract consists of.
///
/// # Examples
///
/// ```
/// use insula_contract::schema::{MethodSchema, SafetySchema, Schema, TypeSchema, check};
///
/// let read = MethodSchema {
///     id: 1,
///     name: "read".into(),
///     safety: SafetySchema::Idempotent,
///     request: TypeSchema::Text { max: 100 },
///     response: TypeSchema::Option(Box::new(TypeSchema::U64)),
/// };
/// let consumer = Schema {
///     name: "counter".into(),
///     major: 1,
///     in_flight: 16,
///     error: TypeSchema::Enum(vec![]),
///     methods: vec![read],
///     streams: vec![],
/// };
/// let mut provider = consumer.clone();
/// provider.methods[0].request = TypeSchema::Text { max: 200 };
/// assert!(check(&consumer, &provider).is_ok());
///
/// let problems = check(&provider, &consumer).unwrap_err();
/// assert_eq!(
///     problems[0].to_string(),
///     "counter@1.read.request: the provider takes at most 100, the consumer sends up to 200"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Schema {
    /// The contract's name.
    pub name: String,
    /// Its major version.
    pub major: u16,
    /// Requests that one connection may have outstanding.
    pub in_flight: u32,
    /// What every method can answer instead of its response.
    pub error: TypeSchema,
    /// Its methods.
    #[serde(deserialize_with = "unreserved")]
    pub methods: Vec<MethodSchema>,
    /// Its streams.
    #[serde(deserialize_with = "unreserved")]
    pub streams: Vec<StreamSchema>,
}

/// One method of a contract.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MethodSchema {
    /// Its number on the wire.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// What may be done with a request whose fate is not known.
    pub safety: SafetySchema,
    /// What it is asked.
    pub request: TypeSchema,
    /// What it answers.
    pub response: TypeSchema,
}

/// What may be done with a request whose fate is not known, the least demanding of a server first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SafetySchema {
    /// It is not sent again.
    AtMostOnce,
    /// It is sent again; doing it twice changes nothing.
    Idempotent,
    /// It is sent again; the server recognises it and repeats its answer.
    Once,
}

/// One stream of a contract.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamSchema {
    /// Its number on the wire.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// What becomes of its values.
    pub delivery: DeliverySchema,
    /// What its values are.
    pub item: TypeSchema,
}

/// What becomes of a stream's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeliverySchema {
    /// A subscriber gets the newest one, and none in between that it was too slow for.
    Latest {
        /// Whether one who joins gets the value that was published last.
        history: bool,
    },
    /// A subscriber gets each of them.
    Lossless {
        /// Values that may wait for a subscriber.
        buffer: u32,
        /// The last values, that one who joins gets.
        history: u32,
        /// What becomes of a subscriber that has no room.
        slow: SlowSchema,
    },
}

/// What becomes of a subscriber that has no room for a value, the least it can rely on first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SlowSchema {
    /// It is disconnected and told so.
    Disconnect,
    /// The publisher waits for it.
    Wait,
}

/// What a value is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the scalars are Rust's")]
pub enum TypeSchema {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
    /// UTF-8 text of at most `max` bytes.
    Text {
        max: u64,
    },
    /// A byte string of at most `max` bytes.
    Bytes {
        max: u64,
    },
    /// At most `max` items.
    Sequence {
        max: u64,
        #[serde(deserialize_with = "deeper")]
        item: Box<TypeSchema>,
    },
    /// Exactly `length` items.
    Array {
        length: u64,
        #[serde(deserialize_with = "deeper")]
        item: Box<TypeSchema>,
    },
    /// A value or nothing.
    Option(#[serde(deserialize_with = "deeper")] Box<TypeSchema>),
    /// A value whose encoding is at most `max` bytes, whatever its parts would allow.
    Limited {
        max: u64,
        #[serde(deserialize_with = "deeper")]
        item: Box<TypeSchema>,
    },
    /// All of the fields, in this order.
    Struct(#[serde(deserialize_with = "unreserved")] Vec<FieldSchema>),
    /// One of the variants, numbered by their order.
    Enum(#[serde(deserialize_with = "unreserved")] Vec<VariantSchema>),
    /// As it lies in memory: numbers of their full width, low byte first, arrays and structs of
    /// them without padding, and nothing else.
    Fixed(#[serde(deserialize_with = "deeper")] Box<TypeSchema>),
    /// Bytes, at most `max` of them, that are the whole of a request, response or value: without
    /// a length of their own.
    Raw {
        max: u64,
    },
    /// Any number of such items, one after the other: the response of a streaming method.
    Items(#[serde(deserialize_with = "deeper")] Box<TypeSchema>),
}

/// A field of a struct or a variant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FieldSchema {
    /// Its name; its number where it has none.
    pub name: String,
    /// Its type.
    #[serde(deserialize_with = "deeper")]
    pub schema: TypeSchema,
}

/// A variant of an enum.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VariantSchema {
    /// Its name.
    pub name: String,
    /// What it carries.
    #[serde(deserialize_with = "unreserved")]
    pub fields: Vec<FieldSchema>,
}

/// How deep types may be nested in a schema that is decoded.
///
/// A schema may come from a program that is not trusted, and decoding recurses.
pub const DEPTH_MAX: u32 = 32;

fn deeper<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });
    if DEPTH.get() == DEPTH_MAX {
        return Err(serde::de::Error::custom("schema is nested too deeply"));
    }
    DEPTH.set(DEPTH.get() + 1);
    let decoded = T::deserialize(deserializer);
    DEPTH.set(DEPTH.get() - 1);
    decoded
}

/// Decodes a list that grows with the items that have come, whatever their announced count.
///
/// A `Vec`'s own decoding reserves up to 1 MiB for that count, and does so on each level of lists.
fn unreserved<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Items<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = sequence.next_element()? {
                if items.len() == items.capacity() {
                    // Not `push`'s growth, whose first step is to four items: most lists are short.
                    items.reserve_exact(items.len().max(1));
                }
                items.push(item);
            }
            Ok(items)
        }
    }

    deserializer.deserialize_seq(Items(PhantomData))
}

impl Schema {
    /// The 64-bit FNV-1a hash of the canonical encoding: equal for equal schemas, on every host
    /// and in every build.
    ///
    /// The canonical encoding is `insula schema 1`, then the schema with its methods ordered by
    /// number, as postcard; its streams, ordered too, only where it has any. Two schemas of the same hash are taken for equal; nothing is protected
    /// by that, since an edge's two ends are checked again on every message.
    pub fn hash(&self) -> u64 {
        let mut canonical = self.clone();
        canonical.methods.sort_by_key(|method| method.id);
        canonical.streams.sort_by_key(|stream| stream.id);
        let mut bytes = postcard::to_extend(&canonical, b"insula schema 1".to_vec())
            .expect("a schema has only types that postcard encodes");
        if canonical.streams.is_empty() {
            // The count of no streams: hashes of contracts without any are older than streams.
            bytes.pop();
        }
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

impl TypeSchema {
    /// The most bytes that a value takes, of items each one; saturates.
    pub fn encoded_max(&self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 3,
            Self::U32 | Self::I32 => 5,
            Self::U64 | Self::I64 => 10,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Text { max } | Self::Bytes { max } => varint_length(*max).saturating_add(*max),
            Self::Sequence { max, item } => {
                varint_length(*max).saturating_add(max.saturating_mul(item.encoded_max()))
            }
            Self::Array { length, item } => length.saturating_mul(item.encoded_max()),
            Self::Option(item) => item.encoded_max().saturating_add(1),
            Self::Limited { max, item } => item.encoded_max().min(*max),
            Self::Struct(fields) => fields_max(fields),
            Self::Enum(variants) => {
                let greatest = variants
                    .iter()
                    .map(|v| fields_max(&v.fields))
                    .max()
                    .unwrap_or(0);
                let last = (variants.len() as u64).saturating_sub(1);
                varint_length(last).saturating_add(greatest)
            }
            Self::Fixed(item) => item.fixed_size(),
            Self::Raw { max } => *max,
            Self::Items(item) => item.encoded_max(),
        }
    }

    /// The bytes that a value takes in memory; saturates. 0 for what has no fixed layout, which is
    /// no part of a [`TypeSchema::Fixed`].
    fn fixed_size(&self) -> u64 {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::Array { length, item } => length.saturating_mul(item.fixed_size()),
            Self::Struct(fields) => fields.iter().fold(0, |sum, field| {
                sum.saturating_add(field.schema.fixed_size())
            }),
            Self::Fixed(item) => item.fixed_size(),
            Self::Bool
            | Self::Text { .. }
            | Self::Bytes { .. }
            | Self::Sequence { .. }
            | Self::Option(_)
            | Self::Limited { .. }
            | Self::Enum(_)
            | Self::Raw { .. }
            | Self::Items(_) => 0,
        }
    }
}

fn fields_max(fields: &[FieldSchema]) -> u64 {
    fields.iter().fold(0, |sum, field| {
        sum.saturating_add(field.schema.encoded_max())
    })
}

/// Bytes that `value` takes as a postcard varint.
pub(crate) const fn varint_length(value: u64) -> u64 {
    let bits = 64 - (value | 1).leading_zeros();
    bits.div_ceil(7) as u64
}
