//! The two ends of a channel, over iceoryx2: one request-response service in a directory.
//!
//! The server creates the service and the client opens it, so that an unfinished channel is never
//! taken for one. Requests and responses are slices of [`Line`]; both sides size their own
//! segments from the contract. Dropping an end whose directory was removed meanwhile is harmless.

#![expect(
    unsafe_code,
    reason = "chunks are written as bytes before they count as initialised"
)]

use std::mem::MaybeUninit;

use iceoryx2::active_request::ActiveRequest;
use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client;
use iceoryx2::port::server::Server;
use iceoryx2::prelude::{AllocationStrategy, BackpressureStrategy, ServiceName};
use iceoryx2::response::Response;
use iceoryx2::response_mut::ResponseMut;
use iceoryx2::response_mut_uninit::ResponseMutUninit;
use iceoryx2::service::header::request_response as foreign;

use crate::contract::{CONNECTIONS, Contract};
use crate::header::{RequestHeader, ResponseHeader, Status, VERSION};
use crate::raw::{FileService, Line, config};

const SERVICE_NAME: &str = "rr";
const LINE: usize = size_of::<Line>();

/// Answers that fit between a server and one of a client's requests.
///
/// A client that gives a request up uses its place again at once, and the server may send the
/// answer to the first one after that. The answer to the second has to fit beside it, or its
/// caller would wait for it in vain.
const ANSWERS: usize = 2;

/// Nodes in a channel: the server's and one for each connection, and room for one of those to be
/// made while its predecessor is being dropped.
const NODES: usize = CONNECTIONS + 4;

pub(crate) type Pending =
    PendingResponse<FileService, [Line], RequestHeader, [Line], ResponseHeader>;
pub(crate) type Sample = Response<FileService, [Line], ResponseHeader>;
type Active = ActiveRequest<FileService, [Line], RequestHeader, [Line], ResponseHeader>;

/// Why an end of a channel could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The directory's path is none that iceoryx2 takes.
    #[error("`{0}` is no usable path")]
    Path(String),
    /// iceoryx2 refused; its own word for it.
    #[error("cannot {step} in `{directory}`: {reason}")]
    Refused {
        /// What was tried.
        step: &'static str,
        /// In which channel.
        directory: String,
        /// iceoryx2's error.
        reason: String,
    },
}

pub(crate) fn refused<E: std::fmt::Debug>(
    step: &'static str,
    directory: &str,
) -> impl FnOnce(E) -> ChannelError {
    move |error| ChannelError::Refused {
        step,
        directory: directory.to_owned(),
        reason: format!("{error:?}"),
    }
}

/// Sizes of a contract's channels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) request_lines: usize,
    pub(crate) response_lines: usize,
    pub(crate) in_flight: usize,
}

impl Sizes {
    /// The sizes that `C` needs.
    pub(crate) fn of<C: Contract>() -> Self {
        Self::of_lengths(C::REQUEST_MAX, C::RESPONSE_MAX, C::IN_FLIGHT)
    }

    /// The sizes for messages of these lengths in bytes.
    pub(crate) fn of_lengths(request: usize, response: usize, in_flight: usize) -> Self {
        Self {
            request_lines: lines::<foreign::RequestHeader, RequestHeader>(request),
            response_lines: lines::<foreign::ResponseHeader, ResponseHeader>(response),
            in_flight: in_flight.max(1),
        }
    }
}

/// Lines that hold `bytes`, so many that a chunk with its two headers takes an odd number of
/// them: chunks at a power-of-two distance would compete for the same cache sets.
pub(crate) const fn lines<Foreign, Ours>(bytes: usize) -> usize {
    let payload = if bytes == 0 { 1 } else { bytes.div_ceil(LINE) };
    let headers = (size_of::<Foreign>() + size_of::<Ours>()).div_ceil(LINE);
    payload + (payload + headers + 1) % 2
}

pub(crate) fn node(directory: &str) -> Result<Node<FileService>, ChannelError> {
    let config = config(directory).ok_or_else(|| ChannelError::Path(directory.to_owned()))?;
    NodeBuilder::new()
        .config(&config)
        .create::<FileService>()
        .map_err(refused("make a node", directory))
}

fn service_name() -> ServiceName {
    SERVICE_NAME
        .try_into()
        .expect("a constant that iceoryx2 takes")
}

