//! Insula through the public typed client and server: encode, route, send, wait, decode.

use std::collections::VecDeque;
use std::hint::black_box;

use insula_benches::contracts::SizedEcho;
use insula_benches::contracts::burst::{self, BurstClient, BurstDispatch, IN_FLIGHT};
use insula_benches::edge::{self, Pair};
use insula_benches::process::{Role, Server};
use insula_benches::{Body, with_sized_echo};
use insula_ipc::client::{CallOptions, Connection};

use super::Client;
use crate::cases::{Case, Pattern};
use crate::meter::Meter;

/// One call at a time.
struct Serial<C> {
    // Dropped before the pair.
    connection: Connection,
    pair: Pair,
    case: Case,
    contract: std::marker::PhantomData<C>,
}

pub(crate) fn connect(case: Case, core: usize) -> Box<dyn Client> {
    with_sized_echo!(case.size, C => Box::new(Serial::<C>::connect(case, core)))
}

impl<C: SizedEcho> Serial<C> {
    fn connect(case: Case, core: usize) -> Self {
        let pair = Pair::start::<C>(&case.role(), core, case.waiting.spin());
        let connection = pair.edge.connect::<C>().expect("a connection");
        Self {
            connection,
            pair,
            case,
            contract: std::marker::PhantomData,
        }
    }
}

impl<C: SizedEcho> Client for Serial<C> {
    fn server(&self) -> &Server {
        &self.pair.server
    }

    fn run(&mut self, payload: &[u8], meter: &mut Meter) {
        if self.case.pattern == Pattern::Parts {
            while let Some(began) = meter.begin() {
                let parts = C::parts(&self.connection, payload);
                meter.end_with(began, parts);
            }
        } else {
            while let Some(began) = meter.begin() {
                C::echo(&self.connection, payload);
                meter.end(began);
            }
        }
        let rescues = self.connection.rescues();
        if rescues > 0 {
            eprintln!(
                "{}: {rescues} sleeps of 100 ms beside a sleeping server: lost wake-ups, or a \
                 host so loaded that the server did not run in that time",
                self.case
            );
        }
    }
}

pub(crate) fn serve(case: Case, role: &Role) {
    with_sized_echo!(case.size, C => {
        let service = <C as SizedEcho>::Service::default();
        edge::serve(role, case.waiting.spin(), service);
    });
}

/// As many calls at a time as the contract allows.
pub(crate) struct Burst {
    client: BurstClient,
    pair: Pair,
}

impl Burst {
    pub(crate) fn connect(case: Case, core: usize) -> Self {
        let spin = case.waiting.spin();
        let pair = Pair::start::<burst::Burst>(&case.role(), core, spin);
        let client = BurstClient::connect(&pair.edge).expect("a connection");
        Self { client, pair }
    }
}

impl Client for Burst {
    fn server(&self) -> &Server {
        &self.pair.server
    }

    fn run(&mut self, payload: &[u8], meter: &mut Meter) {
        let request = Body { bytes: payload };
        let submit = || {
            self.client
                .submit_echo(&request, CallOptions::default())
                .expect("room for a request")
        };
        let mut tickets: VecDeque<_> = (0..IN_FLIGHT).map(|_| submit()).collect();
        while meter.begin().is_some() {
            // Answers of one server come in order: wait for the oldest, take what else is there.
            let Some(first) = tickets.pop_front() else {
                unreachable!("requests are always outstanding")
            };
            let mut outcome = Some(first.wait());
            let mut done = 0;
            while let Some(answered) = outcome {
                let response = answered.expect("an answer");
                black_box(response.get().expect("a body").bytes[63]);
                drop(response);
                done += 1;
                outcome = None;
                if let Some(next) = tickets.front_mut()
                    && let Some(answered) = next.poll()
                {
                    tickets.pop_front();
                    outcome = Some(answered);
                }
            }
            tickets.extend((0..done).map(|_| submit()));
            meter.end_of_many(done);
        }
    }
}

pub(crate) fn serve_burst(case: Case, role: &Role) {
    edge::serve(role, case.waiting.spin(), BurstDispatch(burst::Echoing));
}
