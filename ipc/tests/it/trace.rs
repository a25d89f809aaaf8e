//! Traces, from a caller to what a handler does.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::{CallOptions, Edge};
use insula_ipc::server::Server;
use insula_ipc::testing::Host;
use insula_ipc::trace::{self, TraceContext};

use crate::common::{FileJournal, Service, wait_until};
use crate::contract::{Echo, Ledger, Text};

const A: Attempt = Attempt(1);
const CONSUMER: Attempt = Attempt(800);

#[test]
fn a_handler_is_in_the_trace_of_its_request_and_in_none_after_it() {
    let host = Host::new("trace");
    let service = Service::default();
    let mut server = Server::new(A, 0, Duration::ZERO, service, FileJournal::default());
    host.open_pair(A, CONSUMER);
    server
        .serve(host.served::<Ledger>(CONSUMER), host.page())
        .unwrap();
    host.publish(RouteState::Serve, A, 0, None);
    let used = host.used::<Ledger>(CONSUMER);
    let edge = Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap();
    let connection = edge.connect::<Ledger>().unwrap();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = seen.clone();
    server.dispatch_mut().before = Some(Box::new(move |_| log.borrow_mut().push(trace::current())));
    let mut call = |trace: TraceContext| {
        let options = CallOptions {
            trace,
            ..CallOptions::default()
        };
        let text = Text { text: "x" };
        let mut ticket = connection.submit::<Echo>(&text, options).unwrap();
        wait_until("an answer", || {
            // The server's thread is this one: the caller's trace is not to be seen by it.
            let _outside = TraceContext::NONE.enter();
            server.turn();
            assert!(trace::current().is_none());
            ticket.poll().is_some()
        });
    };
    let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let context = TraceContext::parse(text).unwrap();
    call(context);
    {
        let _entered = context.enter();
        call(TraceContext::NONE);
    }
    call(TraceContext::NONE);
    let seen = seen.borrow();
    assert_eq!(seen.len(), 3);
    for inherited in &seen[..2] {
        assert_eq!(inherited.trace_id, context.trace_id);
        assert!(inherited.sampled);
        assert_ne!(inherited.span_id, context.span_id);
    }
    assert_ne!(seen[0].span_id, seen[1].span_id);
    assert!(seen[2].is_none());
}
