//! The contract `ledger@1`, written by hand: what `#[contract]` makes of a trait.

use std::time::Duration;

use insula_contract::schema::Schema;
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
        let method = |id, safety| insula_contract::schema::MethodSchema { id, safety };
        use insula_contract::schema::SafetySchema;
        Schema {
            methods: vec![
                method(Echo::ID, SafetySchema::Idempotent),
                method(Add::ID, SafetySchema::Once),
                method(Risk::ID, SafetySchema::AtMostOnce),
                method(Refuse::ID, SafetySchema::Once),
            ],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LedgerError {
    Refused(u32),
}

impl Message for LedgerError {
    type View<'a> = Self;
    const ENCODED_MAX: usize = 16;
    fn schema() -> insula_contract::schema::TypeSchema {
        insula_contract::schema::TypeSchema
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
}

impl Message for Text<'static> {
    type View<'a> = Text<'a>;
    const ENCODED_MAX: usize = TEXT_MAX + 2;
    fn schema() -> insula_contract::schema::TypeSchema {
        insula_contract::schema::TypeSchema
    }
}

pub(crate) struct Total;

impl Message for Total {
    type View<'a> = u64;
    const ENCODED_MAX: usize = 10;
    fn schema() -> insula_contract::schema::TypeSchema {
        insula_contract::schema::TypeSchema
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
            const DEADLINE: Duration = Duration::from_secs(20);
        }
    };
}

method!(Echo, 1, Text<'static>, Idempotent);
method!(Add, 2, Total, Once);
method!(Risk, 3, Text<'static>, AtMostOnce);
method!(Refuse, 4, Text<'static>, Once);
method!(Unheard, 9, Text<'static>, Idempotent);
