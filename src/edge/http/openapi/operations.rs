//! The operations of each path, and their answers.

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{Content, ObjectBuilder, Ref, Required, Response, ResponseBuilder, Schema};

use super::inboxes;
use super::limits::Limits;
use crate::edge::http::openapi::parameters::{
    self, header, number, number_within, of_lists, of_pages, of_readers, of_streams, one_of, query,
    text, text_up_to,
};

/// The groups of operations, and their descriptions.
pub(super) const TAGS: [(&str, &str); 4] = [
    ("publish", "Store events, or deliver them without storing."),
    ("read", "Follow topics, read pages of history and state, and list members."),
    ("topics", "Change settings of topics, and drop events."),
    ("look", "Look at the broker: health, metrics, connections."),
];

/// The operations of one path.
pub(super) type Operations = Vec<(HttpMethod, OperationBuilder)>;

/// The statuses of refusals that every operation may have. Their reasons are the origin, the host,
/// the caller, a rate, a head that is too slow or too long, an unknown coding of the body, and lack
/// of room.
const ALWAYS: [u16; 11] = [400, 401, 403, 408, 413, 414, 415, 421, 429, 431, 503];
/// The refusals that are sent before the request is known. They have no body.
const BARE: [u16; 2] = [414, 431];
/// The refusals of operations that read the log.
pub(super) const READS: [u16; 3] = [404, 410, 500];
/// The refusals of operations that write to the log.
pub(super) const WRITES: [u16; 5] = [404, 409, 500, 504, 507];

const READY: &str =
    "Says whether publishes are accepted, and a node of a fleet has caught up; 503 if not.";

/// Returns all paths, with their operations.
pub(super) fn all(limits: &Limits<'_>) -> Vec<(&'static str, Operations)> {
    use HttpMethod::{Delete, Get, Patch, Post, Put};
    vec![
        (
            "/v1/topics/{topic}/events",
            vec![(Get, read(limits)), (Post, publish(limits)), (Delete, purge())],
        ),
        ("/v1/events", vec![(Get, read_many(limits)), (Post, read_many_posted(limits))]),
        ("/v1/publish", vec![(Post, publish_to_each())]),
        ("/v1/ws", vec![(Get, open_web_socket())]),
        ("/v1/topics", vec![(Get, list_topics())]),
        (
            "/v1/topics/{topic}",
            vec![
                (Get, show_topic()),
                (Put, set_topic()),
                (Patch, update_topic()),
                (Delete, delete_topic()),
            ],
        ),
        ("/v1/topics/{topic}/state", vec![(Get, read_state(limits))]),
        ("/v1/topics/{topic}/presence", vec![(Get, list_members())]),
        ("/v1/maintenance", vec![(Post, maintain())]),
        ("/v1/digests", vec![(Get, digests())]),
        ("/v1/connections", vec![(Get, list_connections())]),
        ("/v1/connections/{connection}", vec![(Delete, end_connection())]),
        ("/metrics", vec![(Get, plain("metrics", "Returns metrics in Prometheus' text format."))]),
        ("/healthz", vec![(Get, plain("healthy", "Says that the process is running."))]),
        ("/readyz", vec![(Get, plain("ready", READY))]),
        ("/openapi.json", vec![(Get, openapi())]),
    ]
}

pub(super) fn operation(
    id: &str,
    tag: &str,
    summary: &str,
    mut parameters: Vec<Parameter>,
) -> OperationBuilder {
    parameters.push(parameters::ticket());
    OperationBuilder::new()
        .operation_id(Some(id))
        .tag(tag)
        .summary(Some(summary))
        .parameters(Some(parameters))
}

pub(super) fn of(shape: &str) -> Content {
    Content::new(Some(Ref::from_schema_name(shape)))
}

fn any_text(description: &str) -> Content {
    let shape = text().description(Some(description));
    ContentBuilder::new().schema(Some(Schema::from(shape.build()))).build()
}

pub(super) fn answer(description: &str) -> ResponseBuilder {
    ResponseBuilder::new().description(description)
}

pub(super) fn json(description: &str, shape: &str) -> Response {
    let kept = "Whether a cache may keep the answer, and must ask before it uses it again.";
    with_header(answer(description), "Cache-Control", kept)
        .content("application/json", of(shape))
        .build()
}

