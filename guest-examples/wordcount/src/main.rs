//! Counts the lines, words and bytes of standard input and prints its most frequent words.
//!
//! A plain command: nothing here knows of wasmjob. Standard input is the job's input, standard
//! output its output, the exit code its verdict.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;

const TOP_DEFAULT: usize = 10;

fn main() -> ExitCode {
    match top(std::env::args().nth(1).as_deref()) {
        Err(message) => {
            eprintln!("error: {message}");
            eprintln!("usage: wordcount [HOW_MANY_WORDS_TO_PRINT] < TEXT");
            ExitCode::FAILURE
        }
        Ok(top) => match count(io::stdin().lock()).and_then(|counts| print(&counts, top)) {
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
            Ok(()) => ExitCode::SUCCESS,
        },
    }
}

fn top(argument: Option<&str>) -> Result<usize, String> {
    let Some(argument) = argument else { return Ok(TOP_DEFAULT) };
    argument.parse().map_err(|error| format!("`{argument}`: {error}"))
}

#[derive(Default)]
struct Counts {
    lines: u64,
    words: u64,
    bytes: u64,
    /// By word in lower case. Bytes, because a text need not be UTF-8.
    frequency: HashMap<Vec<u8>, u64>,
}

fn count(mut text: impl BufRead) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut line = Vec::new();
    while text.read_until(b'\n', &mut line)? > 0 {
        counts.lines += u64::from(line.ends_with(b"\n"));
        counts.bytes += line.len() as u64;
        for word in line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
            counts.words += 1;
            let word = bare(word).to_ascii_lowercase();
            if !word.is_empty() {
                *counts.frequency.entry(word).or_default() += 1;
            }
        }
        line.clear();
    }
    Ok(counts)
}

fn print(counts: &Counts, top: usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{} lines, {} words, {} bytes", counts.lines, counts.words, counts.bytes)?;
    let mut words: Vec<_> = counts.frequency.iter().collect();
    words.sort_by(|(a, n), (b, m)| m.cmp(n).then(a.cmp(b)));
    for (word, n) in words.into_iter().take(top) {
        writeln!(out, "{n:>8} {}", String::from_utf8_lossy(word))?;
    }
    out.flush()
}

/// Without punctuation around it: `"word,"` is the same word as `word`.
fn bare(word: &[u8]) -> &[u8] {
    let is_word = |byte: &u8| !byte.is_ascii_punctuation();
    match (word.iter().position(is_word), word.iter().rposition(is_word)) {
        (Some(first), Some(last)) => &word[first..=last],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_without_case_and_punctuation() {
        let counts = count(&b"To be, or not\nto \"be\" \xff --\n..."[..]).unwrap();
        assert_eq!((counts.lines, counts.words, counts.bytes), (2, 9, 30));
        assert_eq!(counts.frequency[&b"to"[..]], 2);
        assert_eq!(counts.frequency[&b"be"[..]], 2);
        assert_eq!(counts.frequency.len(), 5);
    }
}
