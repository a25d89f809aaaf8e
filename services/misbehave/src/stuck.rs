//! `trouble@1`: a service that gets stuck when it is asked to.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use insula::ipc::server::{Answer, CallContext, Reply, Workers};
use insula::{Message, NoStore, Service, contract};

/// Gets its provider stuck.
#[contract(name = "trouble", major = 1, error = Never, in_flight = 4)]
pub(crate) trait Trouble {
    /// The process id of who answers.
    #[method(id = 1, idempotent, deadline = "60s")]
    fn who() -> Process;
    /// Runs for ever.
    #[method(id = 2, deadline = "60s")]
    fn spin() -> Process;
    /// Waits for ever for a lock that it holds.
    #[method(id = 3, deadline = "60s")]
    fn lock() -> Process;
    /// Answers after this time on the processor.
    #[method(id = 4, idempotent, deadline = "60s")]
    fn work(request: Work) -> Process;
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Process {
    /// Its process id.
    pub(crate) pid: u32,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Work {
    /// For how long, in milliseconds.
    pub(crate) ms: u32,
}

/// Nothing goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub(crate) enum Never {
    /// Not even this.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Stuck;

fn own() -> Process {
    Process {
        pid: std::process::id(),
    }
}

impl TroubleServer for Stuck {
    fn who(&mut self, _: &CallContext, reply: Reply<'_, trouble::Who>) -> Answer {
        reply.send(&own())
    }

    fn spin(&mut self, _: &CallContext, _: Reply<'_, trouble::Spin>) -> Answer {
        loop {
            std::hint::spin_loop();
        }
    }

    fn lock(&mut self, _: &CallContext, reply: Reply<'_, trouble::Lock>) -> Answer {
        static LOCK: Mutex<()> = Mutex::new(());
        let held = LOCK.lock();
        let again = LOCK.lock();
        drop((held, again));
        reply.send(&own())
    }

    fn work(&mut self, _: &CallContext, request: Work, reply: Reply<'_, trouble::Work>) -> Answer {
        let until = Instant::now() + Duration::from_millis(u64::from(request.ms));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        reply.send(&own())
    }
}

/// Serves it, on the main thread or on as many others.
pub(crate) fn serve(workers: usize) -> ExitCode {
    let service = Service::new();
    if workers == 0 {
        service.serve(|_| Ok((TroubleDispatch(Stuck), NoStore)))
    } else {
        service.serve(move |_| Ok((Workers::start(workers, || TroubleDispatch(Stuck))?, NoStore)))
    }
}
