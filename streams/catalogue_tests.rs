//! The catalogue as a fold: what is refused, what is fixed, and that splitting the stream changes nothing.
