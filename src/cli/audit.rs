//! `latebind audit`: what is stuck in a cluster, and what will be at the next roll-out, drain or restart.

mod publish;

use std::collections::BTreeSet;

use anyhow::Context as _;
use clap::Args;
use k8s_openapi::jiff::Timestamp;
use kube::Client;

use super::Exit;
use super::cluster::ConnectArgs;
use super::input::{self, RulesArgs};
use super::lint::{FailOn, check, fixing};
use super::output::{self, Output};
use crate::binding::{Assumptions, Risks};
use crate::facts::files::{Input, Manifests, Request};
use crate::facts::server::{ClaimsOf, audited_objects};
use crate::report::{AuditCounts, Format, Report, ReportKinds};

const EXAMPLES: &str = "\
Examples:
  # everything in the cluster of your kubeconfig
  latebind audit -A

  # one namespace, for a dashboard of code quality too
  latebind audit -n team-a -o table -o gitlab=audit.json

  # keep the reports that dashboards of policy engines read current
  latebind audit -A --report openreports --fail-on never

  # before nodes are drained (or latebind plan drain NODE): which claims keep their Pods Pending until it is back?
  latebind audit -A -o json | jq -r '.items[] | select(.code == \"LB401\") | .message'

Exit codes:
  0  nothing found at or above --fail-on
  1  findings at or above --fail-on
  2  a flag is wrong
  3  the cluster cannot be reached, or refuses
  5  some objects could not be read; the rest was looked at";

/// List what is stuck in a cluster, and what will be at the next roll-out, drain or restart
///
/// Pods that wait for claims that nobody binds; workloads whose next Pod would; claims whose volume no node can reach any more;
/// Pods of StatefulSets without a volume while others have one; claims that a drain of their node would leave without a place
/// to go. With -A volumes and classes are looked at too. It reads, and writes only the reports that --report asks for. A kind
/// that you may not list ends it: what is not known is no reason to say that nothing is wrong.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct AuditArgs {
    /// The namespace; by default the one of the context.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    /// All namespaces, and volumes and classes.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// How to print what was found: table, json, yaml, sarif, junit, github, gitlab, markdown, openreports or policyreport,
    /// with =FILE to write it to a file; repeatable.
    #[arg(short, long, value_name = "FORMAT[=FILE]", default_value = "table")]
    output: Vec<Output<Format>>,

    /// Write what was found into the cluster as well, as reports of this kind, one for each namespace: those of an earlier
    /// audit are brought up to date, also where nothing is found any more.
    #[arg(long, value_name = "KIND")]
    report: Option<ReportKinds>,

    /// The severity from which on findings make the exit code 1.
    #[arg(long, value_name = "SEVERITY", default_value = "error", help_heading = "Exit code")]
    fail_on: FailOn,

    #[command(flatten)]
    rules: RulesArgs,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs it.
pub fn run(args: &AuditArgs) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = args.connect.client().await?;
        let namespace = args.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let scope = (!args.all_namespaces).then_some(namespace.as_str());
        let report = args.audit(&client, scope).await?;
        output::print(&args.output, |format, style, out| Ok(report.render(format, style, out)?))?;
        if let Some(kinds) = args.report {
            publish::publish(&client, &report, kinds, scope).await.context("the reports were not written")?;
        }
        let fails = report.fail_on.is_some_and(|threshold| report.worst() >= Some(threshold));
        // What could not be read may be stuck: that nothing is can then not be said.
        Ok(match (report.unread.is_empty(), fails) {
            (false, _) => Exit::Partial,
            (true, true) => Exit::Findings,
            (true, false) => Exit::Clean,
        })
    })
}

impl AuditArgs {
    /// Reads the cluster, and looks at everything in it.
    async fn audit(&self, client: &Client, namespace: Option<&str>) -> anyhow::Result<Report> {
        let objects = audited_objects(client, namespace).await?;
        let request = Request {
            files: objects.into_iter().map(|(name, text)| Input::Text { name, text }).collect(),
            ..Request::default()
        };
        let manifests = Manifests::read(&request)?;
        let claims_of = namespace.map_or(ClaimsOf::All, |name| ClaimsOf::Namespaces(BTreeSet::from([name.to_owned()])));
        let read = input::read_facts(client, &claims_of).await?;
        // A Node that could not be read may be the one that a volume is on, and a claim the one that is missed.
        let are_all = read.malformed.is_empty();
        let malformed = read.malformed.iter().map(|problem| crate::report::Unread {
            file: "cluster".to_owned(),
            at: None,
            message: problem.clone(),
        });
        let malformed: Vec<_> = malformed.collect();
        let manifests = manifests.within(read.facts);
        let facts = manifests.facts();
        let risks = Risks::new(facts.nodes().cloned(), are_all);
        let rules = self.rules.rules(Assumptions::in_order());
        let judge =
            check::Judge { view: facts, rules: &rules, requester: None, now: Timestamp::now(), risks: Some(&risks) };
        let mut checked = check::check(&manifests, &judge);
        let _nothing_is_written = fixing::carry_out(&mut checked, None, fixing::Mode::Propose);
        let unread = manifests.problems.iter().map(|problem| crate::report::Unread {
            file: problem.place.file.clone(),
            at: None,
            message: problem.message.clone(),
        });
        Ok(Report {
            audit: Some(AuditCounts::of(&checked.findings)),
            findings: checked.findings,
            objects: checked.objects,
            assumptions: checked.assumptions.iter().map(ToString::to_string).collect(),
            unread: unread.chain(malformed).collect(),
            not_judged: checked.not_judged,
            fail_on: self.fail_on.severity(),
        })
    }
}
