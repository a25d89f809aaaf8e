//! No interleaving loses a wake-up, and the checks notice when one does.
//!
//! `LOOM_MAX_PREEMPTIONS` sets how many times threads are interrupted in a model (default 3; two
//! for the models of three threads).

#[path = "../../../src/wake.rs"]
mod wake;

mod sync;

use std::process::Command;
use std::sync::atomic::Ordering::Relaxed as Plain;

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

use sync::{AtomicU32, NO_FENCES, Ordering, Waiter, Watched, wake_all};
use wake::{Last, park, published, ring, ring_always};

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(model);
}

/// What is sent lies in a word that is written and read without any order of its own.
#[derive(Default)]
struct Mailbox {
    waiter: Waiter,
    letters: [AtomicU32; 2],
    /// A route's `change`, or a server's control word.
    other: AtomicU32,
}

impl Mailbox {
    /// Sends a letter as clients and servers do.
    fn send(&self, letter: usize) {
        self.letters[letter].store(1, Ordering::Relaxed);
        published();
        ring(&self.waiter);
    }

    fn has(&self, letter: usize) -> bool {
        self.letters[letter].load(Ordering::Relaxed) == 1
    }

    /// Changes the other word as the supervisor does.
    fn change(&self) {
        self.other.fetch_add(1, Ordering::SeqCst);
        wake_all(&self.other);
        published();
        ring(&self.waiter);
    }

    /// Changes the other word as a server's waker does, where the server has one edge.
    fn tell(&self) {
        self.other.fetch_add(1, Ordering::SeqCst);
        ring_always(&self.waiter);
    }

    /// As a client, or a server of one edge, does: it sleeps on its bell alone, and only while the
    /// other word is the one that was acted upon. `done` is told whether that has changed.
    fn receive(&self, done: impl Fn(&Self, bool) -> bool) {
        self.receive_on(false, done);
    }

    /// As a subscriber does: it sleeps on both words.
    fn receive_on_both(&self, done: impl Fn(&Self, bool) -> bool) {
        self.receive_on(true, done);
    }

    fn receive_on(&self, both: bool, done: impl Fn(&Self, bool) -> bool) {
        loop {
            let acted_upon = self.other.load(Ordering::SeqCst);
            if done(self, acted_upon != 0) {
                return;
            }
            let other = Watched {
                word: &self.other,
                seen: acted_upon,
            };
            let other = both.then_some(other);
            park(std::iter::once(&self.waiter), other, || {
                let changed = self.other.load(Ordering::SeqCst) != acted_upon;
                if changed || done(self, acted_upon != 0) {
                    Last::Work
                } else {
                    Last::Nothing(None)
                }
            });
        }
    }
}

#[test]
fn a_letter_wakes_its_reader() {
    check(3, || {
        let mail = Arc::new(Mailbox::default());
        let sender = thread::spawn({
            let mail = mail.clone();
            move || mail.send(0)
        });
        mail.receive(|mail, _| mail.has(0));
        sender.join().unwrap();
    });
}

#[test]
fn two_letters_of_one_sender_both_arrive() {
    check(3, || {
        let mail = Arc::new(Mailbox::default());
        let sender = thread::spawn({
            let mail = mail.clone();
            move || {
                mail.send(0);
                mail.send(1);
            }
        });
        mail.receive(|mail, _| mail.has(0));
        mail.receive(|mail, _| mail.has(1));
        sender.join().unwrap();
    });
}

/// A sender is killed after its ring, before it takes the flag back: others ring once more.
#[test]
fn a_sender_that_dies_after_its_ring_hides_nobody() {
    check(2, || {
        let mail = Arc::new(Mailbox::default());
        let killed = thread::spawn({
            let mail = mail.clone();
            move || {
                published();
                if mail.waiter.asleep.load(Ordering::Relaxed) != 0 {
                    ring_always(&mail.waiter);
                }
            }
        });
        let sender = thread::spawn({
            let mail = mail.clone();
            move || mail.send(0)
        });
        mail.receive(|mail, _| mail.has(0));
        killed.join().unwrap();
        sender.join().unwrap();
    });
}

