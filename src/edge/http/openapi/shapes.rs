//! The shapes of the JSON in requests and answers, each under its name.

use utoipa::openapi::schema::{AdditionalProperties, SchemaType};
use utoipa::openapi::{
    Array, Components, ComponentsBuilder, Object, ObjectBuilder, Ref, RefOr, Schema, Type,
};

use super::limits::Limits;
use crate::edge::http::openapi::parameters::{number, number_within, one_of, text, text_up_to};

/// A field of an object: its name, its shape with a description, and whether it is always present.
pub(super) type Property = (&'static str, RefOr<Schema>, bool);

pub(super) fn field(name: &'static str, shape: ObjectBuilder, description: &str) -> Property {
    (name, Schema::from(shape.description(Some(description)).build()).into(), true)
}

pub(super) fn optional((name, shape, _): Property) -> Property {
    (name, shape, false)
}

pub(super) fn named(name: &'static str, shape: &str) -> Property {
    (name, Ref::from_schema_name(shape).into(), true)
}

pub(super) fn list(name: &'static str, shape: &str) -> Property {
    let list = Array::new(Ref::from_schema_name(shape));
    (name, Schema::Array(list).into(), true)
}

pub(super) fn texts(name: &'static str, description: &str) -> Property {
    let list = utoipa::openapi::ArrayBuilder::new()
        .items(text().build())
        .max_items(Some(crate::lists::MAX_ENTRIES))
        .description(Some(description));
    (name, Schema::Array(list.build()).into(), false)
}

pub(super) fn map(name: &'static str, description: &str) -> Property {
    let values = AdditionalProperties::RefOr(Schema::from(text().build()).into());
    let map = ObjectBuilder::new().schema_type(Type::Object);
    field(name, map.additional_properties(Some(values)), description)
}

pub(super) fn object(description: &str, fields: impl IntoIterator<Item = Property>) -> Object {
    let object = ObjectBuilder::new().schema_type(Type::Object).description(Some(description));
    let add = |object: ObjectBuilder, (name, shape, is_required): Property| {
        let object = object.property(name, shape);
        if is_required { object.required(name) } else { object }
    };
    fields.into_iter().fold(object, add).build()
}

/// Returns the shape of an object that has these fields and no others.
pub(super) fn closed(description: &str, fields: impl IntoIterator<Item = Property>) -> Object {
    let object = ObjectBuilder::from(object(description, fields));
    object.additional_properties(Some(AdditionalProperties::FreeForm(false))).build()
}

/// Returns the shape of a text, or null.
pub(super) fn nullable() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null]))
}

pub(super) fn boolean() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Boolean)
}

pub(super) fn time(name: &'static str, description: &str) -> Property {
    field(name, text(), &format!("{description}, by RFC 3339 in UTC."))
}

/// Returns all shapes.
pub(super) fn components(limits: &Limits<'_>) -> Components {
    let shapes = [
        ("Problem", problem()),
        ("Gap", gap()),
        ("Event", event()),
        ("CloudEvent", cloud_event()),
        ("Page", page()),
        ("Listed", listed()),
        ("State", state()),
        ("Receipt", receipt()),
        ("Published", published()),
        ("FanOut", fan_out(limits)),
        ("FannedOut", fanned_out()),
        ("Delivered", delivered()),
        ("Settings", settings()),
        ("Topic", topic()),
        ("Topics", object("Topics in the order of their names.", [list("topics", "Topic")])),
        ("Member", member()),
        ("Members", object("Members in the order of their ids.", [list("members", "Member")])),
        ("Connection", connection()),
        ("Connections", connections()),
        ("Maintained", maintained()),
        ("Foreseen", foreseen()),
        ("Subscription", subscription(limits)),
    ];
    shapes
        .into_iter()
        .fold(ComponentsBuilder::new(), |all, (name, shape)| all.schema(name, Schema::from(shape)))
        .build()
}

