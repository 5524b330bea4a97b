//! Why an event is refused, and the record that QUARANTINE keeps of it.
