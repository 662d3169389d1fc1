//! Sends HTTP requests, as far as it was granted, and says what came of them.
//!
//! `get URL` prints the body, `post URL` sends standard input as the body. `hold URL HOW_MANY` asks many
//! times at once and reads nothing; `hoard HOW_MANY` makes header fields and never uses them.

#[cfg(target_arch = "wasm32")]
fn main() -> std::process::ExitCode {
    guest::main()
}

#[cfg(not(target_arch = "wasm32"))]
fn main() -> std::process::ExitCode {
    eprintln!("error: this program has HTTP only in a sandbox");
    std::process::ExitCode::FAILURE
}

#[cfg(target_arch = "wasm32")]
mod guest {
    use std::fmt::Display;
    use std::io::{self, Read, Write};
    use std::process::ExitCode;

    use wasip2::http::outgoing_handler::handle;
    use wasip2::http::types::{
        ErrorCode, Fields, FutureIncomingResponse, IncomingBody, Method, OutgoingBody, OutgoingRequest, Scheme,
    };
    use wasip2::io::streams::StreamError;

    const READ_BYTES: u64 = 64 * 1024;
    const WRITE_BYTES: usize = 4096;

    pub fn main() -> ExitCode {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match args.as_slice() {
            ["get", url] => say(exchange(&Method::Get, url, &[])),
            ["connect", url] => say(exchange(&Method::Connect, url, &[])),
            ["post", url] => {
                let mut text = Vec::new();
                match io::stdin().read_to_end(&mut text) {
                    Ok(_) => say(exchange(&Method::Post, url, &text)),
                    Err(error) => print(error),
                }
            }
            ["hold", url, count] => hold(url, count.parse().unwrap_or(usize::MAX)),
            ["hoard", count] => hoard(count.parse().unwrap_or(usize::MAX)),
            _ => {
                eprintln!(
                    "usage: fetch-http get URL | post URL < TEXT | connect URL | hold URL HOW_MANY | hoard HOW_MANY"
                );
                ExitCode::FAILURE
            }
        }
    }

    /// Prints without a new line: what is printed is the job's output.
    fn print(said: impl Display) -> ExitCode {
        match write!(io::stdout(), "{said}").and_then(|()| io::stdout().flush()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }

    fn say(answer: Result<(u16, Vec<u8>), ErrorCode>) -> ExitCode {
        match answer {
            Ok((status, body)) => print(format!("{status} {}", String::from_utf8_lossy(&body))),
            Err(error) => print(format!("refused: {error:?}")),
        }
    }

    fn exchange(method: &Method, url: &str, body: &[u8]) -> Result<(u16, Vec<u8>), ErrorCode> {
        let answer = start(method, url, body)?;
        answer.subscribe().block();
        let response = answer.get().expect("it was waited for").expect("it is taken once")?;
        let incoming = response.consume().expect("it is taken once");
        Ok((response.status(), read(&incoming)?))
    }

    fn read(body: &IncomingBody) -> Result<Vec<u8>, ErrorCode> {
        let stream = body.stream().expect("it is taken once");
        let mut bytes = Vec::new();
        loop {
            match stream.blocking_read(READ_BYTES) {
                Ok(chunk) => bytes.extend(chunk),
                Err(StreamError::Closed) => return Ok(bytes),
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(ErrorCode::InternalError(Some(error.to_debug_string())));
                }
            }
        }
    }

    /// Sends a request and does not wait for its answer.
    fn start(method: &Method, url: &str, body: &[u8]) -> Result<FutureIncomingResponse, ErrorCode> {
        let (scheme, rest) = url.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
        let at = rest.find('/').unwrap_or(rest.len());
        let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
        let request = OutgoingRequest::new(Fields::new());
        let set = request.set_method(method).and_then(|()| request.set_scheme(Some(&scheme)));
        let set = set.and_then(|()| request.set_authority(Some(&rest[..at])));
        set.and_then(|()| request.set_path_with_query(Some(if at == rest.len() { "/" } else { &rest[at..] })))
            .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
        let outgoing = request.body().expect("it is taken once");
        let answer = handle(request, None)?;
        let stream = outgoing.write().expect("it is taken once");
        for chunk in body.chunks(WRITE_BYTES) {
            // What goes wrong is in the answer.
            if stream.blocking_write_and_flush(chunk).is_err() {
                break;
            }
        }
        drop(stream);
        OutgoingBody::finish(outgoing, None)?;
        Ok(answer)
    }

    fn hold(url: &str, count: usize) -> ExitCode {
        let mut held = Vec::new();
        for _ in 0..count {
            let answer = match start(&Method::Get, url, &[]) {
                Ok(answer) => answer,
                Err(error) => return print(format!("refused after {}: {error:?}", held.len())),
            };
            answer.subscribe().block();
            match answer.get() {
                Some(Ok(Ok(response))) => held.push(response),
                Some(Ok(Err(error))) => return print(format!("refused after {}: {error:?}", held.len())),
                _ => return print("no answer"),
            }
        }
        print(format!("held {}", held.len()))
    }

    fn hoard(count: usize) -> ExitCode {
        let mut hoard = Vec::new();
        for _ in 0..count {
            let fields = Fields::new();
            if fields.append("x", &[b'x'; 8192]).is_err() {
                return print(format!("refused after {}", hoard.len()));
            }
            hoard.push(fields);
        }
        print(format!("hoarded {}", hoard.len()))
    }
}
