//! The operations of consumers, and the shapes of their JSON.

use serde_json::json;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{Array, Content, Object, ObjectBuilder, Ref, RefOr, Required, Schema, Type};

use super::operations::{
    Operations, READS, WRITES, answer, json as json_answer, of, operation, refusals, with_header,
};
use super::parameters::{consumer_name, header, of_filters, of_lists, query, required, text};
use super::parameters::{number, one_of, text_up_to};
use super::shapes::{
    Property, boolean, closed, field, filter, list, map, named, nullable, object, optional, time,
};

/// The group of these operations, and its description.
pub(super) const TAG: (&str, &str) =
    ("consumers", "Keep checkpoints and marks of named readers, count events, read inboxes.");

/// Returns the paths, with their operations.
pub(super) fn all() -> Vec<(&'static str, Operations)> {
    use HttpMethod::{Delete, Get, Patch, Post, Put};
    vec![
        ("/v1/consumers", vec![(Get, list_consumers())]),
        (
            "/v1/consumers/{consumer}",
            vec![(Get, show()), (Put, set()), (Patch, update()), (Delete, delete())],
        ),
        ("/v1/consumers/{consumer}/checkpoint", vec![(Post, checkpoint())]),
        ("/v1/consumers/{consumer}/marks", vec![(Get, show_marks()), (Post, mark())]),
        ("/v1/consumers/{consumer}/counts", vec![(Get, count())]),
        ("/v1/counts", vec![(Post, count_many())]),
    ]
}

/// Returns the parameters that name a consumer.
fn of_consumer() -> Vec<Parameter> {
    vec![
        consumer_name(),
        required(query(
            "topic",
            text_up_to(255).min_length(Some(1)).examples([json!("orders.eu")]),
            "The consumer's selection: a topic, or one pattern.",
        )),
        query("owner", text(), "The caller whose consumer it is, for administrators."),
        query(
            "shared",
            one_of(&["true", "false"]),
            "Whether it is a consumer of shared work, common to all callers.",
        ),
    ]
}

fn about(id: &str, summary: &str) -> OperationBuilder {
    operation(id, TAG.0, summary, of_consumer())
}

fn with_body(operation: OperationBuilder, content: Content) -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .required(Some(Required::True))
        .content("application/json", content);
    refusals(operation.request_body(Some(body.build())), &[&WRITES])
}

fn list_consumers() -> OperationBuilder {
    let mut all = vec![
        query("topic", text(), "Only consumers with this selection."),
        query("owner", text(), "The owner, for administrators; without it, the caller."),
    ];
    all.extend(of_lists(text().examples([json!("orders.eu/inbox")])));
    let operation = operation("listConsumers", TAG.0, "Lists the caller's consumers", all)
        .response("200", json_answer("Consumers in the order of selection and name.", "Consumers"));
    refusals(operation, &[])
}

fn show() -> OperationBuilder {
    let operation = about("showConsumer", "Returns a consumer")
        .response("200", json_answer("The consumer.", "Consumer"));
    refusals(operation, &[&[404]])
}

fn set() -> OperationBuilder {
    let operation = about("setConsumer", "Creates a consumer, or replaces its settings")
        .response("200", json_answer("The consumer with its new settings.", "Consumer"))
        .response("201", json_answer("The new consumer.", "Consumer"));
    with_body(operation, of("ConsumerSettings"))
}

fn update() -> OperationBuilder {
    let summary = "Changes settings that are named; null unsets one, by RFC 7396";
    let operation = about("updateConsumer", summary)
        .response("200", json_answer("The consumer with its new settings.", "Consumer"));
    with_body(operation, of("ConsumerChange"))
}

fn delete() -> OperationBuilder {
    let summary = "Deletes a consumer with its checkpoint and marks";
    let operation = about("deleteConsumer", summary)
        .response("204", answer("The consumer is deleted.").build());
    refusals(operation, &[&WRITES])
}

fn checkpoint() -> OperationBuilder {
    let summary = "Sets the cursor up to which all is finished; forward only, unless `force`";
    let operation = about("setCheckpoint", summary)
        .response("200", json_answer("The present checkpoint; it is durable.", "CheckpointSet"));
    with_body(operation, of("Checkpoint"))
}

fn show_marks() -> OperationBuilder {
    let operation = about("showMarks", "Returns all marks of a consumer")
        .response("200", json_answer("The marks.", "AllMarks"));
    refusals(operation, &[&[404]])
}

fn mark() -> OperationBuilder {
    let summary = "Marks events as seen, read, archived or snoozed, or takes marks away";
    let operation = about("markEvents", summary)
        .response("200", json_answer("The marks are durable.", "MarksSet"));
    with_body(operation, of("MarkRequest"))
}

