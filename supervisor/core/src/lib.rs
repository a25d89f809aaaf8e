//! Decides everything, does nothing.
