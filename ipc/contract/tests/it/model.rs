//! A slow and obvious encoder and decoder, driven by schemas: what a schema means.
//!
//! Values carry the names of their fields and variants, so that two views of the same bytes can be
//! compared by meaning. Nothing here uses postcard.

use insula_contract::schema::{
    DeliverySchema, FieldSchema, MethodSchema, SafetySchema, Schema, SlowSchema, StreamSchema,
    TypeSchema, VariantSchema,
};

/// A value with the names of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    /// Bits of a float.
    Float(u64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Option(Option<Box<Value>>),
    Struct(Vec<(String, Value)>),
    Variant(String, Vec<(String, Value)>),
}

/// Choices made for a test, the plainest once they are used up: shrinking them shrinks the case.
#[derive(Debug)]
pub(crate) struct Choices(std::vec::IntoIter<u32>);

impl Choices {
    pub(crate) fn new(choices: Vec<u32>) -> Self {
        Self(choices.into_iter())
    }

    /// A number from 0 to `count - 1`.
    pub(crate) fn below(&mut self, count: u32) -> u32 {
        self.0.next().unwrap_or(0) % count
    }

    /// True once in `count`.
    pub(crate) fn once_in(&mut self, count: u32) -> bool {
        self.below(count) == count - 1
    }

