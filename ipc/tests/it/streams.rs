//! Streams between real publishers and subscriptions, the tests playing the supervisor.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use insula_contract::id::{Attempt, EdgeId};
use insula_contract::line::{ServedEdge, UsedEdge};
use insula_contract::route::RouteState;
use insula_ipc::client::{ConnectError, Edge};
use insula_ipc::server::{Answer, CallContext, NoJournal, Reply, Server};
use insula_ipc::stream::{Event, Gap, NextError, PublishError, Stream, Subscription};
use insula_ipc::testing::{self, Host};
use insula_ipc::{Message, contract};

use crate::common::{WATCHDOG, wait_until};
use crate::process::{Process, say, stay, variable};

const CONSUMER: Attempt = Attempt(500);
const A: Attempt = Attempt(1);
const B: Attempt = Attempt(2);

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
pub(crate) enum FeedError {
    Never,
}

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
pub(crate) struct Tick<'a> {
    number: u64,
    #[message(max = 200)]
    filling: &'a [u8],
}

/// Ticks in all manners.
#[contract(name = "feed", major = 1, error = FeedError, crate = insula_ipc)]
pub(crate) trait Feed {
    /// How many subscribers of `all` there are.
    #[method(id = 1, idempotent, deadline = "60s")]
    fn listeners() -> u64;
    /// The newest.
    #[stream(id = 1, latest)]
    fn newest() -> Tick<'_>;
    /// Every one.
    #[stream(id = 2, lossless, buffer = 4, history = 3)]
    fn all() -> Tick<'_>;
    /// Every one, for who keeps pace.
    #[stream(id = 3, lossless, buffer = 4, history = 2, slow = disconnect)]
    fn fast() -> Tick<'_>;
}

#[derive(Default)]
struct Ticker {
    streams: FeedStreams,
}

impl FeedServer for Ticker {
    fn streams(&self) -> &FeedStreams {
        &self.streams
    }

    fn listeners(&mut self, _: &CallContext, reply: Reply<'_, feed::Listeners>) -> Answer {
        reply.send(&(self.streams.all.subscribers() as u64))
    }
}

type FeedService = Server<FeedDispatch<Ticker>, NoJournal>;

fn serve(attempt: Attempt, slot: u8, served: ServedEdge, page: OwnedFd) -> FeedService {
    let dispatch = FeedDispatch(Ticker::default());
    let mut server = Server::new(attempt, slot, Duration::ZERO, dispatch, NoJournal);
    server.serve(served, page).unwrap();
    server
}

/// A server on the test's own thread, turned by hand.
fn server(host: &Host, attempt: Attempt, slot: u8) -> (FeedService, FeedStreams) {
    host.open_pair(attempt, CONSUMER);
    let mut server = serve(attempt, slot, host.served::<Feed>(CONSUMER), host.page());
    let streams = server.dispatch_mut().0.streams.clone();
    (server, streams)
}

fn edge(host: &Host) -> Edge {
    let used = host.used::<Feed>(CONSUMER);
    Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap()
}

fn tick(number: u64) -> Tick<'static> {
    Tick {
        number,
        filling: b"as it comes",
    }
}

/// Subscribes and joins at a server that is turned by hand.
fn join<S: Stream>(edge: &Edge, server: &mut FeedService) -> Subscription<S> {
    let mut subscription = edge.subscribe::<S>().unwrap();
    for _ in 0..3 {
        assert!(subscription.try_next().unwrap().is_none());
        server.turn();
    }
    subscription
}

fn number<S>(event: &Event<S>) -> Result<u64, Gap>
where
    S: Stream<Item = Tick<'static>>,
{
    match event {
        Event::Value(sample) => Ok(sample.get().unwrap().number),
        Event::Gap(gap) => Err(*gap),
    }
}

/// All that can be taken now.
fn drain<S>(subscription: &mut Subscription<S>) -> Vec<Result<u64, Gap>>
where
    S: Stream<Item = Tick<'static>>,
{
    std::iter::from_fn(|| subscription.try_next().unwrap().map(|event| number(&event))).collect()
}

fn values(numbers: impl IntoIterator<Item = u64>) -> Vec<Result<u64, Gap>> {
    numbers.into_iter().map(Ok).collect()
}

