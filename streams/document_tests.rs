//! Every field of every document: what it may be, and that a complaint names it.