pub(super) fn with_header(
    response: ResponseBuilder,
    name: &str,
    description: &str,
) -> ResponseBuilder {
    let header = HeaderBuilder::new().schema(Some(text().build())).description(Some(description));
    response.header(name, header.build())
}

/// Adds the refusals with these statuses, and those that every operation has.
pub(super) fn refusals(operation: OperationBuilder, more: &[&[u16]]) -> OperationBuilder {
    let mut all: Vec<u16> = ALWAYS.iter().chain(more.iter().copied().flatten()).copied().collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().fold(operation, |operation, status| {
        let (description, headers) = refusal(status);
        let add = |response, (name, text): &(&str, &str)| with_header(response, name, text);
        let response = headers.iter().fold(answer(description), add);
        let response = match BARE.contains(&status) {
            true => response,
            false => response.content("application/problem+json", of("Problem")),
        };
        operation.response(status.to_string(), response.build())
    })
}

/// Returns the meaning of a status, and the headers that come with it.
fn refusal(status: u16) -> (&'static str, &'static [(&'static str, &'static str)]) {
    const AFTER: (&str, &str) = ("Retry-After", "Seconds after which trying again can help.");
    const RATE: [(&str, &str); 3] = [
        AFTER,
        ("RateLimit", "The rest of the rate that refused, and the seconds until there is more."),
        ("RateLimit-Policy", "The quota of that rate."),
    ];
    const GAP: [(&str, &str); 1] = [("Leftoff-Gap", "The gap's reason and numbers.")];
    const CODINGS: [(&str, &str); 1] =
        [("Accept-Encoding", "The codings that are accepted, if that of the body is not.")];
    const AUTHENTICATE: [(&str, &str); 1] =
        [("WWW-Authenticate", "The scheme of the credential that is missing.")];
    match status {
        400 => ("Something breaks a rule. Nothing was written.", &[]),
        401 => ("Nobody knows who the caller is, or its permission is over.", &AUTHENTICATE),
        403 => ("The page's origin or the caller is not allowed, or the list is off.", &[]),
        404 => ("There is no such topic, or no such consumer.", &[]),
        406 => ("The client accepts neither a page nor a stream.", &[]),
        408 => ("The head or the body came too slowly.", &[]),
        409 => ("The state of the topic or the consumer does not allow it.", &[]),
        410 => ("The place is gone, or the topic was deleted.", &GAP),
        412 => ("The topic is at another sequence than was expected.", &[]),
        413 => ("Something is over a limit. Nothing was written.", &[]),
        414 => ("The path and the query are too long.", &[]),
        415 => ("The body's media type or coding is not accepted.", &CODINGS),
        421 => ("The broker does not answer to this host name.", &[]),
        426 => ("This path is for WebSockets only.", &[("Upgrade", "`websocket`.")]),
        429 => ("A rate was exceeded, or the broker is too busy. Nothing was written.", &RATE),
        431 => ("The head is too long: `server.max_head_bytes`.", &[]),
        500 => ("Storage failed; the detail says whether events may be stored.", &[]),
        502 => ("The other node of the fleet does not answer.", &[]),
        503 => ("The broker is stopping, accepts no events, or has no room.", &[AFTER]),
        504 => ("The time limit of the request passed; events may be stored.", &[]),
        507 => ("The disk is full. Nothing was written.", &[AFTER]),
        _ => ("Refused.", &[]),
    }
}

/// The description of a stream of events.
const STREAM: &str = "Server-sent events (WHATWG HTML, 9.2), without end: blocks of lines, each \
    ended by an empty line. `event:` is the type. `data:` is the event in the `format` that was \
    asked for. `retry:` says when to come back after the end, in milliseconds. `id:`, the last \
    line, is the cursor after the block; send it back as `Last-Event-ID`. A line that begins with \
    `:` says that the stream is alive. The broker's own types, with JSON as data, are \
    `leftoff.caught-up`, `leftoff.gap`, `leftoff.cursor`, `leftoff.warning`, `leftoff.denied`, \
    `leftoff.stopping`, `leftoff.error`, `leftoff.expired`, `leftoff.joined` and \
    `leftoff.left`; with `consumer`, also `leftoff.marked` and `leftoff.counts`, without an id. A \
    temporary refusal, such as 429 or 503, is answered with 200 and a stream of one block: \
    `retry:` and `leftoff.error`.";

