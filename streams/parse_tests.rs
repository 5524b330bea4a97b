//! What a payload may say, by tables of hand-written expectations, and that no bytes whatever panic.
