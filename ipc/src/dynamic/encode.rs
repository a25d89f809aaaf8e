//! JSON to the bytes of a schema.

use std::fmt::{self, Write};

use insula_contract::schema::{FieldSchema, TypeSchema, VariantSchema};
use serde::Serialize;
use serde_json::{Map, Value};

use super::text::{TypeText, example};

/// Why a JSON value is none of a schema.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodeError {
    /// Where in the value: `entries[3].key`; empty for the whole.
    pub path: String,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// What could be there.
    pub example: Value,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            expected,
            found,
            example,
        } = self;
        let path = if path.is_empty() { "the value" } else { path };
        write!(
            f,
            "{path}: expected {expected}, found {found}; for example {example}"
        )
    }
}

impl std::error::Error for EncodeError {}

/// Encodes a JSON value as what `schema` says.
pub fn encode(schema: &TypeSchema, value: &Value) -> Result<Vec<u8>, EncodeError> {
    let mut encoder = Encoder {
        bytes: Vec::new(),
        path: String::new(),
    };
    encoder.put(schema, value, Layout::Compact)?;
    Ok(encoder.bytes)
}

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// As postcard does.
    Compact,
    /// In their full width, low byte first.
    Fixed,
}

struct Encoder {
    bytes: Vec<u8>,
    path: String,
}

macro_rules! integer {
    ($encoder:expr, $schema:expr, $value:expr, $layout:expr, $type:ty) => {{
        let number = $value
            .as_i64()
            .map(i128::from)
            .or_else(|| $value.as_u64().map(i128::from))
            .and_then(|number| <$type>::try_from(number).ok());
        match number {
            Some(number) => {
                $encoder.number(&number, &number.to_le_bytes(), $layout);
                Ok(())
            }
            None => Err($encoder.wrong($schema, $value)),
        }
    }};
}

impl Encoder {
    fn put(
        &mut self,
        schema: &TypeSchema,
        value: &Value,
        layout: Layout,
    ) -> Result<(), EncodeError> {
        match schema {
            TypeSchema::Bool => {
                let truth = value.as_bool().ok_or_else(|| self.wrong(schema, value))?;
                self.bytes.push(u8::from(truth));
                Ok(())
            }
            TypeSchema::U8 => integer!(self, schema, value, layout, u8),
            TypeSchema::U16 => integer!(self, schema, value, layout, u16),
            TypeSchema::U32 => integer!(self, schema, value, layout, u32),
            TypeSchema::U64 => integer!(self, schema, value, layout, u64),
            TypeSchema::I8 => integer!(self, schema, value, layout, i8),
            TypeSchema::I16 => integer!(self, schema, value, layout, i16),
            TypeSchema::I32 => integer!(self, schema, value, layout, i32),
            TypeSchema::I64 => integer!(self, schema, value, layout, i64),
            // Floats have one form in both layouts.
            TypeSchema::F32 => {
                let number = float(value).ok_or_else(|| self.wrong(schema, value))? as f32;
                self.bytes.extend(number.to_le_bytes());
                Ok(())
            }
            TypeSchema::F64 => {
                let number = float(value).ok_or_else(|| self.wrong(schema, value))?;
                self.bytes.extend(number.to_le_bytes());
                Ok(())
            }
            TypeSchema::Text { max } => {
                let text = value.as_str().ok_or_else(|| self.wrong(schema, value))?;
                self.check_length(schema, text.len(), *max, "bytes")?;
                self.write(&text);
                Ok(())
            }
            TypeSchema::Bytes { max } => {
                let bytes = bytes_of(value).ok_or_else(|| self.wrong(schema, value))?;
                self.check_length(schema, bytes.len(), *max, "bytes")?;
                self.write(&(bytes.len() as u64));
                self.bytes.extend(bytes);
                Ok(())
            }
            TypeSchema::Raw { max } => {
                let bytes = bytes_of(value).ok_or_else(|| self.wrong(schema, value))?;
                self.check_length(schema, bytes.len(), *max, "bytes")?;
                self.bytes.extend(bytes);
                Ok(())
            }
            TypeSchema::Sequence { max, item } => {
                let items = value.as_array().ok_or_else(|| self.wrong(schema, value))?;
                self.check_length(schema, items.len(), *max, "items")?;
                self.write(&(items.len() as u64));
                self.items(item, items, layout)
            }
            TypeSchema::Array { length, item } => {
                let items = value.as_array().ok_or_else(|| self.wrong(schema, value))?;
                if items.len() as u64 != *length {
                    return Err(self.error(schema, format!("{} items", items.len())));
                }
                self.items(item, items, layout)
            }
            TypeSchema::Option(item) => {
                self.bytes.push(u8::from(!value.is_null()));
                match value {
                    Value::Null => Ok(()),
                    value => self.put(item, value, layout),
                }
            }
            TypeSchema::Limited { max, item } => {
                let before = self.bytes.len();
                self.put(item, value, layout)?;
                self.check_length(schema, self.bytes.len() - before, *max, "bytes")
            }
            TypeSchema::Struct(fields) => self.fields(schema, fields, value, layout),
            TypeSchema::Enum(variants) => self.variant(schema, variants, value, layout),
            TypeSchema::Fixed(item) => self.put(item, value, Layout::Fixed),
            TypeSchema::Items(_) => Err(self.wrong(schema, value)),
        }
    }

    /// Writes as postcard does, which fails on none of what is written here.
    fn write(&mut self, value: &(impl Serialize + ?Sized)) {
        self.bytes = postcard::to_extend(value, std::mem::take(&mut self.bytes))
            .expect("numbers and texts are encodable");
    }

