//! What happens next: events in virtual time, those of one moment in an order that the seed decides.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug)]
struct Entry<E> {
    at_ms: i64,
    order: u64,
    what: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ms, self.order) == (other.at_ms, other.order)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first, and we want the earliest.
        (other.at_ms, other.order).cmp(&(self.at_ms, self.order))
    }
}

/// Events that are yet to happen.
#[derive(Debug)]
pub struct Agenda<E> {
    heap: BinaryHeap<Entry<E>>,
    count: u64,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            count: 0,
        }
    }
}

impl<E> Agenda<E> {
    /// Something happens at `at_ms`; `tie` is random and orders what happens at one moment.
    pub fn put(&mut self, at_ms: i64, tie: u64, what: E) {
        self.count += 1;
        // The count makes every order different, so that the heap's own order never shows.
        let order = (tie << 32) | (self.count & 0xffff_ffff);
        self.heap.push(Entry { at_ms, order, what });
    }

    /// What happens next, and when.
    pub fn next(&mut self) -> Option<(i64, E)> {
        self.heap.pop().map(|entry| (entry.at_ms, entry.what))
    }
}
