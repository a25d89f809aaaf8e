//! What the two sides of Insula agree on, and nothing else.
//!
//! `insulad` and the services are separate programs, often of separate versions. This crate holds
//! every word that passes between them: identifiers ([`id`]), the memory they share ([`route`],
//! [`edge`], [`meters`]), the messages on a service's own line ([`mod@line`]) and on the local clients' socket
//! ([`local`]), what the ends of an edge allow ([`policy`]), and the schemas of contracts with their
//! compatibility rules ([`schema`]).
//!
//! It performs no effect: no system call, no file, no clock. Mapping the shared layouts is the
//! business of `insula-ipc` on one side and of the supervisor on the other.

pub mod edge;
#[doc(hidden)]
pub mod encoding;
pub mod id;
pub mod line;
pub mod local;
pub mod meters;
pub mod policy;
pub mod route;
pub mod schema;
pub mod text;