    fn number(&mut self, value: &impl Serialize, fixed: &[u8], layout: Layout) {
        match layout {
            Layout::Compact => self.write(value),
            Layout::Fixed => self.bytes.extend(fixed),
        }
    }

    fn items(
        &mut self,
        schema: &TypeSchema,
        items: &[Value],
        layout: Layout,
    ) -> Result<(), EncodeError> {
        for (index, item) in items.iter().enumerate() {
            let before = self.path.len();
            // Writing to a string does not fail.
            let _ = write!(self.path, "[{index}]");
            self.put(schema, item, layout)?;
            self.path.truncate(before);
        }
        Ok(())
    }

    fn fields(
        &mut self,
        schema: &TypeSchema,
        fields: &[FieldSchema],
        value: &Value,
        layout: Layout,
    ) -> Result<(), EncodeError> {
        match (Shape::of(fields), value) {
            (Shape::Empty, Value::Null) => Ok(()),
            (Shape::Empty, Value::Object(object)) if object.is_empty() => Ok(()),
            (Shape::One(field), value) => self.put(&field.schema, value, layout),
            (Shape::Row, Value::Array(items)) if items.len() == fields.len() => {
                for (index, (field, item)) in fields.iter().zip(items).enumerate() {
                    let before = self.path.len();
                    let _ = write!(self.path, "[{index}]");
                    self.put(&field.schema, item, layout)?;
                    self.path.truncate(before);
                }
                Ok(())
            }
            (Shape::Named, Value::Object(object)) => self.object(schema, fields, object, layout),
            (Shape::Empty | Shape::Row | Shape::Named, value) => Err(self.wrong(schema, value)),
        }
    }

    fn object(
        &mut self,
        schema: &TypeSchema,
        fields: &[FieldSchema],
        object: &Map<String, Value>,
        layout: Layout,
    ) -> Result<(), EncodeError> {
        let unknown = object
            .keys()
            .find(|key| !fields.iter().any(|field| field.name == **key));
        if let Some(unknown) = unknown {
            return Err(self.error(schema, format!("a field `{unknown}`")));
        }
        for field in fields {
            let before = self.path.len();
            self.step(&field.name);
            match object.get(&field.name) {
                Some(value) => self.put(&field.schema, value, layout)?,
                None if matches!(field.schema, TypeSchema::Option(_)) => {
                    self.put(&field.schema, &Value::Null, layout)?;
                }
                None => return Err(self.error(&field.schema, "nothing".to_owned())),
            }
            self.path.truncate(before);
        }
        Ok(())
    }

    fn variant(
        &mut self,
        schema: &TypeSchema,
        variants: &[VariantSchema],
        value: &Value,
        layout: Layout,
    ) -> Result<(), EncodeError> {
        let (name, content) = match value {
            Value::String(name) => (name, &Value::Null),
            Value::Object(object) if object.len() == 1 => {
                object.iter().next().expect("it has one entry")
            }
            _ => return Err(self.wrong(schema, value)),
        };
        let named = variants.iter().position(|variant| variant.name == *name);
        let Some(index) = named else {
            return Err(self.error(schema, format!("a variant `{name}`")));
        };
        let fields = &variants[index].fields;
        let bare = value.is_string();
        if bare && !fields.is_empty() {
            return Err(self.error(schema, format!("`{name}` without its content")));
        }
        self.write(&(index as u32));
        let before = self.path.len();
        self.step(name);
        self.fields(&TypeSchema::Struct(fields.clone()), fields, content, layout)?;
        self.path.truncate(before);
        Ok(())
    }

    fn step(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }

    fn check_length(
        &self,
        schema: &TypeSchema,
        length: usize,
        max: u64,
        what: &str,
    ) -> Result<(), EncodeError> {
        if length as u64 <= max {
            Ok(())
        } else {
            Err(self.error(schema, format!("{length} {what}")))
        }
    }

    fn wrong(&self, schema: &TypeSchema, value: &Value) -> EncodeError {
        let mut found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(truth) => truth.to_string(),
            Value::Number(number) => format!("the number {number}"),
            Value::String(text) => format!("the text {text:?}"),
            Value::Array(items) => format!("a list of {}", items.len()),
            Value::Object(object) => {
                let keys: Vec<_> = object.keys().map(String::as_str).collect();
                format!("an object of {}", keys.join(", "))
            }
        };
        if found.len() > FOUND_MAX {
            found.truncate(found.floor_char_boundary(FOUND_MAX));
            found.push_str("...");
        }
        self.error(schema, found)
    }

    fn error(&self, schema: &TypeSchema, found: String) -> EncodeError {
        EncodeError {
            path: self.path.clone(),
            expected: TypeText(schema).to_string(),
            found,
            example: example(schema),
        }
    }
}

/// Bytes of a found value that are shown.
const FOUND_MAX: usize = 80;

/// How the fields of a struct or a variant look in JSON.
pub(super) enum Shape<'a> {
    /// There are none.
    Empty,
    /// A single one without a name.
    One(&'a FieldSchema),
    /// Several without names.
    Row,
    /// With names.
    Named,
}

impl<'a> Shape<'a> {
    pub(super) fn of(fields: &'a [FieldSchema]) -> Self {
        let nameless = fields
            .iter()
            .enumerate()
            .all(|(index, field)| field.name == index.to_string());
        match fields {
            [] => Self::Empty,
            [field] if nameless => Self::One(field),
            _ if nameless => Self::Row,
            _ => Self::Named,
        }
    }
}

fn float(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("inf") => Some(f64::INFINITY),
        Some("-inf") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
}

fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Array(items) => items
            .iter()
            .map(|item| u8::try_from(item.as_u64()?).ok())
            .collect(),
        Value::Object(object) if object.len() == 1 => from_hex(object.get("hex")?.as_str()?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}
