//! The trace that calls belong to, in the terms of W3C Trace Context.
//!
//! Each thread has a current trace, [`current`]. While a request that belongs to a trace is
//! executed, it is that of the request; a program sets its own with [`TraceContext::enter`]. Calls
//! inherit it unless they name another one, and each gets a new span id. Calls outside of any
//! trace cost a look at the thread's cell.
//!
//! Only what `traceparent` says travels; `tracestate` does not.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TraceContext {
    /// The trace's id; all zero for none.
    pub trace_id: [u8; 16],
    /// The id of the span that makes the call.
    pub span_id: [u8; 8],
    /// Whether the caller may have recorded it, and asks others to.
    pub sampled: bool,
}

impl TraceContext {
    /// No trace.
    pub const NONE: Self = Self {
        trace_id: [0; 16],
        span_id: [0; 8],
        sampled: false,
    };

    /// Reads the value of a `traceparent` header; `None` where it has to be ignored.
    ///
    /// Of a version later than 00 the part that is known is taken, as the specification says.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let bytes = traceparent.as_bytes();
        let (known, rest) = bytes.split_at_checked(55)?;
        let [version] = unhex(&known[..2])?;
        let [flags] = unhex(&known[53..])?;
        let separated = [2, 35, 52].into_iter().all(|place| known[place] == b'-');
        let ends = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let context = Self {
            trace_id: unhex(&known[3..35])?,
            span_id: unhex(&known[36..52])?,
            sampled: flags & 1 == 1,
        };
        let valid = !context.is_none() && context.span_id != [0; 8];
        (separated && ends && valid).then_some(context)
    }

    /// Whether it is no trace.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.trace_id == [0; 16]
    }

    /// The same trace with a new span id; of none, none.
    #[inline]
    pub fn child(&self) -> Self {
        if self.is_none() {
            return *self;
        }
        Self {
            span_id: chance().to_ne_bytes(),
            ..*self
        }
    }

    /// Makes it this thread's current trace until the guard is dropped.
    pub fn enter(self) -> Entered {
        Entered {
            before: CURRENT.replace(self),
            thread_bound: std::marker::PhantomData,
        }
    }
}

/// The value of a `traceparent` header.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace_id = u128::from_be_bytes(self.trace_id);
        let span_id = u64::from_be_bytes(self.span_id);
        let flags = u8::from(self.sampled);
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

/// Gives the thread its earlier trace back when dropped.
#[must_use = "the trace is left when this is dropped"]
#[derive(Debug)]
pub struct Entered {
    before: TraceContext,
    thread_bound: std::marker::PhantomData<*mut ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

thread_local! {
    static CURRENT: Cell<TraceContext> = const { Cell::new(TraceContext::NONE) };
    static CHANCE: Cell<u64> = const { Cell::new(0) };
}

/// This thread's current trace.
#[inline]
pub fn current() -> TraceContext {
    CURRENT.get()
}

/// The trace of a call for which `given` was said: that, or else the thread's own, in a new span.
#[inline]
pub(crate) fn of_call(given: TraceContext) -> TraceContext {
    if given.is_none() {
        current().child()
    } else {
        given.child()
    }
}

/// A number for a span, never 0: xorshift64, seeded per thread.
fn chance() -> u64 {
    let mut state = CHANCE.get();
    if state == 0 {
        state = RandomState::new().hash_one(std::thread::current().id()) | 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    CHANCE.set(state);
    state
}

/// Lower-case hexadecimal digits, as the specification demands.
fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification, section 3.2.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_specifications_examples_are_read_and_written() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        assert_eq!(context.trace_id[..2], [0x4b, 0xf9]);
        assert_eq!(context.span_id[7], 0xb7);
        assert!(context.sampled);
        assert_eq!(context.to_string(), EXAMPLE);
        let quiet = EXAMPLE.replace("-01", "-00");
        assert!(!TraceContext::parse(&quiet).unwrap().sampled);
        // A later version may say more.
        for later in ["", "-more"] {
            let text = format!("{}{later}", EXAMPLE.replacen("00", "cc", 1));
            assert_eq!(TraceContext::parse(&text), Some(context));
        }
    }

    #[test]
    fn what_the_specification_forbids_is_ignored() {
        for wrong in [
            String::new(),
            EXAMPLE.to_uppercase(),
            EXAMPLE.replacen("00", "ff", 1),
            format!("{EXAMPLE}-more"),
            format!("{}x", EXAMPLE.replacen("00", "cc", 1)),
            EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            EXAMPLE.replace('-', "_"),
            EXAMPLE[..54].to_owned(),
            "é".repeat(30),
        ] {
            assert_eq!(TraceContext::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_child_has_a_span_of_its_own_in_the_same_trace() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        let (one, two) = (context.child(), context.child());
        assert_eq!((one.trace_id, one.sampled), (context.trace_id, true));
        assert!(one.span_id != two.span_id && one.span_id != context.span_id);
        assert_eq!(TraceContext::NONE.child(), TraceContext::NONE);
    }

    #[test]
    fn a_thread_is_in_the_trace_that_was_entered_last() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        {
            let _outer = context.enter();
            {
                let _inner = TraceContext::NONE.enter();
                assert!(current().is_none());
            }
            assert_eq!(current(), context);
        }
        assert!(current().is_none());
    }
}
