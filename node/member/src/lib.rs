//! The member as sans-IO machines: what joins the control group, the flow groups and the worker. The daemon and the
//! simulator drive the very same code; time and every seed are handed in.

#![forbid(unsafe_code)]

pub mod control_member;
pub mod crew;
pub mod flow_member;
pub mod frame;
pub mod turn;
pub mod view;
