//! Many at once: in which order they come makes a difference.
//!
//! [`plan`] seats the demanding ones first. If that leaves somebody out, or apart from those he
//! talks to, and the number of steps allows, it looks further: depth first over the places of each,
//! cut off where even the best that is still possible would be no better.

use std::cmp::Reverse;

use super::candidates::{self, Candidate};
use super::request::{Processors, Request, Whole};
use super::{Placement, Seat, WhyNot};

/// How good a plan is: so many have a seat, and it counts so much where they sit.
pub type Worth = (usize, i64);

/// Steps of the search that a plan for a person takes, at most: some milliseconds.
pub const STEPS: usize = 20_000;
/// Beyond so many requests there is no search: the order alone decides.
const SEARCHED: usize = 64;

/// What became of each request, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The host with all of them.
    pub host: Placement,
    /// Each one's number in `host`, or why it has no seat.
    pub seats: Vec<Result<u64, WhyNot>>,
    /// How good it is.
    pub worth: Worth,
}

impl Plan {
    /// The seat of a request.
    pub fn seat(&self, index: usize) -> Option<&Seat> {
        self.host.seat(*self.seats.get(index)?.as_ref().ok()?)
    }
}

/// Seats them on a host, where those that have a seat keep it. Takes at most `steps` steps beyond
/// the first try.
pub fn plan(host: &Placement, requests: &[Request], steps: usize) -> Plan {
    let first = host.seated.keys().next_back().map_or(0, |last| last + 1);
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|index| (Reverse(weight(&requests[*index])), *index));
    let mut search = Search {
        first,
        requests,
        order: &order,
        host: host.clone(),
        bounds: bounds(host, requests, &order),
        worth: (0, 0),
        chosen: vec![None; requests.len()],
        best: None,
        steps,
        deep: steps > 0,
    };
    search.greedily();
    if search.is_deep() {
        search.deepen(0);
    }
    let (worth, chosen) = search.best.take().unwrap_or_default();
    let searched = search.is_deep();
    let mut made = search.host;
    if searched {
        for index in &order {
            if let Some(candidate) = &chosen[*index] {
                made.sit(first + *index as u64, requests[*index].clone(), candidate);
            }
        }
    }
    let host = made;
    let empty = host.emptied();
    let seats = requests.iter().enumerate().map(|(index, request)| {
        let id = first + index as u64;
        if chosen[index].is_some() {
            return Ok(id);
        }
        let lack = match host.search(request) {
            Err(lack) => lack,
            // Whoever is left out for others' sake has room only on paper: this does not happen,
            // since one more seat is always better.
            Ok(_) => host.lack(request, Vec::new()),
        };
        Err(WhyNot {
            lack,
            fits_alone: empty.search(request).is_ok(),
        })
    });
    let seats = seats.collect();
    Plan { host, seats, worth }
}

/// Who comes first: whole cache groups, many cores, much memory, much of a pool.
fn weight(request: &Request) -> (u32, u64, u64, u64) {
    let (kind, cores, share) = match request.processors {
        Processors::Exclusive { cores, whole, .. } => {
            (2 + u32::from(whole == Whole::L3), u64::from(cores), 0)
        }
        Processors::Shared { share } => (1, 0, share),
        Processors::BestEffort { share } => (0, 0, share),
    };
    (kind, cores, request.memory, share)
}

/// For each place in the order: the most points that those from there on can bring.
fn bounds(host: &Placement, requests: &[Request], order: &[usize]) -> Vec<i64> {
    let several_nodes = host.ground.nodes.len() > 1;
    let several_l3s = host.ground.l3s.len() > 1;
    let apart = if several_nodes {
        2
    } else {
        i64::from(several_l3s)
    };
    let pair = |a: &Request, b: &Request| {
        let weight =
            |a: &Request, b: &Request| a.near.get(&b.service).copied().map_or(0, i64::from);
        let both = weight(a, b) + weight(b, a);
        let near = match (a.processors, b.processors) {
            (Processors::Exclusive { .. }, Processors::Exclusive { .. }) => 3,
            _ => 2,
        };
        both * near + if a.service == b.service { apart } else { 0 }
    };
    let mut bounds = vec![0; order.len() + 1];
    if requests.len() > SEARCHED {
        return bounds;
    }
    for at in (0..order.len()).rev() {
        let request = &requests[order[at]];
        let seated = host.seated.values().map(|other| &other.request);
        let before = order[..at].iter().map(|index| &requests[*index]);
        let brings: i64 = seated.chain(before).map(|other| pair(request, other)).sum();
        bounds[at] = bounds[at + 1] + brings;
    }
    bounds
}

struct Search<'a> {
    first: u64,
    requests: &'a [Request],
    order: &'a [usize],
    host: Placement,
    bounds: Vec<i64>,
    worth: Worth,
    chosen: Vec<Option<Candidate>>,
    best: Option<(Worth, Vec<Option<Candidate>>)>,
    steps: usize,
    deep: bool,
}

impl Search<'_> {
    /// Whether it looks further than the first try, whose seats are given back for it.
    fn is_deep(&self) -> bool {
        self.deep && self.requests.len() <= SEARCHED
    }

    fn greedily(&mut self) {
        let mut taken = Vec::new();
        for index in self.order {
            let request = &self.requests[*index];
            if let Ok(candidate) = self.host.search(request) {
                self.sit(*index, candidate);
                taken.push(*index);
            }
        }
        self.best = Some((self.worth, self.chosen.clone()));
        if self.is_deep() {
            while let Some(index) = taken.pop() {
                self.rise(index);
            }
        }
    }

    fn sit(&mut self, index: usize, candidate: Candidate) {
        let id = self.first + index as u64;
        self.worth.0 += 1;
        self.worth.1 += candidate.score.points;
        self.host.sit(id, self.requests[index].clone(), &candidate);
        self.chosen[index] = Some(candidate);
    }

    fn rise(&mut self, index: usize) {
        self.host.remove(self.first + index as u64);
        if let Some(candidate) = self.chosen[index].take() {
            self.worth.0 -= 1;
            self.worth.1 -= candidate.score.points;
        }
    }

    /// Whether what is still possible could be better than the best.
    fn promises(&self, depth: usize) -> bool {
        let most = (
            self.worth.0 + self.order.len() - depth,
            self.worth.1 + self.bounds[depth],
        );
        self.best.as_ref().is_none_or(|(best, _)| most > *best)
    }

    fn deepen(&mut self, depth: usize) {
        if self.steps == 0 || !self.promises(depth) {
            return;
        }
        self.steps -= 1;
        let Some(index) = self.order.get(depth).copied() else {
            self.best = Some((self.worth, self.chosen.clone()));
            return;
        };
        let request = &self.requests[index];
        let mut found = Vec::new();
        if request.labels.is_subset(self.host.labels()) {
            let relatives = self.host.relatives(request);
            let (places, _) =
                candidates::find(&self.host.ground, request, &relatives, &self.host.policy);
            found = places;
        }
        while let Some(best) = candidates::best(&found) {
            let candidate = found.remove(best);
            self.sit(index, candidate);
            self.deepen(depth + 1);
            self.rise(index);
        }
        self.deepen(depth + 1);
    }
}
