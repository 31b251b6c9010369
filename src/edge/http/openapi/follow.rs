//! The operation that follows many subscriptions at once, and the shapes of its JSON.

use serde_json::json;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{HttpMethod, OperationBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{ArrayBuilder, Object, Ref, Required, Schema};

use super::limits::Limits;
use super::operations::{Operations, answer, of, operation, refusals, with_header};
use super::parameters::{one_of, query, text, text_up_to};
use super::shapes::{
    boolean, closed, field, filter, list, object, optional, reading_member, texts,
};

/// The description of the answer as a stream.
const STREAM: &str = "Server-sent events (WHATWG HTML, 9.2): each message is a block of `data:` \
    lines, which hold one JSON object with a `type`. The first is `hello`, with `heartbeat_ms` and \
    `retry_ms`; the last `stopping`, with `retry_ms`, or `expired`, with `error`. The others are \
    those of a WebSocket: `subscribed`, `denied`, `event`, `ephemeral`, `caught_up`, `gap`, \
    `cursor`, `counts`, `marked`, `ended`. A line that begins with `:` says that the stream is \
    alive. The stream ends when all subscriptions have ended.";

/// Returns the path, with its operation.
pub(super) fn all(limits: &Limits<'_>) -> Vec<(&'static str, Operations)> {
    vec![("/v1/follow", vec![(HttpMethod::Post, follow(limits))])]
}

fn follow(limits: &Limits<'_>) -> OperationBuilder {
    let most_ms = limits.follow.max_wait_ms;
    let wait = query(
        "wait",
        text().examples([json!("25s")]),
        &format!("The time for which a long poll waits for news: at most {most_ms} ms."),
    );
    let body = RequestBodyBuilder::new()
        .description(Some("The subscriptions, with places to go on from as `from`."))
        .required(Some(Required::True))
        .content("application/json", of("Follow"));
    let stream = text().description(Some(STREAM)).build();
    let stream = ContentBuilder::new().schema(Some(Schema::from(stream))).build();
    let kept = "The answer is not kept.";
    let told = "The messages of all subscriptions; a stream of them for `text/event-stream`.";
    let told = with_header(answer(told), "Cache-Control", kept)
        .content("application/json", of("Messages"))
        .content("text/event-stream", stream);
    let summary = "Follows many subscriptions at once, as a stream or a long poll";
    let operation = operation("follow", "read", summary, vec![wait])
        .request_body(Some(body.build()))
        .response("200", told.build());
    refusals(operation, &[&[406]])
}

/// Returns the shapes of the operation.
pub(super) fn shapes(limits: &Limits<'_>) -> Vec<(&'static str, Object)> {
    let most = (limits.follow.max_subscriptions as usize).min(crate::lists::MAX_ENTRIES);
    let subscriptions = ArrayBuilder::new()
        .items(Ref::from_schema_name("Followed"))
        .min_items(Some(1))
        .max_items(Some(most));
    let subscriptions = Schema::Array(subscriptions.build());
    vec![
        ("Follow", closed("What to follow.", [("subscriptions", subscriptions.into(), true)])),
        ("Followed", followed()),
        ("Messages", object("Messages in their order.", [list("messages", "Message")])),
        ("Message", message()),
    ]
}

fn followed() -> Object {
    let name = text_up_to(255).min_length(Some(1));
    let (topics, many, _) = texts("topics", "Topics and patterns of their names.");
    let about = "A subscription: of one `topic`, or of many `topics`.";
    closed(
        about,
        [
            field("subscription", name, "The client's own name for it; each has another one."),
            optional(field("type", one_of(&["subscribe"]), "Need not be there.")),
            optional(field("topic", text_up_to(255), "One topic.")),
            (topics, many, false),
            optional(field("from", text(), "The place to begin at: a cursor, or as in a query.")),
            optional(field("on_gap", text(), "As in the query of a reader.")),
            ("filter", Schema::from(filter()).into(), false),
            optional(field("consumer", text_up_to(128), "As in the query of a reader.")),
            optional(field("owner", text(), "As in the query of a reader.")),
            optional(field("counts", boolean(), "Whether `counts` are told.")),
            optional(field("marks_after", text(), "The `revision` of the marks that are known.")),
            ("member", Schema::from(reading_member()).into(), false),
            optional(field("strict", boolean(), "Whether a part of the topics is no use.")),
        ],
    )
}

fn message() -> Object {
    object(
        "One message; which fields it has depends on its type.",
        [
            field("type", text(), "`subscribed`, `event`, `caught_up`, `gap`, `ended`, …"),
            optional(field("subscription", text(), "The client's name for the subscription.")),
            optional(field("cursor", text(), "The place of the subscription after the message.")),
        ],
    )
}
