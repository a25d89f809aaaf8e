//! Listening sockets that outlive the processes they are passed to.
//!
//! As long as a service is to run, its sockets stay open here: a client that connects while its
//! process is replaced waits in the socket's queue, and is not refused. A later daemon takes them
//! from a living process.

#![expect(unsafe_code, reason = "neither std nor nix has pidfd_getfd")]

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use insula_contract::id::ServiceName;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

/// Connections that wait to be accepted at most; the kernel has a ceiling of its own
/// (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// The number of a process's first socket, by sd_listen_fds(3).
const FIRST: RawFd = 3;

/// The sockets of all services.
#[derive(Debug, Default)]
pub struct Sockets {
    held: BTreeMap<ServiceName, BTreeMap<String, Held>>,
}

#[derive(Debug)]
struct Held {
    address: SocketAddr,
    socket: TcpListener,
}

impl Sockets {
    /// The sockets of a service by name; those that are not open are opened.
    ///
    /// # Errors
    /// An address cannot be listened on; the text says which.
    pub fn of(
        &mut self,
        service: &ServiceName,
        wanted: &BTreeMap<String, SocketAddr>,
    ) -> io::Result<Vec<(&str, BorrowedFd<'_>)>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let held = self.held.entry(service.clone()).or_default();
        for (name, address) in wanted {
            if held.get(name).is_some_and(|held| held.address == *address) {
                continue;
            }
            let socket = open(*address).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
            })?;
            let address = *address;
            held.insert(name.clone(), Held { address, socket });
        }
        Ok(held
            .iter()
            .filter(|(name, _)| wanted.contains_key(*name))
            .map(|(name, held)| (name.as_str(), std::os::fd::AsFd::as_fd(&held.socket)))
            .collect())
    }

    /// Takes a service's sockets from a process that was given them by an earlier daemon.
    pub fn recover(
        &mut self,
        service: &ServiceName,
        wanted: &BTreeMap<String, SocketAddr>,
        pidfd: &OwnedFd,
    ) {
        for (place, (name, address)) in (FIRST..).zip(wanted) {
            let taken = take(pidfd, place).and_then(|socket| {
                // The process may have closed it and opened something else there.
                if socket.local_addr()? == *address {
                    Ok(socket)
                } else {
                    Err(io::ErrorKind::AddrNotAvailable.into())
                }
            });
            match taken {
                Ok(socket) => {
                    let address = *address;
                    self.held
                        .entry(service.clone())
                        .or_default()
                        .insert(name.clone(), Held { address, socket });
                }
                Err(error) => {
                    tracing::warn!(%service, name, %error, "a socket is not taken up");
                }
            }
        }
    }

    /// The services that have sockets here.
    pub fn owners(&self) -> impl Iterator<Item = &ServiceName> {
        self.held.keys()
    }

    /// Further descriptors of a service's sockets.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn copies(&self, service: &ServiceName) -> io::Result<Vec<OwnedFd>> {
        let held = self.held.get(service).into_iter().flatten();
        held.map(|(_, held)| Ok(held.socket.try_clone()?.into()))
            .collect()
    }

    /// Closes the sockets of the services that are not among these.
    pub fn keep(&mut self, is_kept: impl Fn(&ServiceName) -> bool) {
        self.held.retain(|service, _| is_kept(service));
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let listener = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&listener, sockopt::ReuseAddr, &true)?;
    bind(listener.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(listener))
}

/// A copy of another process's descriptor, if it listens for TCP.
fn take(pidfd: &OwnedFd, number: RawFd) -> io::Result<TcpListener> {
    // SAFETY: three integers; the kernel makes a new descriptor or fails.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if nix::sys::socket::getsockopt(&socket, sockopt::AcceptConn)? {
        Ok(TcpListener::from(socket))
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn wanted(address: SocketAddr) -> BTreeMap<String, SocketAddr> {
        BTreeMap::from([("http".to_owned(), address)])
    }

    #[test]
    fn a_socket_stays_open_until_its_service_is_down() {
        // A port that is free now.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let service: ServiceName = "web".parse().unwrap();
        let mut sockets = Sockets::default();
        let first = sockets.of(&service, &wanted(address)).unwrap()[0]
            .1
            .as_raw_fd();
        let again = sockets.of(&service, &wanted(address)).unwrap()[0]
            .1
            .as_raw_fd();
        assert_eq!(first, again);
        TcpStream::connect(address).unwrap();
        sockets.keep(|_| true);
        TcpStream::connect(address).unwrap();
        sockets.keep(|_| false);
        assert!(TcpStream::connect(address).is_err());
        assert!(sockets.of(&service, &BTreeMap::new()).unwrap().is_empty());
    }

    #[test]
    fn a_later_daemon_takes_a_socket_from_a_living_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = crate::watch::pidfd_open(std::process::id() as i32).unwrap();
        assert_eq!(
            take(&own, listener.as_raw_fd())
                .unwrap()
                .local_addr()
                .unwrap(),
            address
        );
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert!(take(&own, file.as_raw_fd()).is_err(), "no socket");
    }
}