/// The media types and fields of a body with many events.
const LINES: &str = "One event, whose payload is the body; or CloudEvents in any mode; or NDJSON, \
    with an event on each line. The media types of lines are `application/x-ndjson` and `ndjson`, \
    `jsonl`, `jsonline`, `jsonlines`, `json-lines`, `ldjson`, `json-stream`, each with or without \
    `x-`, below `application` or `text`, and `application/stream+json`. In `application/json-seq` \
    separators stand between the events. Lines of another format, such as `…+ndjson` and \
    `…+json-seq`, are refused with 415. Each event is a JSON object, and all of its fields are \
    optional: `id`, `type`, `key`, `headers`, `content_type`, `publisher_time_ms` and `ttl_ms`, as \
    in the query; `topic`, which must be that of the path; and the payload, `data` in JSON or \
    `data_base64`. With `atomic=true` the body is lines, or an array of such objects as \
    `application/json`, and all events are stored or none.";

/// Describes the answer: a page or a stream, as `Accept` says.
fn events() -> Response {
    let stream = any_text(STREAM);
    let headers = [
        (
            "Cache-Control",
            "Whether a cache may keep the answer, and must ask before it uses it again.",
        ),
        ("Vary", "The headers of the request that the answer depends on."),
        ("Content-Encoding", "`zstd` or `gzip`, for a page whose client accepts it."),
        ("ETag", "The tag of a page's body, if it has one, for `If-None-Match`."),
        ("Retry-After", "When a client that polls without waiting may ask again, in seconds."),
        ("Leftoff-Gap", "The gap before the events, or the first of them."),
        ("Leftoff-Ignored", "Names and values in the query that a stream ignores."),
        ("Leftoff-Topics", "The topics that are read, if the caller may not read all."),
    ];
    let add = |response, (name, text): (&str, &str)| with_header(response, name, text);
    headers
        .into_iter()
        .fold(answer("A page of events; a stream of them for `text/event-stream`."), add)
        .content("application/json", page_or_list())
        .content("text/event-stream", stream)
        .build()
}

/// Returns a page of history, or, where a list was asked for, that.
fn page_or_list() -> Content {
    let forms = AnyOfBuilder::new()
        .item(Ref::from_schema_name("Page"))
        .item(Ref::from_schema_name("Listed"));
    ContentBuilder::new().schema(Some(Schema::from(forms.build()))).build()
}

/// Returns the parameters of readers that read as a consumer, and of pages that are lists.
fn of_consumers(limits: &Limits<'_>) -> Vec<Parameter> {
    let of_readers = match limits.has_consumers {
        true => inboxes::of_readers(),
        false => Vec::new(),
    };
    of_readers.into_iter().chain(inboxes::of_inboxes()).collect()
}

fn reading(id: &str, summary: &str, parameters: Vec<Parameter>) -> OperationBuilder {
    let tag = "The client holds the page with this tag.";
    let operation = operation(id, "read", summary, parameters)
        .response("200", events())
        .response("304", with_header(answer("The page is the same."), "ETag", tag).build());
    refusals(operation, &[&READS, &[406]])
}

fn read(limits: &Limits<'_>) -> OperationBuilder {
    let mut all = vec![parameters::topic()];
    all.extend(of_readers());
    all.extend(of_pages(limits));
    all.extend(of_streams());
    all.extend(of_consumers(limits));
    all.push(header("If-None-Match", "Tags of pages that the client holds."));
    reading("readEvents", "Reads a page of a topic, or follows the topic", all)
}

fn read_many(limits: &Limits<'_>) -> OperationBuilder {
    let mut all = vec![parameters::topics()];
    all.extend(of_readers());
    all.extend(of_pages(limits));
    all.extend(of_streams());
    all.extend(of_consumers(limits));
    all.push(header("If-None-Match", "Tags of pages that the client holds."));
    reading("readEventsOfMany", "Reads a page of many topics, or follows them", all)
}

fn read_many_posted(limits: &Limits<'_>) -> OperationBuilder {
    let mut all = of_readers();
    all.extend(of_pages(limits));
    all.extend(of_streams());
    all.extend(of_consumers(limits));
    let body = RequestBodyBuilder::new()
        .description(Some(
            "The parameters of the query, for long lists. Values in the query come first.",
        ))
        .required(Some(Required::True))
        .content("application/json", of("Subscription"));
    reading("readEventsOfManyPosted", "As `GET`, with the lists in a body", all)
        .request_body(Some(body.build()))
}

