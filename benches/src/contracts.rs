//! An echo for each size of payload, each with channels that are sized for it.
//!
//! A payload is written once, by its encoding into the loaned chunk, and read in place. How long
//! both take on both sides can be measured within a call, so that what is left is the transport.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use insula_contract::encoding;
use insula_contract::schema::TypeSchema;
use insula_ipc::client::{CallOptions, Connection};
use insula_ipc::contract::{Contract, Message};
use insula_ipc::server::{Answer, CallContext, Dispatch, Reply};
use insula_ipc::{Message, contract};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

thread_local! {
    /// Nanoseconds that this thread has spent on filling payloads.
    static FILLED_NS: Cell<u64> = const { Cell::new(0) };
}

/// Whether fills are measured: two readings of the clock each.
static MEASURE_FILLS: AtomicBool = AtomicBool::new(false);

/// Says whether to measure how long payloads take to fill.
pub fn measure_fills(measure: bool) {
    MEASURE_FILLS.store(measure, Ordering::Relaxed);
}

/// Reads every byte, as whoever uses a payload would.
#[inline]
pub fn touch(bytes: &[u8]) {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(0, |sum: u64, word| {
        sum.wrapping_add(u64::from_ne_bytes(*word))
    });
    let sum = rest.iter().fold(sum, |sum, byte| sum ^ u64::from(*byte));
    black_box(sum);
}

/// Bytes that are written once, into the chunk, and read where they lie.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a, const MAX: usize>(pub &'a [u8]);

impl<const MAX: usize> Message for Payload<'static, MAX> {
    type View<'a> = Payload<'a, MAX>;
    const ENCODED_MAX: usize = MAX + 5;
    fn schema() -> TypeSchema {
        TypeSchema::Bytes { max: MAX as u64 }
    }
    fn encode(value: &Payload<'_, MAX>, place: &mut [u8]) -> Option<usize> {
        encoding::encode(value, place, Self::ENCODED_MAX)
    }
    fn decode(bytes: &[u8]) -> Option<Payload<'_, MAX>> {
        encoding::decode(bytes)
    }
}

impl<const MAX: usize> Serialize for Payload<'_, MAX> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !MEASURE_FILLS.load(Ordering::Relaxed) {
            return serializer.serialize_bytes(self.0);
        }
        let begin = Instant::now();
        let result = serializer.serialize_bytes(self.0);
        FILLED_NS.set(FILLED_NS.get() + begin.elapsed().as_nanos() as u64);
        result
    }
}

impl<'de: 'a, 'a, const MAX: usize> Deserialize<'de> for Payload<'a, MAX> {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a [u8]>::deserialize(deserializer).map(Self)
    }
}

/// Nanoseconds of one call that both sides together spent on filling and on reading payloads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    /// Writing request and answer into their chunks.
    pub fill_ns: u64,
    /// Reading both where they lie.
    pub read_ns: u64,
}

/// An echo of payloads up to one size.
pub trait SizedEcho: Contract {
    /// Serves it.
    type Service: Dispatch<Contract = Self> + Default;
    /// Calls it and reads the answer.
    fn echo(connection: &Connection, bytes: &[u8]);
    /// Calls it and reads the answer; what belongs to the payload, but for the answer's fill,
    /// which is that of the call before.
    fn parts(connection: &Connection, bytes: &[u8], filled_before_ns: &mut u64) -> Parts;
}

