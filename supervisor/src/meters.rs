//! Meters of processes, read and turned into figures of edges.
//!
//! Every process that could have edges gets a memfd (see [`insula_contract::meters`]) and counts in
//! it; the daemon only reads. It maps a memfd while it reads it and no longer, and no more of it
//! than its process has written to. What stands there is the process's own word: a block counts
//! only for an edge that the process truly has, and whatever numbers it holds, they are only added
//! up. Like the pages of edges, the memfds are found again by a later daemon among the descriptors
//! of the processes, so their counts go on.
//!
//! An edge's figures are those of the attempts that live: they begin anew with a new process.

#![expect(unsafe_code, reason = "reads what processes write in mapped memory")]

mod prometheus;

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use insula_contract::id::{Attempt, ContractId, EdgeId, ServiceName};
use insula_contract::meters::{
    BLOCKS, Block, Counts, LAYOUT, MAGIC, METERS_SIZE, MetersHeader, MetersPage, Role, Subject,
    bucket_of, contract_number,
};
use memmap2::MmapOptions;
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};

use crate::memory::{self, RecoverError};

pub use prometheus::text as prometheus;

/// What the memfds are called, before the attempt.
const NAME: &str = "insula-meters";
const MODE: u32 = 0o600;

/// The memfd with the meters of one attempt, or of one edge of a local client.
#[derive(Debug, Clone)]
pub struct Meters {
    file: Arc<File>,
}

impl Meters {
    /// Makes one in which nothing was counted.
    pub fn create(attempt: Attempt) -> io::Result<Self> {
        let name = format!("{NAME}.{:x}", attempt.0);
        // Without a head: a process without edges needs no memory for it.
        let file = memory::sealed(&name, METERS_SIZE, MODE, None)?;
        Ok(Self {
            file: Arc::new(file),
        })
    }

    /// Takes that of an earlier daemon from the process that holds it.
    pub fn recover(pid: i32, number: i32) -> Result<Self, RecoverError> {
        let file = memory::recover_file(pid, number, METERS_SIZE, MODE)?;
        Ok(Self {
            file: Arc::new(file),
        })
    }

    /// The attempt whose meters lie behind a link below `/proc/PID/fd`.
    pub fn parse_link(link: &str) -> Option<Attempt> {
        let name = link.strip_prefix("/memfd:")?.split(' ').next()?;
        let attempt = name.strip_prefix(NAME)?.strip_prefix('.')?;
        u64::from_str_radix(attempt, 16).ok().map(Attempt)
    }

    /// A descriptor for the process, which maps it for writing.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// A number that changes whenever the process has answered a request; 0 where that cannot be
    /// told.
    pub fn progress(&self) -> u64 {
        let blocks = self.read().unwrap_or_default();
        blocks
            .iter()
            .filter(|(subject, _)| subject.role == Role::Provider)
            .map(|(_, counts)| counts.ended_in_all())
            .fold(0, u64::wrapping_add)
    }

    /// A number that changes whenever something is called, taken or answered, and whether anything is
    /// under way.
    ///
    /// # Errors
    /// The memfd cannot be read.
    pub fn use_mark(&self) -> io::Result<(u64, bool)> {
        let mut mark = std::hash::DefaultHasher::new();
        let mut busy = false;
        for (subject, counts) in self.read()? {
            busy |= counts.in_flight() > 0;
            (subject, counts.begun, counts.ended).hash(&mut mark);
            (counts.bytes_in, counts.bytes_out).hash(&mut mark);
        }
        Ok((mark.finish(), busy))
    }

