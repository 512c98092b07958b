//! What can come next on a command line, for kubectl: it asks plugins in cobra's protocol.
//!
//! For `kubectl latebind ...` kubectl runs the command `kubectl_complete-latebind` with the words so far, the last of which
//! is to be completed. The answer is a line for each candidate, with a tab before its description, and last a colon with
//! what the shell may add.

use std::io::Write;

use clap::builder::PossibleValue;
use clap::{Arg, Args, Command, ValueHint};

use super::Exit;

/// cobra's word for: the shell may offer files where there is no candidate.
const FILES: &str = ":0";
/// cobra's word for: nothing else fits.
const NOTHING_ELSE: &str = ":4";

/// Complete a command line for kubectl.
#[derive(Debug, Args)]
pub struct CompleteArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORD")]
    words: Vec<String>,
}

/// Runs it.
pub fn run(args: &CompleteArgs, command: Command) -> anyhow::Result<Exit> {
    std::io::stdout().write_all(answer(command, &args.words).as_bytes())?;
    Ok(Exit::Clean)
}

/// The answer to kubectl.
pub(super) fn answer(mut command: Command, words: &[String]) -> String {
    command.build();
    let (typed, last) = match words.split_last() {
        Some((last, typed)) => (typed, last.as_str()),
        None => (words, ""),
    };
    let at = Place::after(&command, typed);
    let mut lines = at.candidates(last);
    lines.push((if at.wants_files(last) { FILES } else { NOTHING_ELSE }.to_owned(), None));
    let line = |(word, about): (String, Option<String>)| match about {
        Some(about) => format!("{word}\t{about}\n"),
        None => format!("{word}\n"),
    };
    lines.into_iter().map(line).collect()
}

/// Where on the command line the next word stands.
struct Place<'a> {
    command: &'a Command,
    /// The flag whose value comes next.
    flag: Option<&'a Arg>,
    /// Positional arguments that have been typed.
    positional: usize,
    /// `--` has been typed: no flag can follow.
    only_values: bool,
}

impl<'a> Place<'a> {
    fn after(command: &'a Command, words: &[String]) -> Self {
        let mut place = Self { command, flag: None, positional: 0, only_values: false };
        for word in words {
            place.pass(word);
        }
        place
    }

    fn pass(&mut self, word: &str) {
        if self.flag.take().is_some() {
            return;
        }
        if self.only_values || !word.starts_with('-') || word == "-" {
            match self.command.find_subcommand(word) {
                Some(found) if self.positional == 0 && !self.only_values => self.command = found,
                _ => self.positional += 1,
            }
        } else if word == "--" {
            self.only_values = true;
        } else if let Some(long) = word.strip_prefix("--") {
            if !long.contains('=') {
                self.flag = self.long(long).filter(|arg| takes_next_word(arg));
            }
        } else {
            // -Rf FILE: a flag that takes a value takes what is left of the word, or the next one.
            let letters: Vec<char> = word.chars().skip(1).collect();
            let found = letters.iter().enumerate().find_map(|(at, letter)| {
                let arg = self.command.get_arguments().find(|arg| arg.get_short() == Some(*letter))?;
                arg.get_action().takes_values().then_some((at, arg))
            });
            self.flag = found.filter(|(at, arg)| at + 1 == letters.len() && takes_next_word(arg)).map(|(_, arg)| arg);
        }
    }

    fn long(&self, name: &str) -> Option<&'a Arg> {
        self.command.get_arguments().find(|arg| arg.get_long() == Some(name))
    }

    /// The argument whose value is being typed, and what stands before the value in the same word.
    fn argument<'w>(&self, last: &'w str) -> Option<(&'a Arg, &'w str, &'w str)> {
        if let Some(flag) = self.flag {
            return Some((flag, "", last));
        }
        if let Some((before, value)) = last.split_once('=').filter(|_| !self.only_values && last.starts_with("--")) {
            let arg = self.long(before.trim_start_matches('-'))?;
            return Some((arg, &last[..=before.len()], value));
        }
        if last.starts_with('-') && !self.only_values {
            return None;
        }
        let positionals: Vec<&Arg> = self.command.get_positionals().filter(|arg| !arg.is_hide_set()).collect();
        // The last one may be given several times.
        let at = self.positional.min(positionals.len().saturating_sub(1));
        positionals.get(at).map(|arg| (*arg, "", last))
    }

    fn candidates(&self, last: &str) -> Vec<(String, Option<String>)> {
        let mut found = Vec::new();
        let first = |text: Option<&clap::builder::StyledStr>| {
            text.map(|text| text.to_string().lines().next().unwrap_or_default().to_owned())
        };
        if let Some((arg, before, typed)) = self.argument(last) {
            let fits = |value: &PossibleValue| !value.is_hide_set() && value.get_name().starts_with(typed);
            let values = arg.get_possible_values().into_iter().filter(fits);
            found.extend(values.map(|value| (format!("{before}{}", value.get_name()), first(value.get_help()))));
        }
        if self.flag.is_some() || self.only_values {
            return found;
        }
        if last.starts_with('-') && !last.contains('=') {
            let flags = self.command.get_arguments().filter(|arg| !arg.is_hide_set());
            let named = flags.filter_map(|arg| Some((format!("--{}", arg.get_long()?), first(arg.get_help()))));
            found.extend(named.filter(|(name, _)| name.starts_with(last)));
        } else if self.positional == 0 {
            let shown = self.command.get_subcommands().filter(|command| !command.is_hide_set());
            let named = shown.map(|command| (command.get_name().to_owned(), first(command.get_about())));
            found.extend(named.filter(|(name, _)| name.starts_with(last)));
        }
        found
    }

    fn wants_files(&self, last: &str) -> bool {
        self.argument(last).is_some_and(|(arg, ..)| {
            matches!(arg.get_value_hint(), ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath)
        })
    }
}

fn takes_next_word(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_require_equals_set()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn complete(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let answer = answer(crate::cli::Cli::command(), &words);
        answer.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn what_fits_is_offered() {
        assert_eq!(complete("li"), ["lint", ":4"]);
        assert_eq!(complete("lint --fail-on in"), ["info", ":4"]);
        assert_eq!(complete("lint --fail-on=w"), ["--fail-on=warning", ":4"]);
        assert_eq!(complete("--color never li"), ["lint", ":4"]);
        assert_eq!(complete("lint --all-n"), ["--all-namespaces", ":4"]);
        assert_eq!(complete("completion ba"), ["bash", ":4"]);
        assert_eq!(complete("import r"), ["rancher", ":4"]);
        assert_eq!(complete("import rancher --conf"), ["--config", ":4"]);
        assert!(complete("").len() > 8 && !complete("").iter().any(|word| word.starts_with('_')));
        assert_eq!(complete("nonsense x"), [":4"]);
    }

    #[test]
    fn files_are_offered_where_a_file_is_wanted() {
        for line in ["lint -f x", "lint -Rf ", "lint --filename=x", "run --role agent --tls-cert ", "certs --out "] {
            assert_eq!(complete(line).last().unwrap(), ":0", "{line}");
        }
        // --server takes its value in the same word only.
        assert!(complete("lint --server --all-n").contains(&"--all-namespaces".to_owned()));
    }

    #[test]
    fn descriptions_follow_a_tab_in_one_line() {
        let answer = answer(crate::cli::Cli::command(), &["lint".to_owned(), "--rec".to_owned()]);
        assert_eq!(answer, "--recursive\tLook into subdirectories too\n:4\n");
    }
}
