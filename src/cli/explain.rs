//! `latebind explain`: what a finding code means.

use std::fmt::Write;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::Exit;
use super::output::{self, Output};
use crate::binding::Code;
use crate::report::style::{Style, columns, wrap};

const EXAMPLES: &str = "\
Examples:
  # every code
  latebind explain

  # what happens, why, and what to do next
  latebind explain LB001";

/// Width of paragraphs; longer lines are hard to read.
const WIDTH: usize = 80;

/// Explain a finding code, or list them all.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExplainArgs {
    /// Codes such as LB001; all of them are listed where none is given.
    #[arg(value_name = "CODE")]
    codes: Vec<Code>,

    /// How to print it: text, json or yaml, with =FILE to write it to a file.
    #[arg(short, long, value_name = "FORMAT[=FILE]", default_value = "text")]
    output: Vec<Output<Format>>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
    Yaml,
}

/// Runs it.
pub fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let codes = if args.codes.is_empty() { Code::ALL } else { &args.codes };
    output::print(&args.output, |format, style, out| {
        match format {
            Format::Text if args.codes.is_empty() => out.extend(list(style).bytes()),
            Format::Text => {
                let paragraphs: Vec<String> = codes.iter().map(|code| paragraph(*code, style)).collect();
                out.extend(paragraphs.join("\n").bytes());
            }
            Format::Json => {
                serde_json::to_writer_pretty(&mut *out, &as_object(codes))?;
                out.push(b'\n');
            }
            Format::Yaml => out.extend(serde_saphyr::to_string(&as_object(codes))?.bytes()),
        }
        Ok(())
    })?;
    Ok(Exit::Clean)
}

fn list(style: Style) -> String {
    let row = |code: &Code| vec![code.to_string(), code.severity().as_str().to_owned(), code.title().to_owned()];
    let rows: Vec<_> = Code::ALL.iter().map(row).collect();
    let paint = |row: usize, column: usize, cell: &str| match column {
        0 => style.strong(cell),
        1 => style.severity(Code::ALL[row].severity(), cell),
        _ => cell.to_owned(),
    };
    columns(&rows, paint).join("\n") + "\n"
}

fn paragraph(code: Code, style: Style) -> String {
    let mut text = String::new();
    let severity = style.severity(code.severity(), code.severity().as_str());
    // Writing to a String cannot fail.
    let _infallible = writeln!(text, "{} {severity}  {}\n", style.strong(code.as_str()), style.strong(code.title()));
    for line in wrap(code.about(), WIDTH) {
        let _infallible = writeln!(text, "{line}");
    }
    let _infallible = writeln!(text, "\n{}", style.strong("Next:"));
    for line in wrap(code.next(), WIDTH - 2) {
        let _infallible = writeln!(text, "  {line}");
    }
    let _infallible = writeln!(text, "\n{}", style.faint(&code.help_uri()));
    text
}

fn as_object(codes: &[Code]) -> serde_json::Value {
    let items = codes.iter().map(|code| {
        json!({
            "code": code,
            "severity": code.severity(),
            "title": code.title(),
            "about": code.about(),
            "next": code.next(),
            "helpUri": code.help_uri(),
        })
    });
    json!({"apiVersion": "latebind.dev/v1alpha1", "kind": "FindingCodeList", "items": items.collect::<Vec<_>>()})
}