/// The bytes of a loaned chunk.
pub(crate) fn bytes_mut(lines: &mut [MaybeUninit<Line>]) -> &mut [u8] {
    let length = size_of_val(lines);
    // SAFETY: same memory, exclusively borrowed. It lies in a shared file, whose bytes always have
    // a value, whatever `MaybeUninit` says about the type above them.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), length) }
}

pub(crate) fn bytes_of(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 plain bytes; same memory, same lifetime.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast::<u8>(), size_of_val(lines)) }
}

/// Why a request was not sent; it was not and will not be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// It does not fit into a chunk.
    TooLong,
    /// No chunk is free, or the server's buffer is full, or it is gone.
    NotNow,
}

/// The consumer's end.
#[derive(Debug)]
pub(crate) struct ClientEnd {
    client: Client<FileService, [Line], RequestHeader, [Line], ResponseHeader>,
    lines: usize,
    _node: Node<FileService>,
}

impl ClientEnd {
    /// Opens what the server has made in `directory`.
    pub(crate) fn open(directory: &str, sizes: Sizes) -> Result<Self, ChannelError> {
        let node = node(directory)?;
        let service = node
            .service_builder(&service_name())
            .request_response::<[Line], [Line]>()
            .request_user_header::<RequestHeader>()
            .response_user_header::<ResponseHeader>()
            .open()
            .map_err(refused("open the service", directory))?;
        let client = service
            .client_builder()
            .initial_max_slice_len(sizes.request_lines)
            .allocation_strategy(AllocationStrategy::Static)
            .backpressure_strategy(BackpressureStrategy::DiscardData)
            .create()
            .map_err(refused("make a client", directory))?;
        Ok(Self {
            client,
            lines: sizes.request_lines,
            _node: node,
        })
    }

    /// Loans a chunk, lets `encode` write the request and say its length, and sends it.
    #[inline]
    pub(crate) fn send(
        &self,
        mut header: RequestHeader,
        encode: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Result<Pending, NotSent> {
        let mut request = self
            .client
            .loan_slice_uninit(self.lines)
            .map_err(|_| NotSent::NotNow)?;
        let length = encode(bytes_mut(request.payload_mut())).ok_or(NotSent::TooLong)?;
        header.length = length as u32;
        *request.user_header_mut() = header;
        // SAFETY: the payload lies in a shared file and its bytes always have a value.
        let request = unsafe { request.assume_init() };
        let pending = request.send().map_err(|_| NotSent::NotNow)?;
        if pending.number_of_server_connections() == 1 {
            Ok(pending)
        } else {
            Err(NotSent::NotNow)
        }
    }
}

/// The request in a chunk that was sent.
pub(crate) fn sent_bytes(pending: &Pending) -> &[u8] {
    let bytes = bytes_of(pending.payload());
    &bytes[..bytes.len().min(pending.user_header().length as usize)]
}

/// An answer that was received, checked.
pub(crate) struct Received {
    pub(crate) status: Status,
    pub(crate) sample: Sample,
    pub(crate) length: usize,
}

/// What looking for an answer found.
pub(crate) enum Look {
    Nothing,
    Answer(Received),
    Malformed(&'static str),
}

/// Looks for the answer to the request that was sent.
#[inline]
pub(crate) fn look(pending: &Pending) -> Look {
    // A failed look is no answer: whether the server still lives is the route's to say.
    let Ok(Some(sample)) = pending.receive() else {
        return Look::Nothing;
    };
    let header = *sample.user_header();
    if header.version != VERSION {
        return Look::Malformed("unknown version of the response header");
    }
    let Some(status) = Status::from_wire(header.status) else {
        return Look::Malformed("unknown status");
    };
    let length = header.length as usize;
    if length > size_of_val(sample.payload()) {
        return Look::Malformed("the answer is longer than its chunk");
    }
    Look::Answer(Received {
        status,
        sample,
        length,
    })
}

/// The bytes of an answer.
pub(crate) fn answer_bytes(sample: &Sample, length: usize) -> &[u8] {
    &bytes_of(sample.payload())[..length]
}

/// The provider's end.
#[derive(Debug)]
pub(crate) struct ServerEnd {
    server: Server<FileService, [Line], RequestHeader, [Line], ResponseHeader>,
    sizes: Sizes,
    _node: Node<FileService>,
}

impl ServerEnd {
    /// Makes the service in `directory`.
    pub(crate) fn create(directory: &str, sizes: Sizes) -> Result<Self, ChannelError> {
        let node = node(directory)?;
        let service = node
            .service_builder(&service_name())
            .request_response::<[Line], [Line]>()
            .request_user_header::<RequestHeader>()
            .response_user_header::<ResponseHeader>()
            .enable_safe_overflow_for_requests(false)
            .enable_safe_overflow_for_responses(false)
            .enable_fire_and_forget_requests(false)
            .max_servers(1)
            .max_clients(CONNECTIONS)
            .max_nodes(NODES)
            .max_active_requests_per_client(sizes.in_flight)
            .max_loaned_requests(1)
            .max_response_buffer_size(ANSWERS)
            .max_borrowed_responses_per_pending_response(1)
            .create()
            .map_err(refused("make the service", directory))?;
        let server = service
            .server_builder()
            .initial_max_slice_len(sizes.response_lines)
            .allocation_strategy(AllocationStrategy::Static)
            .backpressure_strategy(BackpressureStrategy::DiscardData)
            .max_loaned_responses_per_request(1)
            .create()
            .map_err(refused("make a server", directory))?;
        Ok(Self {
            server,
            sizes,
            _node: node,
        })
    }

