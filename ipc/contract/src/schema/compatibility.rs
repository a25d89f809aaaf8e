//! Whether a consumer built against one schema can use a provider built against another.
//!
//! postcard writes no names, no types and no lengths of structs: whoever decodes must know the
//! encoder's shape. What may differ follows from that and from one question, asked in the
//! direction of travel: does the reader understand *everything* that the writer can write, and
//! take it to mean the same? In a request the consumer is the writer; in a response and an error
//! the provider is.
//!
//! | part | may differ |
//! |---|---|
//! | number, `bool` | not at all: the width decides the bytes |
//! | text, bytes, sequence | the reader's capacity may be greater |
//! | array | not in length |
//! | option | only inside; a value is not an option that is there |
//! | limit of the whole | the reader's may be greater or missing |
//! | struct | not in the number, order or names of fields; each field by its own rule |
//! | enum | the reader may know more variants, all of them after those of the writer |
//! | fixed layout | not at all: it has no room to differ in, and is none with an encoded type |
//! | raw bytes | the reader's capacity may be greater; they are not a byte string, which has a length |
//! | items of a streaming reply | only inside; they are no sequence, and not one response |
//! | method | the provider may have more |
//! | safety | the provider's may be stronger: at most once, idempotent, `once` |
//! | in-flight limit | the provider's may be greater |
//! | stream | the provider may have more; a value travels like a response |
//! | delivery of a stream | latest and lossless do not go together; the provider's buffer and history may be greater |
//! | slow subscriber | the provider may wait where the consumer expects to be disconnected |
//! | deadline, Rust type names | freely: they do not travel |
//!
//! So a field can't be added to a request, not even at its end: the older side would stop before
//! it, or run out of bytes. A new method, or a new variant of a request, is the way to grow within
//! a major version. A response can gain a variant only where the consumers have it already.
//!
//! Names of fields and variants do not travel either, but a new name says a new meaning, and two
//! fields of one type could change places unseen. Hence a renaming is a new contract.
//!
//! Safety: a consumer sends an `idempotent` or `once` request again when its server dies, so a
//! provider has to stand that. `once` serves a consumer that thinks the method idempotent; the
//! reverse does not hold, since another writer's effect may lie between the two executions.

use std::fmt;

use super::{
    DeliverySchema, FieldSchema, MethodSchema, SafetySchema, Schema, SlowSchema, StreamSchema,
    TypeSchema, VariantSchema,
};

/// One reason why a consumer cannot use a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incompatibility {
    /// Where: `kv@1.put.request.value`.
    pub place: String,
    /// What is wrong there.
    pub reason: Reason,
}

impl fmt::Display for Incompatibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

/// One of the two ends of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who uses the contract.
    Consumer,
    /// Who serves it.
    Provider,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Consumer => "the consumer",
            Self::Provider => "the provider",
        })
    }
}

/// What is wrong at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// They are different contracts.
    OtherContract {
        /// What the consumer wants.
        wanted: String,
        /// What the provider serves.
        served: String,
    },
    /// The provider lacks the method.
    NoMethod {
        /// The method's number.
        id: u16,
    },
    /// The number belongs to a method of another name.
    OtherMethod {
        /// The method's number.
        id: u16,
        /// What the provider calls it.
        served: String,
    },
    /// The provider's method stands less than the consumer does with it.
    WeakerSafety {
        /// What the consumer relies on.
        wanted: SafetySchema,
        /// What the provider gives.
        served: SafetySchema,
    },
    /// The provider lacks the stream.
    NoStream {
        /// The stream's number.
        id: u16,
    },
    /// The number belongs to a stream of another name.
    OtherStream {
        /// The stream's number.
        id: u16,
        /// What the provider calls it.
        served: String,
    },
    /// The provider's stream promises other than what the consumer relies on.
    OtherDelivery {
        /// What the consumer relies on.
        wanted: DeliverySchema,
        /// What the provider gives.
        served: DeliverySchema,
    },
    /// The consumer may have more requests outstanding than the provider takes.
    InFlight {
        /// The consumer's limit.
        wanted: u32,
        /// The provider's limit.
        served: u32,
    },
    /// The writer may send more than the reader takes.
    Capacity {
        /// Who reads.
        reader: Side,
        /// The most that is sent.
        sent: u64,
        /// The most that is taken.
        taken: u64,
    },
    /// The lengths of the arrays differ.
    Length {
        /// The consumer's.
        consumer: u64,
        /// The provider's.
        provider: u64,
    },
    /// The types differ.
    OtherType {
        /// The consumer's.
        consumer: &'static str,
        /// The provider's.
        provider: &'static str,
    },
    /// A struct or variant has other fields, or in another order.
    OtherFields {
        /// The consumer's.
        consumer: Vec<String>,
        /// The provider's.
        provider: Vec<String>,
    },
    /// The reader does not know the variant of this number, or by another name.
    UnknownVariant {
        /// Who reads.
        reader: Side,
        /// Its number.
        number: usize,
        /// Its name to the writer.
        name: String,
    },
}

