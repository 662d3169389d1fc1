//! What a node's user may do through NATS. The operator may do everything.
//!
//! A node works on what is there and makes nothing: streams and buckets are made by `up` (or by the
//! operator), so no node can drop a queue, empty it, or change what it keeps. NATS wildcards stand for
//! whole words only, so `WJ_Q_<any queue>` cannot be written; consumers are therefore allowed on every
//! stream of this server, which has none but ours.
//!
//! What this does not do: a node that takes work sees that work, and may finish jobs that are not its
//! own. Nodes are trusted with jobs; they are not trusted with the store, nor with each other's replies.

use super::conf::quote;

/// Subjects one user may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// May publish on these.
    pub publish: Vec<String>,
    /// May subscribe to these.
    pub subscribe: Vec<String>,
}

/// Published by every node.
const PUBLISH: &[&str] = &[
    // Our own subjects: events, logs, artifacts' chunks, jobs that jobs submit, ticks, control.
    "wj.>",
    // Whether JetStream is there; where a stream or a consumer stands.
    "$JS.API.INFO",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.NAMES",
    "$JS.API.CONSUMER.INFO.*.*",
    // Making (or finding again) the durable consumer of a queue, and the passing ones behind a watch.
    "$JS.API.CONSUMER.CREATE.>",
    // Taking work, and saying what became of it.
    "$JS.API.CONSUMER.MSG.NEXT.*.*",
    "$JS.ACK.>",
    // Answering the flow control of a watch, without which it stalls.
    "$JS.FC.>",
    // Reading one message: an event before it is written again, a chunk, a key.
    "$JS.API.DIRECT.GET.>",
    "$JS.API.STREAM.MSG.GET.*",
    // Key-value writes, bucket by bucket.
    "$KV.wj_keys.>",
    "$KV.wj_cancel.>",
    "$KV.wj_names.>",
    "$KV.wj_schedules.>",
];

/// Subscribed by every node: orders, and results it waits for. The rest comes through consumers, whose
/// messages arrive in its own inbox.
const SUBSCRIBE: &[&str] = &["wj.ctl.>", "wj.seen.>"];

/// How many answers a node may send to a request, and for how long.
const RESPONSES: &str = "{ max: 1, expires: \"10s\" }";

/// The prefix under which a node, and nobody else but the operator, receives replies.
#[must_use]
pub fn inbox_prefix(node: &str) -> String {
    format!("_INBOX_{node}")
}

/// What the node of that name may do.
#[must_use]
pub fn of_node(name: &str) -> Permissions {
    let own = |subjects: &[&str], more: Vec<String>| -> Vec<String> {
        subjects
            .iter()
            .map(|subject| (*subject).to_owned())
            .chain(more)
            .collect()
    };
    // A node announces itself and nobody else.
    let heartbeat = vec![
        format!("$KV.wj_nodes.{name}"),
        format!("$KV.wj_nodes.{name}.>"),
    ];
    Permissions {
        publish: own(PUBLISH, heartbeat),
        subscribe: own(SUBSCRIBE, vec![format!("{}.>", inbox_prefix(name))]),
    }
}

impl Permissions {
    /// As one line of `nats.conf`.
    pub(super) fn render(&self) -> String {
        let list = |subjects: &[String]| {
            subjects
                .iter()
                .map(|subject| quote(subject))
                .collect::<Vec<_>>()
                .join(", ")
        };
        format!(
            "{{ publish: {{ allow: [{}] }}, subscribe: {{ allow: [{}] }}, allow_responses: {RESPONSES} }}",
            list(&self.publish),
            list(&self.subscribe),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_makes_changes_and_empties_no_stream() {
        let node = of_node("a");
        for verb in [
            "STREAM.CREATE",
            "STREAM.UPDATE",
            "STREAM.DELETE",
            "STREAM.PURGE",
            "STREAM.MSG.DELETE",
            "CONSUMER.DELETE",
        ] {
            let subject = format!("$JS.API.{verb}");
            assert!(
                !node
                    .publish
                    .iter()
                    .any(|allowed| allowed.starts_with(&subject)),
                "{verb}"
            );
        }
        assert!(
            !node
                .publish
                .iter()
                .any(|allowed| allowed == ">" || allowed == "$JS.>" || allowed == "$JS.API.>")
        );
    }

    #[test]
    fn a_node_hears_its_own_replies_only() {
        assert!(of_node("a").subscribe.contains(&"_INBOX_a.>".to_owned()));
        assert!(
            !of_node("a")
                .subscribe
                .iter()
                .any(|subject| subject.starts_with("_INBOX.") || subject == ">")
        );
    }
}
