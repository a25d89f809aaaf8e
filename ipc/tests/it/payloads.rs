//! The three classes of messages, from a client's hand to a handler's and back.

use std::time::Duration;

use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::{CallError, CallOptions, Edge};
use insula_ipc::payload::{Bytes, InPlace, Text};
use insula_ipc::server::{Answer, CallContext, NoJournal, Reply, Server};
use insula_ipc::stream::Event;
use insula_ipc::testing::Host;
use insula_ipc::{Message, contract};

use crate::common::WATCHDOG;

const CONSUMER: Attempt = Attempt(500);
const A: Attempt = Attempt(1);
/// The most bytes of a blob.
const BLOB: usize = 100_000;

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
pub(crate) enum ShapesError {
    Odd(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Message)]
#[message(crate = insula_ipc, fixed)]
#[repr(C)]
pub(crate) struct Sample {
    number: u64,
    weight: f32,
    kinds: [u16; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Message)]
#[message(crate = insula_ipc, fixed)]
#[repr(C)]
pub(crate) struct Series {
    count: u64,
    samples: [Sample; 500],
}

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc, max = 60)]
pub(crate) struct Note<'a> {
    #[message(max = 50)]
    title: Text<'a>,
    #[message(max = 50)]
    body: Text<'a>,
    sample: Sample,
}

