//! iceoryx2's publish-subscribe, one service each way, spinning: what messages cost without the
//! bookkeeping that joins an answer to its request.

#![expect(
    unsafe_code,
    reason = "iceoryx2's loans are filled before they are assumed to be initialised"
)]

use iceoryx2::node::Node;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use insula_benches::contracts::touch;
use insula_benches::edge::{CONSUMER, PROVIDER};
use insula_benches::process::{Role, Server, ready};
use insula_ipc::raw::{FileService, Line};
use insula_ipc::testing::Host;

use super::Client;
use super::raw::{LINE, bytes, fill, node};
use crate::cases::Case;
use crate::meter::Meter;

const REQUESTS: &str = "requests";
const ANSWERS: &str = "answers";

type Ends = (
    Publisher<FileService, [Line], ()>,
    Subscriber<FileService, [Line], ()>,
);

/// Sends on one service and receives on the other.
fn ends(node: &Node<FileService>, out: &str, back: &str, lines: usize, buffer: usize) -> Ends {
    let stream = |name: &str| {
        node.service_builder(&name.try_into().expect("a service's name"))
            .publish_subscribe::<[Line]>()
            .max_publishers(1)
            .max_subscribers(1)
            .enable_safe_overflow(false)
            .subscriber_max_buffer_size(buffer)
            .open_or_create()
            .expect("a stream")
    };
    let publisher = stream(out)
        .publisher_builder()
        .initial_max_slice_len(lines)
        .create();
    let subscriber = stream(back).subscriber_builder().create();
    (
        publisher.expect("a publisher"),
        subscriber.expect("a subscriber"),
    )
}

fn send(publisher: &Publisher<FileService, [Line], ()>, lines: usize, payload: &[u8]) {
    let mut sample = publisher.loan_slice_uninit(lines).expect("a chunk");
    fill(sample.payload_mut(), payload);
    // SAFETY: a chunk lies in a shared file, whose bytes always have a value.
    let sample = unsafe { sample.assume_init() };
    sample.send().expect("sending");
}

pub(crate) struct RawStreams {
    ends: Ends,
    lines: usize,
    outstanding: usize,
    server: Server,
    _node: Node<FileService>,
    _host: Host,
}

impl RawStreams {
    pub(crate) fn connect(case: Case, core: usize) -> Self {
        let host = Host::new("bench");
        host.open_pair(PROVIDER, CONSUMER);
        let directory = host.pair(PROVIDER, CONSUMER);
        let directory = directory.to_str().expect("a path of ours is UTF-8");
        let lines = case.size.div_ceil(LINE);
        let outstanding = case.pattern.outstanding();
        let node = node(directory);
        let ends = ends(&node, REQUESTS, ANSWERS, lines, outstanding);
        let words = [
            directory.to_owned(),
            lines.to_string(),
            outstanding.to_string(),
        ];
        let server = Server::start(&case.role(), core, &words);
        Self {
            ends,
            lines,
            outstanding,
            server,
            _node: node,
            _host: host,
        }
    }
}

impl Client for RawStreams {
    fn server(&self) -> &Server {
        &self.server
    }

    fn run(&mut self, payload: &[u8], meter: &mut Meter) {
        let (publisher, subscriber) = &self.ends;
        if self.outstanding > 1 {
            for _ in 0..self.outstanding {
                send(publisher, self.lines, payload);
            }
            while meter.begin().is_some() {
                let mut done = 0;
                while let Some(answer) = subscriber.receive().expect("receiving") {
                    touch(bytes(answer.payload()));
                    drop(answer);
                    send(publisher, self.lines, payload);
                    done += 1;
                }
                meter.end_of_many(done);
            }
            return;
        }
        while let Some(began) = meter.begin() {
            send(publisher, self.lines, payload);
            loop {
                if let Some(answer) = subscriber.receive().expect("receiving") {
                    touch(bytes(answer.payload()));
                    break;
                }
                std::hint::spin_loop();
            }
            meter.end(began);
        }
    }
}

pub(crate) fn serve(role: &Role) {
    let node = node(&role.words[0]);
    let lines = role.number(1);
    let (publisher, subscriber) = ends(&node, ANSWERS, REQUESTS, lines, role.number(2));
    ready();
    loop {
        while let Some(request) = subscriber.receive().expect("receiving") {
            let payload = bytes(request.payload());
            touch(payload);
            send(&publisher, lines, payload);
        }
        std::hint::spin_loop();
    }
}
