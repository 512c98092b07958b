//! The process that starts, signals and reaps the processes of a cluster or of a node.
//!
//! It is PID 1 wherever it has a PID namespace of its own: all ends with it. Elsewhere (the tier without root) every child asks the
//! kernel to be killed when the supervisor dies. It knows nothing of Kubernetes.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, WaitOptions, WaitStatus};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::task::LocalSet;

use crate::process::{Output, ProcessState, Reply, Request, Signal, Spec};

/// The socket's name in the supervisor's directory.
pub(crate) const SOCKET: &str = "supervisor.sock";

/// How long a process that ended by itself stays away.
const PAUSE: Duration = Duration::from_millis(500);

struct Named {
    state: ProcessState,
    spec: Spec,
    /// Whether it was told to end, rather than ending by itself.
    dismissed: bool,
}

#[derive(Default)]
struct State {
    named: BTreeMap<String, Named>,
    /// Who waits for a child that [`Request::Run`] started.
    runs: HashMap<u32, oneshot::Sender<Option<i32>>>,
}

#[derive(Default)]
struct Supervisor {
    state: RefCell<State>,
    /// Told after each reaping.
    reaped: Notify,
    /// Told when the supervisor is to end.
    exit: Notify,
}

/// Serves `directory/supervisor.sock` until told to exit. Must run on the main thread of a single-threaded runtime:
/// the kernel ties "parent died" to the thread that forked.
pub(crate) async fn serve(directory: &Path) -> Result<()> {
    // A socket's path may have 107 bytes only; a relative one always fits.
    std::env::set_current_dir(directory)?;
    let listener = UnixListener::bind(SOCKET).context("binding the supervisor's socket")?;
    let supervisor = Rc::new(Supervisor::default());
    let local = LocalSet::new();
    local.spawn_local(reap(Rc::clone(&supervisor)));
    let accepting = Rc::clone(&supervisor);
    local.spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let supervisor = Rc::clone(&accepting);
            tokio::task::spawn_local(async move {
                if let Err(error) = converse(&supervisor, stream).await {
                    eprintln!("supervisor: {error:#}");
                }
            });
        }
    });
    local.run_until(supervisor.exit.notified()).await;
    if std::process::id() != 1 {
        local.run_until(end_children(&supervisor)).await;
    }
    Ok(())
}

/// What the kernel does for PID 1: nobody is left behind, not even as a zombie.
async fn end_children(supervisor: &Supervisor) {
    loop {
        let reaped = supervisor.reaped.notified();
        let left: Vec<u32> = {
            let mut state = supervisor.state.borrow_mut();
            state.named.values_mut().for_each(|named| named.dismissed = true);
            state.named.values().filter_map(|named| named.state.pid).collect()
        };
        if left.is_empty() {
            return;
        }
        for pid in left {
            // It may have ended by itself.
            send(pid, Signal::Kill).ok();
        }
        reaped.await;
    }
}

async fn converse(supervisor: &Rc<Supervisor>, stream: UnixStream) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        let request = serde_json::from_str(&line).context("request")?;
        let reply = answer(supervisor, request).await.unwrap_or_else(|error| Reply::Failed(format!("{error:#}")));
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        writer.write_all(&text).await?;
    }
    Ok(())
}

async fn answer(supervisor: &Rc<Supervisor>, request: Request) -> Result<Reply> {
    match request {
        Request::Start { name, spec } => {
            supervisor.start(name, spec)?;
            Ok(Reply::Done)
        }
        Request::Signal { name, signal } => {
            let mut state = supervisor.state.borrow_mut();
            let named = state.named.get_mut(&name).with_context(|| format!("{name} was never started"))?;
            named.dismissed |= matches!(signal, Signal::Terminate | Signal::Kill);
            if let Some(pid) = named.state.pid {
                send(pid, signal).with_context(|| format!("signalling {name}"))?;
            }
            Ok(Reply::Done)
        }
        Request::Wait { name } => loop {
            let reaped = supervisor.reaped.notified();
            if supervisor.state.borrow().named.get(&name).is_none_or(|named| named.state.pid.is_none()) {
                return Ok(Reply::Done);
            }
            reaped.await;
        },
        Request::Run { argv, stdin } => Ok(Reply::Ran(run(supervisor, &argv, stdin).await?)),
        Request::List => {
            Ok(Reply::Processes(supervisor.state.borrow().named.values().map(|named| named.state.clone()).collect()))
        }
        Request::Exit => {
            supervisor.exit.notify_one();
            Ok(Reply::Done)
        }
    }
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("PID 0")?;
    let signal = match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
        Signal::Stop => rustix::process::Signal::STOP,
        Signal::Continue => rustix::process::Signal::CONT,
    };
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// The command for `argv`, tied to this process when no PID namespace does that.
fn command(argv: &[String]) -> Result<Command> {
    let (program, arguments) = argv.split_first().context("an empty command")?;
    let mut command = if std::process::id() == 1 {
        Command::new(program)
    } else {
        let mut tied = Command::new("setpriv");
        tied.args(["--pdeathsig", "KILL", "--", program]);
        tied
    };
    command.args(arguments).env_remove(crate::guard::ROLE).env_remove(crate::guard::DIRECTORY).process_group(0);
    Ok(command)
}

fn start(spec: &Spec) -> Result<u32> {
    let log = OpenOptions::new().create(true).append(true).open(&spec.log)?;
    let mut command = command(&spec.argv)?;
    command.envs(&spec.env).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // The child is reaped by `reap`, by its PID; dropping the handle does not end it.
    Ok(command.spawn()?.id())
}

