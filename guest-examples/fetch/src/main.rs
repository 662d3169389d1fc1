//! Connects over TCP, as far as it was granted, and says what came of it.
//!
//! An ordinary program with the sockets of its standard library. The first argument says what it does;
//! some of that is what no job should be able to do.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;

const USAGE: &str = "fetch echo HOST:PORT < TEXT | names HOST | listen ADDRESS:PORT | udp ADDRESS:PORT | \
                     many HOST:PORT HOW_MANY | upload HOST:PORT BYTES";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = match args.as_slice() {
        ["echo", target] => echo(target),
        ["names", host] => names(host),
        ["listen", address] => TcpListener::bind(address).map(|_| "listening".into()),
        ["udp", address] => udp(address),
        ["many", target, count] => return many(target, count.parse().unwrap_or(usize::MAX)),
        ["upload", target, bytes] => upload(target, bytes.parse().unwrap_or(0)),
        _ => {
            eprintln!("usage: {USAGE}");
            return ExitCode::FAILURE;
        }
    };
    match said {
        Ok(said) => print(said),
        Err(error) => print(format!("refused: {:?}: {error}", error.kind())),
    }
}

/// Prints without a new line: what is printed is the job's output.
fn print(said: impl Display) -> ExitCode {
    match write!(io::stdout(), "{said}").and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Sends standard input and gives back what the other side answers until it closes.
fn echo(target: &str) -> io::Result<String> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    let mut stream = TcpStream::connect(target)?;
    stream.write_all(&text)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn names(host: &str) -> io::Result<String> {
    let addresses = (host, 1).to_socket_addrs()?;
    Ok(addresses.map(|address| address.ip().to_string()).collect::<Vec<_>>().join(" "))
}

fn udp(address: &str) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(b"hello", address)?;
    Ok("sent".into())
}

/// Opens connections and keeps them until one is refused.
fn many(target: &str, count: usize) -> ExitCode {
    let mut streams = Vec::new();
    for _ in 0..count {
        match TcpStream::connect(target) {
            Ok(stream) => streams.push(stream),
            Err(error) => return print(format!("refused after {}: {error}", streams.len())),
        }
    }
    print(format!("connected {}", streams.len()))
}

/// Sends many bytes to somebody who may not read them.
fn upload(target: &str, bytes: usize) -> io::Result<String> {
    let mut stream = TcpStream::connect(target)?;
    let chunk = vec![7; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(chunk.len());
        stream.write_all(&chunk[..now])?;
        left -= now;
    }
    Ok("uploaded".into())
}
