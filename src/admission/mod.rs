//! AdmissionReview in, AdmissionReview out.

pub mod patch;
