//! The service on NATS by which a process with shards answers those that have none: `nats micro ls` shows it.
//!
//! A shard is asked for on a subject of its own, in a queue group, so that any process answers that has it; what it
//! has opened is asked of it alone.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request as Message, Service, ServiceExt};
use futures_util::StreamExt;
use futures_util::stream::select_all;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::session::Sessions;
use super::wire::{Ask, Request, decode, dialect, open_all_subject, open_subject, session_subject};
use crate::query::shard::Snapshots;

/// The service's name.
const NAME: &str = "adtally-query";
/// How often a process says that it is still at work on a question.
const AT_WORK_EVERY: Duration = Duration::from_millis(500);
/// How long a stop waits for what is being answered.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// The pause between two attempts to offer the service.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Answers for that many shards until `stop`. What is under way then is finished, if it does not take long; no snapshot
/// is held any more when it ends.
pub async fn serve(
    client: Client,
    snapshots: Arc<dyn Snapshots>,
    shards: u16,
    stop: CancellationToken,
) {
    let replica = format!("{:016x}", rand::random::<u64>());
    let sessions = Sessions::new(snapshots, replica.clone());
    let tasks = TaskTracker::new();
    while !stop.is_cancelled() {
        let (service, endpoints) = match offer(&client, &replica, shards).await {
            Ok(offered) => offered,
            Err(error) => {
                tracing::warn!(%error, "the service that answers for shards could not be offered");
                tokio::select! {
                    () = tokio::time::sleep(AGAIN_AFTER) => continue,
                    () = stop.cancelled() => return,
                }
            }
        };
        let mut messages = Box::pin(select_all(endpoints).take_until(stop.cancelled()));
        while let Some(message) = messages.next().await {
            tasks.spawn(answer(client.clone(), sessions.clone(), message));
        }
        if let Err(error) = service.stop().await {
            tracing::debug!(%error, "the service that answers for shards did not end well");
        }
    }
    tasks.close();
    // What takes longer is asked of somebody else.
    let _ = tokio::time::timeout(ENDS_WITHIN, tasks.wait()).await;
    sessions.end();
}

/// Subscribes to everything that may be asked.
async fn offer(
    client: &Client,
    replica: &str,
    shards: u16,
) -> Result<(Service, Vec<Endpoint>), async_nats::Error> {
    let service = client
        .service_builder()
        .description("Parts of answers, a shard each")
        .metadata([("replica".to_owned(), replica.to_owned())].into())
        .start(NAME, env!("CARGO_PKG_VERSION"))
        .await?;
    let mut endpoints = Vec::with_capacity(2 * usize::from(shards) + 1);
    for shard in 0..shards {
        let name = format!("shard-{shard}");
        let any = service.endpoint_builder().queue_group(name.clone());
        endpoints.push(any.name(name.clone()).add(open_subject(shard)).await?);
        let all = service.endpoint_builder().queue_group(replica);
        let name = format!("{name}-all");
        endpoints.push(all.name(name).add(open_all_subject(shard)).await?);
    }
    let session = service.endpoint_builder().queue_group(replica);
    let subject = session_subject(replica);
    endpoints.push(session.name("session").add(subject).await?);
    Ok((service, endpoints))
}

async fn answer(client: Client, sessions: Sessions, message: Message) {
    let request: Request = match decode(&message.message.payload) {
        Ok(request) => request,
        Err(error) => {
            tracing::warn!(%error, "a question about a shard could not be read");
            return;
        }
    };
    if request.dialect != dialect() {
        // Somebody else may speak it; who asks finds nobody, and names the shards.
        tracing::warn!(
            asked = request.dialect,
            own = dialect(),
            "a question about a shard is of another version of adtally"
        );
        return;
    }
    if matches!(request.ask, Ask::Close) {
        sessions.close(request.session);
        return;
    }
    let answering = sessions.answer(request.session, request.number, request.ask);
    tokio::pin!(answering);
    let answer = loop {
        tokio::select! {
            answer = &mut answering => break answer,
            () = tokio::time::sleep(AT_WORK_EVERY) => {
                if let Some(reply) = &message.message.reply {
                    // A lost one is followed by another.
                    let _ = client.publish(reply.clone(), Vec::new().into()).await;
                }
            }
        }
    };
    metrics::counter!("adtally_shard_questions_total").increment(1);
    if let Err(error) = message.respond(Ok(answer.into())).await {
        tracing::warn!(%error, "an answer about a shard was lost");
    }
}