#[test]
fn a_value_is_read_in_place_by_everybody_who_joined() {
    let host = Host::new("stream-value");
    let (mut server, streams) = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let edge = edge(&host);
    let mut all: Vec<_> = (0..3)
        .map(|_| join::<feed::All>(&edge, &mut server))
        .collect();
    assert_eq!(streams.all.subscribers(), 3);
    streams.all.publish(&tick(7)).unwrap();
    for subscription in &mut all {
        let event = subscription.next(WATCHDOG).unwrap();
        let Event::Value(sample) = event else {
            panic!("{event:?}");
        };
        assert_eq!(sample.get().unwrap(), tick(7));
        assert_eq!(sample.sequence(), 0);
        assert!(subscription.try_next().unwrap().is_none());
    }
}

#[test]
fn a_late_joiner_gets_exactly_the_history() {
    let host = Host::new("stream-history");
    let (mut server, streams) = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let edge = edge(&host);
    assert_eq!(drain(&mut join::<feed::All>(&edge, &mut server)), []);
    streams.all.publish(&tick(0)).unwrap();
    streams.newest.publish(&tick(0)).unwrap();
    let mut early = join_late::<feed::All>(&edge, &mut server);
    assert_eq!(drain(&mut early), values([0]));
    for number in 1..10 {
        streams.all.publish(&tick(number)).unwrap();
        streams.newest.publish(&tick(number)).unwrap();
        assert_eq!(drain(&mut early), values([number]));
    }
    let mut late = join_late::<feed::All>(&edge, &mut server);
    let mut newest = join_late::<feed::Newest>(&edge, &mut server);
    streams.all.publish(&tick(10)).unwrap();
    assert_eq!(drain(&mut late), values(7..=10));
    assert_eq!(drain(&mut newest), values([9]));
    assert_eq!(drain(&mut early), values([10]));
}

/// As `join`, where a history waits.
fn join_late<S: Stream>(edge: &Edge, server: &mut FeedService) -> Subscription<S> {
    let mut subscription = edge.subscribe::<S>().unwrap();
    for _ in 0..2 {
        assert!(subscription.try_next().unwrap().is_none());
        server.turn();
    }
    subscription
}

#[test]
fn what_has_no_room_for_one_goes_to_nobody() {
    let host = Host::new("stream-full");
    let (mut server, streams) = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let edge = edge(&host);
    let mut slow = join::<feed::All>(&edge, &mut server);
    let mut quick = join::<feed::All>(&edge, &mut server);
    for number in 0..4 {
        streams.all.publish(&tick(number)).unwrap();
    }
    assert_eq!(drain(&mut quick), values(0..4));
    let full = PublishError::Full { subscribers: 1 };
    assert_eq!(streams.all.publish(&tick(4)), Err(full));
    let patience = Duration::from_millis(1);
    assert_eq!(streams.all.publish_within(&tick(4), patience), Err(full));
    assert_eq!(drain(&mut quick), []);
    assert_eq!(number(&slow.next(WATCHDOG).unwrap()), Ok(0));
    streams.all.publish(&tick(5)).unwrap();
    assert_eq!(drain(&mut slow), values([1, 2, 3, 5]));
    assert_eq!(drain(&mut quick), values([5]));
    // Nor into the history.
    let mut late = join_late::<feed::All>(&edge, &mut server);
    assert_eq!(drain(&mut late), values([2, 3, 5]));
}

#[test]
fn a_value_too_long_is_refused_and_forgotten() {
    let host = Host::new("stream-long");
    let (mut server, streams) = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let mut subscription = join::<feed::All>(&edge(&host), &mut server);
    let long = Tick {
        number: 0,
        filling: &[0; 201],
    };
    let too_large = PublishError::TooLarge {
        max: <Tick<'static> as insula_ipc::contract::Message>::ENCODED_MAX,
    };
    assert_eq!(streams.all.publish(&long), Err(too_large));
    streams.all.publish(&tick(1)).unwrap();
    assert_eq!(drain(&mut subscription), values([1]));
}

#[test]
fn the_slow_are_disconnected_where_that_is_declared_and_join_again() {
    let host = Host::new("stream-cut");
    let (mut server, streams) = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let edge = edge(&host);
    let mut slow = join::<feed::Fast>(&edge, &mut server);
    for number in 0..10 {
        streams.fast.publish(&tick(number)).unwrap();
    }
    assert_eq!(streams.fast.subscribers(), 0);
    let mut expected = values(0..4);
    expected.push(Err(Gap::TooSlow));
    assert_eq!(drain(&mut slow), expected);
    server.turn();
    assert_eq!(drain(&mut slow), []);
    server.turn();
    assert_eq!(drain(&mut slow), values([8, 9]));
    streams.fast.publish(&tick(10)).unwrap();
    assert_eq!(drain(&mut slow), values([10]));

    // One that joins again before the history has moved on sees nothing twice.
    for number in 11..15 {
        streams.fast.publish(&tick(number)).unwrap();
    }
    assert_eq!(number_of(&mut slow), Ok(11));
    streams.fast.publish(&tick(15)).unwrap();
    streams.fast.publish(&tick(16)).unwrap();
    let mut expected = values(12..16);
    expected.push(Err(Gap::TooSlow));
    assert_eq!(drain(&mut slow), expected);
    server.turn();
    assert_eq!(drain(&mut slow), []);
    server.turn();
    assert_eq!(drain(&mut slow), values([16]), "15 was seen before");
}

