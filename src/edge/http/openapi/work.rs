//! The operations of shared work, and the shapes of their JSON.

use serde_json::json;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{ArrayBuilder, Object, RefOr, Required, Schema};

use super::operations::{Operations, WRITES, json as json_answer, of, operation, refusals};
use super::parameters::{consumer_name, number, one_of, query, required, text, text_up_to};
use super::shapes::{Property, closed, field, list, named, nullable, object, optional, time};
use crate::consumers::{
    MAX_DELAY_MS, MAX_LEASE_MS, MAX_PULL, MAX_REASON_BYTES, MAX_SETTLED, MAX_WORKER_BYTES,
};

/// The group of these operations, and its description.
pub(super) const TAG: (&str, &str) =
    ("work", "Share the events of a consumer among workers, each event with a lease.");

/// Returns the paths, with their operations.
pub(super) fn all() -> Vec<(&'static str, Operations)> {
    use HttpMethod::{Get, Post};
    vec![
        ("/v1/consumers/{consumer}/pull", vec![(Post, pull())]),
        ("/v1/consumers/{consumer}/settle", vec![(Post, settle())]),
        ("/v1/consumers/{consumer}/work", vec![(Get, show())]),
    ]
}

/// Returns the parameters that name a shared consumer.
fn of_consumer() -> Vec<Parameter> {
    let selection = text_up_to(255).min_length(Some(1)).examples([json!("orders.eu")]);
    vec![
        consumer_name(),
        required(query("topic", selection, "The consumer's selection: a topic, or one pattern.")),
        query("shared", one_of(&["true", "false"]), "Whether it is shared, which goes unsaid."),
    ]
}

fn with_body(operation: OperationBuilder, shape: &str) -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .required(Some(Required::True))
        .content("application/json", of(shape));
    refusals(operation.request_body(Some(body.build())), &[&[404], &WRITES])
}

fn pull() -> OperationBuilder {
    let operation = operation("pullWork", TAG.0, "Leases events to a worker", of_consumer())
        .response("200", json_answer("The leased events, none if there were none.", "Leases"));
    with_body(operation, "Pull")
}

fn settle() -> OperationBuilder {
    let summary = "Finishes events, gives them back, or has leases hold longer";
    let operation = operation("settleWork", TAG.0, summary, of_consumer())
        .response("200", json_answer("What was done is durable.", "Settled"));
    with_body(operation, "Settlement")
}

fn show() -> OperationBuilder {
    let summary = "Returns how shared work stands";
    let operation = operation("showWork", TAG.0, summary, of_consumer())
        .response("200", json_answer("How it stands.", "WorkStatus"));
    refusals(operation, &[&[404]])
}

/// Returns the shapes of their JSON.
pub(super) fn shapes() -> Vec<(&'static str, Object)> {
    vec![
        ("Pull", pull_request()),
        ("Lease", lease()),
        ("Leases", object("Leased events, in their order.", [list("leases", "Lease")])),
        ("Settlement", settlement()),
        ("LeaseOutcome", outcome()),
        ("Settled", settled()),
        ("WorkSettings", settings()),
        ("WorkStatus", status()),
        ("WorkerStatus", worker()),
    ]
}

fn bounded(name: &'static str, least: u64, most: u64, description: &str) -> Property {
    let shape = number(least).maximum(Some(most as f64));
    optional(field(name, shape, description))
}

fn pull_request() -> Object {
    let worker = text_up_to(MAX_WORKER_BYTES).min_length(Some(1));
    closed(
        "A request for work.",
        [
            field("worker", worker, "The name of the worker, which need not register."),
            bounded("limit", 1, MAX_PULL as u64, "Most events; 1 by default."),
            optional(field("max_bytes", number(0), "Most bytes of events; one is given anyway.")),
            optional(field("wait_ms", number(0), "The wait for a first event, in milliseconds.")),
        ],
    )
}

fn lease() -> Object {
    object(
        "An event that a worker has to itself for a time.",
        [
            field("lease", text(), "The id of the lease, which settles it."),
            field("tries", number(1), "The deliveries of the event, with this one."),
            time("until", "The end of the lease"),
            named("event", "Event"),
        ],
    )
}

