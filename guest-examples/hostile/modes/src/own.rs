//! What needs nothing but an ordinary program.

use std::{
    hint::black_box,
    io::{self, Write as _},
    thread,
    time::Duration,
};

const PIECE_BYTES: usize = 1024 * 1024;
const STDERR_BYTES: usize = 4 * 1024 * 1024;
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn fuel() -> Result<(), String> {
    let mut turns: u64 = 0;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Does not give up when it is refused more.
pub(crate) fn memory() -> Result<(), String> {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut piece: Vec<u8> = Vec::new();
        if hoard.try_reserve(1).is_ok() && piece.try_reserve_exact(PIECE_BYTES).is_ok() {
            piece.resize(PIECE_BYTES, 1);
            hoard.push(black_box(piece));
        }
    }
}

pub(crate) fn stack() -> Result<(), String> {
    black_box(dive(0));
    Ok(())
}

#[inline(never)]
fn dive(depth: u64) -> u64 {
    let frame = [depth; 8];
    let frame = black_box(&frame);
    let below = if black_box(true) { dive(depth + 1) } else { 0 };
    below.max(frame[7])
}

pub(crate) fn output() -> Result<(), String> {
    let mut out = io::stdout().lock();
    loop {
        let _ = out.write_all(&[b'x'; 4096]);
    }
}

pub(crate) fn stderr() -> Result<(), String> {
    for _ in 0..STDERR_BYTES / 4096 {
        let _ = io::stderr().write_all(&[b'x'; 4096]);
    }
    Ok(())
}

pub(crate) fn sleep() -> Result<(), String> {
    loop {
        thread::sleep(HOUR);
    }
}
