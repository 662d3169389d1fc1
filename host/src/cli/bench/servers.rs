//! Three nats-servers that keep a copy of everything each.

use std::{
    fmt::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nkeys::KeyPair;
use tokio::{process::Child, time::sleep};

use super::machine::launch;
use crate::{
    cli::CliError,
    connect::{self, Auth, Endpoint, Secret},
    private,
    queue::{Broker, ensure_shared},
    server::find_binary,
};

/// How many there are.
pub(super) const SERVERS: usize = 3;
/// How long they may take to agree on a leader.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Running servers. Dropping them kills them.
pub(super) struct Servers {
    pub(super) children: Vec<Child>,
    pub(super) broker: Broker,
    /// Addresses for clients, separated by commas.
    pub(super) urls: String,
    /// The key of the only user.
    pub(super) seed: PathBuf,
}

/// Starts them below `folder`, and waits until they store.
pub(super) async fn start(folder: &Path) -> Result<Servers, CliError> {
    let binary = find_binary()?;
    let user = KeyPair::new_user();
    let secret = user.seed().map_err(CliError::platform)?;
    let seed = folder.join("bench.nk");
    private::write(&seed, &secret).map_err(CliError::platform)?;
    let ports = free_ports(2 * SERVERS).map_err(CliError::platform)?;
    let (clients, routes) = ports.split_at(SERVERS);
    let mut children = Vec::new();
    for (number, (client, route)) in clients.iter().zip(routes).enumerate() {
        let conf = folder.join(format!("server-{number}.conf"));
        let text = conf_text(number, (*client, *route), routes, &folder.join(number.to_string()), &user.public_key());
        private::write(&conf, &text).map_err(CliError::platform)?;
        let mut command = std::process::Command::new(&binary.path);
        command.arg("-c").arg(&conf);
        children.push(launch(&command)?);
    }
    let urls: Vec<String> = clients.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let urls = urls.join(",");
    let endpoint = Endpoint { auth: Auth::NkeySeed(Secret::new(secret)), ..Endpoint::plain(&urls) };
    let broker = until_they_store(&endpoint).await?;
    Ok(Servers { children, broker, urls, seed })
}

async fn until_they_store(endpoint: &Endpoint) -> Result<Broker, CliError> {
    let begun = Instant::now();
    loop {
        let error: CliError = match connect::connect(endpoint).await {
            Ok(client) => {
                let broker = Broker::new(client);
                match ensure_shared(&broker.jetstream, SERVERS).await {
                    Ok(()) => return Ok(broker),
                    Err(error) => error.into(),
                }
            }
            Err(error) => error.into(),
        };
        if begun.elapsed() > PATIENCE {
            return Err(error);
        }
        sleep(LOOK_EVERY).await;
    }
}

fn conf_text(number: usize, (client, route): (u16, u16), routes: &[u16], store: &Path, user: &str) -> String {
    let mut text = String::new();
    let others: Vec<String> = routes.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
    let _ = writeln!(text, "server_name: server-{number}");
    let _ = writeln!(text, "listen: \"127.0.0.1:{client}\"");
    let _ = writeln!(text, "log_file: \"{}\"", store.with_extension("log").display());
    let _ = writeln!(text, "jetstream: {{ store_dir: \"{}\" }}", store.display());
    let _ =
        writeln!(text, "cluster: {{ name: bench, listen: \"127.0.0.1:{route}\", routes: [{}] }}", others.join(", "));
    let _ = writeln!(text, "authorization: {{ users: [ {{ nkey: {user} }} ] }}");
    text
}

/// Ports that are free now. Servers of one cluster have to know each other's before they start.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
