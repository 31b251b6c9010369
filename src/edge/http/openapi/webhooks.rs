//! The operations of webhooks, and the shapes of their JSON.

use serde_json::json as value;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{Object, ObjectBuilder, Required, Schema};

use super::operations::{Operations, WRITES, answer, json, of, operation, refusals};
use super::parameters::{number, number_within, of_lists, one_of, text, text_up_to};
use super::shapes::{Property, closed, field, filter, list, object, optional, time};

/// The group of these operations, and its description.
pub(super) const TAG: (&str, &str) =
    ("webhooks", "Have events sent to URLs, in signed requests. For administrators.");

/// What resuming does.
const RESUMES: &str = "Ends a pause, also that after a failure: what failed is sent again at once";

/// Returns the paths, with their operations.
pub(super) fn all() -> Vec<(&'static str, Operations)> {
    use HttpMethod::{Delete, Get, Patch, Post, Put};
    vec![
        ("/v1/webhooks", vec![(Get, list_all())]),
        (
            "/v1/webhooks/{webhook}",
            vec![(Get, show()), (Put, set()), (Patch, update()), (Delete, delete())],
        ),
        (
            "/v1/webhooks/{webhook}/pause",
            vec![(Post, act("pauseWebhook", "Pauses a webhook: no request begins any more"))],
        ),
        ("/v1/webhooks/{webhook}/resume", vec![(Post, act("resumeWebhook", RESUMES))]),
        ("/v1/webhooks/{webhook}/rotate", vec![(Post, rotate())]),
        ("/v1/webhooks/{webhook}/test", vec![(Post, test())]),
    ]
}

/// Returns the shapes of their JSON.
pub(super) fn shapes() -> Vec<(&'static str, Object)> {
    vec![
        ("WebhookSettings", closed("A webhook that is wanted.", wanted())),
        ("WebhookChange", change()),
        ("WebhookRotation", closed("A new key. All of it is optional.", rotation())),
        ("Webhook", webhook()),
        ("WebhookKey", key()),
        ("WebhookAttempt", attempt()),
        (
            "Webhooks",
            object("Webhooks in the order of their names.", [list("webhooks", "Webhook")]),
        ),
    ]
}

fn name() -> Parameter {
    let shape = text_up_to(64).pattern(Some("^[A-Za-z0-9_-]+$")).examples([value!("billing")]);
    ParameterBuilder::new()
        .name("webhook")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The name of the webhook."))
        .schema(Some(shape.min_length(Some(1)).build()))
        .build()
}

fn about(id: &str, summary: &str) -> OperationBuilder {
    operation(id, TAG.0, summary, vec![name()])
}

fn with_body(operation: OperationBuilder, shape: &str) -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .required(Some(Required::True))
        .content("application/json", of(shape));
    refusals(operation.request_body(Some(body.build())), &[&WRITES])
}

fn list_all() -> OperationBuilder {
    let parameters = of_lists(text().examples([value!("billing")]));
    let operation = operation("listWebhooks", TAG.0, "Lists webhooks", parameters)
        .response("200", json("Webhooks in the order of their names.", "Webhooks"));
    refusals(operation, &[])
}

fn show() -> OperationBuilder {
    let operation = about("showWebhook", "Returns a webhook, without its secrets")
        .response("200", json("The webhook.", "Webhook"));
    refusals(operation, &[&[404]])
}

fn set() -> OperationBuilder {
    let made = "The new webhook, with the `secret` that the receiver needs: it is told here alone.";
    let operation = about("setWebhook", "Creates a webhook, or replaces its settings")
        .response("200", json("The webhook with its new settings.", "Webhook"))
        .response("201", json(made, "Webhook"));
    with_body(operation, "WebhookSettings")
}

fn update() -> OperationBuilder {
    let summary = "Changes settings that are named; null unsets one, by RFC 7396";
    let operation = about("updateWebhook", summary)
        .response("200", json("The webhook with its new settings.", "Webhook"));
    with_body(operation, "WebhookChange")
}

fn delete() -> OperationBuilder {
    let operation = about("deleteWebhook", "Deletes a webhook, with its place in the topic")
        .response("204", answer("The webhook is deleted.").build());
    refusals(operation, &[&WRITES])
}

fn act(id: &str, summary: &str) -> OperationBuilder {
    let operation = about(id, summary).response("200", json("The webhook.", "Webhook"));
    refusals(operation, &[&WRITES])
}

fn rotate() -> OperationBuilder {
    let summary = "Gives a webhook another key, beside which the present one signs for a time";
    let told = "The webhook, with the new `secret`, which is told here alone.";
    with_body(
        about("rotateWebhook", summary).response("200", json(told, "Webhook")),
        "WebhookRotation",
    )
}

fn test() -> OperationBuilder {
    let summary = "Sends a signed request without an event, and returns what became of it";
    let operation = about("testWebhook", summary)
        .response("200", json("The request, and its answer.", "WebhookAttempt"));
    refusals(operation, &[&[404]])
}

