//! `echo@1`: the smallest contract that is good for something.
//!
//! It shows what each declaration promises: [`echo::Echo`] may be executed twice and is therefore
//! repeated when an instance dies with it; [`echo::Count`] may not, and ends in *outcome unknown*
//! then.

use insula::{Message, contract};

/// The longest text in bytes.
pub const TEXT_MAX: usize = 4096;

/// Answers what it is asked.
#[contract(name = "echo", major = 1, error = EchoError, in_flight = 64)]
pub trait Echo {
    /// The same text.
    #[method(id = 1, idempotent, deadline = "1s")]
    fn echo(request: Text<'_>) -> Text<'_>;

    /// Counts up in the memory of the instance that answers.
    #[method(id = 2, deadline = "5s")]
    fn count(request: Count) -> Counted;

    /// Keeps the instance busy, for trials of overload and of stops.
    #[method(id = 3, idempotent, deadline = "5s")]
    fn work(request: Work) -> Counted;
}

/// Any text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Text<'a> {
    /// The text.
    #[message(max = TEXT_MAX)]
    pub text: insula::Text<'a>,
}

/// Asks for the next number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Count {
    /// Added to the count; most often 1.
    pub by: u64,
}

/// Asks for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Work {
    /// For how long, in microseconds; at most [`WORK_MAX_US`].
    pub microseconds: u32,
}

/// The longest work, in microseconds.
pub const WORK_MAX_US: u32 = 1_000_000;

/// Who counted, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Counted {
    /// The attempt that answers.
    pub attempt: u64,
    /// Its count.
    pub count: u64,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub enum EchoError {
    /// More work than [`WORK_MAX_US`].
    TooMuchWork,
}