fn problem() -> Object {
    object(
        "The reason for which a request was refused, by RFC 9457. Other members have the numbers \
         of a limit, of a gap or of a rate; `line` and `stored_events` are for NDJSON, \
         `subscription` is the one of many that is wrong.",
        [
            field("type", text(), "The kind, like `urn:leftoff:problem:over-limit`."),
            field("title", text(), "The status in words."),
            field("status", number_within(400, 599), "The status."),
            field("detail", text(), "What was wrong, with which value, and what the limit is."),
            optional(field("field", text(), "The name of what was wrong.")),
        ],
    )
}

fn gap() -> Object {
    let lost = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Integer, Type::Null]));
    object(
        "A gap: events between the reader's place and the next event are gone.",
        [
            field(
                "topic",
                nullable(),
                "The topic; null if the gap is in all topics of a reader of many.",
            ),
            field("reason", text(), "The reason: `retention`, `expired`, `purged`, `deleted`, …"),
            field(
                "requested",
                number(0),
                "The sequence, or position, that the reader wanted next.",
            ),
            field("earliest", number(0), "The first sequence, or position, that can be read."),
            field("tail", number(0), "The sequence, or position, that the next event will get."),
            field("resume", number(0), "The sequence, or position, at which the reader goes on."),
            field("lost", lost, "The number of lost events; null if it is unknown."),
        ],
    )
}

fn event() -> Object {
    let any = Schema::from(ObjectBuilder::new().schema_type(SchemaType::AnyValue).build());
    object(
        "A stored event.",
        [
            field("topic", text(), "The event's topic."),
            field("sequence", number(1), "The event's place in its topic."),
            field("position", number(1), "The event's place in the commit order of the broker."),
            time("time", "The time of appending"),
            field("id", nullable(), "The publisher's own id."),
            field("type", nullable(), "The kind of event."),
            field("key", nullable(), "The thing that the event is about."),
            map("headers", "Names and values that travel with the event."),
            field("content_type", nullable(), "The media type of the payload."),
            optional(time("publisher_time", "The publisher's own time")),
            optional(field(
                "ttl_ms",
                number(1),
                "The time from appending to expiry, in milliseconds.",
            )),
            ("data", any.into(), false),
            optional(field(
                "data_base64",
                text(),
                "The payload, if `data` does not have all of it.",
            )),
        ],
    )
}

fn page() -> Object {
    object(
        "A page of history. `gap` is for one topic, `gaps` are for many.",
        [
            events_in_form(),
            field("cursor", text(), "The cursor to pass as the next `after`."),
            field("earliest", number(0), "The first sequence, or position, that can be read."),
            field("tail", number(0), "The sequence, or position, that the next event will get."),
            field("caught_up", boolean(), "Whether the page ends with the newest event."),
            optional(named("gap", "Gap")),
            optional(list("gaps", "Gap")),
            texts("denied", "Topics that the reader named and may not read. The others are read."),
        ],
    )
}

/// Returns the shape of a page that is a list: of events, or of groups.
fn listed() -> Object {
    object(
        "A list: the newest events, the inbox of a consumer, or its groups.",
        [
            field("next", nullable(), "The `before` of the next page; null after the last."),
            field(
                "cursor",
                nullable(),
                "On the first page, the place up to which the list is shown: for marks of all.",
            ),
            optional(list("events", "Event")),
            optional(groups()),
            optional(field("revision", text(), "The cursor of the marks that are shown.")),
            optional(field("more_than", boolean(), "Whether groups may have more events.")),
            texts("denied", "Topics that the reader named and may not read. The others are read."),
        ],
    )
}

/// Returns the field with groups: each with its newest event and its numbers.
fn groups() -> Property {
    let group = ObjectBuilder::new().schema_type(Type::Object).build();
    ("groups", Schema::Array(Array::new(Schema::from(group))).into(), true)
}

/// Returns the field with a member's information: names with any values of JSON.
fn info(description: &str) -> Property {
    field("info", ObjectBuilder::new().schema_type(Type::Object), description)
}

/// Returns the field with events as JSON, or with `format=cloudevents` as CloudEvents.
fn events_in_form() -> Property {
    let forms = utoipa::openapi::schema::AnyOfBuilder::new()
        .item(Ref::from_schema_name("Event"))
        .item(Ref::from_schema_name("CloudEvent"));
    ("events", Schema::Array(Array::new(Schema::from(forms.build()))).into(), true)
}