    /// How many requests the process took, and how many of them had lain for at least `bound`; to a
    /// quarter of it.
    pub fn taken(&self, bound: Duration) -> (u64, u64) {
        let bound = bucket_of(u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX));
        let blocks = self.read().unwrap_or_default();
        let provided = blocks
            .iter()
            .filter(|(subject, _)| subject.role == Role::Provider);
        let sum = |buckets: &[u64]| buckets.iter().fold(0, |sum: u64, n| sum.wrapping_add(*n));
        provided.fold((0, 0), |(taken, late), (_, counts)| {
            let buckets = &counts.buckets.0;
            let taken = u64::wrapping_add(taken, sum(buckets));
            (taken, u64::wrapping_add(late, sum(&buckets[bound..])))
        })
    }

    /// Whatever stands in it now.
    fn read(&self) -> io::Result<Vec<(Subject, Counts)>> {
        // Looking at memory that was never written to would allocate it.
        let written = match lseek(&*self.file, 0, Whence::SeekHole) {
            Ok(hole) => usize::try_from(hole).unwrap_or(0),
            Err(nix::Error::ENXIO) => 0,
            Err(error) => return Err(error.into()),
        };
        let whole = written.saturating_sub(size_of::<MetersHeader>()) / size_of::<Block>();
        if whole == 0 {
            return Ok(Vec::new());
        }
        let map = MmapOptions::new()
            .len(METERS_SIZE)
            .map_raw_read_only(&*self.file)?;
        // SAFETY: the mapping is page-aligned (the layout needs 64), as long as the layout, cannot
        // shrink (sealed when made, seals checked when recovered), and outlives the reference. The
        // layout consists of atomics, for which any bytes are valid, and is only loaded from.
        let page = unsafe { &*map.as_ptr().cast::<MetersPage>() };
        let header = &page.header;
        if header.magic.load(Ordering::Acquire) != MAGIC
            || header.layout.load(Ordering::Acquire) != LAYOUT
        {
            return Ok(Vec::new());
        }
        let used = header.used.load(Ordering::Acquire) as usize;
        let blocks = &page.blocks[..used.min(whole).min(BLOCKS)];
        Ok(blocks.iter().filter_map(Block::read).collect())
    }
}

/// An edge, and what its ends counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EdgeReading {
    /// Its number.
    pub edge: EdgeId,
    /// Who consumes.
    pub consumer: String,
    /// Who provides.
    pub provider: ServiceName,
    /// What.
    pub contract: ContractId,
    /// What the consumer counted: durations are from a call to its outcome.
    pub called: Counts,
    /// What the provider counted: durations are from a request's sending to its being taken.
    pub served: Counts,
}

/// All edges at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reading {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub at_ns: u64,
    /// By number.
    pub edges: Vec<EdgeReading>,
}

/// One process's meters, and whose they are.
#[derive(Debug)]
struct Source {
    attempt: Attempt,
    /// `None` for a local client.
    service: Option<ServiceName>,
    meters: Meters,
}

/// What is to be read, so that it can be done beside the driver.
#[derive(Debug, Default)]
pub struct Survey {
    edges: Vec<EdgeReading>,
    /// By contract and consumer's attempt: the edge.
    by_consumer: BTreeMap<(u64, Attempt), usize>,
    sources: Vec<Source>,
}

impl Survey {
    /// Adds an edge and the attempts of its consumer.
    pub fn add_edge(
        &mut self,
        edge: EdgeId,
        consumer: String,
        provider: ServiceName,
        contract: ContractId,
        attempts: impl IntoIterator<Item = Attempt>,
    ) {
        let number = contract_number(&contract);
        for attempt in attempts {
            self.by_consumer.insert((number, attempt), self.edges.len());
        }
        self.edges.push(EdgeReading {
            edge,
            consumer,
            provider,
            contract,
            called: Counts::default(),
            served: Counts::default(),
        });
    }

    /// Adds the meters of an attempt of a service, or of a local client.
    pub fn add_meters(&mut self, attempt: Attempt, service: Option<ServiceName>, meters: Meters) {
        self.sources.push(Source {
            attempt,
            service,
            meters,
        });
    }

