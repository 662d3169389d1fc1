//! The shape of this repository: who depends on whom, what lies at the top, and what the sandbox
//! must not know of. ARCHITECTURE.md says why.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Each package and the ones of ours that it may depend on.
const LAYERS: [(&str, &[&str]); 5] = [
    ("wasmjob-runtime", &[]),
    ("wasmjob-host", &["wasmjob-runtime"]),
    ("wasmjob-macros", &[]),
    ("wasmjob", &["wasmjob-macros"]),
    ("wasmjob-tests", &["wasmjob-runtime", "wasmjob-host"]),
];

/// What only the host may depend on: the sandbox and the guests' crate have no outside world.
const OUTSIDE_WORLD: [&str; 5] = ["async-nats", "axum", "object_store", "reqwest", "clap"];

/// Everything that may lie at the top of the repository; the folders and texts must.
const FOLDERS: [&str; 7] = ["deploy", "guest-examples", "host", "runtime", "sdk", "tests", "wit"];
const TEXTS: [&str; 7] =
    ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md", "SPECIFICATION.md"];
const MACHINERY: [&str; 7] =
    [".ci", ".gitignore", "Cargo.lock", "Cargo.toml", "clippy.toml", "deny.toml", "rustfmt.toml"];

/// What `runtime` never hears of.
const FOREIGN_TO_RUNTIME: [&str; 5] = ["env::var", "SystemTime", "OffsetDateTime", "NATS", "JetStream"];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn stdout_of(command: &mut Command) -> String {
    let done = command.current_dir(top()).output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A package: its name, and its dependencies of every kind with the folder of those that are ours.
struct Package {
    name: String,
    dependencies: Vec<(String, Option<PathBuf>)>,
}

fn packages(manifest: &str) -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let asked = ["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path", manifest];
    let metadata: Value = serde_json::from_str(&stdout_of(Command::new(cargo).args(asked))).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter().map(|package| Package {
        name: text(&package["name"]),
        dependencies: package["dependencies"].as_array().unwrap().iter().map(dependency).collect(),
    });
    packages.collect()
}

fn dependency(dependency: &Value) -> (String, Option<PathBuf>) {
    (text(&dependency["name"]), dependency["path"].as_str().map(|path| fs::canonicalize(path).unwrap()))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn dependencies_point_one_way() {
    let found = packages("Cargo.toml");
    let names: BTreeSet<&str> = found.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(names, LAYERS.iter().map(|(name, _)| *name).collect(), "a package without a layer, or the reverse");
    for package in &found {
        let (_, allowed) = LAYERS.iter().find(|(name, _)| *name == package.name).unwrap();
        for (name, path) in &package.dependencies {
            assert!(path.is_none() || allowed.contains(&name.as_str()), "{} depends on {name}", package.name);
        }
    }
}

#[test]
fn only_the_host_knows_the_outside_world() {
    for package in packages("Cargo.toml") {
        if ["wasmjob-host", "wasmjob-tests"].contains(&package.name.as_str()) {
            continue;
        }
        for (name, _) in &package.dependencies {
            assert!(!OUTSIDE_WORLD.contains(&name.as_str()), "{} depends on {name}", package.name);
        }
    }
}

#[test]
fn guests_see_the_sdk_and_nothing_else_of_ours() {
    let sdk = fs::canonicalize(top().join("sdk")).unwrap();
    let guests = packages("guest-examples/Cargo.toml");
    assert!(!guests.is_empty());
    for guest in guests {
        for (name, path) in guest.dependencies {
            assert!(path.is_none_or(|path| path == sdk), "{} depends on {name}", guest.name);
        }
    }
}

#[test]
fn the_top_of_the_repository_is_what_it_is() {
    if !top().join(".git").exists() {
        return; // unpacked from an archive
    }
    let files = stdout_of(Command::new("git").args(["-c", "safe.directory=*", "ls-files"]));
    let found: BTreeSet<&str> = files.lines().filter_map(|path| path.split('/').next()).collect();
    let expected: BTreeSet<&str> = [FOLDERS, TEXTS, MACHINERY].into_iter().flatten().collect();
    assert_eq!(found, expected);
}

#[test]
fn the_sandbox_never_hears_of_queues_environment_variables_or_the_date() {
    let mut files = Vec::new();
    collect_files(&top().join("runtime/src"), "rs", &mut files);
    assert!(files.len() > 10);
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        for word in FOREIGN_TO_RUNTIME {
            let found = source.to_lowercase().contains(&word.to_lowercase());
            assert!(!found, "{} mentions {word}", file.display());
        }
    }
}

#[test]
fn every_item_of_the_interfaces_is_documented() {
    let mut files = Vec::new();
    collect_files(&top().join("wit"), "wit", &mut files);
    assert!(!files.is_empty());
    for file in files {
        let wit = fs::read_to_string(&file).unwrap();
        let undocumented = undocumented(&wit);
        assert!(undocumented.is_empty(), "{}: no `///` before: {undocumented:#?}", file.display());
    }
}

fn collect_files(dir: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_files(&path, extension, files);
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
}

/// Lines of WIT that begin an item and have no documentation before them. Imports are documented
/// where they are defined; the cases of an `enum` are names that say it all, or the enum says it.
fn undocumented(wit: &str) -> Vec<&str> {
    let (mut missing, mut documented, mut in_enum, mut open) = (Vec::new(), false, false, 0);
    for line in wit.lines().map(str::trim) {
        let item =
            !line.is_empty() && !["//", "}", "@", "use ", "import ", "include "].iter().any(|no| line.starts_with(no));
        if item && open == 0 && !in_enum && !documented {
            missing.push(line);
        }
        // Attributes stand between an item and its documentation.
        documented = line.starts_with("///") || documented && line.starts_with('@');
        in_enum = line.starts_with("enum ") || in_enum && line != "}";
        if !line.starts_with("//") {
            open += line.matches('(').count();
            open -= line.matches(')').count();
        }
    }
    missing
}

#[test]
fn an_item_without_documentation_is_noticed() {
    let wit =
        "/// A.\ninterface a {\n  b: func(\n    c: u8,\n  );\n  /// D.\n  @since(version = 1.0.0)\n  d: func();\n}";
    assert_eq!(undocumented(wit), ["b: func("]);
}

/// The tests that SPECIFICATION.md names, `file::test`.
fn named_tests(specification: &str) -> Vec<(String, &str)> {
    let spans = specification.split('`').skip(1).step_by(2);
    let named = spans.filter_map(|span| span.split_once(".rs::"));
    named.map(|(file, test)| (format!("{}.rs", file.replace("suite/", "tests/tests/suite/")), test)).collect()
}

#[test]
fn every_test_that_the_specification_names_exists() {
    let specification = fs::read_to_string(top().join("SPECIFICATION.md")).unwrap();
    let named = named_tests(&specification);
    assert!(named.len() > 50, "only {} found", named.len());
    for (file, test) in named {
        let source = fs::read_to_string(top().join(&file)).unwrap_or_default();
        assert!(source.contains(&format!("fn {test}(")), "SPECIFICATION.md names {file}::{test}, which does not exist");
    }
}
