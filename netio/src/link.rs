//! What the kernel says about a network interface: index, address, flags. Asked by ioctl on any socket, in the network
//! namespace that the socket was opened in. Never changes an interface.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// A network interface of this namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name, as configured.
    pub name: String,
    /// Its number in this namespace.
    pub ifindex: u32,
    /// Its own (not a shard's) MAC address.
    pub mac: [u8; 6],
}

impl Link {
    /// Looks an interface up.
    ///
    /// # Errors
    /// When there is none of that name, or it is no Ethernet device.
    pub fn named(name: &str) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        let mut request = request(name)?;
        ioctl(&socket, libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: a successful SIOCGIFINDEX filled this member of the union.
        let ifindex = unsafe { request.ifr_ifru.ifru_ifindex };
        let ifindex = u32::try_from(ifindex).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        ioctl(&socket, libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: a successful SIOCGIFHWADDR filled this member of the union.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "not an Ethernet device"));
        }
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = from.cast_unsigned();
        }
        Ok(Self { name: name.to_owned(), ifindex, mac })
    }

    /// The largest IP packet that the interface takes; `None` if the kernel does not say.
    #[must_use]
    pub fn mtu(&self, socket: impl AsFd) -> Option<u16> {
        let mut request = request(&self.name).ok()?;
        ioctl(socket, libc::SIOCGIFMTU, &mut request).ok()?;
        // SAFETY: a successful SIOCGIFMTU filled this member of the union.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        // Larger ones are legal on loopback alone, and IP packets are no longer.
        Some(u16::try_from(mtu).unwrap_or(if mtu < 0 { 0 } else { u16::MAX }))
    }

    /// Whether the interface is up and has a carrier, as seen by `socket`'s namespace. A vanished interface is down.
    #[must_use]
    pub fn is_running(&self, socket: impl AsFd) -> bool {
        let Ok(mut request) = request(&self.name) else { return false };
        if ioctl(socket, libc::SIOCGIFFLAGS, &mut request).is_err() {
            return false;
        }
        // SAFETY: a successful SIOCGIFFLAGS filled this member of the union.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0
    }
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain old data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays 0: the kernel wants a terminated name.
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no interface name"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

fn ioctl(socket: impl AsFd, code: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: each SIOCGIF… reads the name from, and writes one union member to, an ifreq, which `request` is.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), code, std::ptr::from_mut(request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::Link;

    #[test]
    fn names_that_are_no_ethernet_interface_are_refused() {
        for name in ["", "no-such-if0", "a-name-that-is-far-too-long", "a\0b", "lo"] {
            assert!(Link::named(name).is_err(), "{name:?}");
        }
    }
}
