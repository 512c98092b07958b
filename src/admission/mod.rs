//! AdmissionReview in, AdmissionReview out.
//!
//! [`respond`] is a pure function of the bytes that the API server sends, what is known of the cluster, and what the
//! administrator chose. [`service`] puts it behind HTTP, the role webhook puts that behind TLS.

mod body;
mod drain;
pub mod facts;
mod guard;
pub mod metrics;
pub mod mutate;
pub mod patch;
mod respond;
pub mod review;
pub mod service;
mod subject;
pub mod validate;

pub use crate::policy::Exemptions;
pub use respond::{Hook, Reply, respond, respond_to};
pub use subject::{Admission, GuardOptions};
