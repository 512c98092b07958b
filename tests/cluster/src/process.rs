//! What supervisor and client say to each other: one JSON document a line, over a Unix socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How to start a process that is to keep running.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub argv: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Standard output and error are appended here.
    pub log: PathBuf,
    /// Start it again when it ends by itself, as whatever runs these components elsewhere does.
    pub restart: bool,
}

impl Spec {
    pub(crate) fn new(argv: impl IntoIterator<Item = impl Into<String>>, log: PathBuf) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), env: BTreeMap::new(), log, restart: true }
    }

    pub(crate) fn once(self) -> Self {
        Self { restart: false, ..self }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Start (or start again) the named process.
    Start { name: String, spec: Spec },
    /// Send a signal to the named process.
    Signal { name: String, signal: Signal },
    /// Answer when the named process has ended.
    Wait { name: String },
    /// Run a command to its end.
    Run { argv: Vec<String>, stdin: Option<String> },
    /// List the named processes.
    List,
    /// End the supervisor; in a PID namespace of its own everything ends with it, as in a power cut.
    Exit,
}

/// The signals that tests send to components.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// SIGTERM: ask to end.
    Terminate,
    /// SIGKILL: end at once.
    Kill,
    /// SIGSTOP: stand still.
    Stop,
    /// SIGCONT: carry on.
    Continue,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Done,
    Ran(Output),
    Processes(Vec<ProcessState>),
    Failed(String),
}

/// What a command printed and how it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Output {
    /// The exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are no UTF-8 are replaced.
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that succeeded, else an error that shows what it said.
    pub fn success(self) -> anyhow::Result<String> {
        anyhow::ensure!(self.code == Some(0), "exit status {:?}: {}{}", self.code, self.stderr, self.stdout);
        Ok(self.stdout)
    }
}

/// A named process as its supervisor knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessState {
    /// Its name, such as `kube-apiserver`.
    pub name: String,
    /// Its PID in the supervisor's PID namespace; `None` when it has ended.
    pub pid: Option<u32>,
    /// How it ended, in words.
    pub ended: Option<String>,
}
