//! The two ends of a subscription, over iceoryx2: one publish-subscribe service for one subscriber.
//!
//! A service of its own for each subscription makes a full buffer a fact about one subscriber, and
//! lets the publisher disconnect one without the others.

#![expect(
    unsafe_code,
    reason = "chunks are written as bytes before they count as initialised"
)]

use iceoryx2::node::Node;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{AllocationStrategy, BackpressureStrategy, ServiceName, ZeroCopySend};
use iceoryx2::service::header::publish_subscribe as foreign;

use super::Delivery;
use crate::channel::{ChannelError, bytes_mut, bytes_of, lines, node, refused};
use crate::raw::{FileService, Line};

/// Version of the header.
const VERSION: u16 = 1;
/// Samples that a subscriber may hold at once.
pub(super) const HELD_MAX: usize = 4;

/// Before a value.
#[derive(Debug, Clone, Copy, Default, ZeroCopySend)]
#[type_name("insula.ValueHeader")]
#[repr(C)]
pub(crate) struct ValueHeader {
    /// [`VERSION`].
    version: u16,
    /// None are defined yet; 0.
    flags: u16,
    /// Length of the encoded value in bytes.
    length: u32,
    /// The value's number in its stream and publisher, from 0.
    sequence: u64,
}

/// Which subscription's service, in the directory of a channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) directory: &'a str,
    pub(super) stream: u16,
    pub(super) slot: usize,
    pub(super) number: u32,
}

impl Place<'_> {
    fn name(&self) -> ServiceName {
        let text = format!("s{}.{}.{}", self.stream, self.slot, self.number);
        text.as_str()
            .try_into()
            .expect("a name that iceoryx2 takes")
    }
}

/// What became of a value for one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It lies there.
    Delivered,
    /// The subscriber took the room that it had promised, or is gone.
    NoRoom,
    /// It does not fit into a chunk.
    TooLong,
}

/// The provider's end.
#[derive(Debug)]
pub(super) struct PublisherEnd {
    publisher: Publisher<FileService, [Line], ValueHeader>,
    lines: usize,
    _node: Node<FileService>,
}

impl PublisherEnd {
    /// Makes the service, for values of at most `value_max` bytes.
    pub(super) fn create(
        place: Place<'_>,
        delivery: Delivery,
        value_max: usize,
    ) -> Result<Self, ChannelError> {
        let lines = lines::<foreign::Header, ValueHeader>(value_max);
        let node = node(place.directory)?;
        let service = node
            .service_builder(&place.name())
            .publish_subscribe::<[Line]>()
            .user_header::<ValueHeader>()
            .enable_safe_overflow(!delivery.is_lossless())
            .max_publishers(1)
            .max_subscribers(1)
            .max_nodes(2)
            .history_size(0)
            .subscriber_max_buffer_size(delivery.buffer())
            .subscriber_max_borrowed_samples(HELD_MAX)
            .create()
            .map_err(refused("make the stream", place.directory))?;
        let publisher = service
            .publisher_builder()
            .initial_max_slice_len(lines)
            .allocation_strategy(AllocationStrategy::Static)
            .backpressure_strategy(BackpressureStrategy::DiscardData)
            .max_loaned_samples(1)
            .create()
            .map_err(refused("make a publisher", place.directory))?;
        Ok(Self {
            publisher,
            lines,
            _node: node,
        })
    }

    /// Loans a chunk, lets `write` write the value and say its length, and sends it.
    #[inline]
    pub(super) fn send(
        &self,
        sequence: u64,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Sent {
        let Ok(mut chunk) = self.publisher.loan_slice_uninit(self.lines) else {
            return Sent::NoRoom;
        };
        let Some(length) = write(bytes_mut(chunk.payload_mut())) else {
            return Sent::TooLong;
        };
        *chunk.user_header_mut() = ValueHeader {
            version: VERSION,
            flags: 0,
            length: length as u32,
            sequence,
        };
        // SAFETY: the payload lies in a shared file and its bytes always have a value.
        let chunk = unsafe { chunk.assume_init() };
        match chunk.send() {
            Ok(1) => Sent::Delivered,
            Ok(_) | Err(_) => Sent::NoRoom,
        }
    }
}

/// A value that was received, its header checked.
#[derive(Debug)]
pub(super) struct Received {
    sample: iceoryx2::sample::Sample<FileService, [Line], ValueHeader>,
    length: usize,
    pub(super) sequence: u64,
}

impl Received {
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &bytes_of(self.sample.payload())[..self.length]
    }
}

/// What looking for a value found.
pub(super) enum Look {
    Nothing,
    Value(Received),
    /// The subscriber holds as many as it may.
    TooManyHeld,
    Malformed(&'static str),
}

/// The consumer's end.
#[derive(Debug)]
pub(super) struct SubscriberEnd {
    subscriber: Subscriber<FileService, [Line], ValueHeader>,
    _node: Node<FileService>,
}

impl SubscriberEnd {
    /// Opens what the server has made.
    pub(super) fn open(place: Place<'_>) -> Result<Self, ChannelError> {
        let node = node(place.directory)?;
        let service = node
            .service_builder(&place.name())
            .publish_subscribe::<[Line]>()
            .user_header::<ValueHeader>()
            .open()
            .map_err(refused("open the stream", place.directory))?;
        let subscriber = service
            .subscriber_builder()
            .create()
            .map_err(refused("make a subscriber", place.directory))?;
        Ok(Self {
            subscriber,
            _node: node,
        })
    }

    /// Looks for the next value.
    #[inline]
    pub(super) fn look(&self) -> Look {
        let sample = match self.subscriber.receive() {
            Ok(Some(sample)) => sample,
            Err(iceoryx2::port::ReceiveError::ExceedsMaxBorrows) => return Look::TooManyHeld,
            // A failed look is no value: whether the publisher still lives is the route's to say.
            Ok(None) | Err(_) => return Look::Nothing,
        };
        let header = *sample.user_header();
        if header.version != VERSION {
            return Look::Malformed("unknown version of a value's header");
        }
        let length = header.length as usize;
        if length > size_of_val(sample.payload()) {
            return Look::Malformed("the value is longer than its chunk");
        }
        Look::Value(Received {
            sample,
            length,
            sequence: header.sequence,
        })
    }
}