fn number_of<S>(subscription: &mut Subscription<S>) -> Result<u64, Gap>
where
    S: Stream<Item = Tick<'static>>,
{
    number(&subscription.next(WATCHDOG).unwrap())
}

#[test]
fn a_new_provider_is_joined_after_what_the_old_one_left() {
    let host = Host::new("stream-route");
    let (mut first, old) = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let edge = edge(&host);
    let mut subscription = join::<feed::All>(&edge, &mut first);
    old.all.publish(&tick(1)).unwrap();
    old.all.publish(&tick(2)).unwrap();
    host.publish(RouteState::Hold, A, 0, None);
    assert_eq!(number_of(&mut subscription), Ok(1));
    let (mut second, new) = server(&host, B, 1);
    new.all.publish(&tick(100)).unwrap();
    host.publish(RouteState::Serve, B, 1, None);
    old.all.publish(&tick(3)).unwrap();
    assert_eq!(drain(&mut subscription), [Ok(2), Ok(3), Err(Gap::Provider)]);
    assert_eq!(drain(&mut subscription), []);
    // The one that was left must not grant what its successor is asked for.
    first.turn();
    assert_eq!(old.all.subscribers(), 0);
    for _ in 0..2 {
        assert_eq!(drain(&mut subscription), []);
        second.turn();
    }
    new.all.publish(&tick(101)).unwrap();
    assert_eq!(drain(&mut subscription), values([100, 101]));

    // A route that leads nowhere ends it too, and one that comes back to the same attempt begins
    // it anew.
    host.publish(RouteState::Gone, B, 1, None);
    assert_eq!(drain(&mut subscription), [Err(Gap::Provider)]);
    host.publish(RouteState::Serve, B, 1, None);
    for _ in 0..2 {
        assert_eq!(drain(&mut subscription), []);
        second.turn();
    }
    new.all.publish(&tick(102)).unwrap();
    assert_eq!(drain(&mut subscription), values([102]));
}

#[test]
fn a_stream_that_the_provider_lacks_is_an_error() {
    let host = Host::new("stream-unknown");
    host.open_pair(A, CONSUMER);
    struct Without(insula_ipc::stream::Outlets);
    impl insula_ipc::server::Dispatch for Without {
        type Contract = Feed;
        fn outlets(&self) -> Option<&insula_ipc::stream::Outlets> {
            Some(&self.0)
        }
        fn dispatch(
            &mut self,
            _: &CallContext,
            _: u16,
            _: &[u8],
            reply: insula_ipc::server::ReplySlot<'_>,
        ) -> Answer {
            reply.unknown_method()
        }
    }
    let outlets = insula_ipc::stream::Outlets::new();
    let _newest = outlets.publisher::<feed::Newest>();
    let mut server = Server::new(A, 0, Duration::ZERO, Without(outlets), NoJournal);
    server
        .serve(host.served::<Feed>(CONSUMER), host.page())
        .unwrap();
    host.publish(RouteState::Serve, A, 0, None);
    let mut subscription = edge(&host).subscribe::<feed::All>().unwrap();
    assert!(subscription.try_next().unwrap().is_none());
    server.turn();
    assert_eq!(
        subscription.next(WATCHDOG).unwrap_err(),
        NextError::UnknownStream
    );
}

#[test]
fn slots_are_given_back_and_samples_are_bounded() {
    let host = Host::new("stream-slots");
    let (mut server, streams) = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let edge = edge(&host);
    let mut all = Vec::new();
    while let Ok(subscription) = edge.subscribe::<feed::Newest>() {
        all.push(subscription);
    }
    assert_eq!(all.len(), 28);
    all.pop();
    let mut subscription = join::<feed::All>(&edge, &mut server);
    assert!(edge.subscribe::<feed::All>().is_err());
    let mut held = Vec::new();
    for number in 0..4 {
        streams.all.publish(&tick(number)).unwrap();
        held.push(subscription.next(WATCHDOG).unwrap());
    }
    streams.all.publish(&tick(4)).unwrap();
    assert_eq!(
        subscription.next(WATCHDOG).unwrap_err(),
        NextError::TooManyHeld
    );
    held.remove(0);
    assert_eq!(number_of(&mut subscription), Ok(4));
    // A sample outlives its subscription.
    drop(subscription);
    server.turn();
    assert_eq!(streams.all.subscribers(), 0);
    let read: Vec<_> = held.iter().map(number).collect();
    assert_eq!(read, values(1..4));
}

