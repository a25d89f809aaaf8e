//! Schemas, their compatibility, and the messages that are derived from the same source.

mod compatibility;
mod derived;
mod model;
