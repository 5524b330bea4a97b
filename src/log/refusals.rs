//! What the broker refuses a connection for lack of permission.
//!
//! NATS answers nobody who publishes where he may not: it says so on the connection, about a subject and not about a
//! message, and whoever waits for an answer waits in vain. So the connection tells it here, and who asks for something
//! listens while he waits. Only what is refused meanwhile counts, since permissions can be changed under a connection.

use std::sync::Arc;

use tokio::sync::broadcast;

/// Refusals that a slow listener may be behind before it misses the oldest.
const KEPT: usize = 64;

/// Where a connection tells what it was refused.
#[derive(Clone, Debug)]
pub struct Refusals(broadcast::Sender<Arc<str>>);

impl Default for Refusals {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl Refusals {
    /// The server has reported an error on the connection.
    pub(super) fn note(&self, error: &str) {
        if refused_subject(error).is_some() {
            // An error says that nobody listens.
            let _ = self.0.send(error.into());
        }
    }

    /// Listens from now on: begin before what is refused is sent.
    pub fn listen(&self) -> Listening {
        Listening(self.0.subscribe())
    }
}

/// Hears what is refused.
#[derive(Debug)]
pub struct Listening(broadcast::Receiver<Arc<str>>);

impl Listening {
    /// Waits until it is refused to publish on a subject, and returns the server's words; for ever where it is not.
    pub async fn of(&mut self, subject: &str) -> Arc<str> {
        loop {
            match self.0.recv().await {
                Ok(error) if refused_subject(&error) == Some(subject) => return error,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// The subject that an error of a server refuses to publish on; none where it says something else.
fn refused_subject(error: &str) -> Option<&str> {
    let (_, rest) = error.split_once("Permissions Violation for Publish to \"")?;
    rest.split_once('"').map(|(subject, _)| subject)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt as _;

    use super::*;

    /// As nats-server 2.15.1 says it and async-nats hands it on.
    const REFUSED: &str = "nats: Permissions Violation for Publish to \"ads.click.a\"";

    #[test]
    fn only_a_refusal_to_publish_names_a_subject() {
        assert_eq!(refused_subject(REFUSED), Some("ads.click.a"));
        for other in [
            "nats: Permissions Violation for Subscription to \"ads.click.a\"",
            "nats: maximum connections exceeded",
            "Permissions Violation for Publish to \"unended",
        ] {
            assert_eq!(refused_subject(other), None, "{other}");
        }
    }

    #[test]
    fn who_listens_hears_of_his_subject_and_of_what_comes_after() {
        let refusals = Refusals::default();
        refusals.note(REFUSED);
        let (mut late, mut other) = (refusals.listen(), refusals.listen());
        assert!(late.of("ads.click.a").now_or_never().is_none());
        refusals.note("nats: Permissions Violation for Publish to \"ads.click.b\"");
        refusals.note(REFUSED);
        assert_eq!(&*late.of("ads.click.a").now_or_never().unwrap(), REFUSED);
        assert!(other.of("ads.click").now_or_never().is_none());
    }
}
