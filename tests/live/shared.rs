//! One control plane for all tests of a file, and one runtime: a client's connections belong to the runtime that made it.

use std::future::Future;
use std::sync::LazyLock;

use anyhow::Result;
use latebind_cluster::{Cluster, Options};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// Runs a test to its end.
pub fn run(test: impl Future<Output = Result<()>>) {
    RUNTIME.block_on(async {
        if let Err(error) = test.await {
            panic!("{error:?}");
        }
    });
}

/// The shared control plane. It ends with this process.
pub async fn cluster(options: fn() -> Options) -> &'static Cluster {
    CLUSTER.get_or_init(|| async { Cluster::start(options()).await.expect("a cluster") }).await
}
