//! Takes memory and touches all of it until it is refused more, and then does not give up: it asks
//! again, for ever. A host that only says no never gets rid of it.

use std::hint::black_box;

const PIECE_BYTES: usize = 1024 * 1024;
const PAGE_BYTES: usize = 4096;

fn main() {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut piece: Vec<u8> = Vec::new();
        // `vec![0; n]` would end the program by itself when it is refused.
        if hoard.try_reserve(1).is_err() || piece.try_reserve_exact(PIECE_BYTES).is_err() {
            black_box(&hoard);
            continue;
        }
        piece.resize(PIECE_BYTES, 0);
        piece.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
        hoard.push(black_box(piece));
    }
}