fn publish(limits: &Limits<'_>) -> OperationBuilder {
    let most_bytes = limits.publish.max_payload_bytes;
    let all = vec![
        parameters::topic(),
        query("id", text_up_to(255), "The publisher's own id: a second one is not stored again."),
        query("type", text_up_to(255), "The kind of event."),
        query("key", text_up_to(255), "The thing that the event is about."),
        query("publisher_time_ms", number(0), "The publisher's time: milliseconds since 1970."),
        query("ttl_ms", number(1), "The time from appending to expiry, in milliseconds."),
        query(
            "expected_sequence",
            number(0),
            "Store the event only if this is the topic's last sequence.",
        ),
        query("ephemeral", one_of(&["true", "false"]), "Deliver the event, and do not store it."),
        query("atomic", one_of(&["true", "false"]), "Lines, or an array of them: all or none."),
    ];
    let payload = format!("The payload of one event: any media type, at most {most_bytes} bytes.");
    let body = RequestBodyBuilder::new()
        .description(Some(LINES))
        .content("*/*", any_text(&payload))
        .content("application/x-ndjson", any_text("An event a line."))
        .content("application/cloudevents+json", Content::new(None::<Schema>))
        .content("application/cloudevents-batch+json", Content::new(None::<Schema>));
    let stored = Schema::from(
        utoipa::openapi::OneOfBuilder::new()
            .item(Ref::from_schema_name("Receipt"))
            .item(Ref::from_schema_name("Published"))
            .build(),
    );
    let stored = answer("The events are stored, as durably as `durability` says.")
        .content("application/json", Content::new(Some(stored)));
    let operation = operation("publishEvents", "publish", "Stores an event, or many", all)
        .request_body(Some(body.build()))
        .response("201", stored.build())
        .response("202", json("The event is delivered, and not stored.", "Delivered"));
    refusals(operation, &[&WRITES, &[412, 415]])
}

fn publish_to_each() -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .description(Some("The topics, and the events that each of them gets."))
        .required(Some(Required::True))
        .content("application/json", of("FanOut"));
    let stored = "All topics have stored all events, as durably as `durability` says.";
    let summary = "Stores events in each topic of a list: all, or none";
    let operation = operation("publishToEach", "publish", summary, Vec::new())
        .request_body(Some(body.build()))
        .response("201", json(stored, "FannedOut"));
    refusals(operation, &[&WRITES, &[412]])
}

fn purge() -> OperationBuilder {
    let before =
        query("before", number(0), "Drop the events below this sequence; without it, all events.");
    let all = vec![parameters::topic(), before];
    let operation = operation("purgeEvents", "topics", "Drops events from the front", all)
        .response("200", json("The topic after the drop.", "Topic"));
    refusals(operation, &[&WRITES])
}

fn open_web_socket() -> OperationBuilder {
    let summary = "Opens a WebSocket, with the subprotocol `leftoff.v1.json`";
    let operation = operation("openWebSocket", "read", summary, Vec::new())
        .response("101", answer("The connection is a WebSocket now.").build());
    refusals(operation, &[&[426]])
}

fn list_topics() -> OperationBuilder {
    let all = of_lists(text());
    let operation = operation("listTopics", "topics", "Lists topics", all)
        .response("200", json("Topics in the order of their names.", "Topics"));
    refusals(operation, &[])
}

fn show_topic() -> OperationBuilder {
    const TOPIC: &str = "Returns a topic, to whoever may subscribe to it or manage it";
    let operation = operation("showTopic", "topics", TOPIC, vec![parameters::topic()])
        .response("200", json("The topic.", "Topic"));
    refusals(operation, &[&[404]])
}

fn with_settings(operation: OperationBuilder) -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .description(Some("The topic's settings; an empty body sets none."))
        .content("application/json", of("Settings"));
    refusals(operation.request_body(Some(body.build())), &[&WRITES])
}

/// Returns the answer with the topic, or with what was foreseen for `dry_run`.
fn changed_topic() -> Response {
    let forms = AnyOfBuilder::new()
        .item(Ref::from_schema_name("Topic"))
        .item(Ref::from_schema_name("Foreseen"));
    let forms = ContentBuilder::new().schema(Some(Schema::from(forms.build()))).build();
    let kept = "Whether a cache may keep the answer, and must ask before it uses it again.";
    let told = "The topic with its new settings; with `dry_run`, what they would drop.";
    with_header(answer(told), "Cache-Control", kept).content("application/json", forms).build()
}