/// A method and a stream of each class.
#[contract(name = "shapes", major = 1, error = ShapesError, crate = insula_ipc)]
pub(crate) trait Shapes {
    /// By copy.
    #[method(id = 1, idempotent, deadline = "60s")]
    fn next(request: Sample) -> Sample;
    /// In place.
    #[method(id = 2, idempotent, deadline = "60s")]
    fn sum(request: InPlace<'_, Series>) -> f64;
    /// Written in place.
    #[method(id = 3, idempotent, deadline = "60s")]
    fn fill(request: u64) -> InPlace<'_, Series>;
    /// Bytes there and back.
    #[method(id = 4, idempotent, deadline = "60s")]
    fn reverse(request: Bytes<'_, BLOB>) -> Bytes<'_, BLOB>;
    /// Postcard there and back.
    #[method(id = 5, idempotent, deadline = "60s")]
    fn turn(request: Note<'_>) -> Note<'_>;
    /// Samples.
    #[stream(id = 1, lossless, history = 1)]
    fn samples() -> InPlace<'_, Sample>;
    /// Blobs.
    #[stream(id = 2, lossless)]
    fn blobs() -> Bytes<'_, BLOB>;
}

#[derive(Default)]
struct Workshop {
    streams: ShapesStreams,
    /// Where the last blob lay.
    blob: Option<*const u8>,
}

impl ShapesServer for Workshop {
    fn streams(&self) -> &ShapesStreams {
        &self.streams
    }

    fn next(&mut self, _: &CallContext, request: Sample, reply: Reply<'_, shapes::Next>) -> Answer {
        if request.number % 2 == 1 {
            return reply.fail(&ShapesError::Odd(request.number as u32));
        }
        reply.send(&Sample {
            number: request.number + 1,
            ..request
        })
    }

    fn sum(
        &mut self,
        _: &CallContext,
        request: InPlace<'_, Series>,
        reply: Reply<'_, shapes::Sum>,
    ) -> Answer {
        let count = request.count().get() as usize;
        let samples = request.samples();
        let weights = samples
            .items()
            .take(count)
            .map(|s| f64::from(s.weight().get()));
        reply.send(&weights.sum())
    }

    fn fill(&mut self, _: &CallContext, count: u64, reply: Reply<'_, shapes::Fill>) -> Answer {
        reply.send_with(|series: &mut Series| {
            series.count = count;
            for (sample, number) in series.samples.iter_mut().zip(0..) {
                *sample = sample_of(number);
            }
        })
    }

    fn reverse(
        &mut self,
        _: &CallContext,
        request: Bytes<'_, BLOB>,
        reply: Reply<'_, shapes::Reverse>,
    ) -> Answer {
        self.blob = Some(request.as_ptr());
        reply.send_with(|place| {
            for (to, from) in place.iter_mut().zip(request.iter().rev()) {
                *to = *from;
            }
            request.len()
        })
    }

    fn turn(
        &mut self,
        _: &CallContext,
        request: Note<'_>,
        reply: Reply<'_, shapes::Turn>,
    ) -> Answer {
        reply.send(&Note {
            title: request.body,
            body: request.title,
            sample: request.sample,
        })
    }
}

fn sample_of(number: u64) -> Sample {
    Sample {
        number,
        weight: 0.5,
        kinds: [1, 0xfffe],
    }
}

/// A client and the server that it talks to, on one thread.
fn with(
    name: &str,
    act: impl FnOnce(&ShapesClient, &mut Server<ShapesDispatch<Workshop>, NoJournal>, &Edge),
) {
    let host = Host::new(name);
    host.open_pair(A, CONSUMER);
    let dispatch = ShapesDispatch(Workshop::default());
    let mut server = Server::new(A, 0, Duration::ZERO, dispatch, NoJournal);
    server
        .serve(host.served::<Shapes>(CONSUMER), host.page())
        .unwrap();
    host.publish(RouteState::Serve, A, 0, None);
    let used = host.used::<Shapes>(CONSUMER);
    let edge = Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap();
    act(&ShapesClient::connect(&edge).unwrap(), &mut server, &edge);
}

#[test]
fn fixed_messages_are_copied_or_read_in_place() {
    with("payload-fixed", |client, server, _| {
        let options = CallOptions::default();
        let next = client.submit_next(&sample_of(6), options).unwrap();
        let refused = client.submit_next(&sample_of(7), options).unwrap();
        server.turn();
        assert_eq!(next.wait().unwrap().get().unwrap(), sample_of(7));
        let error = refused.wait().unwrap_err();
        assert_eq!(error, CallError::Failed(ShapesError::Odd(7)));

        let filled = client.submit_fill(&500, options).unwrap();
        server.turn();
        let filled = filled.wait().unwrap();
        let series = filled.get().unwrap();
        assert_eq!(series.count().get(), 500);
        assert_eq!(series.samples().item(499).unwrap().get(), sample_of(499));
        // What lies in shared memory can be passed on as it is.
        let sum = client.submit_sum(&series, options).unwrap();
        server.turn();
        assert_eq!(sum.wait().unwrap().get().unwrap(), 250.0);
    });
}

#[test]
fn bytes_are_written_and_read_where_they_lie() {
    with("payload-bytes", |client, server, _| {
        let options = CallOptions::default();
        let written = std::cell::Cell::new(None);
        let ticket = client
            .connection()
            .submit_with::<shapes::Reverse>(
                |place| {
                    assert_eq!(place.len(), BLOB);
                    place[..5].copy_from_slice(b"blobs");
                    written.set(Some(place.as_ptr()));
                    5
                },
                options,
            )
            .unwrap();
        server.turn();
        let answer = ticket.wait().unwrap();
        assert_eq!(&*answer.get().unwrap(), b"sbolb");
        // The handler and the writer see one file at two addresses of one process.
        let read = server.dispatch_mut().0.blob.unwrap();
        let within = |address: *const u8| address.addr() % 4096;
        assert_eq!(within(read), within(written.get().unwrap()));

        let whole = vec![7; BLOB];
        let ticket = client.submit_reverse(&Bytes::new(&whole), options).unwrap();
        server.turn();
        assert_eq!(ticket.wait().unwrap().get().unwrap().get(), whole);
        let longer = vec![7; BLOB + 1];
        let refused = client.submit_reverse(&Bytes::new(&longer), options);
        assert_eq!(refused.unwrap_err(), CallError::TooLarge { max: BLOB });
        let lied = client
            .connection()
            .submit_with::<shapes::Reverse>(|_| BLOB + 1, options);
        assert_eq!(lied.unwrap_err(), CallError::TooLarge { max: BLOB });
    });
}

/// What nobody can take yet is kept outside of shared memory, and arrives the same.
#[test]
fn a_kept_request_is_of_the_same_bytes() {
    let host = Host::new("payload-kept");
    let used = host.used::<Shapes>(CONSUMER);
    let edge = Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap();
    let client = ShapesClient::connect(&edge).unwrap();
    let options = CallOptions::default();
    let sum = client
        .connection()
        .submit_with::<shapes::Sum>(
            |series| {
                *series = Series {
                    count: 3,
                    samples: [sample_of(1); 500],
                };
            },
            options,
        )
        .unwrap();
    let mut reversed = client
        .connection()
        .submit_with::<shapes::Reverse>(
            |place| {
                place[..2].copy_from_slice(b"ab");
                2
            },
            options,
        )
        .unwrap();
    assert!(reversed.poll().is_none());
    host.open_pair(A, CONSUMER);
    let dispatch = ShapesDispatch(Workshop::default());
    let mut server = Server::new(A, 0, Duration::ZERO, dispatch, NoJournal);
    server
        .serve(host.served::<Shapes>(CONSUMER), host.page())
        .unwrap();
    host.publish(RouteState::Serve, A, 0, None);
    assert!(reversed.poll().is_none());
    server.turn();
    assert_eq!(sum.wait().unwrap().get().unwrap(), 1.5);
    assert_eq!(&*reversed.wait().unwrap().get().unwrap(), b"ba");
}

#[test]
fn a_limit_of_the_whole_is_the_encoders_to_keep() {
    with("payload-limit", |client, server, _| {
        let options = CallOptions::default();
        let note = |body| Note {
            title: "title".into(),
            body,
            sample: sample_of(1),
        };
        // 1 + 5 and 1 + 37 bytes of text, and 16 of the sample.
        let text = "x".repeat(38);
        let fits = note(Text::new(&text[..37]));
        let ticket = client.submit_turn(&fits, options).unwrap();
        server.turn();
        let answer = ticket.wait().unwrap();
        let turned = answer.get().unwrap();
        assert_eq!((turned.title, turned.body), (fits.body, fits.title));
        assert_eq!(turned.sample, fits.sample);
        let exceeds = client.submit_turn(&note(Text::new(&text)), options);
        assert_eq!(exceeds.unwrap_err(), CallError::TooLarge { max: 60 });
    });
}

#[test]
fn streams_carry_all_classes() {
    with("payload-streams", |_, server, edge| {
        let streams = server.dispatch_mut().0.streams.clone();
        let mut samples = edge.subscribe::<shapes::Samples>().unwrap();
        let mut blobs = edge.subscribe::<shapes::Blobs>().unwrap();
        for _ in 0..3 {
            assert!(samples.try_next().unwrap().is_none());
            assert!(blobs.try_next().unwrap().is_none());
            server.turn();
        }
        streams
            .samples
            .publish_with(|sample| *sample = sample_of(4))
            .unwrap();
        streams
            .samples
            .publish(&InPlace::of(&sample_of(5)))
            .unwrap();
        streams
            .blobs
            .publish_with(|place| {
                place[..3].fill(9);
                3
            })
            .unwrap();
        for number in 4..6 {
            let Event::Value(value) = samples.next(WATCHDOG).unwrap() else {
                panic!("no gap");
            };
            assert_eq!(value.get().unwrap().number().get(), number);
        }
        let Event::Value(value) = blobs.next(WATCHDOG).unwrap() else {
            panic!("no gap");
        };
        assert_eq!(value.get().unwrap().get(), [9, 9, 9]);
    });
}
