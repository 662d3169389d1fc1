//! Never ends, and calls nothing on the way: only a limit can stop it.

use std::hint::black_box;

fn main() {
    let mut turns: u64 = 0;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}
