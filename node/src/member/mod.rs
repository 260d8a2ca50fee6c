//! The member as a sans-IO machine: what joins the control group, the flow groups and the workers. The daemon and the
//! simulator drive the very same code.

pub mod frame;
