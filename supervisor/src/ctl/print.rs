//! What `insulactl` prints, on a pipe that may close.
//!
//! The standard library's `println!` panics when nobody reads any more, as after
//! `insulactl status | head -1`. These macros take its place in the verbs: they end the program
//! quietly then, with the exit code that a shell gives to one that SIGPIPE ended. The signal itself
//! stays ignored, since a connection to the daemon that breaks would raise it as well, and that is
//! an error to tell.

use std::fmt;
use std::io::{self, Write};

/// 128 and the number of SIGPIPE.
const CLOSED: i32 = 141;

/// Prints to standard output.
pub(super) fn output(text: fmt::Arguments<'_>) {
    let mut stdout = io::stdout().lock();
    look_at(stdout.write_fmt(text).and_then(|()| stdout.flush()));
}

/// Prints what somebody else wrote.
pub(super) fn bytes(text: &[u8]) {
    let mut stdout = io::stdout().lock();
    look_at(stdout.write_all(text).and_then(|()| stdout.flush()));
}

/// Prints to standard error; where that cannot be, nobody can be told.
pub(super) fn complain(text: fmt::Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// Ends the program if nothing can be printed.
fn look_at(printed: io::Result<()>) {
    let Err(error) = printed else {
        return;
    };
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(CLOSED);
    }
    complain(format_args!("error: cannot print: {error}\n"));
    std::process::exit(super::Exit::Failed as i32);
}

macro_rules! print {
    ($($text:tt)*) => { $crate::ctl::print::output(format_args!($($text)*)) };
}

macro_rules! println {
    () => { $crate::ctl::print::output(format_args!("\n")) };
    ($($text:tt)*) => {
        $crate::ctl::print::output(format_args!("{}\n", format_args!($($text)*)))
    };
}

macro_rules! eprintln {
    () => { $crate::ctl::print::complain(format_args!("\n")) };
    ($($text:tt)*) => {
        $crate::ctl::print::complain(format_args!("{}\n", format_args!($($text)*)))
    };
}
