//! An echo for each size of payload, each with channels that are sized for it; and work.
//!
//! An echo's payload travels in one of two classes: as a field of a rich message, which is how
//! most contracts are written, or as bytes that both sides write in place. Of the latter, how long
//! writing and reading took can be measured within a call, so that what is left is the transport.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

use insula_ipc::client::{CallOptions, Connection};
use insula_ipc::contract::Contract;
use insula_ipc::payload::Bytes;
use insula_ipc::server::{Answer, CallContext, Dispatch, Reply};
use insula_ipc::{Message, contract};

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

/// Nanoseconds of one call that both sides together spent on filling and on reading payloads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    /// Writing request and answer into their chunks.
    pub fill_ns: u64,
    /// Reading both where they lie.
    pub read_ns: u64,
}

impl Parts {
    /// Writes them to the beginning of an answer of at least 16 bytes.
    pub fn write(self, answer: &mut [u8]) {
        answer[..8].copy_from_slice(&self.fill_ns.to_ne_bytes());
        answer[8..16].copy_from_slice(&self.read_ns.to_ne_bytes());
    }

    /// Reads [`Parts::write`].
    pub fn read(answer: &[u8]) -> Self {
        let (words, _) = answer.as_chunks::<8>();
        Self {
            fill_ns: u64::from_ne_bytes(words[0]),
            read_ns: u64::from_ne_bytes(words[1]),
        }
    }
}

/// Nanoseconds since `began`.
pub fn nanos(began: Instant) -> u64 {
    began.elapsed().as_nanos() as u64
}

/// An echo of payloads up to one size.
pub trait SizedEcho: Contract {
    /// Serves it.
    type Service: Dispatch<Contract = Self> + Default;
    /// Calls it with a rich message and reads the answer.
    fn echo(connection: &Connection, bytes: &[u8]);
    /// Calls it with bytes that are written in place and reads the answer; what belongs to the
    /// payload.
    fn parts(connection: &Connection, bytes: &[u8]) -> Parts;
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
                /// The same bytes, but for what the server spent on them at the beginning.
                #[method(id = 2, idempotent, deadline = "10s")]
                fn parts(request: Bytes<'_, { $size }>) -> Bytes<'_, { $size }>;
            }

            /// A payload.
            #[derive(Debug, Clone, Copy, Message)]
            #[message(crate = insula_ipc)]
            pub struct Body<'a> {
                /// Its bytes.
                #[message(max = $size)]
                pub payload: &'a [u8],
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
                    touch(request.payload);
                    reply.send(&request)
                }

                fn parts(
                    &mut self,
                    _: &CallContext,
                    request: Bytes<'_, { $size }>,
                    reply: Reply<'_, echo::Parts>,
                ) -> Answer {
                    let began = Instant::now();
                    touch(&request);
                    let read_ns = nanos(began);
                    reply.send_with(|place| {
                        let began = Instant::now();
                        place[..request.len()].copy_from_slice(&request);
                        let fill_ns = nanos(began);
                        super::Parts { fill_ns, read_ns }.write(place);
                        request.len()
                    })
                }
            }

            impl SizedEcho for Echo {
                type Service = EchoDispatch<Echoing>;

                #[inline]
                fn echo(connection: &Connection, bytes: &[u8]) {
                    let request = Body { payload: bytes };
                    let response = connection
                        .call::<echo::Echo>(&request, CallOptions::default())
                        .expect("an answer");
                    touch(response.get().expect("a body").payload);
                }

                #[inline]
                fn parts(connection: &Connection, bytes: &[u8]) -> super::Parts {
                    let fill_ns = Cell::new(0);
                    let write = |place: &mut [u8]| {
                        let began = Instant::now();
                        place[..bytes.len()].copy_from_slice(bytes);
                        fill_ns.set(nanos(began));
                        bytes.len()
                    };
                    let response = connection
                        .submit_with::<echo::Parts>(write, CallOptions::default())
                        .and_then(|ticket| ticket.wait())
                        .expect("an answer");
                    let answer = response.get().expect("a body");
                    let began = Instant::now();
                    touch(&answer);
                    let read_ns = nanos(began);
                    let served = super::Parts::read(&answer);
                    super::Parts {
                        fill_ns: fill_ns.get() + served.fill_ns,
                        read_ns: read_ns + served.read_ns,
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

/// Work of a given length.
pub mod work {
    use super::*;
    use std::time::Duration;

    /// Works.
    #[contract(name = "work", major = 1, error = crate::Never, crate = insula_ipc)]
    pub trait Work {
        /// Keeps the server's thread busy for as long as the task says.
        #[method(id = 1, idempotent, deadline = "10s")]
        fn work(request: Task<'_>) -> crate::Body<'_>;
    }

    /// What to do.
    #[derive(Debug, Clone, Copy, Message)]
    #[message(crate = insula_ipc)]
    pub struct Task<'a> {
        /// Nanoseconds to be busy.
        pub busy_ns: u64,
        /// Bytes that come back.
        #[message(max = 64)]
        pub bytes: &'a [u8],
    }

    /// Executes the contract.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Working;

    impl WorkServer for Working {
        fn work(
            &mut self,
            _: &CallContext,
            request: Task<'_>,
            reply: Reply<'_, work::Work>,
        ) -> Answer {
            if request.busy_ns > 0 {
                let busy = Duration::from_nanos(request.busy_ns);
                let begin = Instant::now();
                while begin.elapsed() < busy {
                    std::hint::spin_loop();
                }
            }
            reply.send(&crate::Body {
                bytes: request.bytes,
            })
        }
    }
}
