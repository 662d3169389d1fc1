//! Checks that WASI behaves as programs expect: prints what differs, and exits with 1 if anything does.

mod checks;
#[cfg(target_os = "wasi")]
mod files;
mod machine;
#[cfg(all(target_os = "wasi", target_env = "p1"))]
mod preview1;

use std::{
    env,
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use checks::Checks;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut checks = Checks::default();
    match words.as_slice() {
        ["streams", ..] => streams(&args, &mut checks),
        ["exit", code] => std::process::exit(code.parse().expect("a number")),
        ["panic"] => panic!("as it was told"),
        ["machine"] => machine::all(&mut checks),
        #[cfg(target_os = "wasi")]
        ["files", folder] => files::all(folder, &mut checks),
        #[cfg(all(target_os = "wasi", target_env = "p1"))]
        ["preview1", folder] => preview1::all(folder, &mut checks),
        _ => {
            eprintln!("streams [ARG]... | exit CODE | panic | machine | files FOLDER | preview1 FOLDER");
            return ExitCode::from(2);
        }
    }
    checks.end()
}

/// Arguments, environment and how much input there is, on standard output.
fn streams(args: &[String], checks: &mut Checks) {
    let mut environment: Vec<(String, String)> = env::vars().collect();
    environment.sort();
    let mut input = Vec::new();
    checks.is_ok("the input can be read to its end", io::stdin().read_to_end(&mut input));
    checks.equal("after the end there is nothing", io::stdin().read(&mut [0; 10]).ok(), Some(0));
    let sum = input.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let text = format!("{args:?}\n{environment:?}\n{} bytes, {sum}\n", input.len());
    checks.is_ok("output can be written", io::stdout().write_all(text.as_bytes()));
    checks.is_ok("standard error as well", io::stderr().write_all(b"an error\n"));
}
