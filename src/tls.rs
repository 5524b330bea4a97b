//! The one provider of cryptography of this process, ring: the NATS client's, the HTTP client's and the archive's.

use std::sync::Once;

static INSTALLED: Once = Once::new();

/// Installs it, once, before the first HTTP client is made: rustls takes no provider by itself.
pub fn provide() {
    INSTALLED.call_once(|| {
        // Whoever was first, a library say, has installed the same one: no other is built in.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
