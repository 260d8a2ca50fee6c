//! The qnat daemon and its command line.
