//! Sockets: made, bound, named. Everything after that is the ring's.
use crate::error::RingError;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest path of a unix socket, in bytes.
pub(crate) const UNIX_PATH_MAX: usize = 107;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// A TCP connection whose data are not acknowledged for this long is dead, in milliseconds.
const USER_TIMEOUT: i32 = 10_000;
/// The same of one that may not read for a while.
const PATIENT_TIMEOUT: i32 = 5 * 60 * 1000;

/// An address as the kernel takes it.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    storage: libc::sockaddr_storage,
    pub len: libc::socklen_t,
}

impl Name {
    pub fn tcp(address: SocketAddr) -> Name {
        // SAFETY: a zeroed storage is a valid one.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let at = (&raw mut storage).cast::<u8>();
        let len = match address {
            SocketAddr::V4(v4) => {
                let name = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: a storage has room for every kind of address.
                unsafe { at.cast::<libc::sockaddr_in>().write(name) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let name = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { at.cast::<libc::sockaddr_in6>().write(name) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Name { storage, len: len as libc::socklen_t }
    }

    pub fn unix(path: &Path) -> Result<Name, RingError> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() > UNIX_PATH_MAX {
            return Err(RingError::PathTooLong(path.to_owned()));
        }
        // SAFETY: as above.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let name = (&raw mut storage).cast::<libc::sockaddr_un>();
        // SAFETY: as above; the path and its zero fit, as was checked.
        unsafe {
            (*name).sun_family = libc::AF_UNIX as libc::sa_family_t;
            let to = (&raw mut (*name).sun_path).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        let len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
        Ok(Name { storage, len: len as libc::socklen_t })
    }

    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }
    fn family(&self) -> i32 {
        i32::from(self.storage.ss_family)
    }
    fn is_tcp(&self) -> bool {
        self.family() != libc::AF_UNIX
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn set(fd: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value is live and of the size given.
    check(unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) }).map(drop)
}

/// A socket for connecting to `name`.
pub(crate) fn socket(name: &Name) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(name.family(), libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if name.is_tcp() {
        tune_tcp(fd.as_raw_fd());
    }
    Ok(fd)
}

/// No delay, and an end to connections whose other side is gone. Does nothing to a socket that is not TCP.
pub(crate) fn tune_tcp(fd: RawFd) {
    // a refused option costs time, not correctness: heartbeats watch over the connection
    let _ = set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    let _ = set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    let _ = set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 5);
    let _ = set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 2);
    let _ = set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3);
    let _ = set(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, USER_TIMEOUT);
}

/// Data that are not acknowledged end the connection late: who does not read for a while, with a window of nothing, is no dead
/// machine. Without any bound the kernel would go on for a quarter of an hour with one that is (found in review). The bound is
/// also that of keepalives: Linux counts no probes where there is one.
pub(crate) fn be_patient(fd: RawFd) {
    // refused, as by what is not TCP, it changes nothing
    let _ = set(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, PATIENT_TIMEOUT);
}

/// Whether a socket is TCP's.
pub(crate) fn is_tcp(fd: RawFd) -> bool {
    let mut domain = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value and its length are live and of the size given.
    let found = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, (&raw mut domain).cast(), &raw mut len)
    };
    found == 0 && domain != libc::AF_UNIX
}

/// Bytes that the kernel took and the other end's kernel did not acknowledge; of TCP.
pub(crate) fn unacknowledged(fd: RawFd) -> usize {
    let mut bytes = 0i32;
    // SAFETY: the value is live. TIOCOUTQ is SIOCOUTQ, to a socket.
    let found = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    // a connection that cannot tell is one whose end is on its way: nothing more arrives
    if found < 0 { usize::MAX } else { bytes.max(0) as usize }
}

fn bound(name: &Name) -> io::Result<OwnedFd> {
    let fd = socket(name)?;
    if name.is_tcp() {
        set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    // SAFETY: the name is live and of the length given.
    check(unsafe { libc::bind(fd.as_raw_fd(), name.as_ptr(), name.len) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
    Ok(fd)
}

/// A listening TCP socket and its address, with the port that was picked.
pub(crate) fn listen_tcp(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), RingError> {
    let error = |why| RingError::Listen { at: address.to_string(), why };
    let fd = bound(&Name::tcp(address)).map_err(error)?;
    let listener = std::net::TcpListener::from(fd);
    let address = listener.local_addr().map_err(error)?;
    Ok((listener.into(), address))
}

/// A listening unix socket. One that nobody listens on any more is replaced.
pub(crate) fn listen_unix(path: &Path) -> Result<OwnedFd, RingError> {
    let name = Name::unix(path)?;
    let error = |why| RingError::Listen { at: path.display().to_string(), why };
    match bound(&name) {
        Err(why) if why.kind() == io::ErrorKind::AddrInUse => {
            match std::os::unix::net::UnixStream::connect(path) {
                Err(dead) if dead.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(error)?;
                    bound(&name).map_err(error)
                }
                _ => Err(error(why)),
            }
        }
        bound => bound.map_err(error),
    }
}

/// Whether the other end of a connected socket is another machine.
pub(crate) fn is_remote(fd: &OwnedFd) -> bool {
    let Ok(fd) = fd.try_clone() else { return false };
    let socket = std::net::TcpStream::from(fd);
    match (socket.local_addr(), socket.peer_addr()) {
        (Ok(here), Ok(there)) => here.ip() != there.ip() && !there.ip().is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_timeout(fd: RawFd) -> i32 {
        let mut value = -1i32;
        let mut len = size_of::<i32>() as libc::socklen_t;
        // SAFETY: the value and its length are live and of the size given.
        let found = unsafe {
            libc::getsockopt(
                fd,
                libc::IPPROTO_TCP,
                libc::TCP_USER_TIMEOUT,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        assert_eq!(found, 0);
        value
    }

    #[test]
    fn who_is_patient_waits_for_a_reader_for_minutes_and_not_for_ever() {
        let name = Name::tcp("127.0.0.1:1".parse().expect("an address"));
        let fd = socket(&name).expect("a socket");
        assert_eq!(user_timeout(fd.as_raw_fd()), USER_TIMEOUT);
        be_patient(fd.as_raw_fd());
        assert_eq!(user_timeout(fd.as_raw_fd()), PATIENT_TIMEOUT);
    }

    #[test]
    fn a_unix_socket_is_not_tcp() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().expect("a pair");
        be_patient(a.as_raw_fd());
        let tcp = socket(&Name::tcp("127.0.0.1:1".parse().expect("an address"))).expect("a socket");
        assert_eq!((is_tcp(a.as_raw_fd()), is_tcp(tcp.as_raw_fd())), (false, true));
    }
}
