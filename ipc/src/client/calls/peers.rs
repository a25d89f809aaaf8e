//! The instances behind a contract, as one connection sees them, and the choice among them.
//!
//! A call without a key goes to the one with the fewest outstanding calls of two chosen at random
//! (Mitzenmacher, "The Power of Two Choices", 2001): nearly as even as the least loaded of all,
//! and no two clients run after the same one. A call with a key goes to the instance that scores
//! highest for it (rendezvous hashing; Thaler and Ravishankar, 1998), by the instance's number,
//! which outlives its attempts: when one goes for good, only its keys move.

use insula_contract::id::Attempt;
use insula_contract::route::{RouteState, TARGETS, Target};

use super::super::edge::Edge;
use super::breaker::Breaker;
use crate::channel::{ClientEnd, NotSent, Pending};
use crate::clock;
use crate::header::RequestHeader;

/// One instance.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) target: Target,
    /// Its channel, once it is connected to.
    pub(super) link: Option<ClientEnd>,
    /// It could not be connected to; when to try again.
    pub(super) retry_link_ns: u64,
    /// It slept when it was last sent something, and was rung.
    pub(super) was_rung: bool,
    /// It was found asleep since, although it was awake then.
    pub(super) suspected: bool,
    /// Calls that lie with it.
    pub(super) outstanding: u32,
    /// It refused because it leaves or does not lead: until then others are better.
    shunned_until_ns: u64,
    breaker: Breaker,
}

impl Peer {
    const ABSENT: Self = Self {
        target: Target::NONE,
        link: None,
        retry_link_ns: 0,
        was_rung: false,
        suspected: false,
        outstanding: 0,
        shunned_until_ns: 0,
        breaker: Breaker::CLOSED,
    };

    fn serves(&self) -> bool {
        self.target.state == RouteState::Serve
    }

    fn is_gone(&self) -> bool {
        self.target.state == RouteState::Gone
    }

    fn is_missing(&self) -> bool {
        self.serves() && self.link.is_none()
    }

    /// Whether nothing speaks against sending it a call.
    fn is_good(&self, now: u64) -> bool {
        self.shunned_until_ns <= now && self.breaker.allows(now)
    }

    /// Whether calls can be sent to it.
    fn is_ready(&self) -> bool {
        self.serves() && self.link.is_some()
    }
}

/// All instances of the provider.
#[derive(Debug)]
pub(super) struct Peers {
    /// By their places in the route entry, up to the last that was ever used.
    list: Vec<Peer>,
    /// The only instance that is not gone, where it is ready: no choice is to be made.
    sole: Option<u8>,
    /// Whether every instance that serves is connected to.
    complete: bool,
    chance: Chance,
    edge: Edge,
    /// The number of the call up to which the budget for retries knows of calls.
    budgeted: u64,
}

/// Where a call is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// To the instance in this place.
    To(u8),
    /// Nowhere before something changes.
    Wait,
    /// Nowhere, and nobody is to wait for the instances to get better.
    Never,
}

/// What the end of a call says about the instance that it lay with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered.
    Good,
    /// It did not answer in time, or could not.
    Bad,
    /// Nothing.
    Nothing,
}

impl Peers {
    /// None yet, for a connection whose next call has the number `next_sequence`.
    pub(super) fn new(edge: Edge, next_sequence: u64, seed: u64) -> Self {
        Self {
            list: Vec::new(),
            sole: None,
            complete: false,
            chance: Chance::new(seed),
            edge,
            budgeted: next_sequence,
        }
    }