    /// Reads them all. Takes some microseconds for each process, and disturbs none.
    pub fn read(mut self) -> Reading {
        for source in &self.sources {
            let blocks = match source.meters.read() {
                Ok(blocks) => blocks,
                Err(error) => {
                    tracing::warn!(attempt = %source.attempt, %error, "cannot read meters");
                    continue;
                }
            };
            for (subject, counts) in blocks {
                let Some(edge) = self
                    .by_consumer
                    .get(&(subject.contract, subject.consumer))
                    .map(|index| &mut self.edges[*index])
                else {
                    continue;
                };
                match subject.role {
                    Role::Consumer if subject.consumer == source.attempt => {
                        edge.called.add(&counts);
                    }
                    Role::Provider if source.service.as_ref() == Some(&edge.provider) => {
                        edge.served.add(&counts);
                    }
                    Role::Consumer | Role::Provider => {}
                }
            }
        }
        Reading {
            at_ns: crate::driver::now().0,
            edges: self.edges,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use insula_contract::meters::Outcome;
    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = size_of::<Block>();
    const HEAD: usize = size_of::<MetersHeader>();

    fn survey(meters: &Meters, attempt: u64, service: &str) -> Reading {
        let mut survey = Survey::default();
        survey.add_edge(
            EdgeId(1),
            "web".to_owned(),
            "kv".parse().unwrap(),
            "kv@1".parse().unwrap(),
            [Attempt(7)],
        );
        let service = service.parse().unwrap();
        survey.add_meters(Attempt(attempt), Some(service), meters.clone());
        survey.read()
    }

    /// A block's words: whose it is, one call begun, one well ended.
    fn block(contract: &str, consumer: u64, role: u64) -> Vec<u64> {
        let mut words = vec![0; SIZE / 8];
        words[0] = contract_number(&contract.parse().unwrap());
        words[1] = consumer;
        words[2] = role;
        words[3] = 3;
        words[4] = 1;
        words
    }

    fn write(meters: &Meters, used: u32, words: &[u64]) {
        let layout = u64::from(LAYOUT) | u64::from(used) << 32;
        let head = [MAGIC, layout, 0, 0, 0, 0, 0, 0];
        let bytes: Vec<u8> = head
            .iter()
            .chain(words)
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        meters.file.write_all_at(&bytes, 0).unwrap();
    }

    #[test]
    fn a_process_counts_only_for_its_own_edges() {
        for (attempt, service, words, called, served) in [
            (7, "web", block("kv@1", 7, 0), 3, 0),
            (9, "kv", block("kv@1", 7, 1), 0, 3),
            // Another one's calls, another contract, a provider that is none, an unknown role.
            (8, "web", block("kv@1", 7, 0), 0, 0),
            (7, "web", block("kv@2", 7, 0), 0, 0),
            (7, "web", block("kv@1", 7, 1), 0, 0),
            (7, "web", block("kv@1", 7, 2), 0, 0),
        ] {
            let meters = Meters::create(Attempt(attempt)).unwrap();
            write(&meters, 1, &words);
            let edge = survey(&meters, attempt, service).edges.remove(0);
            assert_eq!((edge.called.begun, edge.served.begun), (called, served));
            assert_eq!(edge.called.ended(Outcome::Ok), u64::from(called > 0));
        }
    }

    #[test]
    fn what_was_never_written_to_is_not_allocated_by_reading() {
        let meters = Meters::create(Attempt(7)).unwrap();
        let blocks = |meters: &Meters| {
            use std::os::unix::fs::MetadataExt;
            meters.file.metadata().unwrap().blocks()
        };
        assert_eq!(survey(&meters, 7, "web").edges[0].called.begun, 0);
        assert_eq!(blocks(&meters), 0);
        write(&meters, u32::MAX, &block("kv@1", 7, 0));
        let before = blocks(&meters);
        assert_eq!(survey(&meters, 7, "web").edges[0].called.begun, 3);
        assert_eq!(blocks(&meters), before);
    }

    #[test]
    fn the_next_daemon_finds_what_was_counted() {
        use std::os::fd::AsRawFd;
        let meters = Meters::create(Attempt(0x7f)).unwrap();
        let held = meters.descriptor().unwrap();
        write(&meters, 1, &block("kv@1", 7, 0));
        drop(meters);
        let link = std::fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd())).unwrap();
        assert_eq!(
            Meters::parse_link(&link.to_string_lossy()),
            Some(Attempt(0x7f))
        );
        let own = i32::try_from(std::process::id()).unwrap();
        let meters = Meters::recover(own, held.as_raw_fd()).unwrap();
        assert_eq!(survey(&meters, 7, "web").edges[0].called.begun, 3);
        assert_eq!(Meters::parse_link("/memfd:insula-edge.1.2 (deleted)"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_content_harms_the_reader(
            used in any::<u32>(),
            noise in proptest::collection::vec(any::<u64>(), 0..600),
            named in any::<bool>(),
        ) {
            let meters = Meters::create(Attempt(7)).unwrap();
            let mut words = noise;
            if named && words.len() >= 3 {
                words[..3].copy_from_slice(&block("kv@1", 7, 0)[..3]);
            }
            write(&meters, used, &words);
            let reading = survey(&meters, 7, "web");
            let text = prometheus(&reading);
            prop_assert!(text.contains("insula_edge_calls_total"));
            let again: Reading =
                serde_json::from_str(&serde_json::to_string(&reading).unwrap()).unwrap();
            prop_assert_eq!(again, reading);
            prop_assert!(HEAD + words.len() * 8 < METERS_SIZE);
        }
    }
}
