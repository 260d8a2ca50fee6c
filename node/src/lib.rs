//! The qnat daemon and its command line.

pub mod lab;
