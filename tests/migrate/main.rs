//! From other provisioners to latebind, by the commands of `docs/migrate.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic where the premise of a test fails")]

mod page;
mod products;
mod way;

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};

fn main() -> ExitCode {
    // Each takes a whole cluster over.
    let mut suite = Suite::new("migrate").clusters_with_nodes(2);
    macro_rules! alone {
        ($($test:path),* $(,)?) => { $( suite.alone(Needs::Nodes, stringify!($test), $test); )* };
    }
    alone![
        products::k3s_with_its_bundled_class,
        products::k3s_whose_local_storage_is_disabled_already,
        products::a_helm_release_with_its_default_values,
        products::rke2,
        products::kind,
        products::minikube,
        products::microk8s,
        products::a_script_that_archives_holds_its_class_back,
        way::three_commands_replace_the_real_rancher_provisioner,
    ];
    suite.run()
}
