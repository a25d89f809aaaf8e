//! A client that does not use this crate and breaks its rules.

#![expect(unsafe_code, reason = "a raw client writes its chunks by hand")]

use std::time::Duration;

use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::port::client::Client;
use iceoryx2::prelude::ZeroCopySend;
use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::{CallOptions, Edge};
use insula_ipc::raw::{FileService, Line, config};
use insula_ipc::server::Server;
use insula_ipc::testing::Host;
use proptest::prelude::*;

use crate::common::{FileJournal, Service};
use crate::contract::{Echo, Ledger, Text};

const CONSUMER: Attempt = Attempt(500);
const A: Attempt = Attempt(1);

/// The request header's words, to be filled with anything.
#[derive(Debug, Clone, Copy, Default, ZeroCopySend)]
#[type_name("insula.RequestHeader")]
#[repr(C)]
pub(crate) struct Words(pub(crate) [u64; 8]);

/// The response header's word.
#[derive(Debug, Clone, Copy, Default, ZeroCopySend)]
#[type_name("insula.ResponseHeader")]
#[repr(C)]
pub(crate) struct Word(pub(crate) [u32; 2]);

pub(crate) struct Raw {
    client: Client<FileService, [Line], Words, [Line], Word>,
    _node: Node<FileService>,
}

impl Raw {
    pub(crate) fn open(directory: &str) -> Self {
        let node = NodeBuilder::new()
            .config(&config(directory).unwrap())
            .create::<FileService>()
            .unwrap();
        let service = node
            .service_builder(&"rr".try_into().unwrap())
            .request_response::<[Line], [Line]>()
            .request_user_header::<Words>()
            .response_user_header::<Word>()
            .open()
            .unwrap();
        let client = service
            .client_builder()
            .initial_max_slice_len(2)
            .create()
            .unwrap();
        Self {
            client,
            _node: node,
        }
    }

    /// Sends a request where that is possible, and waits for nothing.
    pub(crate) fn throw(&self, words: Words, body: Line) {
        let Ok(mut request) = self.client.loan_slice_uninit(2) else {
            return;
        };
        *request.user_header_mut() = words;
        for line in request.payload_mut() {
            line.write(body);
        }
        // SAFETY: both lines were written.
        let _ = unsafe { request.assume_init() }.send();
    }

    /// Sends a request, lets the server turn, and returns the status of the answer, if any.
    fn exchange(&self, words: Words, body: Line, turn: impl FnOnce()) -> Option<u16> {
        let mut request = self.client.loan_slice_uninit(2).unwrap();
        *request.user_header_mut() = words;
        for line in request.payload_mut() {
            line.write(body);
        }
        // SAFETY: both lines were written.
        let pending = unsafe { request.assume_init() }.send().unwrap();
        turn();
        let answer = pending.receive().unwrap()?;
        Some((answer.user_header().0[0] >> 16) as u16)
    }
}

pub(crate) fn words(version: u16, method: u16, slot: u16, length: u32, sequence: u64) -> Words {
    let first = u64::from(version) | u64::from(method) << 16 | u64::from(slot) << 48;
    Words([first, u64::from(length), sequence, 0, u64::MAX, 0, 0, 0])
}

const RESPONSE: u16 = 1;
const MALFORMED: u16 = 7;
const UNKNOWN_METHOD: u16 = 8;

#[test]
fn a_hostile_header_is_refused_and_the_server_goes_on() {
    let host = Host::new("hostile");
    host.open_pair(A, CONSUMER);
    let journal = FileJournal::default();
    let service = Service {
        journal: journal.clone(),
        ..Service::default()
    };
    let mut server = Server::new(A, 0, Duration::ZERO, service, journal);
    server
        .serve(host.served::<Ledger>(CONSUMER), host.page())
        .unwrap();
    let raw = Raw::open(host.pair(A, CONSUMER).to_str().unwrap());
    let empty = Line([0; 64]);
    let mut ask = |words| raw.exchange(words, empty, || assert!(server.turn()));
    // The text of length 0, as postcard.
    assert_eq!(ask(words(1, 1, 0, 1, 1)), Some(RESPONSE));
    assert_eq!(ask(words(2, 1, 0, 1, 1)), Some(MALFORMED), "version");
    assert_eq!(ask(words(1, 1, 32, 1, 1)), Some(MALFORMED), "slot");
    assert_eq!(
        ask(words(1, 1, 0, 129, 1)),
        Some(MALFORMED),
        "longer than its chunk"
    );
    assert_eq!(
        ask(words(1, 1, 0, u32::MAX, 1)),
        Some(MALFORMED),
        "far longer"
    );
    assert_eq!(ask(words(1, 1, 0, 0, 1)), Some(MALFORMED), "no text");
    assert_eq!(
        ask(words(1, 2, 0, 1, 0)),
        Some(MALFORMED),
        "once, without a number"
    );
    assert_eq!(ask(words(1, 77, 0, 1, 1)), Some(UNKNOWN_METHOD));

    let strategy = (any::<[u64; 8]>(), any::<[u8; 32]>(), 0_u8..8);
    let server = std::cell::RefCell::new(server);
    proptest!(ProptestConfig::with_cases(2000), |((anything, body, sane) in strategy)| {
        let mut header = anything;
        // Mostly past the first check, so that the later ones are met.
        if sane != 0 {
            header[0] = words(1, (anything[0] >> 16) as u16 % 6, 0, 0, 0).0[0];
            header[1] %= 200;
        }
        let mut line = empty;
        line.0[..32].copy_from_slice(&body);
        raw.exchange(Words(header), line, || assert!(server.borrow_mut().turn()));
    });

    drop(raw);
    host.publish(RouteState::Serve, A, 0, None);
    let used = host.used::<Ledger>(CONSUMER);
    let edge = Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap();
    let connection = edge.connect::<Ledger>().unwrap();
    let ticket = connection
        .submit::<Echo>(&Text { text: "fine" }, CallOptions::default())
        .unwrap();
    assert!(server.borrow_mut().turn());
    assert_eq!(ticket.wait().unwrap().get().unwrap().text, "fine");
}
