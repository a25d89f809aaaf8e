//! The contract `ledger@1`, written by hand: what `#[contract]` makes of a trait.

use std::time::Duration;

use insula_contract::encoding;
use insula_contract::schema::{
    FieldSchema, MethodSchema, SafetySchema, Schema, TypeSchema, VariantSchema,
};
use insula_ipc::contract::{Contract, Message, Method, Safety};
use serde::{Deserialize, Serialize};

/// The most bytes of a text.
pub(crate) const TEXT_MAX: usize = 3000;

/// The contract.
#[derive(Debug)]
pub(crate) struct Ledger;

impl Contract for Ledger {
    const NAME: &'static str = "ledger";
    const MAJOR: u16 = 1;
    const IN_FLIGHT: usize = 8;
    const REQUEST_MAX: usize = Text::ENCODED_MAX;
    const RESPONSE_MAX: usize = Text::ENCODED_MAX;
    const NEEDS_JOURNAL: bool = true;
    type Error = LedgerError;

    fn schema() -> Schema {
        Schema {
            name: Self::NAME.to_owned(),
            major: Self::MAJOR,
            in_flight: Self::IN_FLIGHT as u32,
            error: LedgerError::schema(),
            methods: vec![
                describe::<Echo>(),
                describe::<Add>(),
                describe::<Risk>(),
                describe::<Refuse>(),
            ],
            streams: Vec::new(),
        }
    }
}

fn describe<M: Method>() -> MethodSchema {
    MethodSchema {
        id: M::ID,
        name: M::NAME.to_owned(),
        safety: match M::SAFETY {
            Safety::AtMostOnce => SafetySchema::AtMostOnce,
            Safety::Idempotent => SafetySchema::Idempotent,
            Safety::Once => SafetySchema::Once,
        },
        request: M::Request::schema(),
        response: M::Response::schema(),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LedgerError {
    Refused(u32),
}

impl Message for LedgerError {
    type View<'a> = Self;
    const ENCODED_MAX: usize = 16;
    fn schema() -> TypeSchema {
        let field = FieldSchema {
            name: "0".to_owned(),
            schema: TypeSchema::U32,
        };
        TypeSchema::Enum(vec![VariantSchema {
            name: "Refused".to_owned(),
            fields: vec![field],
        }])
    }
    fn encode(value: &LedgerError, place: &mut [u8]) -> Option<usize> {
        encoding::encode(value, place, Self::ENCODED_MAX)
    }
    fn decode(bytes: &[u8]) -> Option<LedgerError> {
        encoding::decode(bytes)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
}

impl Message for Text<'static> {
    type View<'a> = Text<'a>;
    const ENCODED_MAX: usize = TEXT_MAX + 2;
    fn schema() -> TypeSchema {
        let schema = TypeSchema::Text {
            max: TEXT_MAX as u64,
        };
        TypeSchema::Struct(vec![FieldSchema {
            name: "text".to_owned(),
            schema,
        }])
    }
    fn encode(value: &Text<'_>, place: &mut [u8]) -> Option<usize> {
        encoding::encode(value, place, Self::ENCODED_MAX)
    }
    fn decode(bytes: &[u8]) -> Option<Text<'_>> {
        encoding::decode(bytes)
    }
}

pub(crate) struct Total;

impl Message for Total {
    type View<'a> = u64;
    const ENCODED_MAX: usize = 10;
    fn schema() -> TypeSchema {
        TypeSchema::U64
    }
    fn encode(value: &u64, place: &mut [u8]) -> Option<usize> {
        encoding::encode(value, place, Self::ENCODED_MAX)
    }
    fn decode(bytes: &[u8]) -> Option<u64> {
        encoding::decode(bytes)
    }
}

macro_rules! method {
    ($name:ident, $id:literal, $response:ty, $safety:ident) => {
        #[derive(Debug)]
        pub(crate) struct $name;
        impl Method for $name {
            type Contract = Ledger;
            type Request = Text<'static>;
            type Response = $response;
            const ID: u16 = $id;
            const NAME: &'static str = stringify!($name);
            const SAFETY: Safety = Safety::$safety;
            const DEADLINE: Duration = Duration::from_secs(60);
        }
    };
}

method!(Echo, 1, Text<'static>, Idempotent);
method!(Add, 2, Total, Once);
method!(Risk, 3, Text<'static>, AtMostOnce);
method!(Refuse, 4, Text<'static>, Once);
method!(Unheard, 9, Text<'static>, Idempotent);