/// Returns the parameters of a change of settings.
fn of_settings() -> Vec<Parameter> {
    let words = "Only tell what the settings would drop; nothing is changed.";
    vec![parameters::topic(), query("dry_run", one_of(&["true", "false"]), words)]
}

fn set_topic() -> OperationBuilder {
    let summary = "Creates a topic, or replaces its settings";
    with_settings(
        operation("setTopic", "topics", summary, of_settings())
            .response("200", changed_topic())
            .response("201", json("The new topic.", "Topic")),
    )
}

fn update_topic() -> OperationBuilder {
    let summary = "Changes settings that are named; null unsets one, by RFC 7396";
    with_settings(
        operation("updateTopic", "topics", summary, of_settings()).response("200", changed_topic()),
    )
}

fn delete_topic() -> OperationBuilder {
    let all = vec![parameters::topic()];
    let operation = operation("deleteTopic", "topics", "Deletes a topic with its events", all)
        .response("204", answer("The topic is deleted.").build());
    refusals(operation, &[&WRITES])
}

fn read_state(limits: &Limits<'_>) -> OperationBuilder {
    let most = limits.follow.max_page_events;
    let all = vec![
        parameters::topic(),
        query("key_prefix", text(), "Only keys that begin with this text."),
        query("limit", number_within(0, most), "The most events; 100 if it is 0 or missing."),
        query("page_token", text(), "The `next_page_token` of the page before."),
    ];
    let operation = operation("readState", "read", "Reads the latest event of each key", all)
        .response("200", json("A page of the topic's state.", "State"));
    refusals(operation, &[&READS, &[504]])
}

fn list_members() -> OperationBuilder {
    let mut all = vec![parameters::topic()];
    all.extend(of_lists(text()));
    let operation = operation("listMembers", "read", "Lists the present members of a topic", all)
        .response("200", json("Members in the order of their ids.", "Members"));
    refusals(operation, &[])
}

fn maintain() -> OperationBuilder {
    let all = vec![query("topic", text(), "One topic; without it, all topics.")];
    let summary = "Does maintenance at once";
    let operation = operation("maintain", "topics", summary, all)
        .response("200", json("The work that was done.", "Maintained"));
    refusals(operation, &[&WRITES])
}

fn digests() -> OperationBuilder {
    let all = vec![
        query("topic", text_up_to(255), "The name of one topic."),
        query("from", number(1), "The first sequence; 1 without it."),
        query("through", number(0), "The last position; without it, all events count."),
    ];
    let summary = "Returns hashes of a topic's events, to compare two brokers without the events";
    let operation = operation("digests", "look", summary, all)
        .response("200", json("Hashes of 256 sequences each: a part of them.", "Digests"));
    refusals(operation, &[&READS])
}

fn list_connections() -> OperationBuilder {
    let summary = "Lists the connections, if `follow.list_connections` is on";
    let mut parameters = of_lists(number(0));
    parameters.push(parameters::node());
    let operation = operation("listConnections", "look", summary, parameters)
        .response("200", json("Connections in the order of their ids.", "Connections"));
    refusals(operation, &[&[502]])
}

fn end_connection() -> OperationBuilder {
    let summary = "Ends a connection, whose client may come back";
    let operation = operation(
        "endConnection",
        "look",
        summary,
        vec![parameters::connection(), parameters::node()],
    )
    .response("204", answer("The connection ends.").build());
    refusals(operation, &[&[404, 502]])
}

fn plain(id: &str, summary: &str) -> OperationBuilder {
    let text = any_text("Lines of text.");
    let operation = operation(id, "look", summary, Vec::new())
        .response("200", answer("The text.").content("text/plain", text).build());
    refusals(operation, &[])
}

fn openapi() -> OperationBuilder {
    let shape = Schema::from(ObjectBuilder::new().build());
    let document = answer("This document.").content("application/json", Content::new(Some(shape)));
    let operation = operation("openapi", "look", "Describes HTTP by OpenAPI 3.1", Vec::new())
        .response("200", document.build());
    refusals(operation, &[])
}