#[test]
fn nothing_to_take_ends_at_the_deadline() {
    let host = Host::new("stream-deadline");
    let mut subscription = edge(&host).subscribe::<feed::All>().unwrap();
    let patience = Duration::from_millis(2);
    assert_eq!(
        subscription.next(patience).unwrap_err(),
        NextError::DeadlineExceeded
    );
    let other = edge(&host).connect::<crate::contract::Ledger>();
    assert!(matches!(other, Err(ConnectError::OtherContract { .. })));
}

/// Runs a publisher on a thread of its own until it has published, then lets its server turn and
/// park until `done`.
fn publishing(
    host: &Host,
    done: &AtomicBool,
    publish: impl FnOnce(&FeedStreams, &mut FeedService),
) {
    let (mut server, streams) = server(host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    publish(&streams, &mut server);
    while !done.load(Ordering::SeqCst) {
        if !server.turn() {
            std::thread::yield_now();
        }
    }
}

/// Lets the publisher's thread end, also where the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn until_joined(count: usize, streams: &FeedStreams, server: &mut FeedService) {
    wait_until("subscribers", || {
        server.turn();
        streams.all.subscribers() + streams.newest.subscribers() == count
    });
}

/// Both ends sleep often: the buffer is small and nobody spins.
#[test]
fn nothing_is_lost_or_reordered_however_slow_the_subscribers_are() {
    const COUNT: u64 = 20_000;
    let host = Host::new("stream-lossless");
    let (done, edge) = (AtomicBool::new(false), edge(&host));
    std::thread::scope(|threads| {
        let _ended = Done(&done);
        threads.spawn(|| {
            publishing(&host, &done, |streams, server| {
                until_joined(2, streams, server);
                for number in 0..COUNT {
                    streams.all.publish_within(&tick(number), WATCHDOG).unwrap();
                }
            });
        });
        let subscribers: Vec<_> = [3_u64, 61]
            .into_iter()
            .map(|pace| {
                let edge = edge.clone();
                threads.spawn(move || {
                    let mut subscription = edge.subscribe::<feed::All>().unwrap();
                    for expected in 0..COUNT {
                        assert_eq!(number_of(&mut subscription), Ok(expected));
                        if expected % pace == 0 {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        for subscriber in subscribers {
            subscriber.join().unwrap();
        }
    });
}

#[test]
fn the_newest_value_is_there_when_the_publisher_rests() {
    const ROUNDS: u64 = 300;
    let host = Host::new("stream-newest");
    let (done, edge) = (AtomicBool::new(false), edge(&host));
    let (seen, reached) = mpsc::channel::<u64>();
    std::thread::scope(|threads| {
        let (host, done) = (&host, &done);
        let _ended = Done(done);
        threads.spawn(move || {
            publishing(host, done, |streams, server| {
                until_joined(1, streams, server);
                for round in 0..ROUNDS {
                    // A burst of another length each time; the last of it has to arrive.
                    let last = round * 100 + round % 7;
                    for number in round * 100..=last {
                        streams.newest.publish(&tick(number)).unwrap();
                    }
                    while reached.recv_timeout(WATCHDOG).expect("watchdog") != last {}
                }
            });
        });
        let mut subscription = edge.subscribe::<feed::Newest>().unwrap();
        let mut before = None;
        while before != Some((ROUNDS - 1) * 100 + (ROUNDS - 1) % 7) {
            let number = number_of(&mut subscription).unwrap();
            assert!(before < Some(number), "{number} after {before:?}");
            before = Some(number);
            seen.send(number).unwrap();
        }
    });
}

#[test]
fn a_subscriber_that_leaves_frees_a_publisher_that_waits_for_it() {
    let host = Host::new("stream-leave");
    let (done, edge) = (AtomicBool::new(false), edge(&host));
    let (tell, told) = mpsc::channel();
    std::thread::scope(|threads| {
        let _ended = Done(&done);
        threads.spawn(|| {
            publishing(&host, &done, |streams, server| {
                until_joined(1, streams, server);
                // One is taken and four fit.
                for number in 0..5 {
                    streams.all.publish_within(&tick(number), WATCHDOG).unwrap();
                }
                tell.send(()).unwrap();
                streams.all.publish_within(&tick(5), WATCHDOG).unwrap();
                assert_eq!(streams.all.subscribers(), 0);
            });
        });
        let mut subscription = edge.subscribe::<feed::All>().unwrap();
        assert_eq!(number_of(&mut subscription), Ok(0));
        told.recv_timeout(WATCHDOG).unwrap();
        drop(subscription);
    });
}

/// Not a test: what the children of the tests below run.
#[test]
fn role() {
    let Ok(role) = std::env::var("ROLE") else {
        return;
    };
    let page = testing::inherited(variable("PAGE").parse().unwrap());
    let routes = testing::inherited(variable("ROUTES").parse().unwrap());
    let contract = "feed@1".parse().unwrap();
    match role.as_str() {
        "subscriber" => {
            let used = UsedEdge {
                edge: EdgeId(1),
                contract,
                provider: "provider".parse().unwrap(),
                parent: variable("PARENT"),
                route: 0,
                consumer: CONSUMER,
                policy: Default::default(),
            };
            let edge = Edge::new(used, &routes, page, Duration::ZERO).unwrap();
            let mut subscription = edge.subscribe::<feed::All>().unwrap();
            let _held = subscription.next(WATCHDOG).unwrap();
            say("taken");
            stay();
        }
        "publisher" => {
            let served = ServedEdge {
                edge: EdgeId(1),
                contract,
                parent: variable("PARENT"),
                consumer_name: "consumer".to_owned(),
                consumer: CONSUMER,
                limits: Default::default(),
            };
            let mut server = serve(A, 0, served, page);
            let streams = server.dispatch_mut().0.streams.clone();
            say("serving");
            until_joined(1, &streams, &mut server);
            streams.all.publish(&tick(1)).unwrap();
            streams.all.publish(&tick(2)).unwrap();
            say("published");
            stay();
        }
        _ => panic!("no such role"),
    }
}

#[test]
fn a_killed_subscriber_holds_nobody_up_for_longer_than_said() {
    let host = Host::new("stream-subscriber-killed");
    let (mut server, streams) = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);

    let mut child = Process::start("streams::role", "subscriber", &host, &[]);
    until_joined(1, &streams, &mut server);
    streams.all.publish(&tick(0)).unwrap();
    child.says("taken");
    child.kill();
    for number in 1..5 {
        streams.all.publish(&tick(number)).unwrap();
    }
    let full = PublishError::Full { subscribers: 1 };
    let patience = Duration::from_millis(5);
    assert_eq!(streams.all.publish_within(&tick(5), patience), Err(full));
    // What the supervisor does after its death.
    host.close_pair(A, CONSUMER);
    server.unserve(EdgeId(1), CONSUMER);
    assert_eq!(streams.all.subscribers(), 0);
    streams.all.publish(&tick(5)).unwrap();
}

#[test]
fn a_killed_publisher_leaves_what_it_published_and_a_gap() {
    let host = Host::new("stream-publisher-killed");
    host.open_pair(A, CONSUMER);
    let mut child = Process::start("streams::role", "publisher", &host, &[]);
    child.says("serving");
    host.publish(RouteState::Serve, A, 0, None);
    std::thread::scope(|threads| {
        let (tell, told) = mpsc::channel();
        let taking = threads.spawn({
            let edge = edge(&host);
            move || {
                let mut subscription = edge.subscribe::<feed::All>().unwrap();
                let mut seen = vec![number_of(&mut subscription)];
                tell.send(()).unwrap();
                while seen.last() != Some(&Ok(100)) {
                    seen.push(number_of(&mut subscription));
                }
                seen
            }
        });
        child.says("published");
        told.recv_timeout(WATCHDOG).unwrap();
        child.kill();
        host.publish(RouteState::Gone, A, 0, None);
        host.close_pair(A, CONSUMER);
        let (mut server, streams) = server(&host, B, 1);
        streams.all.publish(&tick(100)).unwrap();
        host.publish(RouteState::Serve, B, 1, None);
        until_joined(1, &streams, &mut server);
        let expected = [Ok(1), Ok(2), Err(Gap::Provider), Ok(100)];
        assert_eq!(taking.join().unwrap(), expected);
    });
}

/// The numbers that requests and streams have in this contract are apart.
#[test]
fn streams_are_part_of_the_schema() {
    use insula_ipc::contract::Contract;
    let schema = Feed::schema();
    let ids: BTreeSet<_> = schema.streams.iter().map(|stream| stream.id).collect();
    assert_eq!(ids, BTreeSet::from([1, 2, 3]));
    assert_eq!(
        insula_contract::schema::check(&schema, &schema.clone()),
        Ok(())
    );
}
