//! What a message of sd_notify(3) says.
//!
//! Lines of `KEY=VALUE`; what is not known is passed over, as the protocol wants it. A message comes
//! from a program that may say anything: it is bounded, and what it says about numbers and texts is
//! brought into bounds here.

use std::time::Duration;

use insula_core::event::Notice;

/// Lines of one message that are looked at.
const LINES_MAX: usize = 64;
/// Characters of a status that are kept.
const STATUS_MAX: usize = 256;
/// The longest time that a program can ask for at once.
const EXTENSION_MAX: Duration = Duration::from_secs(24 * 3600);

/// One thing that a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// `READY=1`.
    Ready,
    /// Something about itself.
    Notice(Notice),
    /// It waits until what it said before was taken in, and its descriptor is closed.
    Barrier,
    /// What the supervisor does not do, and why.
    Refused(&'static str),
}

/// Reads a message.
pub(crate) fn read(message: &[u8]) -> Vec<Said> {
    let mut said: Vec<Said> = message
        .split(|byte| *byte == b'\n')
        .take(LINES_MAX)
        .filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b'=')?;
            one(&line[..at], &line[at + 1..])
        })
        .collect();
    // How often it will say that it lives counts from the moment at which it is ready.
    said.sort_by_key(|said| matches!(said, Said::Ready | Said::Barrier));
    said
}

fn one(key: &[u8], value: &[u8]) -> Option<Said> {
    let is = |wanted: &[u8], then: Said| (value == wanted).then_some(then);
    let micros = || {
        let micros = std::str::from_utf8(value).ok()?.parse().ok()?;
        Some(Duration::from_micros(micros))
    };
    match key {
        b"READY" => is(b"1", Said::Ready),
        b"STATUS" => Some(Said::Notice(Notice::Status(status(value)))),
        b"RELOADING" => is(b"1", Said::Notice(Notice::Reloading)),
        b"STOPPING" => is(b"1", Said::Notice(Notice::Stopping)),
        b"WATCHDOG" => is(b"1", Said::Notice(Notice::Watchdog))
            .or_else(|| is(b"trigger", Said::Notice(Notice::WatchdogTrigger))),
        b"WATCHDOG_USEC" => {
            // The greatest number stands for never.
            let off = value == u64::MAX.to_string().as_bytes();
            let interval = if off { Duration::ZERO } else { micros()? };
            Some(Said::Notice(Notice::WatchdogUsec(interval)))
        }
        b"EXTEND_TIMEOUT_USEC" => {
            let by = micros()?.min(EXTENSION_MAX);
            Some(Said::Notice(Notice::ExtendTimeout(by)))
        }
        b"BARRIER" => is(b"1", Said::Barrier),
        b"MAINPID" | b"MAINPIDFDID" | b"MAINPIDFD" => Some(Said::Refused(
            "another main process: the process that was launched is the one that is watched, so \
             the program is to stay in the foreground",
        )),
        b"FDSTORE" => is(
            b"1",
            Said::Refused(
                "kept descriptors: sockets that are to outlive the process belong into \
                 `run.sockets`",
            ),
        ),
        // Among them MONOTONIC_USEC, which tells when a reload began, and FDNAME.
        _ => None,
    }
}

/// A text that does a terminal no harm.
fn status(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.trim().chars().take(STATUS_MAX).map(plain).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn notices(message: &str) -> Vec<Notice> {
        read(message.as_bytes())
            .into_iter()
            .map(|said| match said {
                Said::Notice(notice) => notice,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn every_word_of_the_protocol_is_understood() {
        let millis = Duration::from_millis;
        for (message, notice) in [
            ("STATUS=one two", Notice::Status("one two".to_owned())),
            ("STATUS=", Notice::Status(String::new())),
            ("STATUS= \x1b[31mred ", Notice::Status("[31mred".to_owned())),
            ("RELOADING=1", Notice::Reloading),
            ("STOPPING=1", Notice::Stopping),
            ("WATCHDOG=1", Notice::Watchdog),
            ("WATCHDOG=trigger", Notice::WatchdogTrigger),
            ("WATCHDOG_USEC=20000", Notice::WatchdogUsec(millis(20))),
            ("WATCHDOG_USEC=0", Notice::WatchdogUsec(Duration::ZERO)),
            (
                "WATCHDOG_USEC=18446744073709551615",
                Notice::WatchdogUsec(Duration::ZERO),
            ),
            ("EXTEND_TIMEOUT_USEC=3000", Notice::ExtendTimeout(millis(3))),
            (
                "EXTEND_TIMEOUT_USEC=18446744073709551615",
                Notice::ExtendTimeout(EXTENSION_MAX),
            ),
        ] {
            assert_eq!(notices(message), [notice], "{message}");
        }
        assert_eq!(read(b"READY=1"), [Said::Ready]);
        assert_eq!(read(b"BARRIER=1"), [Said::Barrier]);
        for refused in ["MAINPID=3", "FDSTORE=1\nFDNAME=x"] {
            let said = read(refused.as_bytes());
            assert!(matches!(said[..], [Said::Refused(_)]), "{refused}");
        }
    }

    #[test]
    fn what_is_not_known_or_not_whole_says_nothing() {
        for message in [
            "",
            "\n\n",
            "READY=0",
            "READY",
            "READY=1 ",
            "ready=1",
            "XREADY=1",
            "=1",
            "WATCHDOG=2",
            "WATCHDOG_USEC=",
            "WATCHDOG_USEC=-1",
            "WATCHDOG_USEC=1s",
            "EXTEND_TIMEOUT_USEC=99999999999999999999",
            "FDSTORE=0",
            "MONOTONIC_USEC=7",
            "ERRNO=2",
        ] {
            assert_eq!(read(message.as_bytes()), [], "{message}");
        }
        assert_eq!(read(b"READY\xff=1\n\0=\nSTOPPING=1").len(), 1);
    }

    #[test]
    fn readiness_comes_after_what_is_said_with_it() {
        let said = read(b"READY=1\nSTATUS=loading\nWATCHDOG_USEC=5");
        assert_eq!(said.len(), 3);
        assert_eq!(said[2], Said::Ready);
    }

    #[test]
    fn a_status_is_bounded() {
        let said = notices(&format!("STATUS={}", "ü".repeat(4_000)));
        assert_eq!(said, [Notice::Status("ü".repeat(STATUS_MAX))]);
    }

    proptest! {
        #[test]
        fn no_message_harms_its_reader(message in proptest::collection::vec(any::<u8>(), 0..5_000)) {
            prop_assert!(read(&message).len() <= LINES_MAX);
        }

        #[test]
        fn no_near_message_harms_its_reader(
            lines in proptest::collection::vec(
                ("(READY|STATUS|WATCHDOG|WATCHDOG_USEC|EXTEND_TIMEOUT_USEC|MAINPID|BARRIER|X)",
                 "[=]{0,2}", "(.{0,20}|[0-9]{0,24}|1|trigger)"), 0..100),
        ) {
            let text: Vec<_> = lines.iter().map(|(key, mark, value)| format!("{key}{mark}{value}")).collect();
            for said in read(text.join("\n").as_bytes()) {
                match said {
                    Said::Notice(Notice::Status(text)) => {
                        prop_assert!(text.chars().count() <= STATUS_MAX);
                        prop_assert!(!text.chars().any(char::is_control));
                    }
                    Said::Notice(Notice::ExtendTimeout(by)) => prop_assert!(by <= EXTENSION_MAX),
                    Said::Notice(_) | Said::Ready | Said::Barrier | Said::Refused(_) => {}
                }
            }
        }
    }
}