macro_rules! sized_echo {
    ($module:ident, $name:literal, $size:expr) => {
        #[doc = concat!("The contract `", $name, "@1`.")]
        pub mod $module {
            use super::*;

            /// Gives back what it gets.
            #[contract(
                name = $name, major = 1, error = crate::Never, in_flight = 2, crate = insula_ipc
            )]
            pub trait Echo {
                /// The same bytes.
                #[method(id = 1, idempotent, deadline = "10s")]
                fn echo(request: Body<'_>) -> Body<'_>;
                /// The same bytes, and what the server spent on them.
                #[method(id = 2, idempotent, deadline = "10s")]
                fn parts(request: Body<'_>) -> Spent<'_>;
            }

            /// A payload.
            #[derive(Debug, Clone, Copy, Message)]
            #[message(crate = insula_ipc)]
            pub struct Body<'a> {
                /// Its bytes.
                pub payload: Payload<'a, { $size }>,
            }

            /// A payload, and what the server spent.
            #[derive(Debug, Clone, Copy, Message)]
            #[message(crate = insula_ipc)]
            pub struct Spent<'a> {
                /// Nanoseconds of reading the request.
                pub read_ns: u64,
                /// Nanoseconds of filling answers so far, this one not yet.
                pub filled_ns: u64,
                /// Its bytes.
                pub payload: Payload<'a, { $size }>,
            }

            /// Executes the contract.
            #[derive(Debug, Clone, Copy, Default)]
            pub struct Echoing;

            impl EchoServer for Echoing {
                fn echo(
                    &mut self,
                    _: &CallContext,
                    request: Body<'_>,
                    reply: Reply<'_, echo::Echo>,
                ) -> Answer {
                    touch(request.payload.0);
                    reply.send(&request)
                }

                fn parts(
                    &mut self,
                    _: &CallContext,
                    request: Body<'_>,
                    reply: Reply<'_, echo::Parts>,
                ) -> Answer {
                    let begin = Instant::now();
                    touch(request.payload.0);
                    reply.send(&Spent {
                        read_ns: begin.elapsed().as_nanos() as u64,
                        filled_ns: FILLED_NS.get(),
                        payload: request.payload,
                    })
                }
            }

            impl SizedEcho for Echo {
                type Service = EchoDispatch<Echoing>;

                #[inline]
                fn echo(connection: &Connection, bytes: &[u8]) {
                    let request = Body { payload: Payload(bytes) };
                    let response = connection
                        .call::<echo::Echo>(&request, CallOptions::default())
                        .expect("an answer");
                    touch(response.get().expect("a body").payload.0);
                }

                #[inline]
                fn parts(
                    connection: &Connection,
                    bytes: &[u8],
                    filled_before_ns: &mut u64,
                ) -> Parts {
                    let before_ns = FILLED_NS.get();
                    let request = Body { payload: Payload(bytes) };
                    let response = connection
                        .call::<echo::Parts>(&request, CallOptions::default())
                        .expect("an answer");
                    let answer = response.get().expect("a body");
                    let begin = Instant::now();
                    touch(answer.payload.0);
                    let read_ns = begin.elapsed().as_nanos() as u64 + answer.read_ns;
                    let served_ns = answer.filled_ns - *filled_before_ns;
                    *filled_before_ns = answer.filled_ns;
                    Parts {
                        fill_ns: FILLED_NS.get() - before_ns + served_ns,
                        read_ns,
                    }
                }
            }
        }
    };
}

sized_echo!(b64, "echo-64b", 64);
sized_echo!(k1, "echo-1k", 1 << 10);
sized_echo!(k16, "echo-16k", 16 << 10);
sized_echo!(k256, "echo-256k", 256 << 10);
sized_echo!(m1, "echo-1m", 1 << 20);
sized_echo!(m4, "echo-4m", 4 << 20);

/// Does `$act` with `$contract` as the contract of that size.
#[macro_export]
macro_rules! with_sized_echo {
    ($size:expr, $contract:ident => $act:expr) => {
        match $size {
            64 => {
                type $contract = $crate::contracts::b64::Echo;
                $act
            }
            0x400 => {
                type $contract = $crate::contracts::k1::Echo;
                $act
            }
            0x4000 => {
                type $contract = $crate::contracts::k16::Echo;
                $act
            }
            0x4_0000 => {
                type $contract = $crate::contracts::k256::Echo;
                $act
            }
            0x10_0000 => {
                type $contract = $crate::contracts::m1::Echo;
                $act
            }
            0x40_0000 => {
                type $contract = $crate::contracts::m4::Echo;
                $act
            }
            other => panic!("no contract for payloads of {other} bytes"),
        }
    };
}

/// Many small calls at once.
pub mod burst {
    use super::*;

    /// Requests that a connection may have outstanding.
    pub const IN_FLIGHT: usize = 128;

    /// Gives back what it gets.
    #[contract(
        name = "burst", major = 1, error = crate::Never, in_flight = 128, crate = insula_ipc
    )]
    pub trait Burst {
        /// The same bytes.
        #[method(id = 1, idempotent, deadline = "10s")]
        fn echo(request: crate::Body<'_>) -> crate::Body<'_>;
    }

    /// Executes the contract.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Echoing;

    impl BurstServer for Echoing {
        fn echo(
            &mut self,
            _: &CallContext,
            request: crate::Body<'_>,
            reply: Reply<'_, burst::Echo>,
        ) -> Answer {
            reply.send(&request)
        }
    }
}
