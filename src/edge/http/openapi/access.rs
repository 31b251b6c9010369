//! The operations of access control, which a broker has whose callers must prove who they are.

use utoipa::openapi::path::{HttpMethod, OperationBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{Object, Required};

use super::operations::{Operations, WRITES, json, of, operation, refusals};
use super::parameters::{number, of_lists, one_of, text, text_up_to};
use super::shapes::{boolean, closed, field, list, nullable, object, optional, texts, time};

/// The group of these operations, and its description.
pub(super) const TAG: (&str, &str) = ("access", "Make tickets for browsers, and revoke callers.");

/// Returns the paths, with their operations.
pub(super) fn all() -> Vec<(&'static str, Operations)> {
    let (post, get) = (HttpMethod::Post, HttpMethod::Get);
    vec![
        ("/v1/tickets", vec![(post.clone(), make_ticket())]),
        ("/v1/access/explain", vec![(post.clone(), explain())]),
        ("/v1/access/revocations", vec![(post, revoke()), (get, list_revocations())]),
    ]
}

/// Returns the shapes of their JSON.
pub(super) fn shapes() -> [(&'static str, Object); 7] {
    [
        ("TicketRequest", ticket_request()),
        ("Ticket", ticket()),
        ("RevokeRequest", revoke_request()),
        ("Revocation", revocation()),
        ("ExplainRequest", explain_request()),
        ("Explanation", explanation()),
        (
            "Revocations",
            object("Revocations in the order of the ids.", [list("revocations", "Revocation")]),
        ),
    ]
}

fn with_body(operation: OperationBuilder, shape: &str) -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .required(Some(Required::True))
        .content("application/json", of(shape));
    refusals(operation.request_body(Some(body.build())), &[&WRITES])
}

fn make_ticket() -> OperationBuilder {
    let summary = "Makes a ticket for the `ticket` of a URL";
    let operation = operation("makeTicket", TAG.0, summary, Vec::new())
        .response("201", json("The ticket, which is told here alone.", "Ticket"));
    with_body(operation, "TicketRequest")
}

fn revoke() -> OperationBuilder {
    let summary = "Ends the connections of a caller, and refuses its credentials from before";
    let operation = operation("revoke", TAG.0, summary, Vec::new())
        .response("200", json("The revocation in effect.", "Revocation"));
    with_body(operation, "RevokeRequest")
}

fn explain() -> OperationBuilder {
    let summary = "Explains what a credential permits, and why";
    let operation = operation("explain", TAG.0, summary, Vec::new())
        .response("200", json("The explanation, without the credential.", "Explanation"));
    with_body(operation, "ExplainRequest")
}

fn list_revocations() -> OperationBuilder {
    let operation = operation("listRevocations", TAG.0, "Lists revocations", of_lists(text()))
        .response("200", json("Revocations in the order of the ids.", "Revocations"));
    refusals(operation, &[])
}

fn kind() -> utoipa::openapi::ObjectBuilder {
    one_of(&["once", "stream"])
}

fn ticket_request() -> Object {
    closed(
        "The ticket that is wanted. One of kind `once` opens one WebSocket, within some seconds. \
         One of kind `stream` reads events by `GET` until it is over, and needs `subscribe`. \
         Without both lists, a ticket of kind `once` has all that the caller may do with events.",
        [
            field("kind", kind(), "The kind."),
            texts("subscribe", "Patterns of topics to read, cut down to what the caller may read."),
            texts("publish", "Patterns of topics to publish to, for kind `once` alone."),
            optional(field(
                "expires_s",
                number(1),
                "The life of the ticket, in seconds. A longer one than may be is cut down.",
            )),
        ],
    )
}

fn ticket() -> Object {
    object(
        "A ticket.",
        [
            field("ticket", text(), "The ticket, for the `ticket` of a URL."),
            field("kind", kind(), "The kind."),
            time("expires", "The time from which it cannot be used"),
            texts("subscribe", "The patterns of topics that it reads."),
            texts("publish", "The patterns of topics that it publishes to."),
        ],
    )
}

fn revoke_request() -> Object {
    closed(
        "The caller to revoke.",
        [
            field("sub", text_up_to(255), "The id of the caller."),
            optional(time(
                "before",
                "The moment up to which credentials are refused, to the second; now, if missing",
            )),
        ],
    )
}

fn explain_request() -> Object {
    closed(
        "The credential to explain. Nothing keeps it.",
        [
            optional(field(
                "credential",
                nullable(),
                "A key, a token, or claims in JSON; without it, callers without a credential.",
            )),
            optional(field(
                "topic",
                nullable(),
                "The topic that it is about; without it, all patterns are told.",
            )),
        ],
    )
}

fn explanation() -> Object {
    object(
        "What a credential permits now.",
        [
            field(
                "refused",
                boolean(),
                "Whether the caller is refused as a whole: the credential is wrong, over, or \
                 revoked.",
            ),
            texts("lines", "Lines for people: who the caller is, and what permits what."),
        ],
    )
}

fn revocation() -> Object {
    object(
        "A caller whose credentials are refused.",
        [
            field("sub", text(), "The id of the caller."),
            time("before", "The moment up to which they are refused, to the second"),
        ],
    )
}
