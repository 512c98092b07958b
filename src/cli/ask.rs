//! A question at the terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::bail;

/// Asks at the terminal. Where there is none, nobody can say yes, and the error says what to give `instead`.
pub fn agreed(question: &str, instead: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody can be asked, since standard input is no terminal: {instead}");
    }
    write!(anstream::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