fn count() -> OperationBuilder {
    let mut all = of_consumer();
    all.extend(of_filters());
    all.push(header("If-None-Match", "Tags of counts that the client holds."));
    let tag = "The state that was counted, for `If-None-Match`.";
    let kept = "That the client may keep the answer, and must ask before it uses it again.";
    let counts = answer("The counts.").content("application/json", of("Counts"));
    let counts = with_header(with_header(counts, "ETag", tag), "Cache-Control", kept);
    let same = with_header(answer("The counts are the same."), "ETag", tag);
    let operation = operation("countEvents", TAG.0, "Counts the events of a consumer", all)
        .response("200", counts.build())
        .response("304", same.build());
    refusals(operation, &[&READS])
}

fn count_many() -> OperationBuilder {
    let summary = "Counts the events of many consumers, each by several filters";
    let operation = operation("countEventsOfMany", TAG.0, summary, Vec::new())
        .response("200", json_answer("The counts, in the order of the request.", "CountedMany"));
    let asked = utoipa::openapi::ArrayBuilder::new()
        .items(Ref::from_schema_name("CountRequest"))
        .max_items(Some(crate::edge::consumers::counting::MAX_COUNTED_CONSUMERS));
    let body = RequestBodyBuilder::new()
        .required(Some(Required::True))
        .content("application/json", Content::new(Some(Schema::Array(asked.build()))));
    refusals(operation.request_body(Some(body.build())), &[&READS])
}

/// Returns the shapes of their JSON.
pub(super) fn shapes() -> Vec<(&'static str, Object)> {
    vec![
        ("Consumer", consumer()),
        (
            "Consumers",
            object(
                "Consumers in the order of selection and name.",
                [list("consumers", "Consumer")],
            ),
        ),
        ("ConsumerSettings", settings()),
        (
            "ConsumerChange",
            closed(
                "A change of settings.",
                [optional(filter_or_null()), optional(named("shared", "WorkSettings"))],
            ),
        ),
        ("Checkpoint", checkpoint_request()),
        ("CheckpointSet", checkpoint_set()),
        ("MarkRequest", mark_request()),
        ("MarksSet", marks_set()),
        ("MarkFilter", mark_filter()),
        ("MarkLine", mark_line()),
        ("AllMarks", all_marks()),
        ("EventMarks", event_marks()),
        ("Counts", counts()),
        ("CountRequest", count_request()),
        ("CountedConsumer", counted()),
        ("CountedMany", object("Counts.", [list("consumers", "CountedConsumer")])),
    ]
}

fn filter_or_null() -> Property {
    let either = utoipa::openapi::OneOfBuilder::new()
        .item(Schema::from(filter()))
        .item(ObjectBuilder::new().schema_type(Type::Null).build());
    ("filter", Schema::from(either.build()).into(), true)
}

fn cursor_or_null(name: &'static str, description: &str) -> Property {
    field(name, nullable(), description)
}

fn consumer() -> Object {
    object(
        "A consumer. One that was never written is told as it would be created.",
        [
            field("consumer", text(), "Its name."),
            field("topic", text(), "Its selection: a topic, or a pattern."),
            optional(field("owner", text(), "Whose it is; missing if it is common to all.")),
            cursor_or_null("checkpoint", "The cursor up to which all is finished; null for none."),
            field("revision", text(), "The cursor of its state; it rises with each change."),
            cursor_or_null("created", "The time of its creation; null if it was never written."),
            cursor_or_null("updated", "The time of its last change; null if never written."),
            optional(("filter", Schema::from(filter()).into(), false)),
            optional(named("shared", "WorkSettings")),
        ],
    )
}

fn settings() -> Object {
    closed(
        "The settings of a consumer.",
        [
            ("filter", Schema::from(filter()).into(), false),
            optional(field(
                "from",
                text(),
                "The place of the first checkpoint of a new consumer: `earliest`, `latest`, a time \
                 like `time:2026-01-31T00:00:00Z`, or a cursor.",
            )),
            optional(named("shared", "WorkSettings")),
        ],
    )
}

fn checkpoint_request() -> Object {
    closed(
        "A checkpoint to set.",
        [
            field("cursor", text(), "The cursor up to which all is finished, as a reader got it."),
            optional(field("force", boolean(), "Whether the checkpoint may move back.")),
            optional(cursor_or_null(
                "expected",
                "Set the checkpoint only if the present one is this; null for none.",
            )),
        ],
    )
}

fn checkpoint_set() -> Object {
    object(
        "The present checkpoint.",
        [
            cursor_or_null("checkpoint", "The cursor up to which all is finished."),
            field("moved", boolean(), "Whether the request has moved it."),
            field("revision", text(), "The cursor of the consumer's state."),
        ],
    )
}

fn marks_of(name: &'static str, description: &str) -> Property {
    let words = utoipa::openapi::ArrayBuilder::new()
        .items(one_of(&["seen", "read", "archived", "snoozed"]).build())
        .max_items(Some(crate::lists::MAX_ENTRIES))
        .description(Some(description));
    (name, Schema::Array(words.build()).into(), false)
}

