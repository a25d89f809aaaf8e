//! Insula through the public typed client and server: encode, route, send, wait, decode.

use std::collections::VecDeque;
use std::marker::PhantomData;

use insula_benches::contracts::{SizedEcho, touch};
use insula_benches::edge::{self, Pair};
use insula_benches::process::{Role, Server};
use insula_benches::{Body, with_sized_echo};
use insula_ipc::client::{CallOptions, Connection};
use insula_ipc::contract::{Contract, Method};
use insula_ipc::trace::{Entered, TraceContext};

use super::Client;
use crate::cases::{Case, Pattern, Peer};
use crate::meter::Meter;

/// One call at a time.
struct Serial<C> {
    // Dropped before the pair.
    connection: Connection,
    pair: Pair,
    case: Case,
    /// The trace that this thread's calls belong to.
    #[expect(dead_code, reason = "what counts is that it lives")]
    trace: Option<Entered>,
    contract: PhantomData<C>,
}

/// The example of W3C Trace Context.
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub(crate) fn connect(case: Case, core: usize) -> Box<dyn Client> {
    with_sized_echo!(case.size, C => Box::new(Serial::<C>::connect(case, core)))
}

impl<C: SizedEcho> Serial<C> {
    fn connect(case: Case, core: usize) -> Self {
        let pair = Pair::start::<C>(&case.role(), core, case.waiting.spin());
        let metered = case.peer == Peer::Metered;
        if metered {
            pair.edge.meter(&edge::meters());
        }
        let connection = pair.edge.connect::<C>().expect("a connection");
        Self {
            connection,
            pair,
            case,
            trace: metered.then(|| TraceContext::parse(TRACE).expect("a trace").enter()),
            contract: PhantomData,
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
        let meters = (case.peer == Peer::Metered).then(edge::meters);
        edge::serve_metered(role, case.waiting.spin(), service, meters);
    });
}

/// As many calls at a time as the contract allows.
pub(crate) struct Burst<M> {
    // Dropped before the pair.
    connection: Connection,
    pair: Pair,
    method: PhantomData<M>,
}

impl<M: Method> Burst<M> {
    pub(crate) fn connect(case: Case, core: usize) -> Self {
        assert_eq!(M::Contract::IN_FLIGHT, case.pattern.outstanding());
        let pair = Pair::start::<M::Contract>(&case.role(), core, case.waiting.spin());
        let connection = pair.edge.connect::<M::Contract>().expect("a connection");
        Self {
            connection,
            pair,
            method: PhantomData,
        }
    }
}

impl<M> Client for Burst<M>
where
    M: Method<Request = Body<'static>, Response = Body<'static>>,
{
    fn server(&self) -> &Server {
        &self.pair.server
    }

    fn run(&mut self, payload: &[u8], meter: &mut Meter) {
        let request = Body { bytes: payload };
        let submit = || {
            self.connection
                .submit::<M>(&request, CallOptions::default())
                .expect("room for a request")
        };
        let mut tickets: VecDeque<_> = (0..M::Contract::IN_FLIGHT).map(|_| submit()).collect();
        while meter.begin().is_some() {
            // Answers of one server come in order: wait for the oldest, take what else is there.
            let Some(first) = tickets.pop_front() else {
                unreachable!("requests are always outstanding")
            };
            let mut outcome = Some(first.wait());
            let mut done = 0;
            while let Some(answered) = outcome {
                let response = answered.expect("an answer");
                touch(response.get().expect("a body").bytes);
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
