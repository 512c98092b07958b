//! `docs/findings.md` is generated from the finding codes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use latebind::binding::Code;

fn page() -> String {
    let intro = "# Findings\n\nEvery warning, event, report and metric of latebind speaks in these codes. `latebind explain \
                 LB001` prints the same text at a terminal.\n\nThis page is generated from `src/binding/finding.rs`; \
                 `make update` writes it anew.\n";
    let section = |code: &Code| {
        let (title, severity) = (code.title(), code.severity().as_str());
        format!("\n## {code}\n\n**{title}** ({severity})\n\n{}\n\n*What to do:* {}\n", code.about(), code.next())
    };
    std::iter::once(intro.to_owned()).chain(Code::ALL.iter().map(section)).collect()
}

#[test]
fn the_page_says_what_the_codes_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/findings.md");
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        fs::write(&path, page()).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), page(), "run `make update`");
}

/// The host is not asked: that the page of this repository has the heading is what a link needs.
#[test]
fn every_help_link_leads_to_a_heading_of_the_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for code in Code::ALL {
        let uri = code.help_uri();
        let (page, anchor) = uri.split_once('#').unwrap();
        let (_, file) = page.split_once("/blob/main/").unwrap();
        let text = fs::read_to_string(root.join(file)).unwrap();
        let headings = text.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_lowercase);
        assert_eq!(headings.filter(|heading| heading == anchor).count(), 1, "{uri}");
    }
}

#[test]
fn codes_are_unique_and_in_order() {
    let names: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let unique: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(unique.into_iter().collect::<Vec<_>>(), names);
}

#[test]
fn every_code_reads_back_from_its_name() {
    for code in Code::ALL {
        assert_eq!(code.as_str().parse::<Code>().as_ref(), Ok(code));
        assert_eq!(code.as_str().to_lowercase().parse::<Code>().as_ref(), Ok(code));
    }
    assert!("LB999".parse::<Code>().is_err());
}
