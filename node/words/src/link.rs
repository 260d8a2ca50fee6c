//! The data links of a member: one outside, one inside for each virtual network.

use crate::ids::VnetId;
use crate::side::Side;

/// Which data link a frame came by or leaves by. Addresses, neighbours and sizes belong to a link; inside ones may overlap
/// from network to network (D14).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Link {
    /// To the backends of a virtual network.
    Inside(VnetId),
    /// To the network of the public addresses.
    Outside,
}

impl Link {
    /// On which side it lies.
    #[inline]
    #[must_use]
    pub const fn side(self) -> Side {
        match self {
            Self::Inside(_) => Side::Inside,
            Self::Outside => Side::Outside,
        }
    }

    /// Whether backends are there.
    #[inline]
    #[must_use]
    pub const fn is_inside(self) -> bool {
        matches!(self, Self::Inside(_))
    }
}
