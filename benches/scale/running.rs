//! A provisioner that works on a simulated cluster, and when it has nothing left to do.

use std::fs;
use std::time::Duration;

use kube::Client;
use latebind::controllers::volumes::{Options, Provisioner};
use latebind::facts::live::{LiveCluster, WatchedPods};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

/// Starts one, on the runtime of the caller, until it is stopped.
pub fn run_provisioner(client: Client, stop: &CancellationToken) {
    let live = LiveCluster::new(WatchedPods::Pending);
    let provisioner =
        Provisioner::new(client.clone(), live.clone(), Options::default(), None, &mut Registry::default());
    let (observer, watching) = (provisioner.observer(), stop.clone());
    tokio::spawn(async move { live.run(client, observer, watching).await });
    tokio::spawn(provisioner.run(|| {}, stop.clone()));
}

/// Waits until nothing is left to do: the first lists are read, and all that there is has been looked at.
pub async fn idle() {
    loop {
        let before = processor_time();
        tokio::time::sleep(Duration::from_millis(200)).await;
        if processor_time().saturating_sub(before) < Duration::from_millis(4) {
            return;
        }
    }
}

/// For how long this thread has run on a processor. Source: `Documentation/scheduler/sched-stats.rst`.
pub fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}
