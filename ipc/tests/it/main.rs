//! Calls between real connections and real servers, the tests playing the supervisor.

mod calls;
mod common;
mod contract;
mod deaths;
mod dynamic;
mod futures;
mod hostile;
mod instances;
mod later;
mod many;
mod meters;
mod overload;
mod payloads;
mod process;
mod replies;
mod streams;
mod stress;
mod trace;
mod traps;
mod turnover;
mod vandals;
mod waking;
