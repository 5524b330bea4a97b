//! Something that is kept of one version of what a shard has stored.
//!
//! Invariant: what is read was made of that very version. A newer one begins anew, and an older one, of a snapshot from
//! before, changes nothing: nobody will ask in it again.

use std::sync::{PoisonError, RwLock};

use super::versions::Version;

/// What is kept.
#[derive(Debug, Default)]
pub struct OfVersion<T>(RwLock<Option<(Version, T)>>);

impl<T: Default> OfVersion<T> {
    /// What `read` makes of what is kept of that version; none where nothing is.
    pub fn read<R>(&self, version: Version, read: impl FnOnce(&T) -> Option<R>) -> Option<R> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (of, kept) = kept.as_ref()?;
        (*of == version).then(|| read(kept)).flatten()
    }

    /// Changes what is kept of that version, at first nothing.
    pub fn change(&self, version: Version, change: impl FnOnce(&mut T)) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match kept.as_mut() {
            Some((of, _)) if of.sequence > version.sequence => {}
            Some((of, kept)) if *of == version => change(kept),
            _ => change(&mut kept.insert((version, T::default())).1),
        }
    }
}
