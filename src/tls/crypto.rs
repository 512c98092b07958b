//! The one place that chooses an implementation of cryptography.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The implementation that every TLS configuration of latebind is built with: ring.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    // Cloned from the installed one, if any, so that the whole process agrees.
    CryptoProvider::get_default().map_or_else(|| Arc::new(rustls::crypto::ring::default_provider()), Arc::clone)
}

/// Makes [`provider`] the process's default. Libraries that build a configuration without naming a provider need it, so
/// it is the first thing that `main` does. A second call changes nothing.
pub fn install() {
    // Fails only when one is installed already, which is what is wanted.
    let installed = rustls::crypto::ring::default_provider().install_default();
    drop(installed);
}
