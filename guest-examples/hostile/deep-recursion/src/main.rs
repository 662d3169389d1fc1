//! Calls itself until the stack is used up.

use std::hint::black_box;

fn main() {
    println!("the bottom is {} calls down", dive(0));
}

/// Each call keeps a frame that is read after the inner call returned: no compiler can make a loop
/// of that.
#[inline(never)]
fn dive(depth: u64) -> u64 {
    let frame = [depth; 8];
    let frame = black_box(&frame);
    // Always true, which only the black box knows.
    let below = if black_box(true) { dive(depth + 1) } else { 0 };
    below.max(frame[7])
}
