//! What a manifest says of the contracts that its service offers and uses.

use std::collections::BTreeMap;
use std::time::Duration;

use insula_contract::id::ContractId;
use insula_contract::policy::{
    BreakerPolicy, EdgeLimits, EdgePolicy, OnceScope, RateLimit, RetryPolicy, Shedding,
};
use insula_core::spec::{Need, Offer, Principal};
use nix::unistd::{Group, User};

use super::document::{Section, Value};
use super::profiles::duration;

/// `provides."kv@1"`: who may use it, and how much of it each of them.
pub(super) fn offer(section: &Section<'_>) -> Option<Offer> {
    let root_only = vec![Principal::Uid(0)];
    let allow = section.optional("allow", root_only, |value| value.list(principal));
    let limits = section.optional("limits", EdgeLimits::default(), |value| {
        value.section(limits)
    });
    Some(Offer {
        allow: allow?,
        limits: limits?,
    })
}

fn limits(section: &Section<'_>) -> Option<EdgeLimits> {
    let waiting = section.optional("waiting", None, |value| positive(value).map(Some));
    let per_second = section.optional("per-second", None, |value| positive(value).map(Some));
    let burst = section.optional("burst", None, |value| {
        if section.find("per-second").is_none() {
            return value.wrong("means nothing without `per-second`");
        }
        positive(value).map(Some)
    });
    let target = section.optional("shed-after", None, |value| time(value).map(Some));
    let interval = section.optional("shed-interval", Duration::from_millis(100), |value| {
        if section.find("shed-after").is_none() {
            return value.wrong("means nothing without `shed-after`");
        }
        time(value)
    });
    let (burst, interval) = (burst?, interval?);
    Some(EdgeLimits {
        waiting: waiting?,
        rate: per_second?.map(|per_second| RateLimit {
            per_second,
            // A tenth of a second's worth, unless another burst is asked for.
            burst: burst.unwrap_or((per_second / 10).max(1)),
        }),
        shedding: target?.map(|target| Shedding { target, interval }),
    })
}

/// `requires."kv@1"`: what its client does about refusals and bad instances.
pub(super) fn need(section: &Section<'_>) -> Option<Need> {
    let retries = section.optional("retries", RetryPolicy::default(), |value| {
        value.section(retries)
    });
    let breaker = section.optional("breaker", BreakerPolicy::default(), |value| {
        value.section(breaker)
    });
    Some(Need {
        policy: EdgePolicy {
            retries: retries?,
            breaker: breaker?,
            once: OnceScope::default(),
        },
    })
}

fn retries(section: &Section<'_>) -> Option<RetryPolicy> {
    let default = RetryPolicy::default();
    let percent = section.optional("percent", default.percent, |value| {
        u8::try_from(value.integer(0..=100)?).ok()
    });
    let reserve = section.optional("reserve", default.reserve, count);
    let per_second = section.optional("per-second", default.per_second, count);
    Some(RetryPolicy {
        percent: percent?,
        reserve: reserve?,
        per_second: per_second?,
    })
}

fn breaker(section: &Section<'_>) -> Option<BreakerPolicy> {
    let default = BreakerPolicy::default();
    let consecutive = section.optional("consecutive", default.consecutive, |value| {
        u8::try_from(value.integer(0..=255)?).ok()
    });
    let of_64 = section.optional("of-64", default.of_64, |value| {
        u8::try_from(value.integer(0..=64)?).ok()
    });
    let open_for = section.optional("open-for", default.open_for, time);
    let open_at_most = section.optional("open-at-most", default.open_at_most, time);
    let fail_fast = section.optional("fail-fast", default.fail_fast, Value::boolean);
    let (open_for, open_at_most) = (open_for?, open_at_most?);
    Some(BreakerPolicy {
        consecutive: consecutive?,
        of_64: of_64?,
        open_for,
        open_at_most: open_at_most.max(open_for),
        fail_fast: fail_fast?,
    })
}

fn count(value: &Value<'_>) -> Option<u32> {
    u32::try_from(value.integer(0..=i64::from(u32::MAX))?).ok()
}

fn positive(value: &Value<'_>) -> Option<u32> {
    u32::try_from(value.integer(1..=i64::from(u32::MAX))?).ok()
}

fn time(value: &Value<'_>) -> Option<Duration> {
    let time = duration(value)?;
    if time.is_zero() {
        value.wrong("leaves no time at all")
    } else {
        Some(time)
    }
}

/// The contracts that a table names, each with what its entry says.
pub(super) fn contracts<T>(
    value: &Value<'_>,
    mut read: impl FnMut(&Section<'_>) -> Option<T>,
) -> Option<BTreeMap<ContractId, T>> {
    let entries = value.entries(|name, entry| {
        let content = entry.section(&mut read);
        match name.parse::<ContractId>() {
            Ok(id) => Some((id, content?)),
            Err(error) => entry.wrong(error.to_string()),
        }
    })?;
    let count = entries.len();
    let contracts: BTreeMap<_, _> = entries.into_iter().collect();
    if contracts.len() < count {
        // `kv@1` and `kv@01` are two keys and one contract.
        return value.wrong("names a contract twice");
    }
    Some(contracts)
}

fn principal(value: &Value<'_>) -> Option<Principal> {
    let text = value.text()?;
    let (kind, name) = text.split_once(':').unwrap_or((&text, ""));
    match (kind, name) {
        ("*", "") => return Some(Principal::Anyone),
        ("root", "") => return Some(Principal::Uid(0)),
        ("uid" | "gid", number) => {
            if let Ok(number) = number.parse() {
                let user = kind == "uid";
                return Some(if user {
                    Principal::Uid(number)
                } else {
                    Principal::Gid(number)
                });
            }
        }
        ("user", name) if !name.is_empty() => {
            return match User::from_name(name) {
                Ok(Some(user)) => Some(Principal::Uid(user.uid.as_raw())),
                Ok(None) => value.wrong(format!("this host has no user `{name}`")),
                Err(error) => value.wrong(format!("cannot look up user `{name}`: {error}")),
            };
        }
        ("group", name) if !name.is_empty() => {
            return match Group::from_name(name) {
                Ok(Some(group)) => Some(Principal::Gid(group.gid.as_raw())),
                Ok(None) => value.wrong(format!("this host has no group `{name}`")),
                Err(error) => value.wrong(format!("cannot look up group `{name}`: {error}")),
            };
        }
        _ => {}
    }
    value.wrong_but(
        format!("`{text}` names nobody"),
        "write `root`, `uid:1000`, `user:name`, `gid:100`, `group:name`, or `*` for everybody",
    )
}
