//! Room for large answers while their clients read them.
//!
//! A table of a million rows takes some 90 MiB, and whoever asked for it may read slowly. So a large answer takes room
//! before its question counts as done: where there is none, it waits a little among the [`super::MAX_RUNNING`], and
//! further questions wait behind it, instead of tables that pile up. Small answers take none and wait for nobody.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Cancel, QueryError};

/// Rows of large answers that are in memory while they are read, over all clients: some 360 MiB.
pub const MAX_UNREAD_ROWS: usize = 4_000_000;
/// An answer of fewer rows is not counted: it takes less than a megabyte.
pub const LARGE_ROWS: usize = 10_000;
/// How long an answer waits for room: as long, other questions may find all places taken.
pub const ROOM_WITHIN: Duration = Duration::from_secs(5);
/// How often whoever waits for room looks whether its client is still there.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A share of the room, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    permit: OwnedSemaphorePermit,
}

impl Share {
    fn of(permit: OwnedSemaphorePermit) -> Self {
        unread_rows().increment(permit.num_permits() as f64);
        Self { permit }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        unread_rows().decrement(self.permit.num_permits() as f64);
    }
}

fn unread_rows() -> metrics::Gauge {
    metrics::gauge!("adtally_query_unread_rows")
}

/// The room. Clones share it.
#[derive(Clone, Debug)]
pub struct Room {
    rows: Arc<Semaphore>,
    all: usize,
    patience: Duration,
}

impl Room {
    /// Room for so many rows, which is waited for so long.
    pub fn new(rows: usize, patience: Duration) -> Self {
        Self {
            rows: Arc::new(Semaphore::new(rows)),
            all: rows,
            patience,
        }
    }

    /// Waits until so many rows have room, in the order of asking; none for an answer that is not large. It blocks, on a
    /// thread for that.
    ///
    /// # Errors
    /// [`QueryError::Unread`] when nobody made room in time; [`QueryError::TookTooLong`] when nobody waits any more.
    pub fn take(&self, rows: usize, cancel: &Cancel) -> Result<Option<Share>, QueryError> {
        if rows < LARGE_ROWS {
            return Ok(None);
        }
        // An answer that is larger than the room has it for itself.
        let rows = rows.min(self.all) as u32;
        let (runtime, began) = (Handle::current(), Instant::now());
        let mut place = pin!(Arc::clone(&self.rows).acquire_many_owned(rows));
        loop {
            let waited =
                runtime.block_on(async { tokio::time::timeout(LOOK_EVERY, &mut place).await });
            match waited {
                Ok(Ok(permit)) => return Ok(Some(Share::of(permit))),
                Ok(Err(_)) => return Err(QueryError::Store("the service is stopping".into())),
                Err(_) if began.elapsed() >= self.patience => return Err(QueryError::Unread),
                Err(_) => cancel.check()?,
            }
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new(MAX_UNREAD_ROWS, ROOM_WITHIN)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn take(room: &Room, rows: usize, cancel: &Cancel) -> Result<Option<Share>, QueryError> {
        let (room, cancel) = (room.clone(), cancel.clone());
        tokio::task::spawn_blocking(move || room.take(rows, &cancel))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_large_answer_waits_until_another_is_read_and_a_small_one_never() {
        let room = Room::new(30_000, Duration::from_secs(60));
        let cancel = Cancel::after(Duration::from_secs(60));
        let first = take(&room, 20_000, &cancel).await.unwrap();
        assert!(first.is_some());
        let small = take(&room, LARGE_ROWS - 1, &cancel).await.unwrap();
        assert!(small.is_none());
        let waiting = tokio::spawn({
            let (room, cancel) = (room.clone(), cancel.clone());
            async move { take(&room, 20_000, &cancel).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        drop(first);
        assert!(waiting.await.unwrap().unwrap().is_some());
    }

    #[tokio::test]
    async fn an_answer_that_is_larger_than_the_room_has_it_for_itself() {
        let room = Room::new(30_000, Duration::from_millis(150));
        let cancel = Cancel::after(Duration::from_secs(60));
        let whole = take(&room, 1_000_000, &cancel).await.unwrap();
        assert!(whole.is_some());
        let refused = take(&room, 10_000, &cancel).await.unwrap_err();
        assert_eq!(refused, QueryError::Unread);
        drop(whole);
        assert!(take(&room, 10_000, &cancel).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn nobody_waits_for_room_for_a_client_that_has_gone() {
        let room = Room::new(30_000, Duration::from_secs(60));
        let cancel = Cancel::after(Duration::from_secs(60));
        let _held = take(&room, 30_000, &cancel).await.unwrap();
        drop(super::super::CancelOnDrop(cancel.clone()));
        let ended = take(&room, 10_000, &cancel).await.unwrap_err();
        assert_eq!(ended, QueryError::TookTooLong);
    }
}