    fn number(&mut self, bits: u32) -> u64 {
        let mask = u64::MAX >> (64 - bits);
        mask & match self.below(5) {
            0 => 0,
            1 => 127,
            2 => 128,
            3 => u64::MAX,
            _ => u64::from(self.below(u32::MAX)) << self.below(33),
        }
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8], bits: u32) -> Option<u64> {
    let mut value = 0_u128;
    for at in 0..bits.div_ceil(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u128::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return u64::try_from(value)
                .ok()
                .filter(|value| bits == 64 || value >> bits == 0);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(count).ok()?)?;
    *bytes = rest;
    Some(taken)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(crate) fn encode(schema: &TypeSchema, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put(schema, value, &mut out);
    out
}

fn put(schema: &TypeSchema, value: &Value, out: &mut Vec<u8>) {
    use TypeSchema as T;
    match (schema, value) {
        (T::Bool, Value::Bool(value)) => out.push(u8::from(*value)),
        (T::U8, Value::Unsigned(value)) => out.push(*value as u8),
        (T::U16 | T::U32 | T::U64, Value::Unsigned(value)) => put_varint(*value, out),
        (T::I8, Value::Signed(value)) => out.push(*value as i8 as u8),
        (T::I16 | T::I32 | T::I64, Value::Signed(value)) => put_varint(zigzag(*value), out),
        (T::F32, Value::Float(bits)) => out.extend((*bits as u32).to_le_bytes()),
        (T::F64, Value::Float(bits)) => out.extend(bits.to_le_bytes()),
        (T::Text { .. }, Value::Text(text)) => {
            put_varint(text.len() as u64, out);
            out.extend(text.as_bytes());
        }
        (T::Bytes { .. }, Value::Bytes(bytes)) => {
            put_varint(bytes.len() as u64, out);
            out.extend(bytes);
        }
        (T::Sequence { item, .. }, Value::List(values)) => {
            put_varint(values.len() as u64, out);
            values.iter().for_each(|value| put(item, value, out));
        }
        (T::Array { item, .. }, Value::List(values)) => {
            values.iter().for_each(|value| put(item, value, out));
        }
        (T::Option(_), Value::Option(None)) => out.push(0),
        (T::Option(item), Value::Option(Some(value))) => {
            out.push(1);
            put(item, value, out);
        }
        (T::Limited { item, .. }, value) => put(item, value, out),
        (T::Struct(fields), Value::Struct(values)) => put_fields(fields, values, out),
        (T::Enum(variants), Value::Variant(name, values)) => {
            let number = variants
                .iter()
                .position(|variant| variant.name == *name)
                .unwrap();
            put_varint(number as u64, out);
            put_fields(&variants[number].fields, values, out);
        }
        (T::Fixed(item), value) => put_fixed(item, value, out),
        (T::Items(item), value) => put(item, value, out),
        (T::Raw { .. }, Value::Bytes(bytes)) => out.extend(bytes),
        (schema, value) => panic!("{value:?} is not of {schema:?}"),
    }
}

/// A value as it lies in memory, on hosts whose low byte comes first.
fn put_fixed(schema: &TypeSchema, value: &Value, out: &mut Vec<u8>) {
    use TypeSchema as T;
    let mut low = |number: u64, count: usize| out.extend(&number.to_le_bytes()[..count]);
    match (schema, value) {
        (T::U8, Value::Unsigned(value)) => low(*value, 1),
        (T::U16, Value::Unsigned(value)) => low(*value, 2),
        (T::U32, Value::Unsigned(value)) => low(*value, 4),
        (T::U64, Value::Unsigned(value)) => low(*value, 8),
        (T::I8, Value::Signed(value)) => low(*value as u64, 1),
        (T::I16, Value::Signed(value)) => low(*value as u64, 2),
        (T::I32, Value::Signed(value)) => low(*value as u64, 4),
        (T::I64, Value::Signed(value)) => low(*value as u64, 8),
        (T::F32, Value::Float(bits)) => low(*bits, 4),
        (T::F64, Value::Float(bits)) => low(*bits, 8),
        (T::Array { item, .. }, Value::List(values)) => {
            values.iter().for_each(|value| put_fixed(item, value, out));
        }
        (T::Struct(fields), Value::Struct(values)) => {
            for (field, (_, value)) in fields.iter().zip(values) {
                put_fixed(&field.schema, value, out);
            }
        }
        (T::Fixed(item), value) => put_fixed(item, value, out),
        (schema, value) => panic!("{value:?} is not of a fixed {schema:?}"),
    }
}

fn get_fixed(schema: &TypeSchema, bytes: &mut &[u8]) -> Option<Value> {
    use TypeSchema as T;
    let mut low = |count: usize| {
        let mut word = [0; 8];
        word[..count].copy_from_slice(take(bytes, count as u64)?);
        Some(u64::from_le_bytes(word))
    };
    Some(match schema {
        T::U8 => Value::Unsigned(low(1)?),
        T::U16 => Value::Unsigned(low(2)?),
        T::U32 => Value::Unsigned(low(4)?),
        T::U64 => Value::Unsigned(low(8)?),
        T::I8 => Value::Signed(i64::from(low(1)? as i8)),
        T::I16 => Value::Signed(i64::from(low(2)? as i16)),
        T::I32 => Value::Signed(i64::from(low(4)? as i32)),
        T::I64 => Value::Signed(low(8)? as i64),
        T::F32 => Value::Float(low(4)?),
        T::F64 => Value::Float(low(8)?),
        T::Array { length, item } => Value::List(
            (0..*length)
                .map(|_| get_fixed(item, bytes))
                .collect::<Option<_>>()?,
        ),
        T::Struct(fields) => Value::Struct(
            fields
                .iter()
                .map(|field| Some((field.name.clone(), get_fixed(&field.schema, bytes)?)))
                .collect::<Option<_>>()?,
        ),
        T::Fixed(item) => get_fixed(item, bytes)?,
        _ => return None,
    })
}

fn put_fields(fields: &[FieldSchema], values: &[(String, Value)], out: &mut Vec<u8>) {
    assert_eq!(fields.len(), values.len());
    for (field, (name, value)) in fields.iter().zip(values) {
        assert_eq!(field.name, *name);
        put(&field.schema, value, out);
    }
}

/// The value that `bytes` are, all of them.
pub(crate) fn decode(schema: &TypeSchema, mut bytes: &[u8]) -> Option<Value> {
    let value = get(schema, &mut bytes)?;
    bytes.is_empty().then_some(value)
}

fn get(schema: &TypeSchema, bytes: &mut &[u8]) -> Option<Value> {
    use TypeSchema as T;
    Some(match schema {
        T::Bool => match take(bytes, 1)?[0] {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            _ => return None,
        },
        T::U8 => Value::Unsigned(u64::from(take(bytes, 1)?[0])),
        T::U16 => Value::Unsigned(take_varint(bytes, 16)?),
        T::U32 => Value::Unsigned(take_varint(bytes, 32)?),
        T::U64 => Value::Unsigned(take_varint(bytes, 64)?),
        T::I8 => Value::Signed(i64::from(take(bytes, 1)?[0] as i8)),
        T::I16 => Value::Signed(unzigzag(take_varint(bytes, 16)?)),
        T::I32 => Value::Signed(unzigzag(take_varint(bytes, 32)?)),
        T::I64 => Value::Signed(unzigzag(take_varint(bytes, 64)?)),
        T::F32 => Value::Float(u64::from(u32::from_le_bytes(
            take(bytes, 4)?.try_into().unwrap(),
        ))),
        T::F64 => Value::Float(u64::from_le_bytes(take(bytes, 8)?.try_into().unwrap())),
        T::Text { max } => {
            let length = take_varint(bytes, 64).filter(|length| length <= max)?;
            Value::Text(String::from_utf8(take(bytes, length)?.to_vec()).ok()?)
        }
        T::Bytes { max } => {
            let length = take_varint(bytes, 64).filter(|length| length <= max)?;
            Value::Bytes(take(bytes, length)?.to_vec())
        }
        T::Sequence { max, item } => {
            let length = take_varint(bytes, 64).filter(|length| length <= max)?;
            Value::List(
                (0..length)
                    .map(|_| get(item, bytes))
                    .collect::<Option<_>>()?,
            )
        }
        T::Array { length, item } => Value::List(
            (0..*length)
                .map(|_| get(item, bytes))
                .collect::<Option<_>>()?,
        ),
        T::Option(item) => match take(bytes, 1)?[0] {
            0 => Value::Option(None),
            1 => Value::Option(Some(Box::new(get(item, bytes)?))),
            _ => return None,
        },
        T::Limited { max, item } => {
            let before = bytes.len();
            let value = get(item, bytes)?;
            if (before - bytes.len()) as u64 > *max {
                return None;
            }
            value
        }
        T::Struct(fields) => Value::Struct(get_fields(fields, bytes)?),
        T::Enum(variants) => {
            let number = usize::try_from(take_varint(bytes, 32)?).ok()?;
            let variant = variants.get(number)?;
            Value::Variant(variant.name.clone(), get_fields(&variant.fields, bytes)?)
        }
        T::Fixed(item) => get_fixed(item, bytes)?,
        // Each of them is read by itself.
        T::Items(item) => get(item, bytes)?,
        T::Raw { max } => {
            let all = (bytes.len() as u64 <= *max).then_some(bytes.len() as u64)?;
            Value::Bytes(take(bytes, all)?.to_vec())
        }
    })
}

fn get_fields(fields: &[FieldSchema], bytes: &mut &[u8]) -> Option<Vec<(String, Value)>> {
    fields
        .iter()
        .map(|field| Some((field.name.clone(), get(&field.schema, bytes)?)))
        .collect()
}

/// Some value of the type; `None` where the choices lead to none.
pub(crate) fn value(schema: &TypeSchema, choices: &mut Choices) -> Option<Value> {
    use TypeSchema as T;
    let signed = |bits: u32, choices: &mut Choices| {
        let number = choices.number(bits);
        Value::Signed(((number << (64 - bits)) as i64) >> (64 - bits))
    };
    let length = |max: u64, choices: &mut Choices| match choices.below(3) {
        0 => 0,
        1 => max.min(40),
        _ => u64::from(choices.below(max.min(40) as u32 + 1)),
    };
    Some(match schema {
        T::Bool => Value::Bool(choices.below(2) == 1),
        T::U8 => Value::Unsigned(choices.number(8)),
        T::U16 => Value::Unsigned(choices.number(16)),
        T::U32 => Value::Unsigned(choices.number(32)),
        T::U64 => Value::Unsigned(choices.number(64)),
        T::I8 => signed(8, choices),
        T::I16 => signed(16, choices),
        T::I32 => signed(32, choices),
        T::I64 => signed(64, choices),
        T::F32 => Value::Float(choices.number(32)),
        T::F64 => Value::Float(choices.number(64)),
        T::Text { max } => {
            let length = length(*max, choices);
            Value::Text(
                (0..length)
                    .map(|_| (b'a' + choices.below(26) as u8) as char)
                    .collect(),
            )
        }
        T::Bytes { max } | T::Raw { max } => {
            let length = length(*max, choices);
            Value::Bytes((0..length).map(|_| choices.below(256) as u8).collect())
        }
        T::Sequence { max, item } => {
            let length = length(*max, choices);
            Value::List(
                (0..length)
                    .map(|_| value(item, choices))
                    .collect::<Option<_>>()?,
            )
        }
        T::Array { length, item } => Value::List(
            (0..*length)
                .map(|_| value(item, choices))
                .collect::<Option<_>>()?,
        ),
        T::Fixed(item) | T::Items(item) => value(item, choices)?,
        T::Option(item) => match choices.below(2) {
            0 => Value::Option(None),
            _ => Value::Option(Some(Box::new(value(item, choices)?))),
        },
        T::Limited { max, item } => {
            let fits = |value: &Value| encode(item, value).len() as u64 <= *max;
            value(item, choices)
                .filter(fits)
                .or_else(|| value(item, &mut Choices::new(Vec::new())).filter(fits))?
        }
        T::Struct(fields) => Value::Struct(values(fields, choices)?),
        T::Enum(variants) => {
            let count = u32::try_from(variants.len()).unwrap();
            if count == 0 {
                return None;
            }
            let variant = &variants[choices.below(count) as usize];
            Value::Variant(variant.name.clone(), values(&variant.fields, choices)?)
        }
    })
}

fn values(fields: &[FieldSchema], choices: &mut Choices) -> Option<Vec<(String, Value)>> {
    fields
        .iter()
        .map(|field| Some((field.name.clone(), value(&field.schema, choices)?)))
        .collect()
}

const SCALARS: [TypeSchema; 11] = [
    TypeSchema::Bool,
    TypeSchema::U8,
    TypeSchema::U16,
    TypeSchema::U32,
    TypeSchema::U64,
    TypeSchema::I8,
    TypeSchema::I16,
    TypeSchema::I32,
    TypeSchema::I64,
    TypeSchema::F32,
    TypeSchema::F64,
];

/// Some type, at most `depth` deep.
pub(crate) fn type_schema(choices: &mut Choices, depth: u32) -> TypeSchema {
    use TypeSchema as T;
    let inner = |choices: &mut Choices| Box::new(type_schema(choices, depth - 1));
    match choices.below(if depth == 0 { 4 } else { 12 }) {
        0 | 1 => SCALARS[choices.below(11) as usize].clone(),
        2 => T::Text {
            max: u64::from(choices.below(7)),
        },
        3 => T::Bytes {
            max: u64::from(choices.below(7)),
        },
        4 => T::Sequence {
            max: u64::from(choices.below(5)),
            item: inner(choices),
        },
        5 => T::Array {
            length: u64::from(choices.below(4)),
            item: inner(choices),
        },
        6 => T::Option(inner(choices)),
        7 => T::Limited {
            max: u64::from(choices.below(30)),
            item: inner(choices),
        },
        8 | 9 => T::Struct(fields(choices, depth - 1)),
        10 => T::Fixed(Box::new(fixed(choices, depth - 1))),
        _ => T::Enum(
            (0..choices.below(4))
                .map(|number| VariantSchema {
                    name: format!("V{number}"),
                    fields: fields(choices, depth - 1),
                })
                .collect(),
        ),
    }
}

/// Some type of a fixed layout.
fn fixed(choices: &mut Choices, depth: u32) -> TypeSchema {
    use TypeSchema as T;
    match choices.below(if depth == 0 { 1 } else { 3 }) {
        0 => SCALARS[1 + choices.below(10) as usize].clone(),
        1 => T::Array {
            length: u64::from(choices.below(4)),
            item: Box::new(fixed(choices, depth - 1)),
        },
        _ => T::Struct(
            (0..choices.below(4))
                .map(|number| FieldSchema {
                    name: format!("f{number}"),
                    schema: fixed(choices, depth - 1),
                })
                .collect(),
        ),
    }
}

/// Some type of a whole request, response or value.
fn whole(choices: &mut Choices) -> TypeSchema {
    if choices.once_in(8) {
        TypeSchema::Raw {
            max: u64::from(choices.below(7)),
        }
    } else {
        type_schema(choices, 3)
    }
}

fn fields(choices: &mut Choices, depth: u32) -> Vec<FieldSchema> {
    (0..choices.below(4))
        .map(|number| FieldSchema {
            name: format!("f{number}"),
            schema: type_schema(choices, depth),
        })
        .collect()
}

const SAFETIES: [SafetySchema; 3] = [
    SafetySchema::AtMostOnce,
    SafetySchema::Idempotent,
    SafetySchema::Once,
];

fn method(choices: &mut Choices, id: u16) -> MethodSchema {
    MethodSchema {
        id,
        name: format!("m{id}"),
        safety: SAFETIES[choices.below(3) as usize],
        request: whole(choices),
        response: match choices.once_in(5) {
            true => TypeSchema::Items(Box::new(whole(choices))),
            false => whole(choices),
        },
    }
}

fn delivery(choices: &mut Choices) -> DeliverySchema {
    match choices.below(3) {
        0 => DeliverySchema::Latest {
            history: choices.below(2) == 1,
        },
        _ => {
            let buffer = 1 + choices.below(4);
            DeliverySchema::Lossless {
                buffer,
                history: choices.below(buffer + 1),
                slow: [SlowSchema::Disconnect, SlowSchema::Wait][choices.below(2) as usize],
            }
        }
    }
}

fn stream(choices: &mut Choices, id: u16) -> StreamSchema {
    StreamSchema {
        id,
        name: format!("s{id}"),
        delivery: delivery(choices),
        item: whole(choices),
    }
}

/// Some contract.
pub(crate) fn schema(choices: &mut Choices) -> Schema {
    Schema {
        name: "sample".into(),
        major: 1,
        in_flight: 8,
        methods: (1..=1 + choices.below(3) as u16)
            .map(|id| method(choices, id))
            .collect(),
        error: type_schema(choices, 2),
        streams: (1..=choices.below(3) as u16)
            .map(|id| stream(choices, id))
            .collect(),
    }
}

/// Changes parts of the contract: often none, mostly few.
pub(crate) fn mutate(schema: &mut Schema, choices: &mut Choices) {
    for method in &mut schema.methods {
        mutate_type(&mut method.request, choices);
        mutate_type(&mut method.response, choices);
        if choices.once_in(12) {
            method.safety = SAFETIES[choices.below(3) as usize];
        }
    }
    mutate_type(&mut schema.error, choices);
    for stream in &mut schema.streams {
        mutate_type(&mut stream.item, choices);
        if choices.once_in(8) {
            stream.delivery = delivery(choices);
        }
        if choices.once_in(40) {
            stream.name.push('x');
        }
    }
    if choices.once_in(8) {
        let id = schema.streams.len() as u16 + 1;
        let added = stream(choices, id);
        schema.streams.push(added);
    }
    if choices.once_in(20) {
        schema.streams.pop();
    }
    if choices.once_in(6) {
        let id = schema.methods.len() as u16 + 1;
        let added = method(choices, id);
        schema.methods.push(added);
    }
    if choices.once_in(20) {
        schema.methods.pop();
    }
    if choices.once_in(20) {
        schema.in_flight = 4 + choices.below(8);
    }
}

/// Changes parts of a fixed layout into others.
fn mutate_fixed(schema: &mut TypeSchema, choices: &mut Choices) {
    use TypeSchema as T;
    match schema {
        T::Array { length, item } => {
            if choices.once_in(8) {
                *length = u64::from(choices.below(4));
            }
            mutate_fixed(item, choices);
        }
        T::Struct(fields) => {
            fields
                .iter_mut()
                .for_each(|field| mutate_fixed(&mut field.schema, choices));
            if choices.once_in(12) {
                fields.reverse();
            }
        }
        scalar => {
            if choices.once_in(20) {
                *scalar = SCALARS[1 + choices.below(10) as usize].clone();
            }
        }
    }
}

fn mutate_type(schema: &mut TypeSchema, choices: &mut Choices) {
    use TypeSchema as T;
    if let T::Raw { max } = schema {
        // It is a whole, and no part of anything.
        if choices.once_in(5) {
            *max = u64::from(choices.below(7));
        }
        if choices.once_in(20) {
            *schema = T::Bytes { max: 6 };
        }
        return;
    }
    if let T::Items(item) = schema {
        mutate_type(item, choices);
        if choices.once_in(20) {
            *schema = (**item).clone();
        }
        return;
    }
    if let T::Fixed(item) = schema {
        mutate_fixed(item, choices);
        if choices.once_in(20) {
            *schema = (**item).clone();
        }
        return;
    }
    let vary = |number: &mut u64, choices: &mut Choices| {
        if choices.once_in(5) {
            *number = (*number + u64::from(choices.below(5))).saturating_sub(2);
        }
    };
    if choices.once_in(40) {
        *schema = type_schema(choices, 1);
        return;
    }
    match choices.below(60) {
        59 => *schema = T::Option(Box::new(schema.clone())),
        56..=58 => {
            let max = u64::from(choices.below(30));
            *schema = T::Limited {
                max,
                item: Box::new(schema.clone()),
            };
        }
        _ => {}
    }
    match schema {
        T::Text { max } | T::Bytes { max } => vary(max, choices),
        T::Fixed(_) | T::Raw { .. } | T::Items(_) => {}
        T::Sequence { max: number, item } | T::Limited { max: number, item } => {
            vary(number, choices);
            mutate_type(item, choices);
        }
        T::Array { length, item } => {
            if choices.once_in(4) {
                vary(length, choices);
            }
            mutate_type(item, choices);
        }
        T::Option(item) => mutate_type(item, choices),
        T::Struct(fields) => mutate_fields(fields, choices),
        T::Enum(variants) => {
            variants
                .iter_mut()
                .for_each(|variant| mutate_fields(&mut variant.fields, choices));
            match choices.below(12) {
                9 => {
                    let name = format!("V{}", variants.len());
                    variants.push(VariantSchema {
                        name,
                        fields: fields(choices, 1),
                    });
                }
                10 => drop(variants.pop()),
                11 => variants.reverse(),
                _ => {}
            }
        }
        scalar => {
            if choices.once_in(30) {
                *scalar = SCALARS[choices.below(11) as usize].clone();
            }
        }
    }
}

fn mutate_fields(fields: &mut Vec<FieldSchema>, choices: &mut Choices) {
    fields
        .iter_mut()
        .for_each(|field| mutate_type(&mut field.schema, choices));
    match choices.below(40) {
        36 => {
            let name = format!("f{}", fields.len());
            fields.push(FieldSchema {
                name,
                schema: type_schema(choices, 1),
            });
        }
        37 => drop(fields.pop()),
        38 => fields.reverse(),
        39 => {
            if let Some(field) = fields.first_mut() {
                field.name.push('x');
            }
        }
        _ => {}
    }
}
