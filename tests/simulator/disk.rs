//! A disk: writes in batches, each whole or not there, of which a crash loses what was not synced.
//!
//! It behaves as a RocksDB with its write-ahead log: batches are durable in their order, so that a sync makes all
//! earlier ones durable too, and a torn tail costs whole batches at the end. A kill of the process alone loses
//! nothing that was written, since the kernel has it; power that fails does.

use std::rc::Rc;

/// What a disk holds.
pub trait Image: Clone {
    /// A batch of writes.
    type Batch;

    /// Takes a whole batch in.
    fn apply(&mut self, batch: &Self::Batch);
}

/// A disk under one image.
#[derive(Debug)]
pub struct Disk<I: Image> {
    /// The durable state of some time ago, and what has been written since. It is brought up to date only when power
    /// fails, since most disks never need it.
    durable: I,
    written: Vec<Rc<I::Batch>>,
    /// How many of `written` are synced.
    synced: usize,
    /// What a reader sees.
    live: I,
}

impl<I: Image> Disk<I> {
    /// A disk that holds that durably.
    pub fn new(image: I) -> Self {
        Self {
            durable: image.clone(),
            written: Vec::new(),
            synced: 0,
            live: image,
        }
    }

    /// What is there to read.
    pub fn read(&self) -> &I {
        &self.live
    }

    /// Writes a batch, without a sync.
    pub fn write(&mut self, batch: I::Batch) {
        self.live.apply(&batch);
        self.written.push(Rc::new(batch));
    }

    /// Makes everything durable that has been written.
    pub fn sync(&mut self) {
        self.synced = self.written.len();
    }

    /// Batches that power would lose now.
    pub fn unsynced(&self) -> usize {
        self.written.len() - self.synced
    }

    /// The power fails: of the unsynced batches the first `keep` had reached the disk all the same.
    pub fn lose_power(&mut self, keep: usize) {
        self.written.truncate(self.synced + keep);
        for batch in self.written.drain(..) {
            self.durable.apply(&batch);
        }
        self.synced = 0;
        self.live = self.durable.clone();
    }

    /// A copy of what is durable, as a backup or a clone of the volume takes it.
    pub fn cloned(&self) -> Self {
        let mut durable = self.durable.clone();
        for batch in &self.written[..self.synced] {
            durable.apply(batch);
        }
        Self::new(durable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Image for Vec<u8> {
        type Batch = u8;

        fn apply(&mut self, batch: &u8) {
            self.push(*batch);
        }
    }

    #[test]
    fn power_loses_a_tail_of_what_was_not_synced_and_nothing_else() {
        let mut disk = Disk::new(vec![]);
        disk.write(1);
        disk.write(2);
        disk.sync();
        (3..6).for_each(|n| disk.write(n));
        assert_eq!(
            (disk.read().as_slice(), disk.unsynced()),
            (&[1, 2, 3, 4, 5][..], 3)
        );
        assert_eq!(disk.cloned().read(), &[1, 2]);
        disk.lose_power(1);
        assert_eq!(
            (disk.read().as_slice(), disk.unsynced()),
            (&[1, 2, 3][..], 0)
        );
        disk.lose_power(0);
        assert_eq!(disk.read(), &[1, 2, 3]);
    }
}