fn format() -> ObjectBuilder {
    one_of(&["envelope", "payload", "cloudevents", "cloudevents_binary"])
}

fn kind() -> ObjectBuilder {
    one_of(&["hmac", "ed25519"])
}

fn filtered() -> Property {
    ("filter", Schema::from(filter()).into(), false)
}

fn url() -> ObjectBuilder {
    text_up_to(2_048).examples([value!("https://receiver.example/hook")])
}

/// Returns the settings that have defaults.
fn defaulted() -> [Property; 7] {
    [
        filtered(),
        optional(field("format", format(), "The form in which events are sent.")),
        optional(field(
            "max_batch_events",
            number_within(1, 10_000),
            "The most events in one request; 1 by default. With more a request has an array.",
        )),
        optional(field(
            "max_in_flight",
            number_within(1, 1_000),
            "The most requests at the same time; 4 by default.",
        )),
        optional(field(
            "max_tries",
            number_within(0, 1_000),
            "The most requests with one event before it goes to the dead letters; 0 for no end.",
        )),
        optional(field(
            "dead_letter",
            text_up_to(255),
            "The topic of dead letters; `webhooks.NAME.dead` by default.",
        )),
        optional(field(
            "max_redirects",
            number_within(0, 5),
            "The most redirects that are followed; 0 by default.",
        )),
    ]
}

fn wanted() -> Vec<Property> {
    let topic = text_up_to(255).min_length(Some(1)).examples([value!("orders.>")]);
    let mut all = vec![
        field("topic", topic, "The topic, or a pattern of topics. It cannot be changed."),
        field("url", url(), "The URL to which events are sent."),
        optional(field(
            "from",
            text(),
            "The place from which events are sent, when the webhook is made: `earliest`, `latest`, \
             a time or a cursor. After the newest event by default.",
        )),
        optional(field("signature", kind(), "The kind of its signatures, when it is made.")),
        optional(field(
            "secret",
            text(),
            "A key of one's own, when it is made: `whsec_` or `whsk_` and base64.",
        )),
    ];
    all.extend(defaulted());
    all
}

fn change() -> Object {
    // Any of them may be null, too.
    object(
        "The settings that are changed. Null gives a setting its default.",
        [optional(field("url", url(), "The URL to which events are sent."))],
    )
}

fn rotation() -> [Property; 3] {
    [
        optional(field(
            "signature",
            kind(),
            "The kind of the new key's signatures; that of the present key by default.",
        )),
        optional(field("secret", text(), "A key of one's own; a random one by default.")),
        optional(field(
            "keep_old_ms",
            number_within(0, 30 * 86_400_000),
            "How long the present key signs beside it, in milliseconds; 24 hours by default.",
        )),
    ]
}

fn key() -> Object {
    object(
        "A key, without its secret.",
        [
            field("kind", kind(), "The kind of its signatures."),
            field("secret", text(), "`***`."),
            optional(field("public_key", text(), "The public key of Ed25519: `whpk_` and base64.")),
            time("created", "When it was made"),
            optional(time("until", "The end of a key that was replaced")),
        ],
    )
}

fn attempt() -> Object {
    object(
        "A request to a receiver, and what became of it.",
        [
            time("time", "When it was sent"),
            field("webhook_id", text(), "The id that the receiver was told."),
            field("events", number(0), "The number of events."),
            field("tries", number(1), "The deliveries of its first event, with this one."),
            field("duration_ms", number(0), "The time until the answer, in milliseconds."),
            optional(field("status", number(100), "The status of the answer; absent without one.")),
            optional(field(
                "answer",
                text(),
                "The beginning of the answer, or the reason why there was none.",
            )),
        ],
    )
}

fn webhook() -> Object {
    let any = || ObjectBuilder::new().schema_type(utoipa::openapi::Type::Object);
    let mut all = vec![
        field("name", text(), "Its name."),
        field("topic", text(), "The topic, or a pattern of topics."),
        field("url", text(), "The URL to which events are sent."),
        list("keys", "WebhookKey"),
        time("created", "When it was made"),
        time("updated", "When settings or keys were changed last"),
        optional(field(
            "paused",
            any(),
            "Its pause, with `reason` (`asked`, `failing` or `gone`), `since` and `problem`; \
             absent while events are sent.",
        )),
        field("state", any(), "Its counts and last requests, since the broker was started."),
        optional(field("queue", any(), "How its queue stands.")),
        optional(field(
            "lag",
            any(),
            "How far it is behind: `unfinished` and `lost`, each exact unless `more_than` or \
             `lost_more_than` says that it is a lower bound. Of one webhook that is shown.",
        )),
        optional(field("secret", text(), "A key that is new, which is told here alone.")),
    ];
    all.extend(defaulted());
    object("A webhook.", all)
}
