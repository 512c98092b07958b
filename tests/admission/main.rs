//! Admission over real TLS, asked by a real HTTP client or by raw bytes.
// A test that cannot go on says so by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod command;
mod drain;
mod guard;
mod hostile;
mod lifecycle;
mod policies;
mod reviews;
mod support;
