//! The parameters of the HTTP interface: in paths, in queries, and in headers.

use serde_json::json;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn, ParameterStyle};
use utoipa::openapi::{Array, ObjectBuilder, RefOr, Required, Schema, Type};

use super::limits::Limits;
use crate::edge::http::asked::CURSOR_QUERIES;

/// Returns the shape of a text.
pub(super) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Returns the shape of a text of at most `bytes`.
pub(super) fn text_up_to(bytes: usize) -> ObjectBuilder {
    text().max_length(Some(bytes))
}

/// Returns the shape of one of these texts.
pub(super) fn one_of(values: &[&str]) -> ObjectBuilder {
    text().enum_values(Some(values.iter().copied()))
}

/// Returns the shape of a whole number from `least`.
pub(super) fn number(least: u64) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least as f64))
}

/// Returns the shape of a whole number from `least` to `most`, both included.
pub(super) fn number_within(least: u64, most: u64) -> ObjectBuilder {
    number(least).maximum(Some(most as f64))
}

fn parameter(
    place: ParameterIn,
    name: &str,
    schema: impl Into<RefOr<Schema>>,
    description: &str,
) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema.into()))
}

/// Returns a query parameter that may be given once.
pub(super) fn query(name: &str, schema: ObjectBuilder, description: &str) -> Parameter {
    parameter(ParameterIn::Query, name, schema.build(), description).build()
}

/// Returns a query parameter that may be given as often as a list may be long.
fn queries(name: &str, description: &str) -> Parameter {
    let list = Array::new(text().build());
    let list = utoipa::openapi::ArrayBuilder::from(list).max_items(Some(crate::lists::MAX_ENTRIES));
    parameter(ParameterIn::Query, name, list.build(), description)
        .style(Some(ParameterStyle::Form))
        .explode(Some(true))
        .build()
}

/// Returns a request header.
pub(super) fn header(name: &str, description: &str) -> Parameter {
    parameter(ParameterIn::Header, name, text().build(), description).build()
}

/// Returns the ticket, which any operation may have.
pub(super) fn ticket() -> Parameter {
    let description = "A ticket in the place of a credential, for clients that can send no header. \
                       Ignored by a broker that gives no tickets, and repeated nowhere.";
    query("ticket", text(), description)
}

/// Returns the topic in a path.
pub(super) fn topic() -> Parameter {
    let name = text_up_to(255).min_length(Some(1)).examples([json!("orders.eu")]);
    let description = "The topic's name: at most 255 bytes, tokens parted by `.`, without white \
                       space, controls, `*` and `>`; percent-encoded.";
    parameter(ParameterIn::Path, "topic", name.build(), description)
        .required(Required::True)
        .build()
}

/// Returns the connection in a path.
pub(super) fn connection() -> Parameter {
    let description = "The id of the connection, as it is listed.";
    let id = parameter(ParameterIn::Path, "connection", number(0).build(), description);
    id.required(Required::True).build()
}

/// Returns the node of a fleet that is asked about.
pub(super) fn node() -> Parameter {
    let description = "The name of a node of the fleet; without it, the node that is asked.";
    query("node", text(), description)
}

/// Returns the topics of a reader of many.
pub(super) fn topics() -> Parameter {
    queries(
        "topic",
        "A topic, or a pattern of topic names: in a pattern, `*` stands for one token, and `>` at \
         the end for one or more. May be given up to 1,024 times.",
    )
}

/// Returns the parameters of all readers: start, gaps and filter.
pub(super) fn of_readers() -> Vec<Parameter> {
    let mut all = vec![
        header(
            "Last-Event-ID",
            "The cursor after which the reader goes on, as a browser sends it. The header comes \
             before a cursor and a `from` in the query.",
        ),
        query(
            "from",
            text(),
            "The place to begin at without a cursor: `earliest`, `latest`, `last:100` (of one \
             topic), `time:2026-01-31T00:00:00Z`, or a cursor. The default is `earliest` for a \
             page, and `latest` for a stream.",
        ),
        query(
            "on_gap",
            one_of(&["resume", "earliest", "latest", "fail"]),
            "The place at which a reader goes on after it was told of a gap: `resume` is the next \
             event, `earliest` the first that is kept, and `latest` after the newest. With `fail` \
             it is refused with 410. The default is `fail` for a page of one topic, and `resume` \
             otherwise.",
        ),
        query(
            "strict",
            one_of(&["true", "false"]),
            "With `true` the reader is refused with 403 if the caller may not read all of the \
             topics. Otherwise it gets the part that is permitted, and is told the topics that it \
             named and may not read: `denied` in a page, `leftoff.denied` in a stream.",
        ),
    ];
    all.extend(of_filters());
    let same = "The same as `after`, as a polyfill of `EventSource` spells it.";
    all.extend(CURSOR_QUERIES.iter().map(|name| match *name {
        "after" => query(name, text(), "The cursor after which the reader goes on."),
        name => query(name, text(), same),
    }));
    all
}

/// Returns the parameters of filters of events.
pub(super) fn of_filters() -> Vec<Parameter> {
    vec![
        queries("type", "Only events of one of these types."),
        queries("key", "Only events with one of these keys."),
        queries("key_prefix", "Only events whose key begins with one of these."),
        queries("header", "Only events with each of these headers, like `name:value`."),
    ]
}

/// Returns a parameter that must be given.
pub(super) fn required(mut parameter: Parameter) -> Parameter {
    parameter.required = Required::True;
    parameter
}

/// Returns the name of a consumer in a path.
pub(super) fn consumer_name() -> Parameter {
    let name = text_up_to(128).min_length(Some(1)).examples([json!("inbox")]);
    let description = "The consumer's name: at most 128 bytes, without white space, controls and \
                       `/`; percent-encoded.";
    parameter(ParameterIn::Path, "consumer", name.build(), description)
        .required(Required::True)
        .build()
}

/// Returns the parameters of pages.
pub(super) fn of_pages(limits: &Limits<'_>) -> Vec<Parameter> {
    let most = limits.follow.max_page_events;
    vec![
        query(
            "before",
            text().examples([json!("42")]),
            "Only events below this sequence; without a start, those right below it. For a page \
             of one topic. With `order=newest`, or of an inbox: the `next` of the page before.",
        ),
        query("limit", number_within(1, most), "The most events of a page; 100 without it."),
        query(
            "wait",
            text().examples([json!("30s")]),
            "The time for which a page without events waits for a first one, like `30s`: at most \
             `follow.max_wait_ms`.",
        ),
    ]
}

/// Returns the parameters of streams.
pub(super) fn of_streams() -> Vec<Parameter> {
    vec![
        query(
            "format",
            one_of(&["data", "envelope", "cloudevents"]),
            "The form of an event. `data` is the payload alone: for streams, and their default \
             for one topic. `envelope` is JSON with topic, places, time, type, key and headers: \
             the default of pages, and of streams of many topics. `cloudevents` is a CloudEvent \
             in JSON.",
        ),
        query(
            "member",
            text_up_to(255),
            "The id of the member that reads, present in the named topics while the stream is \
             open. Empty for the id that the broker's host gives the caller.",
        ),
        query(
            "member_info",
            text(),
            "Information about the member for the others: a JSON object of at most 1 KiB.",
        ),
    ]
}

/// Returns the parameters of lists: where to continue, and how many entries to return.
pub(super) fn of_lists(after: ObjectBuilder) -> Vec<Parameter> {
    vec![
        query("after", after, "The last entry of the page before."),
        query("limit", number_within(0, 10_000), "The most entries; 1,000 without it."),
    ]
}
