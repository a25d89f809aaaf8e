//! Calls between real connections and real servers, the tests playing the supervisor.

mod calls;
mod common;
mod contract;
mod deaths;
mod hostile;
mod process;
mod streams;
mod instances;
mod turnover;
mod waking;
