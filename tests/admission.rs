//! Admission over real TLS, asked by a real HTTP client or by raw bytes.
// A test that cannot go on says so by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "admission/command.rs"]
mod command;
#[path = "admission/hostile.rs"]
mod hostile;
#[path = "admission/lifecycle.rs"]
mod lifecycle;
#[path = "admission/respond.rs"]
mod respond;
#[path = "admission/reviews.rs"]
mod reviews;
#[path = "admission/support.rs"]
mod support;
