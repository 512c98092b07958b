//! The annotation by which an object accepts findings, each with a reason.

use std::collections::BTreeMap;

use crate::binding::Code;

/// Findings about annotations and policies, which whoever writes the object does not accept on behalf of others.
const NEVER_IGNORED: [Code; 4] =
    [Code::IgnoredWithoutReason, Code::NodeNotAllowed, Code::IgnoreNotAllowed, Code::PolicyNotKnown];

/// What one annotation says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ignores {
    /// Reasons by code.
    pub reasons: BTreeMap<Code, String>,
    /// What is wrong with entries that are not honoured.
    pub faults: Vec<String>,
}

/// Reads `CODE: reason; CODE: reason`. A semicolon within a reason is part of it unless a code follows.
#[must_use]
pub fn read(text: &str) -> Ignores {
    let mut ignores = Ignores::default();
    let mut entries: Vec<String> = Vec::new();
    for part in text.split([';', '\n']) {
        match entries.last_mut() {
            Some(entry) if !starts_with_code(part) => {
                entry.push(';');
                entry.push_str(part);
            }
            _ => entries.push(part.to_owned()),
        }
    }
    for entry in entries {
        let entry = entry.trim_matches(|character: char| character.is_whitespace() || character == ';');
        if entry.is_empty() {
            continue;
        }
        let (code, reason) = entry.split_once(':').unwrap_or((entry, ""));
        match (code.parse::<Code>(), reason.trim()) {
            (Ok(code), "") => {
                ignores.faults.push(format!("{code} has no reason; write \"{code}: why it is accepted\""));
            }
            (Ok(code), _) if NEVER_IGNORED.contains(&code) => ignores.faults.push(format!("{code} cannot be ignored")),
            (Ok(code), reason) => {
                ignores.reasons.insert(code, reason.to_owned());
            }
            (Err(error), _) => ignores.faults.push(error.to_string()),
        }
    }
    ignores
}

/// True for what looks like a code, known or not.
fn starts_with_code(part: &str) -> bool {
    let word = part.trim_start();
    let letters = word.bytes().take_while(u8::is_ascii_alphabetic).count();
    let digits = word.bytes().skip(letters).take_while(u8::is_ascii_digit).count();
    let rest = &word[letters + digits..];
    letters == 2 && digits > 0 && (rest.trim_start().is_empty() || rest.trim_start().starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(text: &str) -> Vec<(&'static str, String)> {
        read(text).reasons.into_iter().map(|(code, reason)| (code.as_str(), reason)).collect()
    }

    #[test]
    fn codes_with_reasons() {
        assert_eq!(reasons("LB001: bound by hand"), [("LB001", "bound by hand".to_owned())]);
        assert_eq!(
            reasons(" lb001:bound by hand; see wiki: page 3 ;LB201: old\nLB202: new; "),
            [
                ("LB001", "bound by hand; see wiki: page 3".to_owned()),
                ("LB201", "old".to_owned()),
                ("LB202", "new".to_owned())
            ]
        );
        assert!(read("LB001: a; LB002: b").faults.is_empty());
        assert_eq!(read("  "), Ignores::default());
    }

    #[test]
    fn entries_that_are_not_honoured() {
        for (text, fault) in [
            ("LB001", "LB001 has no reason"),
            ("LB001:  ; LB002: b", "LB001 has no reason"),
            ("LB999: x", "\"LB999\" is not a finding code"),
            ("all of it", "\"all of it\" is not a finding code"),
            ("LB301: x", "LB301 cannot be ignored"),
        ] {
            let ignores = read(text);
            assert_eq!(ignores.faults.len(), 1, "{text}");
            assert!(ignores.faults[0].starts_with(fault), "{:?}", ignores.faults);
            assert!(!ignores.reasons.contains_key(&Code::PinnedToDelayedClaim));
        }
    }
}
