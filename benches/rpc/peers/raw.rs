//! iceoryx2's request-response alone, over the same service type in the same place, spinning.

#![expect(
    unsafe_code,
    reason = "iceoryx2's loans are filled before they are assumed to be initialised"
)]

use std::mem::MaybeUninit;
use std::time::Instant;

use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::port::client::Client as Port;
use insula_benches::contracts::{Parts, nanos, touch};
use insula_benches::edge::{CONSUMER, PROVIDER};
use insula_benches::process::{Role, Server, ready};
use insula_ipc::raw::{FileService, Line, config};
use insula_ipc::testing::Host;

use super::Client;
use crate::cases::{Case, Pattern};
use crate::meter::Meter;

pub(super) const LINE: usize = size_of::<Line>();

pub(super) fn node(directory: &str) -> Node<FileService> {
    NodeBuilder::new()
        .config(&config(directory).expect("a path that iceoryx2 takes"))
        .create()
        .expect("a node")
}

/// Writes the payload into a chunk's lines.
#[inline]
pub(super) fn fill(lines: &mut [MaybeUninit<Line>], payload: &[u8]) {
    let length = size_of_val(lines);
    assert!(payload.len() <= length, "the chunk holds the payload");
    // SAFETY: the chunk is at least as long as the payload, which lies elsewhere; lines are bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(
            payload.as_ptr(),
            lines.as_mut_ptr().cast::<u8>(),
            payload.len(),
        );
    }
}

#[inline]
pub(super) fn bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 plain bytes; same memory, same lifetime.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast::<u8>(), size_of_val(lines)) }
}

/// What both ends of a channel need.
pub(super) struct Channel {
    pub(super) port: Port<FileService, [Line], (), [Line], ()>,
    pub(super) lines: usize,
    pub(super) server: Server,
    pub(super) node: Node<FileService>,
    pub(super) _host: Host,
}

pub(super) fn open(case: Case, core: usize) -> Channel {
    let host = Host::new("bench");
    host.open_pair(PROVIDER, CONSUMER);
    let directory = host.pair(PROVIDER, CONSUMER);
    let directory = directory.to_str().expect("a path of ours is UTF-8");
    let lines = case.size.div_ceil(LINE);
    let words = [
        directory.to_owned(),
        lines.to_string(),
        case.pattern.outstanding().to_string(),
    ];
    let server = Server::start(&case.role(), core, &words);
    let node = node(directory);
    let service = node
        .service_builder(&"raw".try_into().expect("a service's name"))
        .request_response::<[Line], [Line]>()
        .open()
        .expect("the service");
    let port = service
        .client_builder()
        .initial_max_slice_len(lines)
        .create()
        .expect("a client");
    Channel {
        port,
        lines,
        server,
        node,
        _host: host,
    }
}

pub(crate) struct Raw {
    channel: Channel,
    pattern: Pattern,
}

impl Raw {
    pub(crate) fn connect(case: Case, core: usize) -> Self {
        Self {
            channel: open(case, core),
            pattern: case.pattern,
        }
    }

    fn burst(&mut self, payload: &[u8], meter: &mut Meter) {
        let submit = || {
            let mut request = self
                .channel
                .port
                .loan_slice_uninit(self.channel.lines)
                .expect("a chunk");
            fill(request.payload_mut(), payload);
            // SAFETY: a chunk lies in a shared file, whose bytes always have a value.
            let request = unsafe { request.assume_init() };
            request.send().expect("sending")
        };
        let mut pending: std::collections::VecDeque<_> =
            (0..self.pattern.outstanding()).map(|_| submit()).collect();
        while meter.begin().is_some() {
            let mut done = 0;
            while let Some(front) = pending.front()
                && let Some(response) = front.receive().expect("receiving")
            {
                touch(bytes(response.payload()));
                drop(response);
                pending.pop_front();
                done += 1;
            }
            pending.extend((0..done).map(|_| submit()));
            meter.end_of_many(done);
        }
    }
}

impl Client for Raw {
    fn server(&self) -> &Server {
        &self.channel.server
    }

    fn run(&mut self, payload: &[u8], meter: &mut Meter) {
        if self.pattern.is_burst() {
            return self.burst(payload, meter);
        }
        let parts = self.pattern == Pattern::Parts;
        while let Some(began) = meter.begin() {
            let mut request = self
                .channel
                .port
                .loan_slice_uninit(self.channel.lines)
                .expect("a chunk");
            let fill_began = parts.then(Instant::now);
            fill(request.payload_mut(), payload);
            let fill_ns = fill_began.map_or(0, nanos);
            // SAFETY: a chunk lies in a shared file, whose bytes always have a value.
            let request = unsafe { request.assume_init() };
            let pending = request.send().expect("sending");
            loop {
                if let Some(response) = pending.receive().expect("receiving") {
                    let answer = bytes(response.payload());
                    let read_began = parts.then(Instant::now);
                    touch(answer);
                    if parts {
                        let read_ns = read_began.map_or(0, nanos);
                        let served = Parts::read(answer);
                        let spent = Parts {
                            fill_ns: fill_ns + served.fill_ns,
                            read_ns: read_ns + served.read_ns,
                        };
                        meter.end_with(began, spent);
                    } else {
                        meter.end(began);
                    }
                    break;
                }
                std::hint::spin_loop();
            }
        }
    }
}

pub(crate) fn serve(case: Case, role: &Role) {
    let node = node(&role.words[0]);
    let server = create(&node, role.number(1), role.number(2));
    let parts = case.pattern == Pattern::Parts;
    ready();
    loop {
        if let Some(request) = server.receive().expect("receiving") {
            let payload = bytes(request.payload());
            let read_began = parts.then(Instant::now);
            touch(payload);
            let read_ns = read_began.map_or(0, nanos);
            let lines = request.payload().len();
            let mut response = request.loan_slice_uninit(lines).expect("a chunk");
            let fill_began = parts.then(Instant::now);
            fill(response.payload_mut(), payload);
            let fill_ns = fill_began.map_or(0, nanos);
            // SAFETY: a chunk lies in a shared file, whose bytes always have a value.
            let mut response = unsafe { response.assume_init() };
            if parts {
                Parts { fill_ns, read_ns }.write(&mut response.payload_mut()[0].0);
            }
            // The client may be on its way out.
            let _ = response.send();
        }
        std::hint::spin_loop();
    }
}

/// The server of a channel for payloads of so many lines, so many of them outstanding.
pub(super) fn create(
    node: &Node<FileService>,
    lines: usize,
    outstanding: usize,
) -> iceoryx2::port::server::Server<FileService, [Line], (), [Line], ()> {
    node.service_builder(&"raw".try_into().expect("a service's name"))
        .request_response::<[Line], [Line]>()
        .max_servers(1)
        .max_active_requests_per_client(outstanding)
        .create()
        .expect("the service")
        .server_builder()
        .initial_max_slice_len(lines)
        .create()
        .expect("a server")
}
