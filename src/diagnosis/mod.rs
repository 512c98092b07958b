//! Why a Pod, a claim, a volume or a node does not move: one cause, the chain that leads to it, what speaks for it, and what to
//! type next.
//!
//! The facts are those of decisions ([`crate::binding`]), and besides them a [`Record`] of what happened: events, conditions, who
//! wrote what. Everything here is pure. Absence is a fact only of kinds of which the record has everything; what is not known
//! is named, and leads to [`Cause::NotKnown`] where it decides.

mod cause;
mod chain;
mod claim;
mod command;
mod consumers;
mod details;
mod diagnose;
mod found;
mod known;
mod local;
mod node;
mod pod;
mod provisioner;
mod provisioner_report;
mod record;
mod scheduler;
mod unplaced;
mod volume;

pub use cause::{Cause, ParseCauseError};
pub use command::{Step, for_claim};
pub use details::{Condition, Details, Field, Lease, Writer};
pub use diagnose::{
    NotFound, diagnose, diagnose_claim, diagnose_node, diagnose_pod, diagnose_volume, not_surveyed, survey,
};
pub use found::{Diagnosis, Line, Link, Subject};
pub use known::Known;
pub use provisioner_report::ProvisionerReport;
pub use record::{Kind, Record, Source};