#[test]
fn letters_of_two_senders_both_arrive() {
    check(2, || {
        let mail = Arc::new(Mailbox::default());
        let senders = [0, 1].map(|letter| {
            let mail = mail.clone();
            thread::spawn(move || mail.send(letter))
        });
        mail.receive(|mail, _| mail.has(0) && mail.has(1));
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn a_request_and_its_answer_both_arrive() {
    check(3, || {
        let ends = Arc::new([Mailbox::default(), Mailbox::default()]);
        let server = thread::spawn({
            let ends = ends.clone();
            move || {
                ends[1].receive(|mail, _| mail.has(0));
                ends[0].send(0);
            }
        });
        ends[1].send(0);
        ends[0].receive(|mail, _| mail.has(0));
        server.join().unwrap();
    });
}

/// The server answers nothing: it died. Only the route says so.
#[test]
fn a_route_change_wakes_a_client_whose_server_is_dead() {
    check(3, || {
        let mail = Arc::new(Mailbox::default());
        let supervisor = thread::spawn({
            let mail = mail.clone();
            move || mail.change()
        });
        mail.receive(|mail, changed| mail.has(0) || changed);
        supervisor.join().unwrap();
    });
}

#[test]
fn a_route_change_wakes_a_subscriber() {
    check(3, || {
        let mail = Arc::new(Mailbox::default());
        let supervisor = thread::spawn({
            let mail = mail.clone();
            move || mail.change()
        });
        mail.receive_on_both(|mail, changed| mail.has(0) || changed);
        supervisor.join().unwrap();
    });
}

/// A server of one edge is woken by another thread of its process while a client calls.
#[test]
fn a_request_and_a_word_of_its_own_process_both_reach_a_server() {
    check(2, || {
        let mail = Arc::new(Mailbox::default());
        let client = thread::spawn({
            let mail = mail.clone();
            move || mail.send(0)
        });
        let line = thread::spawn({
            let mail = mail.clone();
            move || mail.tell()
        });
        mail.receive(|mail, told| mail.has(0) && told);
        client.join().unwrap();
        line.join().unwrap();
    });
}

/// What the server sleeps on is chosen under a lock; who wakes it looks there after it counted.
#[test]
fn a_server_that_changes_its_bell_misses_no_word() {
    check(3, || {
        let mail = Arc::new(Mailbox::default());
        let sole = Arc::new(loom::sync::Mutex::new(false));
        let line = thread::spawn({
            let (mail, sole) = (mail.clone(), sole.clone());
            move || {
                mail.other.fetch_add(1, Ordering::SeqCst);
                match *sole.lock().unwrap() {
                    true => ring_always(&mail.waiter),
                    false => wake_all(&mail.other),
                }
            }
        });
        for now_sole in [true, false] {
            *sole.lock().unwrap() = now_sole;
            let other = Watched {
                word: &mail.other,
                seen: 0,
            };
            let told = || mail.other.load(Ordering::SeqCst) != 0;
            park(
                std::iter::once(&mail.waiter),
                (!now_sole).then_some(other),
                || match told() {
                    true => Last::Work,
                    false => Last::Nothing(None),
                },
            );
        }
        line.join().unwrap();
    });
}

#[test]
fn an_answer_and_a_cut_over_both_arrive_in_either_order() {
    check(2, || {
        let mail = Arc::new(Mailbox::default());
        let server = thread::spawn({
            let mail = mail.clone();
            move || mail.send(0)
        });
        let supervisor = thread::spawn({
            let mail = mail.clone();
            move || mail.change()
        });
        mail.receive(|mail, changed| mail.has(0) && changed);
        server.join().unwrap();
        supervisor.join().unwrap();
    });
}

/// A server parks on the bells of all its edges at once.
#[test]
fn either_edge_wakes_a_server_of_two() {
    check(2, || {
        let edges = Arc::new([Mailbox::default(), Mailbox::default()]);
        let clients = [0, 1].map(|edge| {
            let edges = edges.clone();
            thread::spawn(move || edges[edge].send(0))
        });
        let control = AtomicU32::new(0);
        let all = || edges.iter().all(|edge| edge.has(0));
        while !all() {
            // Awake, it takes what is there; so it parks on what is missing.
            let had = edges.each_ref().map(|edge| edge.has(0));
            let new = || edges.each_ref().map(|edge| edge.has(0)) != had;
            let other = Watched {
                word: &control,
                seen: 0,
            };
            park(edges.iter().map(|edge| &edge.waiter), Some(other), || {
                if new() || all() {
                    Last::Work
                } else {
                    Last::Nothing(None)
                }
            });
        }
        for client in clients {
            client.join().unwrap();
        }
    });
}

/// A client that waited for too long rings whatever the flag says; a letter sent without any ring
/// stands for a page whose flag a broken peer has cleared.
#[test]
fn a_rescue_wakes_whom_the_flag_hides() {
    check(3, || {
        let mail = Arc::new(Mailbox::default());
        let sender = thread::spawn({
            let mail = mail.clone();
            move || {
                mail.letters[0].store(1, Ordering::Relaxed);
                published();
                ring_always(&mail.waiter);
            }
        });
        mail.receive(|mail, _| mail.has(0));
        sender.join().unwrap();
    });
}

/// The models are of use only if they notice what the protocol is there against.
mod broken {
    use super::*;

    /// Set for the child that runs a broken model: loom ends the process at a deadlock.
    const CHILD: &str = "WAKING_MODEL_IS_BROKEN";

    /// Runs the test `name` again as a child, which is to find a deadlock in `model`.
    fn refused(name: &str, model: impl Fn() + Sync + Send + 'static) {
        if std::env::var_os(CHILD).is_some() {
            return check(3, model);
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args([&format!("broken::{name}"), "--exact", "--nocapture"])
            .env(CHILD, "1")
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(!child.status.success(), "the broken model passed");
        assert!(said.contains("deadlock"), "{said}");
    }

    fn one_letter() {
        let mail = Arc::new(Mailbox::default());
        let sender = thread::spawn({
            let mail = mail.clone();
            move || mail.send(0)
        });
        mail.receive(|mail, _| mail.has(0));
        sender.join().unwrap();
    }

    /// A flag that is taken back whatever it is may be that of the next sleep.
    #[test]
    fn with_any_flag_taken_back_a_wake_up_is_lost() {
        refused("with_any_flag_taken_back_a_wake_up_is_lost", || {
            let mail = Arc::new(Mailbox::default());
            let sender = |letter: usize| {
                let mail = mail.clone();
                thread::spawn(move || {
                    mail.letters[letter].store(1, Ordering::Relaxed);
                    published();
                    if mail.waiter.asleep.load(Ordering::Relaxed) != 0 {
                        ring_always(&mail.waiter);
                        mail.waiter.asleep.store(0, Ordering::SeqCst);
                    }
                })
            };
            let senders = [sender(0), sender(1)];
            mail.receive(|mail, _| mail.has(0));
            mail.receive(|mail, _| mail.has(1));
            for sender in senders {
                sender.join().unwrap();
            }
        });
    }

    #[test]
    fn without_fences_a_wake_up_is_lost() {
        refused("without_fences_a_wake_up_is_lost", || {
            NO_FENCES.store(true, Plain);
            one_letter();
        });
    }

    #[test]
    fn without_the_last_look_a_wake_up_is_lost() {
        refused("without_the_last_look_a_wake_up_is_lost", || {
            let mail = Arc::new(Mailbox::default());
            let sender = thread::spawn({
                let mail = mail.clone();
                move || mail.send(0)
            });
            while !mail.has(0) {
                let other = Watched {
                    word: &mail.other,
                    seen: 0,
                };
                // The look came before the flag.
                park(std::iter::once(&mail.waiter), Some(other), || {
                    Last::Nothing(None)
                });
            }
            sender.join().unwrap();
        });
    }

    #[test]
    fn without_the_ring_of_its_bell_nobody_sees_another_word_change() {
        refused(
            "without_the_ring_of_its_bell_nobody_sees_another_word_change",
            || {
                let mail = Arc::new(Mailbox::default());
                let line = thread::spawn({
                    let mail = mail.clone();
                    move || {
                        mail.other.fetch_add(1, Ordering::SeqCst);
                        wake_all(&mail.other);
                    }
                });
                mail.receive(|_, told| told);
                line.join().unwrap();
            },
        );
    }
}
