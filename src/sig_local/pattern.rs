//! Patterns of file names: the old provisioner's are Go's, a LocalPool's those of a shell.

/// A pattern as a LocalPool has it: `[^...]` is written `[!...]` there, and a letter is taken literally in brackets instead of
/// behind a backslash. `None` for what is no pattern, and for brackets that would mean something else.
pub(super) fn translate(pattern: &str) -> Option<String> {
    let mut translated = String::new();
    let mut rest = pattern.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '[' => translated.push_str(&brackets(&mut rest)?),
            '\\' => match rest.next()? {
                special @ ('*' | '?' | '[') => translated.extend(['[', special, ']']),
                plain => translated.push(plain),
            },
            // Several are one; two in a row mean something else elsewhere.
            '*' if translated.ends_with('*') => {}
            plain => translated.push(plain),
        }
    }
    Some(translated)
}

/// Brackets up to their end, which the letters are taken from.
fn brackets(rest: &mut std::str::Chars<'_>) -> Option<String> {
    let (inside, after) = rest.as_str().split_once(']')?;
    let (inside, is_negated) = match inside.strip_prefix('^') {
        Some(inside) => (inside, true),
        None => (inside, false),
    };
    if inside.contains('\\') || inside.starts_with(['!', '^']) || !are_ranges(inside) {
        return None;
    }
    *rest = after.chars();
    Some(format!("[{}{inside}]", if is_negated { "!" } else { "" }))
}

/// True for letters and ranges of letters, at least one.
fn are_ranges(text: &str) -> bool {
    let mut letters = text.chars().peekable();
    while let Some(first) = letters.next() {
        let is_range = letters.next_if_eq(&'-').is_some();
        if first == '-' || (is_range && letters.next().is_none_or(|last| last == '-' || last < first)) {
            return false;
        }
    }
    !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_takes_means_the_same_or_is_refused() {
        for (go, ours) in [
            ("nvme*", "nvme*"),
            ("a**b", "a*b"),
            ("disk-[0-9]?", "disk-[0-9]?"),
            ("[^a-c]x", "[!a-c]x"),
            (r"a\*b\c", "a[*]bc"),
            ("a]b", "a]b"),
        ] {
            assert_eq!(translate(go).as_deref(), Some(ours), "{go}");
        }
        for refused in ["[", "[a", "[]", "[!a]", "[^!a]", r"[\]]", "[a-]", "[-a]", "[z-a]", r"a\"] {
            assert_eq!(translate(refused), None, "{refused}");
        }
    }
}
