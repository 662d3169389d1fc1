//! Letting another machine in: a new user for it, and the one file it needs.

use std::time::Duration;

use super::conf::Conf;
use super::users::Users;
use super::{DataFolder, ServerError, credentials, leftover, permissions};
use crate::config::is_node_name;
use crate::connect::{self, ConnectError, Endpoint, EndpointFile};

/// How long a running server may take to know a new user.
const RELOAD_DEADLINE: Duration = Duration::from_secs(5);

/// How often it is asked meanwhile.
const RELOAD_POLL: Duration = Duration::from_millis(50);

/// Makes a user for a node on another machine and lets the running server know it.
/// The file returned holds the only copy of the node's key; write it with [`EndpointFile::write`].
/// Errors: no `up` runs here, it listens on loopback only, the name is taken or no name.
pub async fn invite(folder: &DataFolder, name: &str) -> Result<EndpointFile, ServerError> {
    if !is_node_name(name) {
        let reason = "a name is 1 to 63 of a-z, 0-9, - and _".to_owned();
        return Err(ServerError::NodeName { name: name.to_owned(), reason });
    }
    let conf = running(folder)?;
    let url = conf.advertised_url().ok_or_else(|| ServerError::NotListening { path: folder.path().to_owned() })?;
    let new = credentials::generate()?;
    change(folder, &conf, |users| match users.nodes.contains_key(name) {
        true => Err(ServerError::NodeName {
            name: name.to_owned(),
            reason: "a node of that name is known already".to_owned(),
        }),
        false => {
            users.put(name, new.user.clone());
            Ok(())
        }
    })?;
    let file = EndpointFile {
        v: EndpointFile::VERSION,
        url,
        ca: conf.ca_pem(folder)?,
        nkey: new.seed,
        name: Some(name.to_owned()),
        inbox_prefix: Some(permissions::inbox_prefix(name)),
    };
    // Tried under the local address: the advertised one may be beyond a translator of addresses.
    known(Endpoint { url: conf.local_url(), ..file.endpoint() }).await?;
    Ok(file)
}

/// Takes a node's user away; the server ends its connection at once.
/// Errors: no `up` runs here, or no node has that name.
pub fn revoke(folder: &DataFolder, name: &str) -> Result<(), ServerError> {
    let conf = running(folder)?;
    let refused = |reason| Err(ServerError::Revoke { name: name.to_owned(), reason });
    // `up` leaves the way in for its own node there.
    if is_node_name(name) && folder.path().join("credentials").join(format!("{name}.join")).exists() {
        return refused("it is the node of this `wasmjob up`, and ends with it");
    }
    change(folder, &conf, |users| match users.nodes.remove(name) {
        Some(_) => Ok(()),
        None => refused("no node of that name was invited"),
    })
}

/// What the running `up` listens on.
fn running(folder: &DataFolder) -> Result<Conf, ServerError> {
    let not_running = || ServerError::NotRunning { path: folder.path().to_owned() };
    if !connect::endpoint_path(folder.path()).exists() {
        return Err(not_running());
    }
    Conf::load(folder)?.ok_or_else(not_running)
}

fn change(
    folder: &DataFolder,
    conf: &Conf,
    edit: impl FnOnce(&mut Users) -> Result<(), ServerError>,
) -> Result<(), ServerError> {
    let _guard = folder.lock_users()?;
    let mut users = Users::load(folder)?;
    edit(&mut users)?;
    users.save(folder)?;
    conf.save(folder, &users)?;
    reload(folder)
}

/// Has the server read its configuration again.
fn reload(folder: &DataFolder) -> Result<(), ServerError> {
    let pid = leftover::running(folder).ok_or_else(|| ServerError::NotRunning { path: folder.path().to_owned() })?;
    rustix::process::kill_process(pid, rustix::process::Signal::HUP)
        .map_err(|_| ServerError::NotRunning { path: folder.path().to_owned() })
}

/// Waits until the server lets the new user in; a server that happens to restart does so as well.
async fn known(endpoint: Endpoint) -> Result<(), ServerError> {
    let asking = async {
        loop {
            match connect::connect(&endpoint).await {
                Ok(_) => return Ok(()),
                Err(ConnectError::Credentials { .. } | ConnectError::Refused { .. } | ConnectError::Io { .. }) => {
                    tokio::time::sleep(RELOAD_POLL).await;
                }
                Err(error) => return Err(ServerError::from(error)),
            }
        }
    };
    let refused = ConnectError::Credentials { url: endpoint.shown_url() };
    tokio::time::timeout(RELOAD_DEADLINE, asking).await.unwrap_or(Err(refused.into()))
}
