//! The operations for those who operate the broker: the overview, and the table of all topics.

use serde_json::json as value;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::schema::{OneOfBuilder, SchemaType, Type};
use utoipa::openapi::{ArrayBuilder, Object, ObjectBuilder, Ref, Required};

use super::operations::{Operations, json, operation, refusals};
use super::parameters::{number, number_within, one_of, query, text, text_up_to};
use super::shapes::{Property, boolean, field, list, object, optional, time};
use crate::edge::fleet::ShownRole;
use crate::edge::http::overview::MAX_ROWS;
use crate::edge::overview::topic_table::TopicSort;

/// Returns the paths, with their operations.
pub(super) fn all() -> Vec<(&'static str, Operations)> {
    let get = HttpMethod::Get;
    vec![
        ("/v1/cluster", vec![(get.clone(), cluster())]),
        ("/v1/overview", vec![(get.clone(), overview())]),
        ("/v1/overview/topics", vec![(get.clone(), all_topics())]),
        ("/v1/overview/consumers", vec![(get, readers())]),
    ]
}

/// Returns the shapes of their JSON.
pub(super) fn shapes() -> Vec<(&'static str, Object)> {
    vec![
        ("Cluster", cluster_shape()),
        ("ClusterNode", cluster_node()),
        ("SeenNode", seen_node()),
        ("RepairedLog", repaired_log()),
        ("SearchedLog", searched_log()),
        ("Digests", digests()),
        ("EventsDigest", events_digest()),
        ("Overview", overview_shape()),
        ("LogState", log_state()),
        ("History", history()),
        ("Trouble", trouble()),
        ("TopicRow", topic_row()),
        ("TopicRows", topic_rows()),
        ("TopicReaders", topic_readers()),
    ]
}

fn cluster() -> OperationBuilder {
    let summary = "Tells how this node of a fleet is, or that the broker is alone";
    let operation = operation("cluster", "look", summary, Vec::new())
        .response("200", json("The node now, or `alone`.", "Cluster"));
    refusals(operation, &[])
}

fn overview() -> OperationBuilder {
    let summary = "Tells the size of the broker, its newest minutes, and what is wrong now";
    let operation = operation("overview", "look", summary, Vec::new())
        .response("200", json("The state of the broker now.", "Overview"));
    refusals(operation, &[])
}

fn all_topics() -> OperationBuilder {
    let names = TopicSort::ALL.map(|(name, _)| name);
    let all = vec![
        query("sort", one_of(&names), "The order: by name, or the largest value first."),
        query("prefix", text_up_to(255), "Only names that begin with this text."),
        query("contains", text_up_to(255), "Only names with this text somewhere in them."),
        offset(),
        limit(),
    ];
    let summary = "Lists topics with rates, sizes and readers, as of at most a second ago";
    let operation = operation("listTopicRows", "look", summary, all)
        .response("200", json("A part of the table of topics.", "TopicRows"));
    refusals(operation, &[])
}

fn offset() -> Parameter {
    query("offset", number(0), "The number of rows to pass over.")
}

fn limit() -> Parameter {
    query("limit", number_within(0, MAX_ROWS as u64), "The most rows; 50 without it.")
}

fn readers() -> OperationBuilder {
    let name = text_up_to(255).min_length(Some(1)).examples([value!("orders.new")]);
    let topic = ParameterBuilder::new()
        .name("topic")
        .parameter_in(ParameterIn::Query)
        .required(Required::True)
        .description(Some("The name of one topic."))
        .schema(Some(name.build()))
        .build();
    let summary = "Lists the consumers of a topic, whosever they are, the slowest one first";
    let told = "Consumers that read the topic, alone or with others.";
    let operation = operation("listTopicReaders", "look", summary, vec![topic, offset(), limit()])
        .response("200", json(told, "TopicReaders"));
    refusals(operation, &[])
}

fn or_null(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([kind, Type::Null]))
}

fn numbers(name: &'static str, description: &str) -> Property {
    let list = ArrayBuilder::new().items(number(0).build()).description(Some(description));
    (name, utoipa::openapi::Schema::Array(list.build()).into(), true)
}

fn of_shape(name: &'static str, shape: &str) -> Property {
    (name, Ref::from_schema_name(shape).into(), true)
}

fn counts(name: &'static str, description: &str) -> Property {
    field(name, ObjectBuilder::new().schema_type(Type::Object), description)
}

