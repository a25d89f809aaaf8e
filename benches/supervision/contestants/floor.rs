//! The bare loop: a process that spawns all, and spawns again whatever ends. It keeps no order, no
//! log and no state, and answers nothing: what is left of supervision when all else is taken away.

#![expect(unsafe_code, reason = "posix_spawn, and waiting for any child")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::process::Command;

use insula_benches::process::Server;
use nix::sys::signal::{SigSet, Signal};

use super::{Contestant, Task};
use crate::stamps::now;

/// The role of the process that is the loop.
pub(crate) const ROLE: &str = "floor";

/// The loop's process.
#[derive(Debug)]
pub(super) struct Floor {
    words: Vec<String>,
    server: Option<Server>,
}

impl Floor {
    pub(super) fn new(task: &Task) -> Self {
        let payload = task.payload.display().to_string();
        let mut words = vec![payload];
        words.extend((0..task.count).map(|index| task.argument(index)));
        Self {
            words,
            server: None,
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let server = self.server.as_ref().ok_or("the loop does not run")?;
        crate::process::signal(server.pid().as_raw(), signal)
    }
}

impl Contestant for Floor {
    fn name(&self) -> String {
        "bare posix_spawn loop".to_owned()
    }

    fn start(&mut self) -> Result<i64, String> {
        self.server = Some(Server::start_unpinned(ROLE, &self.words));
        let ordered = now();
        self.signal(Signal::SIGUSR1)?;
        Ok(ordered)
    }

    fn stop(&mut self) -> Result<(), String> {
        self.signal(Signal::SIGTERM)
    }

    fn end(&mut self) -> Result<(), String> {
        self.server = None;
        Ok(())
    }

    fn processes(&self) -> Vec<i32> {
        let pid = |server: &Server| server.pid().as_raw();
        self.server.iter().map(pid).collect()
    }

    fn status(&self) -> Vec<(&'static str, Command)> {
        Vec::new()
    }

    fn restart(&self, _: usize) -> Option<Command> {
        None
    }

    fn pauses(&self) -> bool {
        false
    }
}

/// Spawns the payload with an argument; signals are as a fresh process has them.
fn spawn(program: &CString, argument: &CString) -> i32 {
    let mut attributes = MaybeUninit::<libc::posix_spawnattr_t>::uninit();
    let arguments = [
        program.as_ptr().cast_mut(),
        argument.as_ptr().cast_mut(),
        std::ptr::null_mut(),
    ];
    let environment = [std::ptr::null_mut()];
    let mut pid = 0;
    let none = SigSet::empty();
    // SAFETY: the attributes are made before they are used; all texts and lists end with a NUL or
    // null, and live until the call returns.
    let failed = unsafe {
        libc::posix_spawnattr_init(attributes.as_mut_ptr());
        libc::posix_spawnattr_setsigmask(attributes.as_mut_ptr(), none.as_ref());
        libc::posix_spawnattr_setflags(
            attributes.as_mut_ptr(),
            libc::POSIX_SPAWN_SETSIGMASK as libc::c_short,
        );
        let failed = libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            std::ptr::null(),
            attributes.as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
        );
        libc::posix_spawnattr_destroy(attributes.as_mut_ptr());
        failed
    };
    assert_eq!(failed, 0, "posix_spawn");
    pid
}

/// The loop itself.
pub(crate) fn serve(words: &[String]) {
    let text = |word: &String| CString::new(word.as_str()).expect("a word without NUL");
    let program = text(&words[0]);
    let arguments: Vec<_> = words[1..].iter().map(text).collect();
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGCHLD] {
        signals.add(signal);
    }
    // Before there is another thread, so that none takes a signal.
    signals.thread_block().expect("blocking signals");
    insula_benches::process::ready();
    let mut children = BTreeMap::new();
    let mut stopping = false;
    loop {
        match signals.wait().expect("waiting for signals") {
            Signal::SIGUSR1 => {
                for (index, argument) in arguments.iter().enumerate() {
                    children.insert(spawn(&program, argument), index);
                }
            }
            Signal::SIGTERM => {
                stopping = true;
                for pid in children.keys() {
                    // It may have ended just now.
                    let _ = crate::process::signal(*pid, Signal::SIGTERM);
                }
            }
            _ => loop {
                let mut status = 0;
                // SAFETY: the status is writable.
                let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
                if pid <= 0 {
                    break;
                }
                let index = children.remove(&pid).expect("one of ours");
                if !stopping {
                    children.insert(spawn(&program, &arguments[index]), index);
                }
            },
        }
    }
}
