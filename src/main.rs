//! x
mod http;
fn main() {}
