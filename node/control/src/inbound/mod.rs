//! What comes in, on the control side: load-balancing rules and inbound NAT rules as they are declared (`model`), read from a
//! file (`reading`), judged (`checking`, `bounds`), which frontends, ports and shards they take (`reach`), and what workers judge
//! packets by (`compiling`).
//!
//! Pure. It must never let a rule and a grant of ports have one port of a frontend at a time (`reach`, `compiling`).

pub mod bounds;
pub(crate) mod checking;
pub(crate) mod compiling;
pub mod model;
pub(crate) mod reach;
pub(crate) mod reading;