impl fmt::Display for SafetySchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtMostOnce => "at most once",
            Self::Idempotent => "idempotent",
            Self::Once => "once",
        })
    }
}

impl fmt::Display for DeliverySchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest { history: false } => f.write_str("the latest value"),
            Self::Latest { history: true } => f.write_str("the latest value and that at joining"),
            Self::Lossless {
                buffer,
                history,
                slow,
            } => {
                let slow = match slow {
                    SlowSchema::Wait => "waiting for the slow",
                    SlowSchema::Disconnect => "disconnecting the slow",
                };
                write!(
                    f,
                    "every value, a buffer of {buffer}, a history of {history}, {slow}"
                )
            }
        }
    }
}

impl DeliverySchema {
    /// Whether who relies on `wanted` may be given this.
    fn gives(self, wanted: Self) -> bool {
        match (wanted, self) {
            (Self::Latest { history: wanted }, Self::Latest { history: served }) => {
                served || !wanted
            }
            (
                Self::Lossless {
                    buffer,
                    history,
                    slow,
                },
                Self::Lossless {
                    buffer: served_buffer,
                    history: served_history,
                    slow: served_slow,
                },
            ) => served_buffer >= buffer && served_history >= history && served_slow >= slow,
            (Self::Latest { .. }, Self::Lossless { .. })
            | (Self::Lossless { .. }, Self::Latest { .. }) => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = |side: &Side| match side {
            Side::Consumer => Side::Provider,
            Side::Provider => Side::Consumer,
        };
        match self {
            Self::OtherContract { wanted, served } => {
                write!(
                    f,
                    "the consumer wants `{wanted}`, the provider serves `{served}`"
                )
            }
            Self::NoMethod { id } => write!(f, "the provider has no method {id}"),
            Self::OtherMethod { id, served } => {
                write!(f, "the provider's method {id} is `{served}`")
            }
            Self::WeakerSafety { wanted, served } => {
                write!(
                    f,
                    "the consumer relies on {wanted}, the provider gives {served}"
                )
            }
            Self::NoStream { id } => write!(f, "the provider has no stream {id}"),
            Self::OtherStream { id, served } => {
                write!(f, "the provider's stream {id} is `{served}`")
            }
            Self::OtherDelivery { wanted, served } => write!(
                f,
                "the consumer relies on {wanted}; the provider gives {served}"
            ),
            Self::InFlight { wanted, served } => write!(
                f,
                "the provider takes {served} outstanding requests, the consumer has up to {wanted}"
            ),
            Self::Capacity {
                reader,
                sent,
                taken,
            } => {
                write!(
                    f,
                    "{reader} takes at most {taken}, {} sends up to {sent}",
                    other(reader)
                )
            }
            Self::Length { consumer, provider } => {
                write!(
                    f,
                    "array of {consumer} to the consumer, of {provider} to the provider"
                )
            }
            Self::OtherType { consumer, provider } => {
                write!(f, "{consumer} to the consumer, {provider} to the provider")
            }
            Self::OtherFields { consumer, provider } => write!(
                f,
                "fields ({}) to the consumer, ({}) to the provider",
                consumer.join(", "),
                provider.join(", ")
            ),
            Self::UnknownVariant {
                reader,
                number,
                name,
            } => {
                write!(f, "{reader} does not know variant {number} (`{name}`)")
            }
        }
    }
}

/// Says whether a consumer built against `consumer` can use a provider built against `provider`.
///
/// # Errors
///
/// Every reason why not, in the order of the consumer's methods and streams.
pub fn check(consumer: &Schema, provider: &Schema) -> Result<(), Vec<Incompatibility>> {
    let mut pass = Pass {
        path: vec![id(consumer)],
        problems: Vec::new(),
    };
    if id(consumer) != id(provider) {
        // Anything else would be noise.
        pass.report(Reason::OtherContract {
            wanted: id(consumer),
            served: id(provider),
        });
        return Err(pass.problems);
    }
    if consumer.in_flight > provider.in_flight {
        pass.report(Reason::InFlight {
            wanted: consumer.in_flight,
            served: provider.in_flight,
        });
    }
    for wanted in &consumer.methods {
        pass.at(&wanted.name, |pass| {
            match provider
                .methods
                .iter()
                .find(|served| served.id == wanted.id)
            {
                None => pass.report(Reason::NoMethod { id: wanted.id }),
                Some(served) => pass.method(wanted, served),
            }
        });
    }
    for wanted in &consumer.streams {
        pass.at(&wanted.name, |pass| {
            match provider
                .streams
                .iter()
                .find(|served| served.id == wanted.id)
            {
                None => pass.report(Reason::NoStream { id: wanted.id }),
                Some(served) => pass.stream(wanted, served),
            }
        });
    }
    pass.at("error", |pass| {
        pass.reads(Side::Consumer, &provider.error, &consumer.error);
    });
    if pass.problems.is_empty() {
        Ok(())
    } else {
        Err(pass.problems)
    }
}

fn id(schema: &Schema) -> String {
    format!("{}@{}", schema.name, schema.major)
}

struct Pass {
    path: Vec<String>,
    problems: Vec<Incompatibility>,
}

/// The writer's part and the reader's part, as the consumer's and the provider's.
fn ends<T>(reader: Side, written: T, read: T) -> (T, T) {
    match reader {
        Side::Consumer => (read, written),
        Side::Provider => (written, read),
    }
}

impl Pass {
    fn report(&mut self, reason: Reason) {
        self.problems.push(Incompatibility {
            place: self.path.join("."),
            reason,
        });
    }