    /// Gives all connections up.
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.count();
    }

    /// The only instance there is, where it is ready.
    #[inline]
    pub(super) fn sole(&self) -> Option<u8> {
        self.sole
    }

    /// Whether no connection is missing.
    #[inline]
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The instance in a place that was chosen or that a call lies at.
    #[inline]
    pub(super) fn at(&self, place: u8) -> &Peer {
        &self.list[usize::from(place)]
    }

    /// Those that serve and are not connected to.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Peer> {
        self.list.iter().filter(|peer| peer.is_missing())
    }

    /// As [`Self::missing`], to be connected to; [`Self::count`] is due then.
    pub(super) fn missing_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.list.iter_mut().filter(|peer| peer.is_missing())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.list.iter_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.list.iter()
    }

    /// The target in a place; none where none was seen.
    pub(super) fn target(&self, place: usize) -> Target {
        self.list
            .get(place)
            .map_or(Target::NONE, |peer| peer.target)
    }

    /// Follows a target to another attempt or state.
    pub(super) fn follow(&mut self, place: usize, target: Target) {
        if self.list.len() <= place {
            self.list.resize_with(place + 1, || Peer::ABSENT);
        }
        let peer = &mut self.list[place];
        if has_left(peer.target, target) {
            debug_assert_eq!(peer.outstanding, 0, "a call lies where nobody is");
            *peer = Peer::ABSENT;
        }
        peer.target = target;
        peer.retry_link_ns = 0;
        peer.shunned_until_ns = 0;
    }

    /// Looks anew which of them can be sent to, after targets or connections changed.
    pub(super) fn count(&mut self) {
        let mut present = (0_u8..).zip(&self.list).filter(|(_, peer)| !peer.is_gone());
        self.sole = match (present.next(), present.next()) {
            (Some((place, peer)), None) if peer.is_ready() && !self.is_avoided(peer) => Some(place),
            _ => None,
        };
        self.complete = !self.list.iter().any(Peer::is_missing);
    }

    /// Whether calls are not made although there is nobody else.
    fn is_avoided(&self, peer: &Peer) -> bool {
        !peer.breaker.is_closed() && self.edge.used().policy.breaker.fail_fast
    }

    /// Whether nobody serves or is expected to.
    pub(super) fn all_gone(&self) -> bool {
        self.list.iter().all(Peer::is_gone)
    }

    /// Whether anybody is connected to, or could be yet, on an edge whose supervisor is gone: only
    /// attempts of its time were told of it.
    pub(super) fn any_in_reach(&self) -> bool {
        let run = self.edge.used().consumer.run();
        self.list.iter().any(|peer| {
            let attempt = peer.target.attempt;
            let was_told = attempt != Attempt(0) && attempt.run() <= run;
            peer.link.is_some() || (!peer.is_gone() && was_told)
        })
    }

    /// Whether somebody sleeps until he is wanted.
    pub(super) fn any_asleep(&self) -> bool {
        let mut states = self.list.iter().map(|peer| peer.target.state);
        states.any(|state| state == RouteState::Dormant)
    }

    /// Whether somebody serves and is connected to.
    pub(super) fn any_ready(&self) -> bool {
        self.list.iter().any(Peer::is_ready)
    }

    /// Where a call goes now.
    pub(super) fn choose(&mut self, key: Option<u64>, now: u64) -> Choice {
        match (self.sole, key) {
            (Some(place), _) => Choice::To(place),
            (None, Some(key)) => self.by_key(key, now),
            (None, None) => self.by_load(now),
        }
    }

    /// As [`Self::choose`], for a call that may be `bound` to one instance.
    pub(super) fn choose_bound(&mut self, key: Option<u64>, bound: Option<u8>, now: u64) -> Choice {
        match bound {
            Some(replica) => self.of_replica(replica, now),
            None => self.choose(key, now),
        }
    }

    /// The instance that a key belongs to, whether it takes calls now or not.
    fn by_key(&self, key: u64, now: u64) -> Choice {
        let replica = self
            .list
            .iter()
            .filter(|peer| !peer.is_gone())
            .map(|peer| peer.target.replica)
            .max_by_key(|replica| score(key, *replica));
        replica.map_or(Choice::Wait, |replica| self.of_replica(replica, now))
    }

    fn of_replica(&self, replica: u8, now: u64) -> Choice {
        (0_u8..)
            .zip(&self.list)
            .find(|(_, peer)| peer.is_ready() && peer.target.replica == replica)
            .map_or(Choice::Wait, |(place, peer)| {
                if self.is_avoided(peer) && !peer.breaker.allows(now) {
                    Choice::Never
                } else {
                    Choice::To(place)
                }
            })
    }

    /// This attempt, where it takes calls now.
    pub(super) fn of_attempt(&self, attempt: Attempt) -> Choice {
        (0_u8..)
            .zip(&self.list)
            .find(|(_, peer)| peer.is_ready() && peer.target.attempt == attempt)
            .map_or(Choice::Wait, |(place, _)| Choice::To(place))
    }

    /// Whether the attempt is still there, if only held.
    pub(super) fn has_attempt(&self, attempt: Attempt) -> bool {
        let mut present = self.list.iter().filter(|peer| !peer.is_gone());
        present.any(|peer| peer.target.attempt == attempt)
    }

    fn by_load(&mut self, now: u64) -> Choice {
        let (mut ready, mut good) = (Places::default(), Places::default());
        let mut avoided = 0;
        for (place, peer) in (0_u8..).zip(&self.list) {
            if peer.is_ready() {
                ready.push(place);
                if peer.is_good(now) {
                    good.push(place);
                }
                avoided += usize::from(self.is_avoided(peer) && !peer.breaker.allows(now));
            }
        }
        if avoided > 0 && avoided == ready.count {
            return Choice::Never;
        }
        let among = if good.count > 0 { good } else { ready };
        let Some((one, other)) = among.two(&mut self.chance) else {
            return Choice::Wait;
        };
        if self.at(other).outstanding < self.at(one).outstanding {
            Choice::To(other)
        } else {
            Choice::To(one)
        }
    }

    /// Whether a call that `place` refused may have better luck elsewhere at once.
    pub(super) fn has_better(&self, place: u8, key: Option<u64>, now: u64) -> bool {
        key.is_none()
            && (0_u8..)
                .zip(&self.list)
                .any(|(other, peer)| other != place && peer.is_ready() && peer.is_good(now))
    }

    /// Notes that the instance refuses for now because it leaves or does not lead.
    pub(super) fn shun(&mut self, place: u8, until_ns: u64) {
        self.list[usize::from(place)].shunned_until_ns = until_ns;
    }

    /// Sends a request to the instance in a place that was chosen.
    #[inline]
    pub(super) fn send(
        &mut self,
        place: u8,
        header: RequestHeader,
        encode: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Result<Pending, NotSent> {
        let peer = &mut self.list[usize::from(place)];
        let link = peer.link.as_ref().ok_or(NotSent::NotNow)?;
        let pending = link.send(header, encode)?;
        peer.outstanding += 1;
        peer.breaker.sent();
        Ok(pending)
    }

    /// Notes whether the instance slept when it was sent something.
    #[inline]
    pub(super) fn rung(&mut self, place: u8, asleep: bool) {
        let peer = &mut self.list[usize::from(place)];
        peer.was_rung = asleep;
        peer.suspected = false;
    }

    /// Notes that a call lies with the instance no more, and what that says about it.
    #[inline]
    pub(super) fn settled(&mut self, place: u8, verdict: Verdict) {
        let peer = &mut self.list[usize::from(place)];
        peer.outstanding -= 1;
        let changed = match verdict {
            Verdict::Good => peer.breaker.succeeded(),
            Verdict::Bad => {
                let policy = &self.edge.used().policy.breaker;
                peer.breaker.failed(policy, clock::now_ns())
            }
            Verdict::Nothing => {
                peer.breaker.abandoned();
                false
            }
        };
        if changed {
            self.count();
        }
    }

    /// Takes a retry from the edge's budget for the call with this number, if there is one.
    pub(super) fn may_retry(&mut self, sequence: u64, now: u64) -> bool {
        let calls = sequence.saturating_sub(self.budgeted);
        self.budgeted += calls;
        self.edge.take_retry(calls, now)
    }

    /// A pause of up to `pause_ns`, evenly distributed.
    pub(super) fn jitter(&mut self, pause_ns: u64) -> u64 {
        self.chance.below(pause_ns as usize) as u64
    }
}