async fn run(supervisor: &Rc<Supervisor>, argv: &[String], stdin: Option<String>) -> Result<Output> {
    let mut command = command(argv)?;
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context(argv.join(" "))?;
    let (sender, ended) = oneshot::channel();
    supervisor.state.borrow_mut().runs.insert(child.id(), sender);
    let stdout = tokio::process::ChildStdout::from_std(child.stdout.take().context("stdout")?)?;
    let stderr = tokio::process::ChildStderr::from_std(child.stderr.take().context("stderr")?)?;
    let input = child.stdin.take().map(tokio::process::ChildStdin::from_std).transpose()?;
    let feed = async {
        if let (Some(mut pipe), Some(text)) = (input, stdin) {
            // A command may end without reading its input; that is its right.
            pipe.write_all(text.as_bytes()).await.ok();
        }
    };
    let ((), stdout, stderr, code) = tokio::join!(feed, drain(stdout), drain(stderr), ended);
    Ok(Output { code: code?, stdout: stdout?, stderr: stderr? })
}

async fn drain(mut pipe: impl tokio::io::AsyncRead + Unpin) -> io::Result<String> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reaps whatever ends: own children and, for PID 1, orphans.
async fn reap(supervisor: Rc<Supervisor>) {
    let Ok(mut children) = signal(SignalKind::child()) else {
        eprintln!("supervisor: cannot listen for SIGCHLD");
        supervisor.exit.notify_one();
        return;
    };
    loop {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            supervisor.ended(pid.as_raw_nonzero().get().cast_unsigned(), status);
        }
        supervisor.reaped.notify_waiters();
        children.recv().await;
    }
}

impl Supervisor {
    fn ended(self: &Rc<Self>, pid: u32, status: WaitStatus) {
        let mut state = self.state.borrow_mut();
        if let Some(waiting) = state.runs.remove(&pid) {
            // Nobody listens any more when the client of this run has gone.
            waiting.send(status.exit_status()).ok();
        }
        if let Some(named) = state.named.values_mut().find(|named| named.state.pid == Some(pid)) {
            named.state.pid = None;
            named.state.ended = Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (None, Some(signal)) => format!("killed by signal {signal}"),
                (None, None) => "ended".to_owned(),
            });
            if named.spec.restart && !named.dismissed {
                let name = named.state.name.clone();
                tokio::task::spawn_local(Rc::clone(self).start_again(name));
            }
        }
    }

    async fn start_again(self: Rc<Self>, name: String) {
        tokio::time::sleep(PAUSE).await;
        // Meanwhile it may have been dismissed, or started by request.
        let again = match self.state.borrow().named.get(&name) {
            Some(named) if named.state.pid.is_none() && !named.dismissed => named.spec.clone(),
            _ => return,
        };
        if let Err(error) = self.start(name, again) {
            eprintln!("supervisor: {error:#}");
        }
    }

    fn start(&self, name: String, spec: Spec) -> Result<()> {
        let pid = start(&spec).with_context(|| format!("starting {name}: {}", spec.argv.join(" ")))?;
        let state = ProcessState { name: name.clone(), pid: Some(pid), ended: None };
        self.state.borrow_mut().named.insert(name, Named { state, spec, dismissed: false });
        Ok(())
    }
}

/// A connection to a supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    directory: std::path::PathBuf,
}

impl Client {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf() }
    }

    async fn connect(&self) -> Result<UnixStream> {
        use std::os::fd::AsRawFd;
        let directory = std::fs::File::open(&self.directory)?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        Ok(UnixStream::connect(path).await?)
    }

    /// The supervisor's PID as this process sees it.
    pub(crate) async fn pid(&self) -> Result<i32> {
        self.connect().await?.peer_cred()?.pid().context("the supervisor's PID is not visible from here")
    }

    async fn ask(&self, request: &Request) -> Result<Reply> {
        let asking = async {
            let mut stream = self.connect().await?;
            let mut text = serde_json::to_vec(request)?;
            text.push(b'\n');
            stream.write_all(&text).await?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).await?;
            anyhow::ensure!(!line.is_empty(), "it hung up");
            Ok(serde_json::from_str::<Reply>(&line)?)
        };
        match asking.await.with_context(|| format!("asking the supervisor in {}", self.directory.display()))? {
            Reply::Failed(message) => anyhow::bail!(message),
            reply => Ok(reply),
        }
    }

    pub(crate) async fn start(&self, name: &str, spec: Spec) -> Result<()> {
        self.ask(&Request::Start { name: name.to_owned(), spec }).await.map(drop)
    }

    pub(crate) async fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        self.ask(&Request::Signal { name: name.to_owned(), signal }).await.map(drop)
    }

    pub(crate) async fn wait(&self, name: &str) -> Result<()> {
        self.ask(&Request::Wait { name: name.to_owned() }).await.map(drop)
    }

    pub(crate) async fn list(&self) -> Result<Vec<ProcessState>> {
        match self.ask(&Request::List).await? {
            Reply::Processes(processes) => Ok(processes),
            other => anyhow::bail!("unexpected reply {other:?}"),
        }
    }

    pub(crate) async fn run(&self, argv: &[impl AsRef<str>], stdin: Option<String>) -> Result<Output> {
        let argv = argv.iter().map(|word| word.as_ref().to_owned()).collect();
        match self.ask(&Request::Run { argv, stdin }).await? {
            Reply::Ran(output) => Ok(output),
            other => anyhow::bail!("unexpected reply {other:?}"),
        }
    }

    pub(crate) async fn exit(&self) -> Result<()> {
        self.ask(&Request::Exit).await.map(drop)
    }
}