    fn at(&mut self, name: &str, visit: impl FnOnce(&mut Self)) {
        self.path.push(name.to_owned());
        visit(self);
        self.path.pop();
    }

    fn method(&mut self, wanted: &MethodSchema, served: &MethodSchema) {
        if wanted.name != served.name {
            self.report(Reason::OtherMethod {
                id: wanted.id,
                served: served.name.clone(),
            });
            return;
        }
        if served.safety < wanted.safety {
            self.report(Reason::WeakerSafety {
                wanted: wanted.safety,
                served: served.safety,
            });
        }
        self.at("request", |pass| {
            pass.reads(Side::Provider, &wanted.request, &served.request);
        });
        self.at("response", |pass| {
            pass.reads(Side::Consumer, &served.response, &wanted.response);
        });
    }

    fn stream(&mut self, wanted: &StreamSchema, served: &StreamSchema) {
        if wanted.name != served.name {
            self.report(Reason::OtherStream {
                id: wanted.id,
                served: served.name.clone(),
            });
            return;
        }
        if !served.delivery.gives(wanted.delivery) {
            self.report(Reason::OtherDelivery {
                wanted: wanted.delivery,
                served: served.delivery,
            });
        }
        self.at("item", |pass| {
            pass.reads(Side::Consumer, &served.item, &wanted.item);
        });
    }

