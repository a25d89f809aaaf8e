//! Schemas for people: what a type is in words, and an example of it.

use std::fmt;

use insula_contract::schema::{FieldSchema, MethodSchema, SafetySchema, TypeSchema};
use serde_json::{Map, Value, json};

use super::encode::Shape;

/// A type in words: `{key: bytes (at most 511), limit: u32}`.
#[derive(Debug, Clone, Copy)]
pub struct TypeText<'a>(pub &'a TypeSchema);

impl fmt::Display for TypeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            TypeSchema::Bool => f.write_str("bool"),
            TypeSchema::U8 => f.write_str("u8"),
            TypeSchema::U16 => f.write_str("u16"),
            TypeSchema::U32 => f.write_str("u32"),
            TypeSchema::U64 => f.write_str("u64"),
            TypeSchema::I8 => f.write_str("i8"),
            TypeSchema::I16 => f.write_str("i16"),
            TypeSchema::I32 => f.write_str("i32"),
            TypeSchema::I64 => f.write_str("i64"),
            TypeSchema::F32 => f.write_str("f32"),
            TypeSchema::F64 => f.write_str("f64"),
            TypeSchema::Text { max } => write!(f, "text (at most {max})"),
            TypeSchema::Bytes { max } | TypeSchema::Raw { max } => {
                write!(f, "bytes (at most {max})")
            }
            TypeSchema::Sequence { max, item } => write!(f, "[{}] (at most {max})", Self(item)),
            TypeSchema::Array { length, item } => write!(f, "[{}; {length}]", Self(item)),
            TypeSchema::Option(item) => write!(f, "{} or null", Self(item)),
            TypeSchema::Limited { max, item } => {
                write!(f, "{} (at most {max} bytes encoded)", Self(item))
            }
            TypeSchema::Fixed(item) => write!(f, "{}", Self(item)),
            TypeSchema::Items(item) => write!(f, "items of {}", Self(item)),
            TypeSchema::Struct(fields) => write_fields(f, fields),
            TypeSchema::Enum(variants) => {
                if variants.is_empty() {
                    return f.write_str("nothing");
                }
                for (index, variant) in variants.iter().enumerate() {
                    if index > 0 {
                        f.write_str(" | ")?;
                    }
                    f.write_str(&variant.name)?;
                    if !variant.fields.is_empty() {
                        f.write_str(" ")?;
                        write_fields(f, &variant.fields)?;
                    }
                }
                Ok(())
            }
        }
    }
}

fn write_fields(f: &mut fmt::Formatter<'_>, fields: &[FieldSchema]) -> fmt::Result {
    let (open, close, named) = match Shape::of(fields) {
        Shape::Empty => return f.write_str("()"),
        Shape::One(field) => return write!(f, "{}", TypeText(&field.schema)),
        Shape::Row => ("[", "]", false),
        Shape::Named => ("{", "}", true),
    };
    f.write_str(open)?;
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        if named {
            write!(f, "{}: ", field.name)?;
        }
        write!(f, "{}", TypeText(&field.schema))?;
    }
    f.write_str(close)
}

/// A method in words: `get (idempotent): {key: bytes (at most 511)} -> ..`.
#[derive(Debug, Clone, Copy)]
pub struct Signature<'a>(pub &'a MethodSchema);

impl fmt::Display for Signature<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = self.0;
        let safety = match method.safety {
            SafetySchema::AtMostOnce => "at most once",
            SafetySchema::Idempotent => "idempotent",
            SafetySchema::Once => "once",
        };
        write!(
            f,
            "{} ({safety}): {} -> {}",
            method.name,
            TypeText(&method.request),
            TypeText(&method.response)
        )
    }
}

/// The longest example of an array.
const ARRAY_MAX: u64 = 64;

/// A value of a type, as JSON: one that [`super::encode`] takes, unless an array is longer than
/// an example should be.
pub fn example(schema: &TypeSchema) -> Value {
    match schema {
        TypeSchema::Bool => json!(true),
        TypeSchema::U8
        | TypeSchema::U16
        | TypeSchema::U32
        | TypeSchema::U64
        | TypeSchema::I8
        | TypeSchema::I16
        | TypeSchema::I32
        | TypeSchema::I64 => json!(1),
        TypeSchema::F32 | TypeSchema::F64 => json!(0.5),
        TypeSchema::Text { max } | TypeSchema::Bytes { max } | TypeSchema::Raw { max } => {
            let length = usize::try_from(*max).unwrap_or(usize::MAX);
            json!("text"[..length.min(4)])
        }
        TypeSchema::Sequence { max: 0, .. } => json!([]),
        TypeSchema::Sequence { item, .. } => json!([example(item)]),
        TypeSchema::Array { length, item } => {
            let item = example(item);
            (0..(*length).min(ARRAY_MAX))
                .map(|_| item.clone())
                .collect()
        }
        TypeSchema::Option(item) | TypeSchema::Limited { item, .. } => example(item),
        TypeSchema::Fixed(item) => example(item),
        TypeSchema::Items(item) => json!([example(item)]),
        TypeSchema::Struct(fields) => example_of(fields),
        TypeSchema::Enum(variants) => match variants.first() {
            None => Value::Null,
            Some(variant) if variant.fields.is_empty() => json!(variant.name),
            Some(variant) => json!({ &variant.name: example_of(&variant.fields) }),
        },
    }
}

fn example_of(fields: &[FieldSchema]) -> Value {
    match Shape::of(fields) {
        Shape::Empty => Value::Null,
        Shape::One(field) => example(&field.schema),
        Shape::Row => fields.iter().map(|field| example(&field.schema)).collect(),
        Shape::Named => {
            let named = fields
                .iter()
                .map(|field| (field.name.clone(), example(&field.schema)));
            Value::from(named.collect::<Map<_, _>>())
        }
    }
}
