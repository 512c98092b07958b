//! latebind.
