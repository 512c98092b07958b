//! Writes `docs/diagnose.md` from the causes.

use std::fmt::Write as _;
use std::path::Path;

use latebind::diagnosis::Cause;

const INTRO: &str = "\
<!-- Generated from src/diagnosis/cause.rs by `LATEBIND_UPDATE=1 cargo test --test diagnose`. Do not edit. -->
# Why does it not move?

`latebind diagnose` answers for a Pod, a claim, a volume or a node: one cause, the chain from the Pod to whoever makes its
volume, the lines that speak for it, and the command to type next.

```sh
latebind diagnose pod/web -n team-a    # why does this Pod not start?
latebind diagnose -A                   # everything that does not move, the oldest first
latebind diagnose pod/web --watch      # and again whenever the answer is another
```

It reads what you may read and writes nothing. What you may not read is named under *Not known*, and nothing is concluded from
it: that no event is there counts only where all events are known, that a claim does not exist only where all claims of the
namespace are.

## Without a cluster

```sh
latebind dump -A -o dump               # or: -n team-a
latebind diagnose --from dump
```

`latebind dump` writes the objects that a diagnosis looks at, and of each only the fields that it reads: no environment, command
or arguments of containers, no parameters of classes, no annotation that is not about volumes. Secrets and ConfigMaps are never
read. Events are written as they are: look at their messages before you hand a dump on.

`--from` reads other dumps too: `kubectl get ... -o yaml` of any kinds, the directory that
`kubectl cluster-info dump --output-directory` writes, and support bundles that keep lists in files such as `pods/default.json`
and `pvs.json`. A list that an API server wrote holds everything of its kind and namespace, and so what is not in it does not
exist; kubectl's own lists may be anybody's choice, and prove no absence. `--complete` says that they do.

## Output and exit codes

`-o json` and `-o yaml` write a `DiagnosisList` of `latebind.dev/v1alpha1`: each item has `subject`, `cause`, `severity`, `summary`,
`chain`, `evidence`, `next` (with `fixes: true` where the command removes the cause), `notKnown`, `since` and `ageSeconds`.

| Code | Meaning |
| --- | --- |
| 0 | nothing is blocked; what waits, waits as it should |
| 1 | something is blocked, and the cause is named |
| 2 | a flag or an input is wrong, or there is no such object |
| 3 | the cluster cannot be reached, or refuses |
| 5 | what decides is not known, or some of the input could not be read |

A cause of severity `error` blocks; `info` is as it should be.

`latebind fix pod/web` does for the claims of a stuck Pod what the rescue loop would, once, with your own rights. It shows what it
writes and why that is safe, asks (`--yes`, `--dry-run=client`, `--dry-run=server`), and refuses with the reason where nothing may be
written. It writes to claims and volumes only, and deletes nothing. A [PinPolicy](policies.md) that does not allow the Pod's node keeps it
from writing; where you may not list PinPolicies it says so, and `--accept-unknown-policies` goes on.

In a pipeline, `latebind wait pod/web --for=unblocked --timeout=60s` waits until nothing is in the way of a Pod or a claim; when the
time is up it prints the diagnosis and exits with 4.

## Causes

| Cause | Severity | In short |
| --- | --- | --- |
";

/// Compares the page with the causes, or writes it when `LATEBIND_UPDATE` is set.
pub fn check(page: &Path) -> Result<(), String> {
    let wanted = write().map_err(|error| error.to_string())?;
    let told = |error: std::io::Error| format!("{}: {error}", page.display());
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        return std::fs::write(page, wanted).map_err(told);
    }
    let found = std::fs::read_to_string(page).map_err(told)?;
    if found == wanted {
        Ok(())
    } else {
        Err("docs/diagnose.md: LATEBIND_UPDATE=1 cargo test --test diagnose".to_owned())
    }
}

fn write() -> Result<String, std::fmt::Error> {
    let mut page = INTRO.to_owned();
    for cause in Cause::ALL {
        let anchor = cause.as_str().to_lowercase();
        writeln!(page, "| [{cause}](#{anchor}) | {} | {} |", cause.severity().as_str(), cause.title())?;
    }
    for cause in Cause::ALL {
        write!(page, "\n### {cause}\n\n**{}.** {}\n", cause.title(), cause.about())?;
        if !cause.next().is_empty() {
            write!(page, "\n*Next:* {}\n", cause.next())?;
        }
    }
    Ok(page)
}
