//! Calls by schema: JSON in, JSON out, for programs that know a contract only at run time.
//!
//! A [`DynamicClient`] calls methods by their names over an edge whose provider's schema is known
//! (a [`crate::local::LocalClient`] asks the supervisor for it). Values are JSON as `serde_json`
//! would write the Rust types, with these conventions:
//!
//! | schema | JSON |
//! |---|---|
//! | struct | object by field name; without names an array; a single field without a name is that value; no fields `null` or `{}` |
//! | enum | `"Variant"`, `{"Variant": value}`, `{"Variant": [..]}` or `{"Variant": {..}}` |
//! | option | the value or `null`; a field that is left out is `null`; an option of an option can not be told from its inner one |
//! | bytes | text where they are UTF-8 without control characters, else `{"hex": "00ff"}`; a list of numbers is taken too |
//! | float | a number, or `"NaN"`, `"inf"`, `"-inf"` |
//!
//! What comes from the other side is decoded defensively: lengths are checked against the schema
//! and the bytes that are left, and depth is bounded by the schema's own.
//!
//! The reply of a streaming method is collected into an array, up to [`MESSAGE_MAX`] bytes of items.
//! Streams are not called from here yet.

mod decode;
mod encode;
mod text;

use std::convert::Infallible;
use std::time::Duration;

use insula_contract::schema::{MethodSchema, SafetySchema, Schema, TypeSchema};
use serde_json::Value;

pub use decode::{DecodeError, decode};
pub use encode::{EncodeError, encode};
pub use text::{Signature, TypeText, example};

use crate::channel::Sizes;
use crate::client::bytes::{AnswerBytes, Copied, MethodNumbers};
use crate::client::{CallError, CallOptions, ConnectError, Connection, Edge};
use crate::clock;
use crate::contract::Safety;
use crate::items::layout::{self, After, Ask};

/// How long a call waits unless its options say otherwise: deadlines are not part of a schema.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The longest request or response that is called by schema, in bytes.
pub const MESSAGE_MAX: u64 = 64 << 20;

/// Why a schema cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum DynamicConnectError {
    /// Its messages are longer than [`MESSAGE_MAX`].
    #[error("its messages have up to {0} bytes, at most {MESSAGE_MAX} are possible here")]
    TooLarge(u64),
    /// The edge cannot be used.
    #[error("cannot use the edge")]
    Connect(#[from] ConnectError),
}

