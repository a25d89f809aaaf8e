//! The daemon dies, and the next one takes over.

use std::collections::BTreeSet;

use insula_contract::id::Attempt;
use insula_core::core::{Core, Stored};
use insula_core::event::Event;
use insula_core::service::Service;
use insula_core::time::Time;

use super::World;

impl World {
    /// The daemon dies, and the next one takes up what is stored; `known` if that is all that the
    /// dead one had decided.
    pub(super) fn restart_daemon(&mut self, known: bool) {
        self.runs += 1;
        self.model.daemon_died(self.now);
        // Lines and orders died with the daemon; exits wait to be seen.
        self.open_requests.clear();
        self.queue
            .retain(|_, event| matches!(event, Event::Exited { .. }));
        let alive = self
            .fakes
            .iter()
            .filter(|(_, f)| f.exists)
            .map(|(a, _)| (*a, 1))
            .collect();
        // Nothing was under way: the next daemon has nothing to give up.
        let quiet = |service: &&Service| service.rollout.is_none();
        let undisturbed: BTreeSet<Attempt> = self
            .core
            .services()
            .values()
            .filter(quiet)
            .flat_map(|service| &service.replicas)
            .filter(|replica| replica.wanted && replica.is_ready())
            .filter_map(|replica| Some(replica.current()?.attempt))
            .collect();
        let core = Core::new(Self::settings(self.seed, self.runs));
        self.core = super::host::on_host(core, self.seed);
        // The edges and channels of the last run are made anew.
        self.edges.clear();
        self.pairs.clear();
        let stored = Stored {
            releases: self.releases.clone(),
            records: self.stored.clone(),
            alive,
            new_boot: false,
        };
        let decision = self.core.restore(Time(self.now), stored);
        if known {
            self.undisturbed = undisturbed;
        }
        self.carry_out(decision, None, "a restart of the daemon");
        self.undisturbed.clear();
        if self.retiring {
            let service = "guest".parse().unwrap();
            let request = self.request();
            self.turn(Event::Retired { request, service });
        }
        let living: Vec<_> = self
            .fakes
            .iter()
            .filter(|(_, f)| f.exists)
            .map(|(a, _)| *a)
            .collect();
        for attempt in living {
            let fake = self.fakes[&attempt].clone();
            if !fake.has_line() {
                self.feed(attempt);
                continue;
            }
            // It is adopted only if the core still knows it.
            self.greet(attempt, &fake);
        }
    }
}
