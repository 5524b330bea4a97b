//! SIGINT and SIGTERM: the first asks for a clean end, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit status of a process that a second signal ended, as shells report an interrupt.
const ENDED_BY_SIGNAL: i32 = 130;

/// A token that the first SIGINT or SIGTERM cancels; the second one ends the process.
pub fn stop_on_signal() -> CancellationToken {
    let token = CancellationToken::new();
    let watched = token.clone();
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            tracing::error!("signals cannot be watched: this process ends only when it is killed");
            return;
        };
        for again in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if again {
                std::process::exit(ENDED_BY_SIGNAL);
            }
            watched.cancel();
        }
    });
    token
}