    /// The next request, if one waits; an error where the channel cannot be read now.
    #[inline]
    pub(crate) fn receive(&self) -> Result<Option<Taken>, ()> {
        match self.server.receive() {
            Ok(Some(active)) => Ok(Some(Taken { active })),
            Ok(None) => Ok(None),
            Err(_) => Err(()),
        }
    }

    /// Whether a request waits; an error where the channel cannot be read now.
    pub(crate) fn has_requests(&self) -> Result<bool, ()> {
        self.server.has_requests().map_err(|_| ())
    }

    /// Loans the chunk for the answer to `taken`; `None` where the client holds all of them.
    #[inline]
    pub(crate) fn loan(&self, taken: &Taken) -> Option<Loaned> {
        taken
            .active
            .loan_slice_uninit(self.sizes.response_lines)
            .ok()
            .map(|chunk| Loaned { chunk })
    }
}

/// A request that was received.
#[derive(Debug)]
pub(crate) struct Taken {
    active: Active,
}

impl Taken {
    /// Its header, not checked.
    #[inline]
    pub(crate) fn header(&self) -> RequestHeader {
        *self.active.user_header()
    }

    /// Whether its client still waits for the answer.
    pub(crate) fn is_wanted(&self) -> bool {
        self.active.is_connected()
    }

    /// Its bytes; `None` where its header lies about their length.
    #[inline]
    pub(crate) fn bytes(&self, length: u32) -> Option<&[u8]> {
        bytes_of(self.active.payload()).get(..length as usize)
    }
}

/// A chunk for an answer.
pub(crate) struct Loaned {
    chunk: ResponseMutUninit<FileService, [MaybeUninit<Line>], ResponseHeader>,
}

impl Loaned {
    /// The place for the encoded answer.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        bytes_mut(self.chunk.payload_mut())
    }

    /// Closes the chunk with what became of the request.
    #[inline]
    pub(crate) fn seal(mut self, status: Status, length: usize) -> Sealed {
        *self.chunk.user_header_mut() = ResponseHeader {
            version: VERSION,
            status: status.to_wire(),
            length: length as u32,
        };
        // SAFETY: the payload lies in a shared file and its bytes always have a value.
        let response = unsafe { self.chunk.assume_init() };
        Sealed { response }
    }
}

/// An answer that is ready to be sent.
pub(crate) struct Sealed {
    response: ResponseMut<FileService, [Line], ResponseHeader>,
}

impl Sealed {
    /// Sends it; a client that is gone or has no room gets nothing.
    #[inline]
    pub(crate) fn send(self) {
        // A refusal can only mean that the client gave the request up or broke the protocol.
        let _ = self.response.send();
    }

    /// Turns it into a refusal that can be sent instead.
    pub(crate) fn refuse(&mut self, status: Status) {
        let header = self.response.user_header_mut();
        header.status = status.to_wire();
        header.length = 0;
    }
}