    /// Reports what of `written` the `reader` does not understand as `read`.
    fn reads(&mut self, reader: Side, written: &TypeSchema, read: &TypeSchema) {
        use TypeSchema as T;
        match (written, read) {
            (T::Text { max: sent }, T::Text { max: taken })
            | (T::Bytes { max: sent }, T::Bytes { max: taken })
            | (T::Raw { max: sent }, T::Raw { max: taken }) => {
                self.capacity(reader, *sent, *taken);
            }
            (
                T::Sequence {
                    max: sent,
                    item: written,
                },
                T::Sequence {
                    max: taken,
                    item: read,
                },
            ) => {
                self.capacity(reader, *sent, *taken);
                self.at("[]", |pass| pass.reads(reader, written, read));
            }
            (
                T::Array {
                    length: sent,
                    item: written,
                },
                T::Array {
                    length: taken,
                    item: read,
                },
            ) => {
                if sent != taken {
                    let (consumer, provider) = ends(reader, *sent, *taken);
                    self.report(Reason::Length { consumer, provider });
                }
                self.at("[]", |pass| pass.reads(reader, written, read));
            }
            (T::Option(written), T::Option(read))
            | (T::Fixed(written), T::Fixed(read))
            | (T::Items(written), T::Items(read)) => {
                self.reads(reader, written, read);
            }
            // A limit has no bytes of its own.
            (written, T::Limited { max, item: read }) => {
                self.capacity(reader, written.encoded_max(), *max);
                self.reads(reader, written, read);
            }
            (T::Limited { item: written, .. }, read) => self.reads(reader, written, read),
            (T::Struct(written), T::Struct(read)) => self.fields(reader, written, read),
            (T::Enum(written), T::Enum(read)) => self.variants(reader, written, read),
            (written, read) => {
                let (consumer, provider) = ends(reader, kind(written), kind(read));
                if consumer != provider {
                    self.report(Reason::OtherType { consumer, provider });
                }
            }
        }
    }

    fn capacity(&mut self, reader: Side, sent: u64, taken: u64) {
        if sent > taken {
            self.report(Reason::Capacity {
                reader,
                sent,
                taken,
            });
        }
    }

    fn fields(&mut self, reader: Side, written: &[FieldSchema], read: &[FieldSchema]) {
        let names = |fields: &[FieldSchema]| -> Vec<String> {
            fields.iter().map(|field| field.name.clone()).collect()
        };
        if names(written) != names(read) {
            let (consumer, provider) = ends(reader, names(written), names(read));
            self.report(Reason::OtherFields { consumer, provider });
            return;
        }
        for (written, read) in written.iter().zip(read) {
            self.at(&written.name, |pass| {
                pass.reads(reader, &written.schema, &read.schema)
            });
        }
    }

    fn variants(&mut self, reader: Side, written: &[VariantSchema], read: &[VariantSchema]) {
        for (number, written) in written.iter().enumerate() {
            match read.get(number) {
                Some(read) if read.name == written.name => {
                    self.at(&written.name, |pass| {
                        pass.fields(reader, &written.fields, &read.fields);
                    });
                }
                _ => self.report(Reason::UnknownVariant {
                    reader,
                    number,
                    name: written.name.clone(),
                }),
            }
        }
    }
}

/// What a type is called; equal for equal scalars, and for composites only of the same form.
fn kind(schema: &TypeSchema) -> &'static str {
    match schema {
        TypeSchema::Bool => "bool",
        TypeSchema::U8 => "u8",
        TypeSchema::U16 => "u16",
        TypeSchema::U32 => "u32",
        TypeSchema::U64 => "u64",
        TypeSchema::I8 => "i8",
        TypeSchema::I16 => "i16",
        TypeSchema::I32 => "i32",
        TypeSchema::I64 => "i64",
        TypeSchema::F32 => "f32",
        TypeSchema::F64 => "f64",
        TypeSchema::Text { .. } => "text",
        TypeSchema::Bytes { .. } => "bytes",
        TypeSchema::Sequence { .. } => "sequence",
        TypeSchema::Array { .. } => "array",
        TypeSchema::Option(_) => "option",
        TypeSchema::Limited { item, .. } => kind(item),
        TypeSchema::Struct(_) => "struct",
        TypeSchema::Enum(_) => "enum",
        TypeSchema::Fixed(_) => "fixed layout",
        TypeSchema::Raw { .. } => "raw bytes",
        TypeSchema::Items(_) => "items",
    }
}