fn overview_shape() -> Object {
    let optional_history = {
        let (name, shape, _) = of_shape("history", "History");
        (name, shape, false)
    };
    object(
        "The state of the broker now. Where a host serves the routes itself, `memory`, \
         `connections` and `history` are missing.",
        [
            field("version", text(), "The version of the broker."),
            time("started", "The time at which the broker was started"),
            time("now", "The time by the broker's clock"),
            field("epoch", text(), "The incarnation of the log."),
            field(
                "role",
                text(),
                "`single`: the broker is alone. Otherwise what the node does in its fleet: \
                 `leading`, `following` or `stopped`.",
            ),
            field("topics", number(0), "Topics that exist, with the broker's own."),
            field("last_position", number(0), "The position of the newest event."),
            of_shape("log", "LogState"),
            optional(counts(
                "memory",
                "Memory for clients: `client_bytes`, of `max_client_bytes` at the most.",
            )),
            optional(counts(
                "connections",
                "Connections: `count`, of `max` at the most; `by_protocol`, those that read now.",
            )),
            optional_history,
            list("problems", "Trouble"),
        ],
    )
}

fn cluster_shape() -> Object {
    let records = |name, description: &str| optional(field(name, number(0), description));
    let said = |name, description: &str| optional(field(name, text(), description));
    let roles = ShownRole::ALL.map(ShownRole::name);
    object(
        "How a node of a fleet is. A broker that is alone tells `alone` and `version`, and nothing \
         else.",
        [
            field("alone", boolean(), "Whether the broker is no node of a fleet."),
            field("version", text(), "The version of the broker."),
            said("fleet", "The name of the fleet."),
            said("node", "The name of this node."),
            said("address", "The URL at which other nodes reach this one."),
            optional(field("role", one_of(&roles), "What the node does.")),
            records("term", "The term of the last record that the node has read."),
            optional(leader()),
            records("read_record", "The last record of the stream that the node has read."),
            records("applied_record", "The record up to which the node has applied all."),
            records("last_record", "The last record of the stream, as far as the node knows."),
            records("lag_records", "The records that the node has not applied."),
            records("lag_ms", "How long the oldest of these has been there, in milliseconds."),
            optional(field("ready", boolean(), "What `/readyz` says.")),
            said("not_ready", "Why the node is not ready; absent if it is."),
            records("announcements", "How often the node has announced itself since its start."),
            records("terms", "The terms that the node has seen begin since its start."),
            optional(list("nodes", "SeenNode")),
            optional(field("has_more_nodes", boolean(), "Whether there are more than are listed.")),
            said("problem", "What went wrong last, until it is over."),
            said("engine_problem", "Why the engine does not answer; absent if it does."),
            said("damage", "How the log of the node is damaged; absent if no damage was found."),
            optional(of_shape("repaired", "RepairedLog")),
            optional(of_shape("searched", "SearchedLog")),
        ],
    )
}

fn leader() -> Property {
    let null = ObjectBuilder::new().schema_type(Type::Null);
    let node = OneOfBuilder::new().item(Ref::from_schema_name("ClusterNode")).item(null);
    let node = node.description(Some("The node that leads; null while nobody seems to."));
    ("leader", utoipa::openapi::Schema::OneOf(node.build()).into(), true)
}

fn cluster_node() -> Object {
    object(
        "A node of a fleet.",
        [
            field("node", text(), "Its name."),
            field("address", text(), "The URL at which other nodes reach it; may be empty."),
        ],
    )
}

fn seen_node() -> Object {
    let roles = ShownRole::ALL.map(ShownRole::name);
    object(
        "A node of the fleet as this one has heard of it last.",
        [
            field("node", text(), "Its name. Two processes with one name are listed both."),
            field("address", text(), "The URL at which other nodes reach it; may be empty."),
            field("version", text(), "The version of its program."),
            field("role", one_of(&roles), "What it does; `joining`: it loads a backup."),
            field("term", number(0), "The term of the last record that it has read."),
            field("applied_record", number(0), "The record up to which its log is."),
            field("lag_records", number(0), "The records of the stream that it has not read."),
            field("is_self", boolean(), "Whether it is the node that answers."),
            field("is_live", boolean(), "Whether it was heard lately."),
            field("heard_ms_ago", number(0), "When it was heard last, in milliseconds."),
            optional(field("problem", text(), "What is wrong with it.")),
        ],
    )
}

