use super::*;
use std::fs;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    std::iter::once(("WASMJOB_DATA".to_owned(), "/nowhere".to_owned())).chain(pairs).collect()
}

fn load(text: &str, vars: &[(&str, &str)], flags: &[(&'static str, &str, &str)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, text).unwrap();
    let flags = flags
        .iter()
        .map(|(flag, key, value)| FlagValue { flag, key: (*key).to_owned(), value: (*value).to_owned() })
        .collect();
    Config::load(&Layers { file: Some(file), env: env(vars), flags })
}

#[test]
fn nothing_configured_gives_usable_defaults() {
    let config = load("", &[], &[]).unwrap();
    assert!(config.node.slots >= 1);
    assert!(config.node.memory > 0);
    assert_eq!(config.node.queues, [WorkedQueue { name: "default".into(), slots: None }]);
    assert_eq!(config.node.http.to_string(), "127.0.0.1:7717");
    assert_eq!(config.queue.lease, Duration::from_secs(30));
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.source("node.http"), Source::Default);
    assert!(config.nats.url.is_none());
}

#[test]
fn later_layers_win_and_are_named() {
    let file =
        "[node]\nslots = 2\nname = \"file\"\nqueues = [\"a\", \"b:3\"]\n[limits.max]\nwall = \"5s\"\nfuel = 1e13\n";
    let vars = [("WASMJOB_NODE_SLOTS", "3"), ("WASMJOB_LIMITS_MAX_WALL", "6s")];
    let config = load(file, &vars, &[("--name", "node.name", "flag")]).unwrap();
    assert_eq!(config.node.slots, 3);
    assert_eq!(config.node.name, "flag");
    let worked = |name: &str, slots| WorkedQueue { name: name.into(), slots };
    assert_eq!(config.node.queues, [worked("a", None), worked("b", Some(3))]);
    assert_eq!(config.limits.max["wall"], "6s");
    assert_eq!(config.limits.max["fuel"], "1e13");
    let rows = config.rows();
    let row = |key: &str| rows.iter().find(|row| row.key == key).unwrap().clone();
    assert_eq!(row("node.slots").source, "environment WASMJOB_NODE_SLOTS");
    assert_eq!(row("node.name").source, "flag --name");
    assert!(row("node.queues").source.ends_with("config.toml:4"));
    assert_eq!(row("nats.url").value, None);
    assert_eq!(config.to_json()["values"]["node.slots"]["value"], "3");
}

#[test]
fn unknown_keys_are_errors_with_their_place() {
    let error = load("[node]\nslots = 2\nslot = 3\n", &[], &[]).unwrap_err();
    assert!(error.to_string().contains("config.toml:3: unknown key `node.slot`"), "{error}");
    assert!(error.hint().contains("node.slots"), "{}", error.hint());
    let error = load("[nodes]\n", &[], &[]).unwrap_err();
    assert!(error.to_string().contains("`nodes`"), "{error}");
    let error = load("", &[("WASMJOB_NODE_SLOT", "1")], &[]).unwrap_err();
    assert!(error.to_string().contains("WASMJOB_NODE_SLOT"), "{error}");
    load("", &[("WASMJOB_NATS_SERVER", "/bin/x"), ("WASMJOB_TEST", "1")], &[]).unwrap();
}

#[test]
fn wrong_values_say_key_source_and_what_is_valid() {
    let cases = [
        ("[node]\nslots = 0\n", "node.slots"),
        ("[node]\nmemory = \"lots\"\n", "node.memory"),
        ("[node]\nhttp = \"0.0.0.0:80\"\n", "node.http"),
        ("[node]\nname = \"Two Words\"\n", "node.name"),
        ("[node]\nqueues = [\"UPPER\"]\n", "node.queues"),
        ("[node]\nqueues = []\n", "node.queues"),
        ("[node]\nqueues = [\"a:0\"]\n", "node.queues"),
        ("[node]\nqueues = [\"a\", \"a:2\"]\n", "node.queues"),
        ("[queue]\nlease = 30\n", "queue.lease"),
        ("[queue]\nlease = \"10m\"\n", "queue.lease"),
        ("[queue]\nlease = \"0s\"\n", "queue.lease"),
        ("[log]\nformat = \"xml\"\n", "log.format"),
        ("[node]\ndrain = true\n", "node.drain"),
    ];
    for (text, key) in cases {
        let error = load(text, &[], &[]).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(key) && said.contains("config.toml:2") && said.contains("valid is"), "{said}");
    }
}

