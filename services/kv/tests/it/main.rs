//! kv in processes of its own, under a supervisor that the test plays.

mod handover;
mod life;
mod supervisor;
