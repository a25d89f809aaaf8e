//! What is measured: every sensible combination of peer, way of waiting, cores and payload.

use std::fmt;
use std::time::Duration;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Insula,
    Metered,
    Raw,
    RawEvents,
    RawStreams,
    Futex,
    Unix,
    Seqpacket,
    Pipe,
    Zmq,
    Tonic,
}

impl Peer {
    const ALL: [Self; 11] = [
        Self::Insula,
        Self::Metered,
        Self::Raw,
        Self::RawEvents,
        Self::RawStreams,
        Self::Futex,
        Self::Unix,
        Self::Seqpacket,
        Self::Pipe,
        Self::Zmq,
        Self::Tonic,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Insula => "insula",
            Self::Metered => "metered",
            Self::Raw => "raw",
            Self::RawEvents => "raw-events",
            Self::RawStreams => "raw-streams",
            Self::Futex => "futex",
            Self::Unix => "unix",
            Self::Seqpacket => "seqpacket",
            Self::Pipe => "pipe",
            Self::Zmq => "zmq",
            Self::Tonic => "tonic",
        }
    }

    /// What a person calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Insula => "**Insula's typed client**",
            Self::Metered => "the same, counted and traced",
            Self::Raw => "raw iceoryx2 request-response",
            Self::RawEvents => "raw iceoryx2 with its events",
            Self::RawStreams => "raw iceoryx2, a publish-subscribe each way",
            Self::Futex => "bare futex, no payload",
            Self::Unix => "Unix stream socket",
            Self::Seqpacket => "Unix seqpacket socket",
            Self::Pipe => "two pipes",
            Self::Zmq => "ZeroMQ `ipc://`",
            Self::Tonic => "gRPC (tonic), Unix socket",
        }
    }
}

/// What an end does while there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Looks again for ever.
    Spinning,
    /// Looks again for 20 us, then sleeps.
    Hybrid,
    /// Sleeps at once.
    Parked,
}

impl Waiting {
    const ALL: [Self; 3] = [Self::Spinning, Self::Hybrid, Self::Parked];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spinning => "spinning",
            Self::Hybrid => "hybrid",
            Self::Parked => "parked",
        }
    }

    /// How long Insula's ends spin.
    pub(crate) fn spin(self) -> Duration {
        match self {
            Self::Spinning => Duration::MAX,
            Self::Hybrid => Duration::from_micros(20),
            Self::Parked => Duration::ZERO,
        }
    }
}

/// How the calls follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Each waits for the answer to the one before.
    Serial,
    /// The same, with the time for filling and reading payloads measured and left out.
    Parts,
    /// 16 are outstanding at any time, as many as a contract allows that does not say.
    Burst16,
    /// 128 are outstanding at any time.
    Burst128,
}

impl Pattern {
    const ALL: [Self; 4] = [Self::Serial, Self::Parts, Self::Burst16, Self::Burst128];

    fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Parts => "parts",
            Self::Burst16 => "burst16",
            Self::Burst128 => "burst128",
        }
    }

    /// Calls outstanding at any time.
    pub(crate) fn outstanding(self) -> usize {
        match self {
            Self::Serial | Self::Parts => 1,
            Self::Burst16 => 16,
            Self::Burst128 => 128,
        }
    }

    /// Whether it has more than one call outstanding.
    pub(crate) fn is_burst(self) -> bool {
        self.outstanding() > 1
    }
}

/// Where client and server run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    OneCore,
    TwoCores,
}

impl Placement {
    pub(crate) const ALL: [Self; 2] = [Self::OneCore, Self::TwoCores];

    pub(crate) fn cores(self) -> usize {
        match self {
            Self::OneCore => 1,
            Self::TwoCores => 2,
        }
    }
}

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) peer: Peer,
    pub(crate) waiting: Waiting,
    pub(crate) placement: Placement,
    pub(crate) pattern: Pattern,
    /// Payload of a request, and of its answer, in bytes.
    pub(crate) size: usize,
}

/// The payloads.
pub(crate) const SIZES: [usize; 6] = [64, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20];

impl Case {
    pub(crate) fn new(
        peer: Peer,
        waiting: Waiting,
        placement: Placement,
        pattern: Pattern,
        size: usize,
    ) -> Self {
        Self {
            peer,
            waiting,
            placement,
            pattern,
            size,
        }
    }