#[test]
fn a_broken_file_names_the_line() {
    let error = load("[node]\nslots = = 2\n", &[], &[]).unwrap_err();
    assert!(error.to_string().contains("config.toml:2: not valid TOML"), "{error}");
    let missing = Layers { file: Some("/nowhere/x.toml".into()), env: env(&[]), flags: vec![] };
    assert!(matches!(Config::load(&missing), Err(ConfigError::Read { .. })));
}

#[test]
fn short_names_give_way_to_exact_ones_and_secrets_are_not_shown() {
    let vars = [("WASMJOB_NATS_URL", "nats://u:secret@b"), ("WASMJOB_NATS", "nats://a")];
    let config = load("", &vars, &[]).unwrap();
    assert_eq!(config.nats.url.as_deref(), Some("nats://u:secret@b"));
    assert!(!format!("{:?}", config.rows()).contains("secret"));
}

#[test]
fn paths_in_the_file_are_relative_to_it() {
    let config = load("[nats]\ncreds = \"me.creds\"\n", &[], &[]).unwrap();
    let creds = config.nats.creds.unwrap();
    assert!(creds.is_absolute() && creds.ends_with("me.creds"), "{}", creds.display());
}

#[test]
fn trusted_keys_are_read_from_the_top_of_the_file_and_from_the_environment() {
    let [one, two] = [1, 2].map(|seed| wasmjob_runtime::PrivateKey::from_seed(&[seed; 32]));
    let (first, second) = (one.public().to_string(), two.public().to_string());
    assert!(load("", &[], &[]).unwrap().trusted_keys.is_empty());
    let file = format!("trusted_keys = [\"{first}\", \"{second}\"]\n[node]\nslots = 2\n");
    let config = load(&file, &[], &[]).unwrap();
    assert!(config.trusted_keys.contains(&one.public()) && config.trusted_keys.contains(&two.public()));
    let row = config.rows().into_iter().find(|row| row.key == "trusted_keys").unwrap();
    assert_eq!(row.value.unwrap(), format!("{first},{second}"));
    assert!(row.source.ends_with("config.toml:1"), "{}", row.source);
    let config = load(&file, &[("WASMJOB_TRUSTED_KEYS", &format!(" {second} ,"))], &[]).unwrap();
    assert!(!config.trusted_keys.contains(&one.public()) && config.trusted_keys.contains(&two.public()));
}

#[test]
fn a_mistake_in_the_trusted_keys_never_means_that_nobody_is_asked_for() {
    let private = wasmjob_runtime::PrivateKey::from_seed(&[1; 32]);
    let (secret, public) = (private.to_secret_text(), private.public().to_string());
    for (file, said) in [
        ("trusted_keys = []\n".to_owned(), "names no key"),
        ("trusted_keys = \" , \"\n".to_owned(), "names no key"),
        ("trusted_keys = true\n".to_owned(), "trusted_keys"),
        ("trusted_keys = [\"ed25519:abc\"]\n".to_owned(), "not a public key"),
        (format!("trusted_keys = [\"{public}\", \"x\"]\n"), "entry 2"),
        (format!("trusted_keys = [\"{secret}\"]\n"), "that is a private key"),
        (format!("trusted_key = [\"{public}\"]\n"), "unknown key `trusted_key`"),
        ("[trusted_keys]\n".to_owned(), "trusted_keys"),
    ] {
        let error = load(&file, &[], &[]).unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains(&secret), "{said}: {error}");
    }
    let error = load(&format!("[node]\ntrusted_keys = [\"{public}\"]\n"), &[], &[]).unwrap_err();
    assert!(error.hint().contains("top of the file"), "{}", error.hint());
    for name in ["WASMJOB_TRUSTED_KEY", "WASMJOB_TRUSTEDKEYS", "WASMJOB_TRUSTED"] {
        let error = load("", &[(name, &public)], &[]);
        assert!(error.is_err_and(|error| error.to_string().contains(name)), "{name}");
    }
}
