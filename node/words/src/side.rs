//! The two data networks of a member.

/// Which data network a frame, or an interface, belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// The network of the backends.
    Inside,
    /// The network of the public addresses.
    Outside,
}

impl Side {
    /// Both, in the order of `index`.
    pub const ALL: [Self; 2] = [Self::Inside, Self::Outside];

    /// 0 inside, 1 outside: for arrays with one element per side, and for the BPF maps.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Inside => 0,
            Self::Outside => 1,
        }
    }

    /// The other one.
    #[inline]
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Inside => Self::Outside,
            Self::Outside => Self::Inside,
        }
    }
}
