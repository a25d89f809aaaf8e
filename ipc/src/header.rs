//! The words before a request and before a response in a channel: header version 1.
//!
//! Everything here was written by the other side, which may be hostile or of another version:
//! nothing is used before it is checked.
//!
//! Together with iceoryx2's headers they fill whole cache lines, two before a request and one
//! before a response: each line more costs a transfer between two cores.

use iceoryx2::prelude::ZeroCopySend;

/// Flag of a request: its trace is recorded.
pub(crate) const SAMPLED: u16 = 1;

/// Version of both headers.
pub(crate) const VERSION: u16 = 1;

/// Before a request.
#[derive(Debug, Clone, Copy, Default, ZeroCopySend)]
#[type_name("insula.RequestHeader")]
#[repr(C)]
pub(crate) struct RequestHeader {
    /// [`VERSION`].
    pub(crate) version: u16,
    /// The method's number.
    pub(crate) method: u16,
    /// [`SAMPLED`], or 0.
    pub(crate) flags: u16,
    /// The client's slot in the edge page.
    pub(crate) slot: u16,
    /// Length of the encoded request in bytes.
    pub(crate) length: u32,
    /// When it was sent, as [`sent_at`] says.
    pub(crate) sent: u32,
    /// The request's number on its connection, from 1.
    pub(crate) sequence: u64,
    /// Every request of the connection with a lower number has its answer or wants none.
    pub(crate) forget_below: u64,
    /// When the caller stops waiting, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) deadline_ns: u64,
    /// The trace's id, zero for none.
    pub(crate) trace_id: [u8; 16],
    /// The calling span's id.
    pub(crate) span_id: [u8; 8],
}

/// A point in time of `CLOCK_MONOTONIC` in two microseconds, modulo 73 minutes; never 0, which
/// says that it is not known.
#[inline]
pub(crate) fn sent_at(now_ns: u64) -> u32 {
    (now_ns >> 10) as u32 | 1
}

impl RequestHeader {
    /// How long the request has waited, in nanoseconds; 0 where that is not known or not over.
    #[inline]
    pub(crate) fn waited_ns(&self, now_ns: u64) -> u64 {
        match self.sent {
            0 => 0,
            sent => {
                let waited = sent_at(now_ns).wrapping_sub(sent).cast_signed();
                u64::from(waited.max(0).cast_unsigned()) << 10
            }
        }
    }
}

/// Before a response. Which request it answers is in iceoryx2's own header before this one.
#[derive(Debug, Clone, Copy, Default, ZeroCopySend)]
#[type_name("insula.ResponseHeader")]
#[repr(C)]
pub(crate) struct ResponseHeader {
    /// [`VERSION`].
    pub(crate) version: u16,
    /// A [`Status`].
    pub(crate) status: u16,
    /// Length of the encoded response or error in bytes.
    pub(crate) length: u32,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Executed; the method's response follows.
    Response,
    /// Executed; the contract's error follows.
    Error,
    /// Not executed: the server is leaving.
    Draining,
    /// Not executed: the server does not lead.
    NotLeading,
    /// Not executed: the server could not, for now.
    Unable,
    /// Not executed: its deadline had passed.
    Expired,
    /// Not executed: it cannot be decoded.
    MalformedRequest,
    /// Not executed: there is no such method.
    UnknownMethod,
    /// Executed, but the answer did not fit.
    AnswerTooLong,
    /// Not executed: the server has more to do than it can, and the request waited too long.
    Overloaded,
    /// Not executed: the edge has sent more than it may.
    QuotaExceeded,
    /// Taken, and perhaps executed; there will be no other answer.
    Abandoned,
}

impl Status {
    const ALL: [Self; 12] = [
        Self::Response,
        Self::Error,
        Self::Draining,
        Self::NotLeading,
        Self::Unable,
        Self::Expired,
        Self::MalformedRequest,
        Self::UnknownMethod,
        Self::AnswerTooLong,
        Self::Overloaded,
        Self::QuotaExceeded,
        Self::Abandoned,
    ];

    /// The number on the wire.
    pub(crate) const fn to_wire(self) -> u16 {
        match self {
            Self::Response => 1,
            Self::Error => 2,
            Self::Draining => 3,
            Self::NotLeading => 4,
            Self::Unable => 5,
            Self::Expired => 6,
            Self::MalformedRequest => 7,
            Self::UnknownMethod => 8,
            Self::AnswerTooLong => 9,
            Self::Overloaded => 10,
            Self::QuotaExceeded => 11,
            Self::Abandoned => 12,
        }
    }

    /// Reads a number from the wire.
    pub(crate) fn from_wire(number: u16) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|status| status.to_wire() == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceoryx2::service::header::request_response as foreign;

    #[test]
    fn the_layout_is_what_the_other_side_maps() {
        assert_eq!(size_of::<RequestHeader>(), 64);
        assert_eq!(std::mem::offset_of!(RequestHeader, length), 8);
        assert_eq!(std::mem::offset_of!(RequestHeader, sequence), 16);
        assert_eq!(std::mem::offset_of!(RequestHeader, deadline_ns), 32);
        assert_eq!(std::mem::offset_of!(RequestHeader, trace_id), 40);
        assert_eq!(size_of::<ResponseHeader>(), 8);
        assert_eq!(std::mem::offset_of!(ResponseHeader, length), 4);
        assert_eq!(
            size_of::<foreign::RequestHeader>() + size_of::<RequestHeader>(),
            128
        );
        assert_eq!(
            size_of::<foreign::ResponseHeader>() + size_of::<ResponseHeader>(),
            64
        );
    }

    #[test]
    fn a_wait_is_known_across_the_wrap_and_never_negative() {
        let wrap = 1_u64 << 42;
        for (sent, now, waited) in [
            (5_000_000, 9_000_000, 4_000_000),
            (wrap - 4_000_000, wrap + 6_000_000, 10_000_000),
            (wrap + 4_000_000, wrap - 4_000_000, 0),
        ] {
            let header = RequestHeader {
                sent: sent_at(sent),
                ..RequestHeader::default()
            };
            assert!(
                header.waited_ns(now).abs_diff(waited) <= 4096,
                "{sent} {now}"
            );
        }
        assert_eq!(RequestHeader::default().waited_ns(u64::MAX), 0);
    }

    #[test]
    fn a_status_reads_what_it_wrote_and_others_are_unknown() {
        for status in Status::ALL {
            assert_eq!(Status::from_wire(status.to_wire()), Some(status));
        }
        for number in [0, 13, u16::MAX] {
            assert_eq!(Status::from_wire(number), None);
        }
    }
}
