//! The thread that keeps the service's line: it takes the supervisor's connection, and the next
//! one's after it died, passes words on, and waits for signals.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use insula_ipc::client::Edge;
use insula_ipc::frames;
use insula_ipc::meters::Meters;
use insula_ipc::protocol::id::{Attempt, EdgeId, Epoch};
use insula_ipc::protocol::line::{FromService, LINE_FD, ServedEdge, ToService};
use insula_ipc::server::Waker;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockaddrLike, UnixAddr, accept4, getsockname};

use crate::runtime::{Shared, Welcomed};

/// What the main thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Welcome,
    Serve(ServedEdge, OwnedFd),
    Unserve(EdgeId, Attempt),
    Lead(Epoch),
    Yield(Epoch),
    Drain,
    Ping(u64),
    Stop,
}

/// The way to the main thread.
#[derive(Debug, Clone)]
pub(crate) struct Commands {
    pub(crate) sender: Sender<Command>,
    /// Wakes the server, once there is one.
    pub(crate) waker: Arc<OnceLock<Waker>>,
}

impl Commands {
    fn give(&self, command: Command) {
        // The main thread ends the process when it goes.
        let _ = self.sender.send(command);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

/// Takes over the inherited listening socket, if there is one.
#[expect(unsafe_code, reason = "an inherited descriptor is a bare number")]
pub(crate) fn inherited() -> Option<OwnedFd> {
    use std::os::fd::BorrowedFd;
    // SAFETY: used only to ask the kernel what it is; a number that is no descriptor is an error.
    let number = unsafe { BorrowedFd::borrow_raw(LINE_FD) };
    nix::fcntl::fcntl(number, nix::fcntl::FcntlArg::F_GETFD).ok()?;
    let address: UnixAddr = getsockname(LINE_FD).ok()?;
    if address.family() != Some(AddressFamily::Unix) {
        return None;
    }
    let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(number, flags).ok()?;
    // SAFETY: the supervisor gave this descriptor to the process as its own, and this is called
    // once, before anything else could have taken the number.
    Some(unsafe { OwnedFd::from_raw_fd(LINE_FD) })
}

/// Blocks the stop signals in this thread and all that it starts, and gives the way to wait for
/// them.
pub(crate) fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Runs until the process ends.
pub(crate) fn keep(
    shared: &Arc<Shared>,
    listener: &OwnedFd,
    signals: &SignalFd,
    commands: &Commands,
) {
    let mut line: Option<Arc<OwnedFd>> = None;
    let mut stopped = false;
    loop {
        let mut waits = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(line) = &line {
            waits.push(PollFd::new(line.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "cannot wait for the supervisor");
                std::process::abort();
            }
        }
        let ready: Vec<bool> = waits
            .iter()
            .map(|wait| wait.revents().is_some_and(|events| !events.is_empty()))
            .collect();
        if ready[0] && matches!(signals.read_signal(), Ok(Some(_))) {
            if stopped {
                tracing::warn!("a second stop signal ends the process at once");
                std::process::exit(1);
            }
            stopped = true;
            shared.change(|state| state.stopping = true);
            commands.give(Command::Stop);
        }
        if ready[1] {
            // The newest connection is the supervisor's: its predecessor is dead.
            line = accept(shared, listener).or(line);
            continue;
        }
        if ready.get(2) == Some(&true)
            && let Some(open) = &line
            && !hear(shared, open, commands)
        {
            shared.disconnect();
            line = None;
        }
    }
}

#[expect(
    unsafe_code,
    reason = "nix gives the accepted descriptor as a bare number"
)]
fn accept(shared: &Shared, listener: &OwnedFd) -> Option<Arc<OwnedFd>> {
    use std::os::fd::AsRawFd;
    match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
        Ok(number) => {
            // SAFETY: accept4 just made this descriptor, and nobody else owns it.
            let line = Arc::new(unsafe { OwnedFd::from_raw_fd(number) });
            match shared.connect(line.clone()) {
                Ok(()) => Some(line),
                Err(error) => {
                    tracing::debug!(%error, "the supervisor went before it was greeted");
                    None
                }
            }
        }
        Err(error) => {
            tracing::warn!(%error, "cannot take the supervisor's connection");
            None
        }
    }
}

/// Takes in one word; false once the line is over.
fn hear(shared: &Arc<Shared>, line: &OwnedFd, commands: &Commands) -> bool {
    let (message, descriptors) = match frames::receive::<ToService>(line) {
        Ok(Some(heard)) => heard,
        Ok(None) => return false,
        Err(error) => {
            tracing::warn!(%error, "the supervisor's line failed");
            return false;
        }
    };
    let mut descriptors = descriptors.into_iter();
    let descriptor = descriptors.next();
    match (message, descriptor) {
        (
            ToService::Welcome {
                slot,
                spin_ns,
                steady_tsc,
                ..
            },
            Some(routes),
        ) => {
            shared.change(|state| {
                // A later supervisor gives the same table again.
                state.routes.get_or_insert_with(|| Arc::new(routes));
                if let (None, Some(fd)) = (&state.meters, descriptors.next()) {
                    match Meters::new(fd, steady_tsc) {
                        Ok(meters) => state.meters = Some(meters),
                        Err(error) => tracing::warn!(%error, "nothing is counted"),
                    }
                }
                state.welcomed = Some(Welcomed {
                    slot,
                    spin: Duration::from_nanos(spin_ns),
                });
            });
            commands.give(Command::Welcome);
        }
        (ToService::Serve(edge), Some(page)) => commands.give(Command::Serve(edge, page)),
        (ToService::Use(used), Some(page)) => shared.change(|state| {
            let (Some(routes), Some(welcomed)) = (&state.routes, &state.welcomed) else {
                return;
            };
            if state.edges.contains_key(&used.contract) {
                return;
            }
            let contract = used.contract.clone();
            let kept = page.try_clone();
            match Edge::new(used, routes, page, welcomed.spin) {
                Ok(edge) => {
                    let (late, told) = (contract.clone(), Arc::downgrade(shared));
                    edge.on_late(move |waited| {
                        if let Some(shared) = told.upgrade() {
                            shared.late(&late, waited);
                        }
                    });
                    if let Some(meters) = &state.meters {
                        edge.meter(meters);
                    }
                    state.edges.insert(contract, edge);
                    state.pages.extend(kept);
                }
                Err(error) => tracing::error!(%contract, %error, "cannot use an edge"),
            }
        }),
        (ToService::Unserve { edge, consumer }, _) => {
            commands.give(Command::Unserve(edge, consumer));
        }
        (ToService::Lead { epoch }, _) => commands.give(Command::Lead(epoch)),
        (ToService::Yield { epoch }, _) => commands.give(Command::Yield(epoch)),
        (ToService::Drain, _) => {
            shared.change(|state| state.stopping = true);
            commands.give(Command::Drain);
        }
        (ToService::Ping { ping }, _) => {
            // Who serves answers itself: that this thread lives says nothing about that one.
            if commands.waker.get().is_some() {
                commands.give(Command::Ping(ping));
            } else {
                shared.say(&FromService::Pong { ping });
            }
        }
        (ToService::Welcome { .. } | ToService::Serve(_) | ToService::Use(_), None) => {
            tracing::warn!("the supervisor left out a descriptor");
            return false;
        }
    }
    true
}
