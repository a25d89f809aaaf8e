//! The progress line: every second on a terminal, every five seconds elsewhere, and none of
//! anything that takes less.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Tally;

/// Shows how far `tally` has come while `work` goes on; `total` is what it is to reach.
pub(crate) fn show<T>(
    title: &str,
    total: Option<u64>,
    tally: &Tally,
    work: impl FnOnce() -> T,
) -> T {
    let (over, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || report(title, total, tally, &ended));
        let result = work();
        drop(over);
        result
    })
}

fn report(title: &str, total: Option<u64>, tally: &Tally, ended: &mpsc::Receiver<()>) {
    let mut out = io::stderr();
    let terminal = out.is_terminal();
    let period = Duration::from_secs(if terminal { 1 } else { 5 });
    let begin = Instant::now();
    let (mut before, mut shown) = (0, false);
    while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
        let done = tally.done.load(Ordering::Relaxed);
        let rate = (done - before) as f64 / period.as_secs_f64();
        before = done;
        let failed = tally.failed.load(Ordering::Relaxed);
        let seconds = begin.elapsed().as_secs();
        let of = total
            .map(|total| format!(" of {total}"))
            .unwrap_or_default();
        let line = format!("{title}: {done}{of} done, {failed} failed, {rate:.0}/s, {seconds}s");
        // A standard error that is closed is no reason to end.
        let _ = if terminal {
            write!(out, "\r\x1b[K{line}")
        } else {
            writeln!(out, "{line}")
        };
        let _ = out.flush();
        shown = true;
    }
    if terminal && shown {
        let _ = write!(out, "\r\x1b[K");
    }
}