fn mark_request() -> Object {
    let by_place = closed(
        "An event by its place.",
        [
            field("topic", text(), "The event's topic."),
            field("sequence", number(0), "The event's place in it."),
        ],
    );
    let by_id = closed("An event by its id.", [field("id", text(), "The publisher's own id.")]);
    let event = utoipa::openapi::OneOfBuilder::new()
        .item(number(0).build())
        .item(Schema::from(by_place))
        .item(Schema::from(by_id));
    let events = Array::new(Schema::from(event.build()));
    closed(
        "Marks to set or to take away, on `events`, or on all events up to `up_to` that the \
         filters pick: all of it, or nothing.",
        [
            marks_of("mark", "The marks that the events get."),
            marks_of("unmark", "The marks that the events lose."),
            optional(time("snooze_until", "The time until which the events are snoozed")),
            ("events", Schema::Array(events).into(), false),
            optional(field("up_to", text(), "The cursor of the newest event that was shown.")),
            ("filter", Schema::from(filter()).into(), false),
            optional(named("marks", "MarkFilter")),
        ],
    )
}

fn marks_set() -> Object {
    object(
        "The answer to a request to change marks.",
        [
            field("revision", text(), "The cursor of the consumer's state."),
            field("changed", boolean(), "Whether something has changed."),
            field("gone", number(0), "The number of named events that are gone."),
        ],
    )
}

fn mark_filter() -> Object {
    let maybe =
        || ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Boolean, Type::Null]));
    closed(
        "Conditions on marks. One that is missing holds for every event.",
        [
            ("seen", "Whether the event is seen."),
            ("read", "Whether the event is read."),
            ("archived", "Whether the event is archived."),
            ("snoozed", "Whether the event is snoozed now."),
        ]
        .map(|(name, text)| optional(field(name, maybe(), text))),
    )
}

fn mark_line() -> Object {
    object(
        "One mark of all events.",
        [
            field(
                "up_to",
                number(0),
                "All events up to this sequence, or position for a pattern, have the mark, except \
                 for `unmarked`.",
            ),
            map("marked", "The sequences of events that have the mark, by topic: `1-5,9`."),
            map("unmarked", "The sequences of events that do not have it, by topic."),
        ],
    )
}

fn all_marks() -> Object {
    let snoozed = ObjectBuilder::new().schema_type(Type::Object);
    let marks = object(
        "The marks.",
        [
            named("seen", "MarkLine"),
            named("read", "MarkLine"),
            named("archived", "MarkLine"),
            field("snoozed", snoozed, "By topic and sequence, the time at which an event is back."),
        ],
    );
    object(
        "All marks of a consumer.",
        [
            field("whole", boolean(), "Always true."),
            field("revision", text(), "The cursor of the consumer's state."),
            ("marks", Schema::from(marks).into(), true),
        ],
    )
}

fn event_marks() -> Object {
    object(
        "The marks of one event.",
        [
            field("seen", boolean(), "Whether it is seen."),
            field("read", boolean(), "Whether it is read."),
            field("archived", boolean(), "Whether it is archived."),
            field("snoozed_until", nullable(), "The time at which it is back; null if it is here."),
        ],
    )
}

fn counts() -> Object {
    object(
        "Counts of a consumer's events, true at `position`.",
        [
            field("total", number(0), "The events that are kept and selected."),
            field("unfinished", number(0), "Those after the checkpoint."),
            field("lost", number(0), "Those after the checkpoint that are gone."),
            field("inbox", number(0), "Those that are neither archived nor snoozed."),
            field("unseen", number(0), "Those of the inbox that are not seen."),
            field("unread", number(0), "Those of the inbox that are not read."),
            field("archived", number(0), "Those that are archived."),
            field("snoozed", number(0), "Those that are snoozed now."),
            field("more_than", boolean(), "Whether the numbers but `lost` are lower bounds."),
            field("lost_more_than", boolean(), "Whether `lost` is a lower bound."),
            field("position", number(0), "The position at which the counts are true."),
            field("revision", text(), "The cursor of the consumer's state that was counted."),
        ],
    )
}

fn count_request() -> Object {
    let filters = utoipa::openapi::ArrayBuilder::new()
        .items(RefOr::from(Schema::from(filter())))
        .max_items(Some(30))
        .description(Some("Filters, each counted by itself; without any, all events."));
    closed(
        "The counts that are wanted of one consumer.",
        [
            field("consumer", text_up_to(128).min_length(Some(1)), "Its name."),
            field("topic", text_up_to(255).min_length(Some(1)), "Its selection."),
            optional(field("owner", text(), "Whose it is, for administrators.")),
            optional(field("shared", boolean(), "Whether it is common to all callers.")),
            ("filters", Schema::Array(filters.build()).into(), false),
        ],
    )
}

fn counted() -> Object {
    object(
        "The counts of one consumer.",
        [
            field("consumer", text(), "Its name."),
            field("topic", text(), "Its selection."),
            list("counts", "Counts"),
        ],
    )
}