fn leases(name: &'static str, description: &str) -> Property {
    let list = ArrayBuilder::new()
        .items(text().examples([json!("z-7-1e-2")]).build())
        .max_items(Some(MAX_SETTLED))
        .description(Some(description));
    (name, Schema::Array(list.build()).into(), false)
}

fn each(name: &'static str, entry: Object, description: &str) -> Property {
    let list = ArrayBuilder::new()
        .items(RefOr::from(Schema::from(entry)))
        .max_items(Some(MAX_SETTLED))
        .description(Some(description));
    (name, Schema::Array(list.build()).into(), false)
}

fn settlement() -> Object {
    let nack = closed(
        "A lease whose event was not finished.",
        [
            field("lease", text(), "The lease."),
            bounded("delay_ms", 0, MAX_DELAY_MS, "The time before it is leased again."),
            optional(field("reason", text_up_to(MAX_REASON_BYTES), "The reason.")),
        ],
    );
    let extension = closed(
        "A lease that is to hold longer.",
        [
            field("lease", text(), "The lease."),
            field(
                "for_ms",
                number(1).maximum(Some(MAX_LEASE_MS as f64)),
                "The time for which it is to hold from now on, in milliseconds.",
            ),
        ],
    );
    closed(
        "A settlement of leases: at least one.",
        [
            leases("ack", "The leases whose events are finished."),
            each("nack", nack, "The leases whose events are to be leased again."),
            each("extend", extension, "The leases that are to hold longer."),
            leases("release", "The leases that are given back unused."),
        ],
    )
}

fn outcome() -> Object {
    object(
        "What became of one lease.",
        [
            field(
                "outcome",
                one_of(&["done", "extended", "over"]),
                "`over`: its time ran out, the event was leased again, or is finished.",
            ),
            optional(time("until", "The new end of an extended lease")),
        ],
    )
}

fn settled() -> Object {
    let lists = ["ack", "nack", "extend", "release"];
    object(
        "What became of the leases, each list in the order of the request.",
        lists.map(|name| optional(list(name, "LeaseOutcome"))),
    )
}

/// Returns the shape of the settings of one shared consumer.
fn settings() -> Object {
    closed(
        "The way in which a consumer shares its events among workers.",
        [
            bounded("lease_ms", 1, MAX_LEASE_MS, "The length of a lease; 30,000 by default."),
            bounded(
                "max_tries",
                0,
                1_000_000,
                "The deliveries after which an event becomes a dead letter; 0 is without end; 10 \
                 by default.",
            ),
            optional(field(
                "dead_letter",
                text_up_to(255).min_length(Some(1)),
                "The topic of dead letters; by default, the consumer's topic with `.dead`.",
            )),
            bounded("max_in_flight", 1, 100_000, "Most leases in all; 1,000 by default."),
            bounded(
                "max_in_flight_per_worker",
                1,
                100_000,
                "Most leases of one worker; 100 by default.",
            ),
            bounded(
                "max_ahead",
                1,
                1_000_000,
                "Most events that are looked at from the oldest unfinished one on; 10,000 by \
                 default.",
            ),
        ],
    )
}

fn status() -> Object {
    object(
        "How shared work stands.",
        [
            field("checkpoint", nullable(), "The cursor up to which all events are finished."),
            field("in_flight", number(0), "The events that are leased."),
            field("delayed", number(0), "The events that failed, and wait for their delay."),
            field("dying", number(0), "The events that are about to become dead letters."),
            field("waiting", number(0), "The pulls that wait for events."),
            field("finished", number(0), "The events that were finished."),
            field("dead", number(0), "The events that became dead letters."),
            field("lost", number(0), "The events that were gone before they were finished."),
            field("problem", nullable(), "Why dead letters cannot be written, if so."),
            list("workers", "WorkerStatus"),
        ],
    )
}

fn worker() -> Object {
    object(
        "A worker that has leases.",
        [
            field("worker", text(), "Its name."),
            field("in_flight", number(1), "The number of its leases."),
        ],
    )
}
