//! `echo`: answers what it is asked, contract `echo@1`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use echo::{
    Count, Counted, EchoDispatch, EchoError, EchoServer, Text, WORK_MAX_US, Work, echo as methods,
};
use insula::Service;
use insula::ipc::server::{Answer, CallContext, NoJournal, Reply};

/// Answers what it is asked, contract echo@1; started by insulad.
#[derive(Debug, Parser)]
#[command(name = "echo", version)]
struct Args {}

#[derive(Debug)]
struct Echoing {
    attempt: u64,
    count: u64,
}

impl EchoServer for Echoing {
    fn echo(
        &mut self,
        _: &CallContext,
        request: Text<'_>,
        reply: Reply<'_, methods::Echo>,
    ) -> Answer {
        reply.send(&request)
    }

    fn count(
        &mut self,
        _: &CallContext,
        request: Count,
        reply: Reply<'_, methods::Count>,
    ) -> Answer {
        self.count = self.count.wrapping_add(request.by);
        reply.send(&self.counted())
    }

    fn work(&mut self, _: &CallContext, request: Work, reply: Reply<'_, methods::Work>) -> Answer {
        if request.microseconds > WORK_MAX_US {
            return reply.fail(&EchoError::TooMuchWork);
        }
        let until = Instant::now() + Duration::from_micros(request.microseconds.into());
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        reply.send(&self.counted())
    }
}

impl Echoing {
    fn counted(&self) -> Counted {
        Counted {
            attempt: self.attempt,
            count: self.count,
        }
    }
}

fn main() -> ExitCode {
    let Args {} = Args::parse();
    Service::new().serve(|context| {
        let echoing = Echoing {
            attempt: context.runtime().attempt().0,
            count: 0,
        };
        Ok((EchoDispatch(echoing), NoJournal))
    })
}
