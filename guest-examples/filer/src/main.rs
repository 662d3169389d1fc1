//! Reads, writes and lists files that were granted: `filer read FILE`, `filer write FILE` (its input),
//! `filer list FOLDER`.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["read", file] => read(file),
        ["write", file] => write(file),
        ["list", folder] => list(folder),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "read FILE, write FILE or list FOLDER is wanted")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}: {error}", args.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn read(file: &str) -> io::Result<()> {
    io::copy(&mut fs::File::open(file)?, &mut io::stdout()).map(drop)
}

fn write(file: &str) -> io::Result<()> {
    let mut input = Vec::new();
    io::stdin().read_to_end(&mut input)?;
    fs::write(file, input)
}

fn list(folder: &str) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    names.iter().try_for_each(|name| writeln!(io::stdout(), "{name}"))
}
