//! What the kernel says about a network interface: index, address, flags. Asked by ioctl on any socket, in the network
//! namespace that the socket was opened in. Never changes an interface.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

/// What has become of an interface since it was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Up, with a carrier.
    Up,
    /// Switched off, or without a carrier.
    Down,
    /// There is none of that name.
    Gone,
    /// Another one has its name: it was made anew, or has another MAC. Nothing that was opened on it works any more.
    Anew,
}

impl LinkState {
    /// Its word in log lines.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Gone => "gone",
            Self::Anew => "anew",
        }
    }
}

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
        let (ifindex, mac) = look(&socket, &mut request)?;
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

    /// What has become of the interface, as seen by `socket`'s namespace.
    #[must_use]
    pub fn state(&self, socket: impl AsFd) -> LinkState {
        let Ok(mut request) = request(&self.name) else { return LinkState::Gone };
        match look(&socket, &mut request) {
            Err(_) => return LinkState::Gone,
            Ok((ifindex, mac)) if ifindex != self.ifindex || mac != self.mac => return LinkState::Anew,
            Ok(_) => {}
        }
        if ioctl(socket, libc::SIOCGIFFLAGS, &mut request).is_err() {
            return LinkState::Gone;
        }
        // SAFETY: a successful SIOCGIFFLAGS filled this member of the union.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        if flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0 { LinkState::Up } else { LinkState::Down }
    }
}

/// Index and MAC address of the interface that `request` names.
fn look(socket: &impl AsFd, request: &mut libc::ifreq) -> io::Result<(u32, [u8; 6])> {
    ioctl(socket, libc::SIOCGIFINDEX, request)?;
    // SAFETY: a successful SIOCGIFINDEX filled this member of the union.
    let ifindex = unsafe { request.ifr_ifru.ifru_ifindex };
    let ifindex = u32::try_from(ifindex).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    ioctl(socket, libc::SIOCGIFHWADDR, request)?;
    // SAFETY: a successful SIOCGIFHWADDR filled this member of the union.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    if address.sa_family != libc::ARPHRD_ETHER {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "not an Ethernet device"));
    }
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from.cast_unsigned();
    }
    Ok((ifindex, mac))
}

/// The interface of this namespace that has `address`; `None` if none has it, or if it is the unspecified one. A loopback
/// address belongs to the loopback interface.
///
/// # Errors
/// What the kernel says.
pub fn carrying(address: IpAddr) -> io::Result<Option<String>> {
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is a place for a pointer.
    if unsafe { libc::getifaddrs(&raw mut list) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = None;
    let mut at = list;
    // SAFETY: getifaddrs gave a list that ends with a null pointer and stays as it is until freeifaddrs below.
    while let Some(entry) = unsafe { at.as_ref() } {
        at = entry.ifa_next;
        let loopback = entry.ifa_flags & libc::IFF_LOOPBACK.cast_unsigned() != 0;
        // SAFETY: `ifa_addr` is null or a socket address of the family that it names.
        let own = unsafe { ip_of(entry.ifa_addr) };
        if own
            .is_some_and(|own| own == address.to_canonical() || loopback && own.is_loopback() && address.is_loopback())
        {
            // SAFETY: a terminated name, in the list.
            let name = unsafe { std::ffi::CStr::from_ptr(entry.ifa_name) };
            found = Some(name.to_string_lossy().into_owned());
            break;
        }
    }
    // SAFETY: the list is getifaddrs' own, freed once; nothing points into it any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// # Safety
/// `address` is null or points to a socket address as long as its family says.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's word; read unaligned, so that no more is asked of the list.
    unsafe {
        match i32::from(address.as_ref()?.sa_family) {
            libc::AF_INET => {
                let four = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(IpAddr::from(four.sin_addr.s_addr.to_ne_bytes()))
            }
            libc::AF_INET6 => {
                let six = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(IpAddr::from(six.sin6_addr.s6_addr))
            }
            _ => None,
        }
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
    use super::{Link, carrying};

    #[test]
    fn the_interface_of_an_address_is_found() {
        let carries = |address: &str| carrying(address.parse().expect("an address")).expect("a list");
        assert_eq!(carries("127.0.0.1").as_deref(), Some("lo"));
        assert_eq!(carries("127.9.8.7").as_deref(), Some("lo"), "all of 127/8 is the loopback interface's");
        assert_eq!(carries("192.0.2.77"), None);
        assert_eq!(carries("0.0.0.0"), None);
    }

    #[test]
    fn names_that_are_no_ethernet_interface_are_refused() {
        for name in ["", "no-such-if0", "a-name-that-is-far-too-long", "a\0b", "lo"] {
            assert!(Link::named(name).is_err(), "{name:?}");
        }
    }
}
