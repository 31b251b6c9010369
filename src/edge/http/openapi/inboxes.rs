//! The parameters of readers that read as a consumer, and of pages that are lists.

use serde_json::json;
use utoipa::openapi::path::Parameter;

use super::parameters::{one_of, query, text, text_up_to};

/// Returns the parameters of pages that are lists: newest first, or by marks.
pub(super) fn of_inboxes() -> Vec<Parameter> {
    let flag = |name, text: &str| query(name, one_of(&["true", "false"]), text);
    vec![
        query(
            "order",
            one_of(&["newest", "oldest"]),
            "With `newest`, a page begins with the newest event, and `next` in it is the `before` \
             of the page after it. With a consumer, the page is one of its inbox.",
        ),
        flag("seen", "Only events of the consumer's inbox that are seen, or not."),
        flag("read", "Only events that are read, or not."),
        flag("archived", "Only events that are archived, or not; without it, those that are not."),
        flag("snoozed", "Only events that are snoozed, or not; without it, those that are not."),
        query(
            "group_by",
            text().examples([json!("key")]),
            "`key`, or a header like `header:thread`: one entry for each key or value, with its \
             newest event and its numbers.",
        ),
        query("actors", text(), "The header with the actor of an event, for groups."),
    ]
}

/// Returns the parameters of readers that read as a consumer.
pub(super) fn of_readers() -> Vec<Parameter> {
    vec![
        query(
            "consumer",
            text_up_to(128),
            "The consumer as which the caller reads its topic, or its one pattern. Without a \
             cursor and `from`, the reader begins after the consumer's checkpoint; the consumer's \
             filter holds besides the others.",
        ),
        query("owner", text(), "The caller whose consumer it is, for administrators."),
        query(
            "counts",
            one_of(&["true", "false"]),
            "On a stream with `consumer`: whether it tells `leftoff.counts`.",
        ),
        query(
            "marks_after",
            text(),
            "On a stream with `consumer`: the `revision` of the newest `leftoff.marked` that the \
             client has.",
        ),
    ]
}
