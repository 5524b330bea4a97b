//! The rules of admission, each by a hand-written expectation.
