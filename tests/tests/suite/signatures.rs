//! Signed components: keys, `sign`, and nodes that run nothing else.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use serde_json::Value;
use wasmjob_runtime::{Blob, Digest, OutcomeKind, PrivateKey, Sandbox, SandboxConfig, TrustedKeys, sign};
use wasmjob_tests::{Cluster, Machine, guest};

/// Makes a key in the data folder and gives its public half.
fn new_key(machine: &Machine) -> String {
    machine.wasmjob(&["key", "new", "--force"]).succeeded().text().trim().to_owned()
}

/// Signs a file with the key in the data folder and gives the signed file.
fn signed(machine: &Machine, file: &str) -> String {
    machine.wasmjob(&["sign", file]).succeeded();
    file.replace(".wasm", ".signed.wasm")
}

/// Has the machine run only what one of these keys signed.
fn trust(machine: &Machine, keys: &[&str]) {
    machine.file("data/config.toml", format!("trusted_keys = {keys:?}\n"));
}

/// How a run was refused.
#[track_caller]
fn refusal(machine: &Machine, file: &str) -> String {
    let report = machine.wasmjob(&["run", "--json", file]).ended(1).json();
    assert_eq!(report["outcome"]["kind"], "invalid", "{report}");
    assert_eq!(report["outcome"]["retryable"], false, "{report}");
    report["outcome"]["message"].as_str().unwrap().to_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn digest_of(file: &str) -> Digest {
    Digest::of(&fs::read(file).unwrap())
}

#[test]
fn a_private_key_is_private_and_never_overwritten_unasked() {
    let machine = Machine::new();
    let said = machine.wasmjob(&["key", "new"]).succeeded().saying(&["private key is in"]);
    let public = said.text().trim().to_owned();
    assert!(public.starts_with("ed25519:") && said.text().lines().count() == 1, "{public}");
    let file = machine.path("data/keys/signing.key");
    let secret = fs::read_to_string(&file).unwrap();
    assert!(!said.err.contains(secret.trim()));
    assert_eq!((mode(&file), mode(&machine.path("data/keys"))), (0o600, 0o700));
    machine.wasmjob(&["key", "new"]).ended(2).saying(&["signing.key", "not overwritten", "--force"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), secret);
    assert_eq!(machine.wasmjob(&["key", "show"]).succeeded().text().trim(), public);
    let other = machine.path("other.key").display().to_string();
    let made = machine.json(&["key", "new", "--output", &other]);
    assert_ne!(made["public_key"], public.as_str());
    assert_eq!((made["file"].as_str(), mode(Path::new(&other))), (Some(other.as_str()), 0o600));
    assert_eq!(machine.json(&["key", "show", &other])["public_key"], made["public_key"]);
    assert_ne!(new_key(&machine), public);
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn what_is_no_private_key_of_ours_alone_signs_nothing() {
    let machine = Machine::new();
    let hello = machine.guest(&guest::says("hello"));
    machine.wasmjob(&["sign", &hello]).ended(2).saying(&["signing.key", "wasmjob key new"]);
    let public = new_key(&machine);
    let wrong = machine.file("wrong.key", &public);
    fs::set_permissions(&wrong, PermissionsExt::from_mode(0o644)).unwrap();
    machine.wasmjob(&["sign", &hello, "--key", &wrong]).ended(2).saying(&["others can get at it", "chmod 600"]);
    fs::set_permissions(&wrong, PermissionsExt::from_mode(0o600)).unwrap();
    machine.wasmjob(&["sign", &hello, "--key", &wrong]).ended(2).saying(&["that is a public key"]);
    machine.wasmjob(&["sign", &machine.file("no.wasm", "no")]).ended(2).saying(&["no.wasm", "not WebAssembly"]);
    assert!(!machine.path("no.signed.wasm").exists());
}

#[test]
fn a_signed_copy_is_made_beside_the_component_and_signing_again_changes_nothing() {
    let machine = Machine::new();
    let (public, hello) = (new_key(&machine), machine.guest(&guest::says("hello")));
    let before = fs::read(&hello).unwrap();
    let said = machine.wasmjob(&["sign", &hello]).succeeded().saying(&["signed.wasm signed by", &public]);
    let copy = hello.replace(".wasm", ".signed.wasm");
    assert_eq!(said.text().trim(), digest_of(&copy).to_string());
    assert_eq!(fs::read(&hello).unwrap(), before);
    assert!(fs::read(&copy).unwrap().starts_with(&before));
    let again = machine.wasmjob(&["sign", &copy]).succeeded().saying(&["is signed already by"]);
    assert_eq!(again.text(), said.text());
    let out = machine.path("out.wasm").display().to_string();
    let json = machine.json(&["sign", &hello, "--out", &out]);
    assert_eq!((&json["key"], &json["file"]), (&public.into(), &out.clone().into()));
    assert_eq!(fs::read(&out).unwrap(), fs::read(&copy).unwrap());
    assert_eq!(machine.wasmjob(&["run", &copy]).succeeded().text(), "hello");
}

#[test]
fn only_what_a_trusted_key_signed_runs_where_keys_are_trusted() {
    let machine = Machine::new();
    let (hello, trusted) = (machine.guest(&guest::says("hello")), new_key(&machine));
    let good = signed(&machine, &hello);
    let second = machine.guest(&guest::says("second"));
    let stranger = new_key(&machine);
    let other = signed(&machine, &second);
    // Compiled and kept before anybody asked for signatures.
    assert_eq!(machine.wasmjob(&["run", &hello]).succeeded().text(), "hello");
    assert_eq!(machine.wasmjob(&["run", &other]).succeeded().text(), "second");
    trust(&machine, &[&trusted]);
    assert_eq!(machine.wasmjob(&["run", &good]).succeeded().text(), "hello");
    let message = refusal(&machine, &hello);
    for part in ["unsigned", "wasmjob sign", "trusted_keys", &digest_of(&hello).to_string()] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let message = refusal(&machine, &other);
    assert!(message.contains(&format!("signed by {stranger}")), "{message}");
    let mut changed = fs::read(&good).unwrap();
    let at = changed.windows(5).position(|text| text == b"hello").unwrap();
    changed[at] = b'H';
    let message = refusal(&machine, &machine.file("changed.wasm", &changed));
    assert!(message.contains("wrong") && message.contains(&trusted), "{message}");
    let message = refusal(&machine, &machine.file("no.wasm", "no wasm"));
    assert!(message.contains("not WebAssembly"), "{message}");
    trust(&machine, &[&trusted, &stranger]);
    assert_eq!(machine.wasmjob(&["run", &other]).succeeded().text(), "second");
    let shown = machine.json(&["config"]);
    assert_eq!(shown["values"]["trusted_keys"]["value"], format!("{trusted},{stranger}"));
}

#[test]
fn the_environment_sets_trusted_keys_and_a_wrong_one_stops_everything() {
    let machine = Machine::new();
    let hello = machine.guest(&guest::says("hello"));
    let run = |name: &str, value: &str| {
        let mut command: Command = machine.command(&["run", &hello]);
        let done = command.env(name, value).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let public = PrivateKey::from_seed(&[1; 32]).public().to_string();
    let (code, said) = run("WASMJOB_TRUSTED_KEYS", &public);
    assert!(code == Some(1) && said.contains("unsigned"), "{said}");
    let (code, said) = run("WASMJOB_TRUSTED_KEYS", "ed25519:nonsense");
    assert!(code == Some(2) && said.contains("WASMJOB_TRUSTED_KEYS"), "{said}");
    let (code, said) = run("WASMJOB_TRUSTED_KEY", &public);
    assert!(code == Some(2) && said.contains("WASMJOB_TRUSTED_KEY"), "{said}");
}

#[test]
fn a_node_refuses_what_no_trusted_key_signed_whoever_submits_it() {
    let machine = Machine::new();
    let (hello, trusted) = (machine.guest(&guest::says("hello")), new_key(&machine));
    let good = signed(&machine, &hello);
    trust(&machine, &[&trusted]);
    let cluster = Cluster::up_on(machine, &[]);
    assert_eq!(cluster.wasmjob(&["submit", "--wait", &good]).succeeded().text(), "hello");
    // The author is told before anything is uploaded.
    for command in ["submit", "push"] {
        cluster.wasmjob(&[command, &hello]).ended(2).saying(&["unsigned", "trusted_keys", "config.toml:1"]);
    }
    // A client that knows of no keys.
    let careless = cluster.file("careless.toml", "");
    let said = cluster.wasmjob(&["--config", &careless, "submit", "--wait", "--json", &hello]).ended(1);
    let report: Value = said.json();
    assert_eq!((&report["state"], &report["outcome"]["kind"]), (&"failed".into(), &"invalid".into()), "{report}");
    assert!(report["outcome"]["message"].as_str().unwrap().contains("unsigned"), "{report}");
    assert_eq!(report["attempt"], 1, "{report}");
}

#[tokio::test]
async fn code_compiled_under_other_keys_is_not_taken_from_the_disk() {
    let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o700)).tempdir().unwrap();
    let keys = [1, 2].map(|seed| PrivateKey::from_seed(&[seed; 32]));
    let sandbox = |trusted: &[&PrivateKey]| {
        Sandbox::new(SandboxConfig {
            code_dir: Some(dir.path().into()),
            trusted_keys: trusted.iter().map(|key| key.public()).collect::<TrustedKeys>(),
            ..SandboxConfig::new(1, dir.path().into())
        })
        .unwrap()
    };
    let bytes = wat::parse_str(guest::says("hello")).unwrap();
    let signed = Blob::from_bytes(sign(&bytes, &keys[0]).unwrap().into());
    let prepare = async |sandbox: &Sandbox, component: &Blob| {
        let prepared =
            sandbox.prepare(component.digest(), wasmjob_runtime::Variant::Fast, async { Ok(component.clone()) }).await;
        prepared.map(drop).map_err(|outcome| (outcome.kind, sandbox.cache_counts().disk_hits))
    };
    let invalid = Err((OutcomeKind::Invalid, 0));
    let unsigned = Blob::from_bytes(bytes.into());
    for component in [&unsigned, &signed] {
        assert_eq!(prepare(&sandbox(&[]), component).await, Ok(()));
    }
    assert_eq!(prepare(&sandbox(&[&keys[0]]), &unsigned).await, invalid);
    assert_eq!(prepare(&sandbox(&[&keys[0]]), &signed).await, Ok(()));
    assert_eq!(prepare(&sandbox(&[&keys[1]]), &signed).await, invalid);
    // Under the same keys what was compiled is used, in whatever order they are named.
    assert_eq!(prepare(&sandbox(&[&keys[1], &keys[0]]), &signed).await, Ok(()));
    let warm = sandbox(&[&keys[0], &keys[1]]);
    assert_eq!(prepare(&warm, &signed).await, Ok(()));
    assert_eq!((warm.cache_counts().disk_hits, warm.cache_counts().compiled), (1, 0));
}