/// Whether a change from `old` to `new` leaves what lies at `old` with nobody.
pub(super) fn has_left(old: Target, new: Target) -> bool {
    old.attempt != new.attempt || new.state == RouteState::Gone
}

/// Places to choose among.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    list: [u8; TARGETS],
    count: usize,
}

impl Places {
    fn push(&mut self, place: u8) {
        self.list[self.count] = place;
        self.count += 1;
    }

    /// Two of them at random, the same one twice where there is only one.
    fn two(&self, chance: &mut Chance) -> Option<(u8, u8)> {
        let one = match self.count {
            0 => return None,
            1 => return Some((self.list[0], self.list[0])),
            count => chance.below(count),
        };
        let other = (one + 1 + chance.below(self.count - 1)) % self.count;
        Some((self.list[one], self.list[other]))
    }
}

/// How well an instance fits a key.
fn score(key: u64, replica: u8) -> u64 {
    mix(key ^ mix(u64::from(replica) + 1))
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `word`.
fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// Cheap chance: SplitMix64.
#[derive(Debug)]
pub(super) struct Chance {
    state: u64,
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `bound`, which is small and not 0.
    fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 32) as usize * bound) >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_and_only_those_of_a_place_that_goes_move() {
        const KEYS: u64 = 30_000;
        let best = |key: u64, places: &[u8]| {
            *places
                .iter()
                .max_by_key(|place| score(key, **place))
                .unwrap()
        };
        let (all, without) = ([0, 1, 2, 3, 4], [0, 1, 3, 4]);
        let mut shares = [0_u64; 5];
        for key in 0..KEYS {
            let before = best(key, &all);
            shares[usize::from(before)] += 1;
            let after = best(key, &without);
            if before != 2 {
                assert_eq!(before, after, "key {key} moved though its place stayed");
            }
        }
        for share in shares {
            assert!(share.abs_diff(KEYS / 5) < KEYS / 50, "{shares:?}");
        }
    }

    #[test]
    fn two_of_several_are_two_and_everybody_comes_up() {
        let mut chance = Chance::new(7);
        let mut places = Places::default();
        assert_eq!(places.two(&mut chance), None);
        places.push(4);
        assert_eq!(places.two(&mut chance), Some((4, 4)));
        places.push(9);
        places.push(11);
        let mut pairs = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            let (one, other) = places.two(&mut chance).unwrap();
            assert_ne!(one, other);
            *pairs.entry((one, other)).or_insert(0) += 1;
        }
        assert_eq!(pairs.len(), 6);
        assert!(
            pairs.values().all(|count| (800..1200).contains(count)),
            "{pairs:?}"
        );
    }
}