/// Why a call by schema has no response.
#[derive(Debug, thiserror::Error)]
pub enum DynamicCallError {
    /// The contract has no such method.
    #[error("no method `{name}`; there are {}", .known.join(", "))]
    NoMethod {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The request is not what the method takes. Not sent.
    #[error("the request is not what the method takes")]
    Request(#[source] EncodeError),
    /// The contract's own error, as JSON: the request was executed and this is its answer.
    #[error("answered with an error: {0}")]
    Failed(Value),
    /// The call failed.
    #[error("the call failed")]
    Call(#[source] CallError<Infallible>),
    /// The items of a reply are longer than [`MESSAGE_MAX`].
    #[error("the items of the reply have more than {MESSAGE_MAX} bytes")]
    TooManyItems,
    /// The answer is not what the schema says.
    #[error("the answer is not what the schema says")]
    Answer(#[source] DecodeError),
}

/// One thread's calls over an edge, by a schema.
#[derive(Debug)]
pub struct DynamicClient {
    connection: Connection,
    schema: Schema,
}

impl DynamicClient {
    /// A client on a new connection of `edge`, whose provider serves `schema`.
    pub fn connect(edge: &Edge, schema: Schema) -> Result<Self, DynamicConnectError> {
        let largest = |types: &mut dyn Iterator<Item = &TypeSchema>| {
            types.map(TypeSchema::encoded_max).max().unwrap_or(0)
        };
        let request = largest(&mut schema.methods.iter().map(|method| &method.request));
        let request = request.saturating_add(layout::PREFIX as u64);
        let responses = schema.methods.iter().map(|method| &method.response);
        let response = largest(&mut responses.chain([&schema.error]));
        if request.max(response) > MESSAGE_MAX {
            return Err(DynamicConnectError::TooLarge(request.max(response)));
        }
        // One call at a time.
        let sizes = Sizes::of_lengths(request as usize, response as usize, 1);
        Ok(Self {
            // No typed method goes by this name.
            connection: edge.connect_sized(("", 0), sizes)?,
            schema,
        })
    }

    /// The schema that it calls by.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The method of this name.
    pub fn method(&self, name: &str) -> Result<&MethodSchema, DynamicCallError> {
        let methods = &self.schema.methods;
        methods
            .iter()
            .find(|method| method.name == name)
            .ok_or_else(|| DynamicCallError::NoMethod {
                name: name.to_owned(),
                known: methods.iter().map(|method| method.name.clone()).collect(),
            })
    }

    /// Calls a method and waits for its answer.
    pub fn call(
        &self,
        method: &str,
        request: &Value,
        options: CallOptions,
    ) -> Result<Value, DynamicCallError> {
        let method = self.method(method)?;
        let bytes = encode(&method.request, request).map_err(DynamicCallError::Request)?;
        let numbers = MethodNumbers {
            id: method.id,
            safety: match method.safety {
                SafetySchema::AtMostOnce => Safety::AtMostOnce,
                SafetySchema::Idempotent => Safety::Idempotent,
                SafetySchema::Once => Safety::Once,
            },
            deadline: DEADLINE,
            request_max: method.request.encoded_max() as usize,
        };
        if let TypeSchema::Items(item) = &method.response {
            return self.items(item, numbers, &bytes, options);
        }
        let answer = self.answer(numbers, &bytes, options)?;
        decode(&method.response, answer.bytes()).map_err(DynamicCallError::Answer)
    }

    /// The bytes of the response.
    fn answer(
        &self,
        numbers: MethodNumbers,
        request: &[u8],
        options: CallOptions,
    ) -> Result<Copied, DynamicCallError> {
        let answer = self
            .connection
            .submit_bytes(numbers, request, options)
            .and_then(|ticket| ticket.wait())
            .map_err(DynamicCallError::Call)?;
        match answer {
            AnswerBytes::Response(bytes) => Ok(bytes),
            AnswerBytes::Error(bytes) => Err(decode(&self.schema.error, bytes.bytes())
                .map_or_else(DynamicCallError::Answer, DynamicCallError::Failed)),
        }
    }

    /// Collects the items of a reply, one answer after the other.
    fn items(
        &self,
        item: &TypeSchema,
        mut numbers: MethodNumbers,
        request: &[u8],
        options: CallOptions,
    ) -> Result<Value, DynamicCallError> {
        let number = clock::now_ns();
        let patience = options.deadline.unwrap_or(numbers.deadline);
        let until = number.saturating_add(clock::nanos(patience));
        let mut asked = vec![0; layout::PREFIX];
        let mut ask = Ask::Open;
        let mut length = 0;
        let mut items = Vec::new();
        numbers.request_max += layout::PREFIX;
        loop {
            layout::write_ask(&mut asked, ask, number).expect("as long as that");
            if ask == Ask::Open {
                asked.extend(request);
            }
            let left = Duration::from_nanos(until.saturating_sub(clock::now_ns()));
            let options = CallOptions {
                deadline: Some(left),
                ..options
            };
            let answer = self.answer(numbers, &asked, options)?;
            let answer = answer.bytes();
            length += answer.len() as u64;
            if length > MESSAGE_MAX {
                return Err(DynamicCallError::TooManyItems);
            }
            let mut at = layout::PREFIX;
            while at < answer.len() {
                let broken = CallError::Broken("an item is longer than its answer");
                let (begin, end) =
                    layout::read_item(answer, at).ok_or(DynamicCallError::Call(broken))?;
                let value = decode(item, &answer[begin..end]);
                items.push(value.map_err(DynamicCallError::Answer)?);
                at = layout::next(end);
            }
            match layout::read_after(answer) {
                Some(After::More) => {}
                Some(After::End) => return Ok(Value::Array(items)),
                Some(After::NoSource) => {
                    return Err(DynamicCallError::Call(CallError::OutcomeUnknown));
                }
                None => {
                    let broken = CallError::Broken("an answer says nothing about what follows");
                    return Err(DynamicCallError::Call(broken));
                }
            }
            // Asked twice, it would give other items.
            numbers.safety = Safety::AtMostOnce;
            ask = Ask::Pull;
            asked.truncate(layout::PREFIX);
        }
    }
}
