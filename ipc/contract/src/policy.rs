//! What the two ends of an edge allow themselves and each other.
//!
//! [`EdgeLimits`] protect a provider from one consumer and are enforced by the provider;
//! [`EdgePolicy`] protects a provider from its consumers' persistence, and a consumer from a bad
//! instance, and is kept by the consumer's client. The supervisor sends both with the edge. The
//! defaults refuse nothing that is in order.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a provider takes from one edge; more is refused without being executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EdgeLimits {
    /// Requests that may wait at one server at once, over all connections of the consumer; none
    /// for what the contract's channel holds.
    pub waiting: Option<u32>,
    /// Requests in a time; none for any number.
    pub rate: Option<RateLimit>,
    /// When waiting requests are refused as overload; none for never.
    pub shedding: Option<Shedding>,
}

/// A token bucket: so many requests at once, and so many a second in the long run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Requests a second; at least 1.
    pub per_second: u32,
    /// Requests that may come at once after a pause; at least 1.
    pub burst: u32,
}

/// Refusing by queue delay: while a server has not been idle for a whole interval, requests that
/// have waited longer than the target are refused.
///
/// After CoDel (RFC 8289) and its use for servers (Maurer, "Fail at Scale", 2015): a queue that
/// empties now and then is a good one, however long it is for a moment. Delays are known to a
/// tick of the kernel's coarse clock, at most 10 ms, and never taken for longer than they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shedding {
    /// The longest wait of a request that is executed under overload.
    pub target: Duration,
    /// How long a server is busy without a pause before that is called overload.
    pub interval: Duration,
}

/// What a consumer's client does about refusals and bad instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EdgePolicy {
    /// How often refused requests are sent again.
    pub retries: RetryPolicy,
    /// When an instance counts as bad.
    pub breaker: BreakerPolicy,
    /// Where the answer of a `once` request is recorded.
    pub once: OnceScope,
}

/// A budget for sending again what a provider refused because it could not or would not.
///
/// Sending again because a route changed, or because a server leaves or does not lead, costs
/// nothing of it: that is how an upgrade loses no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Retries that each hundred calls earn.
    pub percent: u8,
    /// Retries that may be saved up, and with which an edge begins.
    pub reserve: u32,
    /// Retries that each second earns besides, so that an edge with few calls has some too.
    pub per_second: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            percent: 10,
            reserve: 20,
            per_second: 10,
        }
    }
}

/// When a client keeps away from an instance.
///
/// Only what says that the instance is in trouble counts as a failure: a missed deadline, and the
/// refusals "unable" and "overloaded". With several instances, calls go to the others; with one,
/// or none that is better, they are made all the same unless `fail_fast` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerPolicy {
    /// So many failures one after the other open the breaker; 0 for never.
    pub consecutive: u8,
    /// So many failures among the last 64 calls open it; 0 for never.
    pub of_64: u8,
    /// How long it stays open before one call tries again.
    pub open_for: Duration,
    /// Doubled after each try that failed, up to this.
    pub open_at_most: Duration,
    /// Whether a call that finds no better instance ends as unavailable at once.
    pub fail_fast: bool,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            consecutive: 5,
            of_64: 32,
            open_for: Duration::from_millis(500),
            open_at_most: Duration::from_secs(30),
            fail_fast: false,
        }
    }
}

/// Whose store records the answers of `once` requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnceScope {
    /// The service's: any of its instances knows what another one executed.
    #[default]
    Service,
    /// Each instance's own: a request that one may have executed goes to it or its successor only.
    Instance,
}