fn cloud_event() -> Object {
    object(
        "A CloudEvent in JSON: the attributes of version 1.0, and those of Leftoff.",
        ["specversion", "id", "source", "type"]
            .map(|name| field(name, text(), "As CloudEvents defines it.")),
    )
}

fn state() -> Object {
    object(
        "A page of the latest event of each key.",
        [
            list("events", "Event"),
            field("cursor", text(), "The cursor at which all pages are true; follow from it."),
            field("next_page_token", text(), "The next `page_token`; empty after the last page."),
        ],
    )
}

fn receipt() -> Object {
    object(
        "The acknowledgement of one event.",
        [
            field("sequence", number(1), "The event's place in its topic."),
            field("position", number(1), "The event's place in the commit order of the broker."),
            time("time", "The time of appending"),
            field("duplicate", boolean(), "Whether an event with its id was stored before."),
            field(
                "durability",
                one_of(&["fsync", "process", "memory", "replicated"]),
                "The failures that the event survives.",
            ),
        ],
    )
}

fn published() -> Object {
    object(
        "The acknowledgement of several events.",
        [
            named("first", "Receipt"),
            named("last", "Receipt"),
            field("count", number(1), "The number of events in the request."),
            field("duplicates", number(0), "The number of them that were stored before."),
        ],
    )
}

fn fan_out(limits: &Limits<'_>) -> Object {
    let most = limits.publish.max_batch_topics;
    let (name, topics, _) = texts("topics", "Topics. One that is listed twice counts once.");
    let any = || ObjectBuilder::new().schema_type(Type::Object);
    let events = Array::new(Schema::from(any().build()));
    closed(
        &format!("Events for each topic of a list; up to {most} topics. Give `event` or `events`."),
        [
            (name, topics, true),
            optional(field("event", any(), "An event, with the fields of a line of NDJSON.")),
            ("events", Schema::Array(events).into(), false),
            optional(field(
                "expected_sequence",
                number(0),
                "Store the events only if this is the last sequence of each of the topics.",
            )),
        ],
    )
}

fn fanned_out() -> Object {
    let one = object(
        "The acknowledgement of one topic: of one event `sequence`, `position`, `time`, \
         `duplicate` and `durability`; of several `first`, `last`, `count` and `duplicates`.",
        [field("topic", text(), "The topic's name.")],
    );
    object(
        "The acknowledgement of events for a list of topics, in the order of the list.",
        [("topics", Schema::Array(Array::new(Schema::from(one))).into(), true)],
    )
}

fn delivered() -> Object {
    object(
        "An event that is not stored.",
        [
            field("ephemeral", boolean(), "Always true."),
            optional(field(
                "receivers",
                number(0),
                "The number of subscriptions to the topic, if the caller may subscribe to it.",
            )),
        ],
    )
}

fn settings() -> Object {
    closed(
        "Settings of a topic. A setting that is missing comes from the broker's configuration; \
         without one there is no limit. In a `PATCH`, null removes a setting from the topic's own.",
        [
            ("max_age_ms", number(0), "The age past which events are dropped, in milliseconds."),
            ("max_events", number(0), "The number of newest events that are kept."),
            ("max_bytes", number(0), "The bytes of newest events that are kept."),
            ("compact", boolean(), "Whether only the latest events of each key are kept."),
            (
                "max_events_per_key",
                number_within(1, 10_000),
                "The number of latest events of each key.",
            ),
            ("tombstone_grace_ms", number(0), "The time a tombstone is kept, in milliseconds."),
            ("durability", one_of(&["fsync", "process"]), "The failures that an event survives."),
            (
                "stamp_publisher",
                boolean(),
                "Whether the header `leftoff-publisher` of each event names its publisher.",
            ),
        ]
        .map(|(name, shape, text)| optional(field(name, shape, text))),
    )
}

