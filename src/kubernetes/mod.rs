//! What every role needs to talk to an API server: the client, calls with a deadline, the loop, events, the Lease.

pub mod api;
pub mod client;
pub mod controller;
pub mod events;
pub mod lease;
pub mod pods;
pub mod proxy;
