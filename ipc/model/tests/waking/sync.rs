//! What `wake.rs` is made of, modelled: loom's atomics, and a futex after the kernel's rules.
//!
//! A wait compares its words and joins their queues in one step under a lock, and a wake takes the
//! same lock, as the kernel does with its hash buckets. Nobody is woken but by a wake of a word
//! that it waits for, and no time passes: who would sleep until a timeout sleeps for ever, which
//! loom reports as a deadlock.

pub(crate) use loom::sync::atomic::{AtomicU32, Ordering};

use std::sync::atomic::AtomicBool;

use loom::sync::{Condvar, Mutex};

/// Words that one thread can wait on at once, in the models.
pub(crate) const WORDS_MAX: usize = 3;

/// Of an edge page's waiter, what parking and ringing use.
#[derive(Debug, Default)]
pub(crate) struct Waiter {
    pub(crate) bell: AtomicU32,
    pub(crate) asleep: AtomicU32,
}

#[derive(Clone, Copy)]
pub(crate) struct Watched<'a> {
    pub(crate) word: &'a AtomicU32,
    pub(crate) seen: u32,
}

/// Drops all fences, to see that the models need them.
pub(crate) static NO_FENCES: AtomicBool = AtomicBool::new(false);

pub(crate) fn fence(order: Ordering) {
    if !NO_FENCES.load(std::sync::atomic::Ordering::Relaxed) {
        loom::sync::atomic::fence(order);
    }
}

#[derive(Default)]
struct Futex {
    sleepers: Vec<(u32, Vec<usize>)>,
    next: u32,
}

loom::lazy_static! {
    static ref FUTEX: Mutex<Futex> = Mutex::new(Futex::default());
    static ref WOKEN: Condvar = Condvar::new();
}

fn address(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word).addr()
}

pub(crate) fn wait_any<'a>(words: impl IntoIterator<Item = Watched<'a>>, _: Option<u64>) {
    let words: Vec<Watched<'_>> = words.into_iter().collect();
    assert!(words.len() <= WORDS_MAX);
    let mut futex = FUTEX.lock().unwrap();
    if words
        .iter()
        .any(|watched| watched.word.load(Ordering::SeqCst) != watched.seen)
    {
        return;
    }
    let me = futex.next;
    futex.next += 1;
    futex.sleepers.push((
        me,
        words.iter().map(|watched| address(watched.word)).collect(),
    ));
    while futex.sleepers.iter().any(|(sleeper, _)| *sleeper == me) {
        futex = WOKEN.wait(futex).unwrap();
    }
}

pub(crate) fn wake_all(word: &AtomicU32) {
    let mut futex = FUTEX.lock().unwrap();
    let before = futex.sleepers.len();
    futex
        .sleepers
        .retain(|(_, words)| !words.contains(&address(word)));
    if futex.sleepers.len() < before {
        WOKEN.notify_all();
    }
}
