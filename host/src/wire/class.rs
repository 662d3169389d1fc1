//! Classes: what a job requires of a node, as one word of a subject.
//!
//! A class is the labels a job requires, `KEY=VALUE`, sorted and joined with `+`; `any` when there are
//! none. A node takes jobs of the classes whose every label it has.

use std::collections::{BTreeMap, BTreeSet};

use super::{Grant, JobSpec};

/// The class of jobs that require nothing.
pub const ANY: &str = "any";
/// Labels of one job. Their names become one word of a subject.
pub const LABELS_MAX: usize = 16;
/// Bytes of a class: it names a consumer at the server, which takes no more than 255.
const CLASS_BYTES_MAX: usize = 200;
/// Bytes of a key or value.
const WORD_BYTES_MAX: usize = 63;
/// Keys that mean something by themselves: what a node offers.
const OWN: [&str; 2] = ["fs", "secret"];

/// The class of a job.
pub fn of(spec: &JobSpec) -> String {
    let labels = spec.labels.iter().map(|(key, value)| format!("{key}={value}"));
    let folders = spec.grants.iter().filter_map(|grant| match grant {
        Grant::Fs { host, .. } => Some(format!("fs={}", host.split('/').next().unwrap_or_default())),
        _ => None,
    });
    let secrets = spec.secrets.iter().map(|name| format!("secret={name}"));
    let all: BTreeSet<String> = labels.chain(folders).chain(secrets).collect();
    if all.is_empty() { ANY.to_owned() } else { all.into_iter().collect::<Vec<_>>().join("+") }
}

/// Whether a node with these labels takes jobs of `class`. One that is no class at all every node
/// takes: whatever was published there has to end somewhere.
pub fn is_met(class: &str, labels: &BTreeSet<String>) -> bool {
    class == ANY || !is_class(class) || class.split('+').all(|label| labels.contains(label))
}

/// The labels of `class` that none of `labels` is.
pub fn missing<'a>(class: &'a str, labels: &BTreeSet<String>) -> Vec<&'a str> {
    class.split('+').filter(|label| *label != ANY && !labels.contains(*label)).collect()
}

/// Whether this is how classes are written.
pub fn is_class(class: &str) -> bool {
    let is_label = |label: &str| label.split_once('=').is_some_and(|(key, value)| is_word(key) && is_word(value));
    class == ANY || class.len() <= CLASS_BYTES_MAX && class.split('+').all(is_label)
}

fn is_word(word: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=WORD_BYTES_MAX).contains(&word.len()) && word.bytes().all(valid)
}

/// Checks labels as a job or a node's configuration has them. Errors: what is wrong.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > LABELS_MAX {
        return Err(format!("{} labels, more than {LABELS_MAX}", labels.len()));
    }
    let wrong = labels.iter().find(|(key, value)| !is_word(key) || !is_word(value));
    if let Some((key, value)) = wrong {
        return Err(format!("`{key}={value}` is no label: KEY=VALUE, each 1 to 63 of A-Z, a-z, 0-9, - and _"));
    }
    match labels.keys().find(|key| OWN.contains(&key.as_str())) {
        Some(key) => Err(format!("the label `{key}` is what a node offers by itself; use --grant fs=... or --secret")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::new_job_id;

    fn labels(labels: &[&str]) -> BTreeSet<String> {
        labels.iter().map(|label| (*label).to_owned()).collect()
    }

    #[test]
    fn a_class_is_what_a_job_requires_sorted_and_joined() {
        let mut spec = JobSpec::new(new_job_id(), "x");
        assert_eq!(of(&spec), "any");
        spec.labels = [("gpu".to_owned(), "a100".to_owned())].into();
        spec.grants =
            vec!["fs=data/in::/in:ro".parse().unwrap(), "fs=data:ro".parse().unwrap(), "jobs=1".parse().unwrap()];
        spec.secrets = vec!["key".into()];
        assert_eq!(of(&spec), "fs=data+gpu=a100+secret=key");
    }

    #[test]
    fn a_node_takes_the_classes_whose_labels_it_has() {
        let own = labels(&["a=1", "b=2"]);
        assert!(!is_class(&["a=1"; 60].join("+")));
        for (class, met) in
            [("any", true), ("a=1", true), ("a=1+b=2", true), ("a=2", false), ("a=1+c=3", false), ("odd", true)]
        {
            assert_eq!(is_met(class, &own), met, "{class}");
        }
        assert_eq!(missing("a=1+c=3", &own), ["c=3"]);
    }

    #[test]
    fn labels_are_words() {
        let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        assert!(check_labels(&label("gpu", "a-100_x")).is_ok());
        for (key, value) in [("", "x"), ("x", ""), ("a.b", "x"), ("a", "b+c"), ("a", "*"), ("fs", "x"), ("secret", "x")]
        {
            assert!(check_labels(&label(key, value)).is_err(), "{key}={value}");
        }
    }
}
