//! Checks the protocol of parking and ringing under every interleaving; see `tests/waking`.
//!
//! The tests take `ipc/src/wake.rs` in as it stands and give it a model checker's atomics and a
//! modelled futex in place of `ipc/src/sync.rs`.
