//! `webhook-manifests/chart/README.md` lists the chart's values: each with its default and the comment above it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const HEAD: &str = "\
# latebind

Ends the deadlock between Pods that name their node and claims that wait for their first consumer: rewrites such Pods when they are
created, helps those that are stuck already, and makes local volumes if asked to. [The project](https://github.com/latebind/latebind)
has the documentation.

```sh
helm install latebind webhook-manifests/chart --namespace latebind-system --create-namespace --wait
helm test latebind --namespace latebind-system
```

`ci/` has values for rescue alone, the provisioner alone, host networks and mirrors. Values are checked by `values.schema.json`.

## Values

Generated from `values.yaml`; `LATEBIND_UPDATE=1 cargo test --test readme` writes it anew.

| value | default | |
| --- | --- | --- |
";

/// One line of the file: how deep, key, what stands behind the colon.
fn entry(line: &str) -> Option<(usize, &str, &str)> {
    let text = line.trim_start();
    let (key, value) = text.split_once(':')?;
    let is_key = !key.is_empty() && key.chars().all(|letter| letter.is_ascii_alphanumeric());
    is_key.then_some((line.len() - text.len(), key, value.trim()))
}

fn table(values: &str) -> String {
    let (mut rows, mut comment, mut above) = (String::new(), Vec::new(), Vec::<(usize, &str, String)>::new());
    for line in values.lines() {
        if let Some(text) = line.trim_start().strip_prefix('#') {
            comment.push(text.trim());
            continue;
        }
        let about = std::mem::take(&mut comment).join(" ");
        let Some((depth, key, value)) = entry(line) else { continue };
        above.retain(|(at, ..)| *at < depth);
        let path: Vec<&str> = above.iter().map(|(_, key, _)| *key).chain([key]).collect();
        if value.is_empty() {
            above.push((depth, key, about));
            continue;
        }
        // What is said of a group stands with its first value.
        let groups = above.iter_mut().map(|(.., text)| std::mem::take(text)).filter(|text| !text.is_empty());
        let about: Vec<String> = groups.chain([about]).filter(|text| !text.is_empty()).collect();
        let cell = |text: &str| text.replace('|', "\\|");
        writeln!(rows, "| `{}` | `{}` | {} |", path.join("."), cell(value), cell(&about.join(" "))).unwrap();
    }
    rows
}

#[test]
fn the_page_of_the_chart_lists_its_values() {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("webhook-manifests/chart");
    let values = fs::read_to_string(chart.join("values.yaml")).unwrap();
    let page = format!("{HEAD}{}", table(&values));
    assert!(page.matches("\n| `").count() > 80, "{page}");
    let file = chart.join("README.md");
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        fs::write(&file, &page).unwrap();
        return;
    }
    let now = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(now, page, "LATEBIND_UPDATE=1 cargo test --test readme writes it anew");
}
