//! The nats-server that `up` starts: the real one, on free ports, in folders of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use async_nats::jetstream::{self, stream::Config as StreamConfig};
use wasmjob_host::connect::{Auth, ConnectError, Endpoint, EndpointFile, Secret, connect, connect_with, endpoint_path};
use wasmjob_host::server::{self, ChildState, DataFolder, Server, ServerError, ServerOptions};

const DEADLINE: Duration = Duration::from_secs(30);

/// Becomes the program named on the command line when the launcher below starts this binary; as a test
/// it does nothing.
#[test]
fn launcher_entry() {
    let mut args = std::env::args_os().skip_while(|arg| arg != "--");
    if args.next().is_some() {
        panic!("{}", server::exec_child(args));
    }
}

/// This very binary in the part of `wasmjob exec-child`.
fn launcher() -> Vec<std::ffi::OsString> {
    let exe = std::env::current_exe().unwrap().into_os_string();
    let name = concat!(module_path!(), "::launcher_entry").split_once("::").unwrap().1;
    vec![exe, name.into(), "--exact".into(), "--nocapture".into(), "--test-threads=1".into(), "--".into()]
}

fn options(data: &Path) -> ServerOptions {
    ServerOptions { launcher: launcher(), nodes: vec!["n1".to_owned()], ..ServerOptions::new(data.join("data")) }
}

async fn started(options: &ServerOptions) -> Server {
    let server = Server::start(options).unwrap_or_else(|error| panic!("{error}\nhint: {}", error.hint()));
    server.ready(DEADLINE).await.unwrap();
    server
}

/// A server that others can reach, under TLS, on loopback.
async fn listening(data: &Path) -> Server {
    let listen = Some("127.0.0.1:0".parse().unwrap());
    started(&ServerOptions { listen, ..options(data) }).await
}