    /// The word by which its server knows what to be.
    pub(crate) fn role(self) -> String {
        self.to_string()
    }

    /// Reads [`Case::role`].
    pub(crate) fn from_role(role: &str) -> Self {
        let mut words = role.split(' ');
        let mut word = || words.next().expect("five words of a role");
        let (peer, waiting, cores, pattern, size) = (word(), word(), word(), word(), word());
        fn find<T: Copy, const N: usize>(
            all: [T; N],
            name: impl Fn(T) -> &'static str,
            word: &str,
        ) -> T {
            let found = all.into_iter().find(|one| name(*one) == word);
            found.unwrap_or_else(|| panic!("unknown in a role: {word}"))
        }
        Self {
            peer: find(Peer::ALL, Peer::name, peer),
            waiting: find(Waiting::ALL, Waiting::name, waiting),
            placement: match cores {
                "1-core" => Placement::OneCore,
                _ => Placement::TwoCores,
            },
            pattern: find(Pattern::ALL, Pattern::name, pattern),
            size: size.trim_end_matches('B').parse().expect("a size"),
        }
    }

    /// All of them, in the order of their turns: what is compared stands together.
    pub(crate) fn all() -> Vec<Self> {
        use Pattern::{Burst16, Burst128, Parts, Serial};
        use Peer::{
            Futex, Insula, Metered, Pipe, Raw, RawEvents, RawStreams, Seqpacket, Tonic, Unix, Zmq,
        };
        use Placement::{OneCore, TwoCores};
        use Waiting::{Hybrid, Parked, Spinning};
        let mut all = Vec::new();
        let mut add = |placement, pattern, size, cases: &[(Peer, Waiting)]| {
            for &(peer, waiting) in cases {
                all.push(Self::new(peer, waiting, placement, pattern, size));
            }
        };
        let sleepers = [
            (Insula, Parked),
            (Unix, Parked),
            (Seqpacket, Parked),
            (Pipe, Parked),
            (Zmq, Parked),
            (Tonic, Parked),
        ];
        let spinners = [(Raw, Spinning), (Insula, Spinning)];
        // Two ends that spin on one core only wait for the scheduler.
        add(TwoCores, Serial, 64, &spinners);
        add(TwoCores, Serial, 64, &[(Metered, Spinning)]);
        add(TwoCores, Serial, 64, &[(RawStreams, Spinning)]);
        add(TwoCores, Serial, 64, &[(Unix, Spinning), (Insula, Hybrid)]);
        for placement in [TwoCores, OneCore] {
            add(
                placement,
                Serial,
                64,
                &[(Futex, Parked), (RawEvents, Parked)],
            );
            add(placement, Serial, 64, &sleepers);
        }
        add(OneCore, Serial, 64, &[(Insula, Hybrid)]);
        for size in &SIZES[1..] {
            add(TwoCores, Serial, *size, &spinners);
            for placement in [TwoCores, OneCore] {
                add(placement, Serial, *size, &sleepers);
            }
        }
        for size in SIZES {
            add(TwoCores, Parts, size, &spinners);
            add(OneCore, Parts, size, &[(Insula, Parked)]);
        }
        let bursts = [
            (Insula, Parked),
            (Unix, Parked),
            (Zmq, Parked),
            (Tonic, Parked),
        ];
        for burst in [Burst16, Burst128] {
            add(TwoCores, burst, 64, &spinners);
            add(TwoCores, burst, 64, &[(RawStreams, Spinning)]);
            for placement in [TwoCores, OneCore] {
                add(placement, burst, 64, &bursts);
            }
        }
        all
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            peer,
            waiting,
            placement,
            pattern,
            size,
        } = self;
        let (peer, waiting, pattern) = (peer.name(), waiting.name(), pattern.name());
        write!(
            f,
            "{peer} {waiting} {}-core {pattern} {size}B",
            placement.cores()
        )
    }
}

/// A payload's size as a person writes it.
pub(crate) fn size_text(size: usize) -> String {
    match size {
        0x10_0000.. => format!("{} MiB", size >> 20),
        0x400.. => format!("{} KiB", size >> 10),
        _ => format!("{size} B"),
    }
}
