//! Programs as Debian packages them: Redis and nginx, which know nothing of Insula.

#[path = "../support/mod.rs"]
mod support;

mod debian;
mod nginx;
mod redis;
