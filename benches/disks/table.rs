//! The figures as one page.

use std::time::Duration;

use latebind_test_support::machine::{machine, today};

use crate::ELSEWHERE;
use crate::makers::Part;

/// What is measured, the figure that is compared, and how it is written.
pub type Row = (String, f64, String);

/// The median of times, with the shortest and the longest.
pub fn times(what: String, mut all: Vec<Duration>) -> Row {
    all.sort();
    let seconds: Vec<f64> = all.iter().map(Duration::as_secs_f64).collect();
    let (middle, last) = (seconds.len() / 2, seconds.len() - 1);
    let median = f64::midpoint(seconds[last - middle], seconds[middle]);
    (what, median, format!("{median:.2} s ({:.2} to {:.2})", seconds[0], seconds[last]))
}

/// What each process has in memory.
pub fn memory<'a>(when: &'a str, parts: &'a [Part]) -> impl Iterator<Item = Row> + 'a {
    parts.iter().map(move |it| (format!("memory {}, {when}", it.place), it.memory, format!("{:.1} MiB", it.memory)))
}

/// What each has received in between.
pub fn received<'a>(when: &'a str, before: &'a [Part], after: &'a [Part]) -> impl Iterator<Item = Row> + 'a {
    after.iter().filter_map(move |now| {
        let then = before.iter().find(|it| it.place == now.place)?;
        let kib = (now.received - then.received) / 1024.0;
        Some((format!("received {}, {when}", now.place), kib, format!("{kib:.1} KiB")))
    })
}

/// The page: what is latebind's, and the version and figures of the other one.
pub fn page(ours: Vec<Row>, peer: Option<(String, Vec<Row>)>) -> String {
    let (version, theirs) = peer.unwrap_or_else(|| ("(not measured)".to_owned(), Vec::new()));
    let binary = if std::env::var_os("LATEBIND_BENCH_BINARY").is_some() { "that ships" } else { "of the benchmark" };
    let kubernetes = latebind_cluster::Version::from_env().unwrap_or(latebind_cluster::Version::DEFAULT);
    let mut page = format!(
        "# Whole disks as volumes: latebind, and sig-storage-local-static-provisioner\n\n\
         {}, {}, Kubernetes {kubernetes}. `LATEBIND_UPDATE=1 LATEBIND_BENCH_PEER=VERSION=PATH cargo bench --bench disks` writes \
         this page anew. PATH is a static binary of the other provisioner, which the bench does not build; without it latebind is \
         measured alone. latebind runs from the binary {binary}.\n\n\
         All in one run on one cluster with a real node, one after the other, each alone and with its defaults. Times are medians, with the shortest and the longest. The disks are tmpfs. The other one looks for disks every \
         10 s, its default; its chart has no value for it. What is measured is spread over such a period, for both. A release is \
         from the deletion of the claim, with what the controller manager does then, until the disk's next volume is Available; the \
         disk was empty each time. Memory is all that is resident, the program too. What was received is all that came to the \
         Pod over its network within 30 s, probes and answers to its own requests included. On each node is latebind's agent, or \
         the other one, which has no other part and watches all volumes; once a cluster is latebind's controller, which watches \
         them too, and reads certificates and configuration of the webhook every 5 s. The webhook ran besides and is not counted: \
         it has no part in what is measured, but each replica watches all volumes. The volumes of other nodes are {ELSEWHERE} \
         objects of nodes that do not exist. A ratio is the other's figure by latebind's.\n\n\
         | what | latebind | sig-storage-local-static-provisioner {version} | ratio |\n| --- | --- | --- | --- |\n",
        today(),
        machine(),
    );
    for (what, value, text) in ours {
        let other = theirs.iter().find(|(of, _, _)| *of == what);
        let ratio = other.map_or_else(String::new, |(_, other, _)| match other / value {
            ratio if ratio < 10.0 => format!("{ratio:.2}"),
            ratio => format!("{ratio:.0}"),
        });
        let other = other.map_or("none", |(_, _, text)| text);
        page.extend(["| ", &what, " | ", &text, " | ", other, " | ", &ratio, " |\n"]);
    }
    page
}