fn stream(name: &str, subject: &str) -> StreamConfig {
    StreamConfig { name: name.to_owned(), subjects: vec![subject.to_owned()], ..StreamConfig::default() }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_second_up_on_the_same_folder_says_so_and_stops() {
    let root = tempfile::tempdir().unwrap();
    let server = started(&options(root.path())).await;
    let error = Server::start(&options(root.path())).unwrap_err();
    let own = std::process::id().to_string();
    assert!(matches!(error, ServerError::Locked { .. }) && error.to_string().contains(&own), "{error}");
    connect(&server.endpoint()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn everything_in_the_data_folder_is_private_and_goes_with_up() {
    let root = tempfile::tempdir().unwrap();
    let server = started(&options(root.path())).await;
    let data = server.folder().path().to_owned();
    assert_eq!(mode(&data), 0o700);
    for folder in ["credentials", "server", "jetstream", "logs"] {
        assert_eq!(mode(&data.join(folder)), 0o700, "{folder}");
    }
    for file in
        ["endpoint.json", "credentials/operator.nk", "credentials/node-n1.nk", "server/nats.conf", "server/users.json"]
    {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    let found = EndpointFile::read(&endpoint_path(&data)).unwrap();
    connect(&found.endpoint()).await.unwrap();
    let url = server.endpoint().url;
    server.stop().await;
    assert!(!endpoint_path(&data).exists());
    assert!(matches!(connect(&found.endpoint()).await, Err(ConnectError::Refused { .. })));
    let again = started(&options(root.path())).await;
    assert_eq!(again.endpoint().url, url, "the port stays");
    again.stop().await;
}

#[tokio::test]
async fn an_open_data_folder_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Server::start(&options(root.path())).unwrap_err();
    assert!(error.hint().contains("chmod 700"), "{error} {}", error.hint());
}

#[tokio::test]
async fn nobody_is_let_in_without_the_right_key() {
    let root = tempfile::tempdir().unwrap();
    let server = started(&options(root.path())).await;
    // A good key nobody here knows.
    let stranger = Secret::new("SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y");
    let url = server.endpoint().url;
    let attempts = [
        Auth::None,
        Auth::NkeySeed(stranger),
        Auth::UserPassword { user: "operator".to_owned(), password: Secret::new("operator") },
    ];
    for auth in attempts {
        let shown = format!("{auth:?}");
        let error = connect(&Endpoint { auth, ..Endpoint::plain(&url) }).await.unwrap_err();
        assert!(matches!(error, ConnectError::Credentials { .. }), "{shown}: {error}");
    }
    let creds = server.folder().path().join("credentials/operator.nk");
    connect(&Endpoint { auth: Auth::Creds(creds), ..Endpoint::plain(&url) }).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_node_works_on_streams_and_cannot_change_them() {
    let root = tempfile::tempdir().unwrap();
    let server = started(&options(root.path())).await;
    let operator = jetstream::new(connect(&server.endpoint()).await.unwrap());
    operator.create_stream(stream("WJ_Q_default", "wj.q.default.>")).await.unwrap();
    operator.create_key_value(jetstream::kv::Config { bucket: "wj_nodes".into(), ..Default::default() }).await.unwrap();

    let endpoint = server.node_endpoint("n1").unwrap().endpoint();
    let node = connect(&endpoint).await.unwrap();
    let mut js = jetstream::new(node.clone());
    works(&js).await;

    // The server refuses by silence, so the answer is a timeout: a short one, here.
    js.set_timeout(Duration::from_millis(300));
    assert!(js.delete_stream("WJ_Q_default").await.is_err());
    assert!(js.create_stream(stream("WJ_MINE", "wj.mine")).await.is_err());
    assert!(js.update_stream(stream("WJ_Q_default", "wj.q.other.>")).await.is_err());
    let queue = js.get_stream("WJ_Q_default").await.unwrap();
    assert!(queue.purge().await.is_err());
    assert!(queue.delete_consumer("work").await.is_err());
    let left = operator.get_stream("WJ_Q_default").await.unwrap().get_info().await.unwrap();
    assert_eq!((left.state.messages, left.state.consumer_count), (1, 1));
    server.stop().await;
}

/// What a node does all day.
async fn works(js: &jetstream::Context) {
    use futures_util::StreamExt;
    js.publish("wj.q.default.any.p5", "job".into()).await.unwrap().await.unwrap();
    let queue = js.get_stream("WJ_Q_default").await.unwrap();
    let config = jetstream::consumer::pull::Config { durable_name: Some("work".into()), ..Default::default() };
    let consumer = queue.get_or_create_consumer("work", config).await.unwrap();
    let mut batch = consumer.fetch().max_messages(1).messages().await.unwrap();
    let message = batch.next().await.unwrap().unwrap();
    message.ack_with(jetstream::AckKind::Progress).await.unwrap();
    message.double_ack().await.unwrap();
    let nodes = js.get_key_value("wj_nodes").await.unwrap();
    nodes.put("n1", "here".into()).await.unwrap();
    assert_eq!(nodes.get("n1").await.unwrap().unwrap(), "here");
    assert_eq!(nodes.keys().await.unwrap().next().await.unwrap().unwrap(), "n1");
    assert!(js.stream_names().next().await.unwrap().is_ok());
    let mut watch = nodes.watch_all().await.unwrap();
    nodes.put("n1", "still here".into()).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().value, "still here");
}

#[tokio::test]
async fn a_node_cannot_listen_to_others() {
    let root = tempfile::tempdir().unwrap();
    let server = started(&options(root.path())).await;
    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = server.node_endpoint("n1").unwrap().endpoint();
    let node = connect_with(&endpoint, move |event| drop(told.send(event.to_string()))).await.unwrap();
    for subject in ["_INBOX.>", "_INBOX_other.>", "wj.q.>", ">", "$SYS.>"] {
        let _subscriber = node.subscribe(subject).await.unwrap();
        node.flush().await.unwrap();
        let refused = async {
            while let Some(event) = events.recv().await {
                if event.to_lowercase().contains("permissions violation") {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, refused).await.unwrap_or_else(|_| panic!("{subject} was allowed"));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_killed_server_is_restarted_and_keeps_its_data() {
    let root = tempfile::tempdir().unwrap();
    let server = started(&options(root.path())).await;
    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let client = connect_with(&server.endpoint(), move |event| drop(told.send(event))).await.unwrap();
    let js = jetstream::new(client);
    js.create_stream(stream("KEPT", "kept")).await.unwrap();
    js.publish("kept", "1".into()).await.unwrap().await.unwrap();
    while events.try_recv().is_ok() {}

    kill(server.pid().unwrap());
    let mut state = server.state();
    let back = state.wait_for(|state| matches!(state, ChildState::Running { starts: 2, .. }));
    tokio::time::timeout(DEADLINE, back).await.unwrap().unwrap();
    let reconnected = async { while events.recv().await != Some(async_nats::Event::Connected) {} };
    tokio::time::timeout(DEADLINE, reconnected).await.unwrap();
    let info = js.get_stream("KEPT").await.unwrap().get_info().await.unwrap();
    assert_eq!(info.state.messages, 1);
    server.stop().await;
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn one_file_lets_another_machine_in_over_tls() {
    let root = tempfile::tempdir().unwrap();
    let server = listening(root.path()).await;
    let folder = DataFolder::open(server.folder().path()).unwrap();
    let file = root.path().join("laptop.json");
    let invitation = server::invite(&folder, "laptop").await.unwrap();
    invitation.write(&file).unwrap();
    assert_eq!(mode(&file), 0o600);
    assert!(invitation.url.starts_with("tls://127.0.0.1:"), "{}", invitation.url);

    let joined = EndpointFile::read(&file).unwrap().endpoint();
    let client = connect(&joined).await.unwrap();
    assert!(client.server_info().tls_required);
    assert!(client.new_inbox().starts_with("_INBOX_laptop."));

    let twice = server::invite(&folder, "laptop").await.unwrap_err();
    assert!(matches!(twice, ServerError::NodeName { .. }), "{twice}");
    // Whoever trusts another authority does not talk to this server, and plain text is not spoken.
    let other = tempfile::tempdir().unwrap();
    let stranger = listening(other.path()).await;
    let wrong = Endpoint { ca_pem: stranger.endpoint().ca_pem, ..joined.clone() };
    let error = connect(&wrong).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
    stranger.stop().await;

    server::revoke(&folder, "laptop").unwrap();
    refused(&joined).await;
    server.stop().await;
}

/// Asked to listen everywhere, `up` finds the address that others can use, and its certificate holds for it.
#[tokio::test]
async fn an_invitation_names_an_address_others_can_use() {
    let root = tempfile::tempdir().unwrap();
    let listen = Some("0.0.0.0:0".parse().unwrap());
    let server = match Server::start(&ServerOptions { listen, ..options(root.path()) }) {
        Err(ServerError::Listen(error)) => return assert!(error.hint().contains("--address"), "{error}"),
        started => started.unwrap(),
    };
    server.ready(DEADLINE).await.unwrap();
    assert!(server.endpoint().url.starts_with("tls://127.0.0.1:"), "{}", server.endpoint().url);
    let folder = DataFolder::open(server.folder().path()).unwrap();
    let invitation = server::invite(&folder, "laptop").await.unwrap();
    assert!(!invitation.url.contains("127.0.0.1") && !invitation.url.contains("0.0.0.0"), "{}", invitation.url);
    connect(&invitation.endpoint()).await.unwrap();
    server.stop().await;
}

async fn refused(endpoint: &Endpoint) {
    let asking = async {
        while !matches!(connect(endpoint).await, Err(ConnectError::Credentials { .. })) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap();
}

#[tokio::test]
async fn an_invitation_needs_a_server_that_listens() {
    let root = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(&root.path().join("data")).unwrap();
    let error = server::invite(&folder, "laptop").await.unwrap_err();
    assert!(matches!(error, ServerError::NotRunning { .. }), "{error}");
    let server = started(&options(root.path())).await;
    let error = server::invite(&folder, "laptop").await.unwrap_err();
    assert!(error.hint().contains("--listen"), "{error}");
    server.stop().await;
}

/// An `up` in a process of its own, killed without a word; its endpoint is what is left of it.
async fn killed_up(root: &Path, bound: bool) -> Endpoint {
    let name = concat!(module_path!(), "::up_entry").split_once("::").unwrap().1;
    let mut up = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("WASMJOB_TEST_UP", root)
        .env("WASMJOB_TEST_UP_BOUND", if bound { "1" } else { "" })
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let endpoint = endpoint_path(&root.join("data"));
    until(|| endpoint.exists()).await;
    let endpoint = EndpointFile::read(&endpoint).unwrap().endpoint();
    connect(&endpoint).await.unwrap();
    up.kill().unwrap();
    up.wait().unwrap();
    endpoint
}

#[tokio::test]
async fn the_server_dies_with_an_up_that_is_killed() {
    let root = tempfile::tempdir().unwrap();
    let endpoint = killed_up(root.path(), true).await;
    let gone = async {
        while !matches!(connect(&endpoint).await, Err(ConnectError::Refused { .. })) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
}

/// Where the system cannot bind a child to our life, the next `up` ends what the last one left.
#[tokio::test]
async fn a_server_left_over_is_ended_before_the_next_one_starts() {
    let root = tempfile::tempdir().unwrap();
    let endpoint = killed_up(root.path(), false).await;
    let left = connect(&endpoint).await.unwrap().server_info().server_id;
    let server = started(&options(root.path())).await;
    let new = connect(&server.endpoint()).await.unwrap().server_info().server_id;
    assert_ne!(left, new);
    // Its port is free again, unless something else on this machine was given it meanwhile.
    if let Ok(client) = connect(&endpoint).await {
        assert_ne!(client.server_info().server_id, left, "the one left over still answers");
    }
    server.stop().await;
}

/// The other process of the tests above; as a test it does nothing.
#[tokio::test]
async fn up_entry() {
    let Some(root) = std::env::var_os("WASMJOB_TEST_UP") else { return };
    let bound = std::env::var_os("WASMJOB_TEST_UP_BOUND").is_some_and(|bound| !bound.is_empty());
    let launcher = if bound { launcher() } else { Vec::new() };
    let _server = started(&ServerOptions { launcher, ..options(Path::new(&root)) }).await;
    std::future::pending::<()>().await;
}

/// Waits for a file another process makes: there is no event to wait on, so it is asked again and again.
async fn until(mut there: impl FnMut() -> bool) {
    let waiting = async {
        while !there() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap();
}
