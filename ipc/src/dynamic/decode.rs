//! The bytes of a schema to JSON.

use insula_contract::schema::{FieldSchema, TypeSchema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::encode::{Layout, Shape};

/// Items that take no bytes, at most in all: nothing else bounds them.
const EMPTY_ITEMS_MAX: usize = 65_536;

/// Why bytes are no value of a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what}")]
pub struct DecodeError {
    /// Where in the bytes.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// Decodes what `schema` says; every byte must belong to it.
pub fn decode(schema: &TypeSchema, bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut decoder = Decoder {
        all: bytes.len(),
        bytes,
        empty_items: 0,
    };
    let value = decoder.get(schema, Layout::Compact)?;
    if decoder.bytes.is_empty() {
        Ok(value)
    } else {
        Err(decoder.error("the value ends before the bytes"))
    }
}

struct Decoder<'a> {
    all: usize,
    /// What is left.
    bytes: &'a [u8],
    empty_items: usize,
}

macro_rules! integer {
    ($decoder:expr, $layout:expr, $type:ty) => {
        match $layout {
            Layout::Compact => Value::from($decoder.read::<$type>()?),
            Layout::Fixed => Value::from(<$type>::from_le_bytes($decoder.take_array()?)),
        }
    };
}

impl Decoder<'_> {
    fn get(&mut self, schema: &TypeSchema, layout: Layout) -> Result<Value, DecodeError> {
        Ok(match schema {
            TypeSchema::Bool => Value::from(self.read::<bool>()?),
            TypeSchema::U8 => integer!(self, layout, u8),
            TypeSchema::U16 => integer!(self, layout, u16),
            TypeSchema::U32 => integer!(self, layout, u32),
            TypeSchema::U64 => integer!(self, layout, u64),
            TypeSchema::I8 => integer!(self, layout, i8),
            TypeSchema::I16 => integer!(self, layout, i16),
            TypeSchema::I32 => integer!(self, layout, i32),
            TypeSchema::I64 => integer!(self, layout, i64),
            TypeSchema::F32 => float(f64::from(f32::from_le_bytes(self.take_array()?))),
            TypeSchema::F64 => float(f64::from_le_bytes(self.take_array()?)),
            TypeSchema::Text { max } => {
                let length = self.length(*max)?;
                let text = String::from_utf8(self.take(length)?.to_vec());
                Value::from(text.map_err(|_| self.error("a text is not UTF-8"))?)
            }
            TypeSchema::Bytes { max } => {
                let length = self.length(*max)?;
                bytes(self.take(length)?)
            }
            TypeSchema::Raw { max } => {
                if self.bytes.len() as u64 > *max {
                    return Err(self.error("more bytes than the schema allows"));
                }
                bytes(self.take(self.bytes.len())?)
            }
            TypeSchema::Sequence { max, item } => {
                let length = self.length(*max)?;
                self.items(item, length, layout)?
            }
            TypeSchema::Array { length, item } => {
                let length = usize::try_from(*length).unwrap_or(usize::MAX);
                self.items(item, length, layout)?
            }
            TypeSchema::Option(item) => match self.take_array::<1>()? {
                [0] => Value::Null,
                [1] => self.get(item, layout)?,
                _ => return Err(self.error("an option is neither there nor not")),
            },
            TypeSchema::Limited { max, item } => {
                let before = self.bytes.len();
                let value = self.get(item, layout)?;
                if (before - self.bytes.len()) as u64 > *max {
                    return Err(self.error("a value is longer than its limit"));
                }
                value
            }
            TypeSchema::Struct(fields) => self.fields(fields, layout)?,
            TypeSchema::Enum(variants) => {
                let index = self.read::<u32>()? as usize;
                let Some(variant) = variants.get(index) else {
                    return Err(self.error("a variant that the schema lacks"));
                };
                if variant.fields.is_empty() {
                    Value::from(variant.name.as_str())
                } else {
                    let content = self.fields(&variant.fields, layout)?;
                    Value::from(Map::from_iter([(variant.name.clone(), content)]))
                }
            }
            TypeSchema::Fixed(item) => self.get(item, Layout::Fixed)?,
            TypeSchema::Items(_) => return Err(self.error("items are no one value")),
        })
    }

    fn fields(&mut self, fields: &[FieldSchema], layout: Layout) -> Result<Value, DecodeError> {
        match Shape::of(fields) {
            Shape::Empty => Ok(Value::Null),
            Shape::One(field) => self.get(&field.schema, layout),
            Shape::Row => fields
                .iter()
                .map(|field| self.get(&field.schema, layout))
                .collect(),
            Shape::Named => fields
                .iter()
                .map(|field| Ok((field.name.clone(), self.get(&field.schema, layout)?)))
                .collect::<Result<Map<_, _>, _>>()
                .map(Value::from),
        }
    }

    fn items(
        &mut self,
        item: &TypeSchema,
        length: usize,
        layout: Layout,
    ) -> Result<Value, DecodeError> {
        let mut items = Vec::new();
        for _ in 0..length {
            let before = self.bytes.len();
            items.push(self.get(item, layout)?);
            if self.bytes.len() == before {
                self.empty_items += 1;
                if self.empty_items > EMPTY_ITEMS_MAX {
                    return Err(self.error("too many items of no bytes"));
                }
            }
        }
        Ok(Value::from(items))
    }

    /// A length that was written, at most `max`.
    fn length(&mut self, max: u64) -> Result<usize, DecodeError> {
        let length = self.read::<u64>()?;
        if length > max {
            return Err(self.error("longer than the schema allows"));
        }
        usize::try_from(length).map_err(|_| self.error("longer than memory"))
    }

    fn read<T: DeserializeOwned>(&mut self) -> Result<T, DecodeError> {
        let (value, rest) = postcard::take_from_bytes(self.bytes)
            .map_err(|_| self.error("not a number, or cut"))?;
        self.bytes = rest;
        Ok(value)
    }

    fn take(&mut self, length: usize) -> Result<&[u8], DecodeError> {
        let Some((taken, rest)) = self.bytes.split_at_checked(length) else {
            return Err(self.error("the bytes end before the value"));
        };
        self.bytes = rest;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn error(&self, what: &'static str) -> DecodeError {
        DecodeError {
            at: self.all - self.bytes.len(),
            what,
        }
    }
}

fn float(number: f64) -> Value {
    if number.is_nan() {
        Value::from("NaN")
    } else if number.is_infinite() {
        Value::from(if number > 0.0 { "inf" } else { "-inf" })
    } else {
        Value::from(number)
    }
}

/// Text where people can read it.
fn bytes(bytes: &[u8]) -> Value {
    let readable = |text: &&str| !text.chars().any(|c| c.is_control() && !c.is_whitespace());
    match std::str::from_utf8(bytes).ok().filter(readable) {
        Some(text) => Value::from(text),
        None => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Value::from(Map::from_iter([("hex".to_owned(), Value::from(hex))]))
        }
    }
}