fn repaired_log() -> Object {
    object(
        "The damaged log that was replaced last, as long as it is kept.",
        [
            field("at_ms", number(0), "The time of that, in milliseconds since 1970."),
            field("why", text(), "What was damaged."),
            field(
                "from",
                or_null(Type::String),
                "The node whose backup was loaded; null if the stream had all.",
            ),
            field("kept_in", text(), "The directory in which the damaged log is kept."),
            field("kept_bytes", number(0), "The size of its files."),
        ],
    )
}

fn searched_log() -> Object {
    object(
        "How far the node has searched its log for damage since its start; absent if it does not.",
        [
            field("passes", number(0), "How often it has read the whole log."),
            field(
                "last_at_ms",
                or_null(Type::Integer),
                "When it had read it whole last, in milliseconds since 1970; null before that.",
            ),
            field("read_bytes", number(0), "The bytes that it has read."),
        ],
    )
}

fn digests() -> Object {
    object(
        "Hashes of a topic's events.",
        [
            field("topic", text(), "The name of the topic."),
            field("earliest", number(0), "The first sequence that can be read."),
            field("tail", number(0), "The next sequence to be assigned."),
            list("digests", "EventsDigest"),
            field("next", or_null(Type::Integer), "Where the next part begins; null at the end."),
        ],
    )
}

fn events_digest() -> Object {
    object(
        "The hash of the events with 256 neighbouring sequences.",
        [
            field("first", number(1), "The first of these sequences."),
            field("events", number(1), "The number of events: 256, if none is missing."),
            field(
                "sha256",
                text(),
                "The SHA-256 of all that is stored of them, with their sequences, positions and \
                 times, as 64 hexadecimal digits.",
            ),
        ],
    )
}

fn log_state() -> Object {
    object(
        "The log on its disk.",
        [
            field("size_bytes", or_null(Type::Integer), "Its files; null without a disk."),
            field(
                "free_bytes",
                or_null(Type::Integer),
                "The space that is left; null if the file system does not say.",
            ),
            field("writes", one_of(&["accepted", "refused"]), "Whether events are stored."),
            optional(field("reason", text(), "Why they are not.")),
        ],
    )
}

fn history() -> Object {
    object(
        "The newest 15 minutes in steps, the oldest first.",
        [
            field("step_ms", number(0), "The length of a step, in milliseconds."),
            numbers("published", "Events that were stored in each step."),
            numbers("delivered", "Events that live readers got in each step."),
            numbers("connections", "Connections at the end of each step."),
        ],
    )
}

fn trouble() -> Object {
    object(
        "Something that is wrong now, or went wrong in the last 15 minutes.",
        [
            field("kind", text(), "The stable word for it, such as `gaps_told`."),
            field("severity", one_of(&["error", "warning"]), "Whether something is refused."),
            field("text", text(), "A sentence with the value, and one with what to do."),
            field("count", number(0), "How many there are, or how often it happened."),
            time("since", "The time since which it lasts, or was seen first"),
            optional(time("last", "The time at which it was seen last; absent while it lasts")),
            optional(field("topic", text(), "The topic to look at first.")),
        ],
    )
}

fn topic_row() -> Object {
    object(
        "A topic with its readers.",
        [
            field("name", text(), "The name."),
            field("events", number(0), "The events that it holds."),
            field("size_bytes", number(0), "The bytes that they take."),
            field("earliest", number(1), "The sequence of its first event."),
            field("tail", number(1), "The sequence that its next event gets."),
            time("last_time", "The time at which its newest event was appended"),
            field(
                "rate",
                or_null(Type::Number),
                "Events a second over 5 to 15 seconds; null until a table before is 5 s old.",
            ),
            field("followers", number(0), "The subscriptions that it has."),
            field(
                "lag",
                or_null(Type::Integer),
                "The events that the slowest reader of this one topic is behind: of the \
                 connections that follow it, and of the consumers with a checkpoint. Null without \
                 one.",
            ),
        ],
    )
}

fn topic_rows() -> Object {
    object(
        "A part of the table of topics.",
        [
            list("topics", "TopicRow"),
            field("matching", number(0), "How many topics are found."),
            field("total", number(0), "How many topics there are."),
        ],
    )
}

fn topic_readers() -> Object {
    object(
        "Consumers of a topic. Each is told as in the list of consumers, and with its `lag`: the \
         events that it has not finished. The lag is null for a consumer of a pattern, and without \
         a checkpoint.",
        [
            list("consumers", "Consumer"),
            field("matching", number(0), "How many consumers read the topic."),
            field("dead_letters", boolean(), "Whether consumers have their dead letters in it."),
        ],
    )
}