fn topic() -> Object {
    object(
        "A topic at one moment.",
        [
            field("name", text(), "The topic's name."),
            field("earliest", number(1), "The first sequence that can be read."),
            field("tail", number(1), "The sequence that the next event will get."),
            field("events", number(0), "The number of events that are stored."),
            field("last_position", number(0), "The position of the newest event."),
            time("last_time", "The time at which its newest event was appended"),
            field("size_bytes", number(0), "The size of its events as they are stored, in bytes."),
            named("config", "Settings"),
            named("effective_config", "Settings"),
        ],
    )
}

fn member() -> Object {
    object(
        "A member that is present.",
        [
            field("id", text(), "The member's id."),
            info("Information about the member for the others."),
            field(
                "since_ms",
                number(0),
                "The time of its arrival, in milliseconds since 1970 in UTC.",
            ),
            field("subscriptions", number(1), "The number of its subscriptions in the topic."),
        ],
    )
}

fn connection() -> Object {
    object(
        "A connection.",
        [
            field("id", number(0), "The connection's number; later connections have higher ones."),
            field("address", text(), "The client's address."),
            field("age_ms", number(0), "The age of the connection, in milliseconds."),
            field("sent_bytes", number(0), "The number of bytes that were sent to it."),
            field(
                "user",
                nullable(),
                "The newest caller that hooks have permitted; null without hooks.",
            ),
        ],
    )
}

fn connections() -> Object {
    object(
        "Connections in the order of their ids.",
        [
            field("count", number(0), "The number of all connections."),
            list("connections", "Connection"),
        ],
    )
}

fn foreseen() -> Object {
    let dropped = ObjectBuilder::new().schema_type(Type::Object);
    let settings = ObjectBuilder::new().schema_type(Type::Object);
    object(
        "What a change of settings would do.",
        [
            field(
                "would_drop",
                dropped,
                "The `events` and `bytes` that limits on age, events and bytes would drop, exact \
                 to a block.",
            ),
            field(
                "compacts",
                boolean(),
                "Whether superseded events would go, too; their number is not known before.",
            ),
            field("effective_config", settings, "The settings that would hold."),
        ],
    )
}

fn maintained() -> Object {
    let dropped = ObjectBuilder::new().schema_type(Type::Object);
    object(
        "The work that maintenance did.",
        [
            field("topics", number(0), "Topics that were looked at."),
            field("dropped", dropped, "For each reason the `events` and `bytes` that it dropped."),
            field("merged_blocks", number(0), "Blocks that were written again in a larger one."),
            field("reclaimed_bytes", number(0), "Space that was given back, in bytes."),
        ],
    )
}

/// Returns the shape of a filter of events.
pub(super) fn filter() -> Object {
    closed(
        "The events that are wanted: those with one of the types, one of the keys, one of the key \
         prefixes, and each of the headers.",
        [
            texts("types", "Event types."),
            texts("keys", "Keys."),
            texts("key_prefixes", "Texts with which keys begin."),
            optional(map("headers", "Headers with their values.")),
        ],
    )
}

/// Returns the shape of the member that reads.
pub(super) fn reading_member() -> Object {
    closed(
        "The member that reads.",
        [
            optional(field("id", text_up_to(255), "The member's id, as in the query.")),
            optional(info("Information about the member for the others, at most 1 KiB.")),
        ],
    )
}

fn subscription(limits: &Limits<'_>) -> Object {
    let _the_same_for_all = limits;
    let (name, topics, _) = texts("topics", "Topics and patterns of their names.");
    closed(
        "The topics of a reader of many, and the other parameters of the query.",
        [
            (name, topics, true),
            optional(field("from", text(), "The place to begin at, as in the query.")),
            optional(field("on_gap", text(), "As in the query.")),
            ("filter", Schema::from(filter()).into(), false),
            optional(field("format", text(), "As in the query; for a stream.")),
            optional(field("consumer", text_up_to(128), "As in the query.")),
            optional(field("owner", text(), "As in the query.")),
            optional(field("counts", boolean(), "As in the query.")),
            optional(field("marks_after", text(), "As in the query.")),
            ("member", Schema::from(reading_member()).into(), false),
            optional(field("strict", boolean(), "As in the query; one of the two is enough.")),
        ],
    )
}
