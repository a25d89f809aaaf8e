//! What the benches share: the contracts that they call, the second process, and meters.
//!
//! Each bench is a program of its own with its claim and its peers; README.md has the table.

pub mod contracts;
pub mod edge;
pub mod process;
pub mod system_calls;

use insula_ipc::server::{Answer, CallContext, Reply};
use insula_ipc::{Message, contract};

/// Gives back what it gets.
#[contract(name = "echo", major = 1, error = Never, crate = insula_ipc)]
pub trait Echo {
    /// The same bytes.
    #[method(id = 1, idempotent, deadline = "10s")]
    fn echo(request: Body<'_>) -> Body<'_>;
}

/// The bytes, borrowed from shared memory on both sides.
#[derive(Debug, Clone, Copy, Message)]
#[message(crate = insula_ipc)]
pub struct Body<'a> {
    /// At most 64 of them.
    #[message(max = 64)]
    pub bytes: &'a [u8],
}

/// The contract's error, which is never answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[message(crate = insula_ipc)]
pub struct Never;

/// Executes the contract.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echoing;

impl EchoServer for Echoing {
    fn echo(&mut self, _: &CallContext, request: Body<'_>, reply: Reply<'_, echo::Echo>) -> Answer {
        reply.send(&request)
    }
}
