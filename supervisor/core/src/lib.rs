//! Decides everything, does nothing.
//!
//! The supervisor's behaviour is a function: (state, event) -> (state, records, actions). Time and
//! chance are passed in, state holds ids and attempt numbers and never a handle of the system, and
//! a decision gives its actions out only against proof that its records are stored
//! ([`core::Decision`]). The shell around it turns the world into events and does what it is told.
//!
//! - [`process`]: one attempt, from launch to end;
//! - [`service`]: a service's place, its upgrade, its routes; `orders`: what a person orders;
//! - [`edges`]: who may meet whom, and which attempts have a channel; [`views`]: whether their
//!   forms of a contract go together;
//! - `agenda`: when each service is due;
//! - [`health`]: probes, watchdogs, and suspicions of what is on its routes;
//! - [`aside`]: when best-effort work is stopped for others;
//! - [`seats`]: which instance has which place, for how long, and who is told;
//! - [`restart`]: back-off and restart intensity; `pace`: turns of all that fail in a row;
//! - [`core`]: the whole; [`invariants`]: what must hold after every turn;
//! - [`placement`]: who gets which cores and which memory, and why not;
//! - [`report`]: what `status` shows.

mod agenda;
pub mod aside;
pub mod core;
pub mod edges;
pub mod event;
pub mod health;
pub mod invariants;
pub mod limits;
mod orders;
mod pace;
pub mod placement;
pub mod process;
pub mod report;
pub mod restart;
pub mod seats;
pub mod service;
pub mod spec;
pub mod time;
mod turn;
pub mod views;
