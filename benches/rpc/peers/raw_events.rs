//! iceoryx2's request-response with its own events to wake who sleeps: one each way, after every
//! message, as an application has to write it.

#![expect(
    unsafe_code,
    reason = "iceoryx2's loans are filled before they are assumed to be initialised"
)]

use iceoryx2::node::Node;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use insula_benches::contracts::touch;
use insula_benches::process::{Role, Server, ready};
use insula_ipc::raw::FileService;

use super::Client;
use super::raw::{Channel, bytes, create, fill, node, open};
use crate::cases::Case;
use crate::meter::Meter;

const TO_SERVER: &str = "to-server";
const TO_CLIENT: &str = "to-client";

type Bell = (Notifier<FileService>, Listener<FileService>);

/// Rings at `rings` and listens at `listens`.
fn bell(node: &Node<FileService>, rings: &str, listens: &str) -> Bell {
    let event = |name: &str| {
        node.service_builder(&name.try_into().expect("a service's name"))
            .event()
            .open_or_create()
            .expect("an event")
    };
    let notifier = event(rings).notifier_builder().create();
    let listener = event(listens).listener_builder().create();
    (notifier.expect("a notifier"), listener.expect("a listener"))
}

pub(crate) struct RawEvents {
    bell: Bell,
    channel: Channel,
}

impl RawEvents {
    pub(crate) fn connect(case: Case, core: usize) -> Self {
        let channel = open(case, core);
        Self {
            bell: bell(&channel.node, TO_SERVER, TO_CLIENT),
            channel,
        }
    }
}

impl Client for RawEvents {
    fn server(&self) -> &Server {
        &self.channel.server
    }

    fn run(&mut self, payload: &[u8], meter: &mut Meter) {
        let (notifier, listener) = &self.bell;
        while let Some(began) = meter.begin() {
            let port = &self.channel.port;
            let mut request = port.loan_slice_uninit(self.channel.lines).expect("a chunk");
            fill(request.payload_mut(), payload);
            // SAFETY: a chunk lies in a shared file, whose bytes always have a value.
            let request = unsafe { request.assume_init() };
            let pending = request.send().expect("sending");
            notifier.notify().expect("ringing");
            loop {
                if let Some(response) = pending.receive().expect("receiving") {
                    touch(bytes(response.payload()));
                    meter.end(began);
                    break;
                }
                listener.blocking_wait(|_| ()).expect("listening");
            }
        }
    }
}

pub(crate) fn serve(role: &Role) {
    let node = node(&role.words[0]);
    let server = create(&node, role.number(1), role.number(2));
    let (notifier, listener) = bell(&node, TO_CLIENT, TO_SERVER);
    ready();
    loop {
        while let Some(request) = server.receive().expect("receiving") {
            let payload = bytes(request.payload());
            touch(payload);
            let lines = request.payload().len();
            let mut response = request.loan_slice_uninit(lines).expect("a chunk");
            fill(response.payload_mut(), payload);
            // SAFETY: a chunk lies in a shared file, whose bytes always have a value.
            let response = unsafe { response.assume_init() };
            // The client may be on its way out.
            let _ = response.send();
            let _ = notifier.notify();
        }
        listener.blocking_wait(|_| ()).expect("listening");
    }
}
