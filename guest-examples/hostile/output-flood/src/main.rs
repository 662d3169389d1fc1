//! Prints without end, and goes on when it is told that nobody takes it any more.

use std::io::{self, Write as _};

fn main() {
    let line = [b'x'; 4096];
    let mut out = io::stdout().lock();
    loop {
        let _ = out.write_all(&line);
    }
}
