//! The settings that say who may do what: roles, callers without credentials, and the paths that
//! are open to everybody.

use leftoff::access::{AnonymousConfig, RoleConfig};
use serde_json::{Value, json};

use super::credentials::{OWN_ISSUER, Sent, all_of, claims, own_signed, own_token, with};
use super::{CANARY, SECRET, admin, ask_ticket, config};
use crate::common::{Answer, Server, send};

async fn ask(server: &Server, sent: &Sent, method: &str, path: &str) -> Answer {
    let request = sent.to(server.address, method, path).header("accept", "application/json");
    send(request, "").await
}

async fn status_of(server: &Server, sent: &Sent, topic: &str) -> u16 {
    ask(server, sent, "GET", &format!("/v1/topics/{topic}/events")).await.status.as_u16()
}

/// Returns a token with claims of the issuer's own, and without the claim of permissions.
fn with_claims(sub: &str, others: Value) -> Sent {
    let own = json!({"iss": OWN_ISSUER, "aud": null, "leftoff": null});
    Sent::Bearer(own_signed(&with(with(claims(sub, Value::Null), own), others)))
}

/// Goal: roles give rights by ordinary claims, and `{sub}` is the caller as one token: an id with
/// anything else in it opens no topic of others.
#[tokio::test]
async fn a_role_gives_rights_by_claims_and_no_id_widens_them() {
    let mut config = config();
    let mut customers = RoleConfig::default();
    customers.claim = "groups".to_owned();
    customers.contains = Some("customers".to_owned());
    customers.subscribe = vec!["users.{sub}.>".to_owned(), "news.>".to_owned()];
    let mut staff = RoleConfig::default();
    staff.claim = "realm.roles".to_owned();
    staff.contains = Some("staff".to_owned());
    staff.admin = true;
    config.access.roles = vec![customers, staff];
    let server = Server::with(config).await;
    for topic in ["users.ann.inbox", "users.bob.inbox", "users.a.b.inbox", "news.one"] {
        server.publish(topic, CANARY).await;
    }
    let customer = |sub: &str| with_claims(sub, json!({"groups": ["customers", "others"]}));
    assert_eq!(status_of(&server, &customer("ann"), "users.ann.inbox").await, 200);
    assert_eq!(status_of(&server, &customer("ann"), "users.bob.inbox").await, 403);
    assert_eq!(status_of(&server, &customer("ann"), "news.one").await, 200);
    for sub in ["*", ">", "a.b", "ann.>", "*.inbox", "ann ", "", "users.{sub}", "{sub}", "bob\n"] {
        for topic in ["users.ann.inbox", "users.bob.inbox", "users.a.b.inbox"] {
            let answer = status_of(&server, &customer(sub), topic).await;
            assert!([401, 403].contains(&answer), "{sub:?} reads {topic}: {answer}");
        }
    }
    let strange = [json!({"groups": "customers-not"}), json!({"groups": {"customers": true}})];
    for groups in strange.into_iter().chain([json!({}), json!({"groups": ["CUSTOMERS"]})]) {
        let answer = status_of(&server, &with_claims("ann", groups.clone()), "news.one").await;
        assert!([401, 403].contains(&answer), "{groups}: {answer}");
    }
    let staff = with_claims("eve", json!({"realm": {"roles": ["staff"]}}));
    assert_eq!(ask(&server, &staff, "GET", "/v1/connections").await.status, 200);
    assert_eq!(
        status_of(&server, &staff, "news.one").await,
        403,
        "it administers, and reads nothing"
    );
    server.stop().await;
}

/// Goal: an issuer whose claim of permissions does not count gives none by it.
#[tokio::test]
async fn the_claim_of_an_issuer_that_may_not_permit_does_not_count() {
    let mut config = config();
    config.access.issuers[1].permits = false;
    let server = Server::with(config).await;
    server.publish(SECRET, CANARY).await;
    let token = Sent::Bearer(own_token("owner", all_of("secret.>"), 600));
    let answer = status_of(&server, &token, SECRET).await;
    assert!([401, 403].contains(&answer), "{answer}");
    let token = Sent::Bearer(own_token("owner", json!({"admin": true}), 600));
    let answer = ask(&server, &token, "GET", "/v1/connections").await.status.as_u16();
    assert!([401, 403].contains(&answer), "{answer}");
    server.stop().await;
}

/// Goal: callers without credentials do what is permitted to them, and nothing else; a credential
/// that is wrong is refused all the same.
#[tokio::test]
async fn a_caller_without_a_credential_does_only_what_is_permitted_to_it() {
    let mut config = config();
    let mut anonymous = AnonymousConfig::default();
    anonymous.subscribe = vec!["public.>".to_owned()];
    config.access.anonymous = Some(anonymous);
    let server = Server::with(config).await;
    server.publish("public.one", "public").await;
    server.publish(SECRET, CANARY).await;
    let nobody = Sent::Nothing;
    assert_eq!(status_of(&server, &nobody, "public.one").await, 200);
    assert_eq!(status_of(&server, &nobody, SECRET).await, 403);
    assert_eq!(status_of(&server, &Sent::bearer("not.a-token"), "public.one").await, 401);
    assert_eq!(status_of(&server, &Sent::ticket("unknown"), "public.one").await, 401);
    for (method, path) in [
        ("POST", "/v1/topics/public.one/events"),
        ("GET", "/v1/topics/public.one/presence"),
        ("DELETE", "/v1/topics/public.one"),
        ("GET", "/v1/connections"),
        ("GET", "/metrics"),
        ("GET", "/v1/access/revocations"),
        ("PUT", "/v1/consumers/x?topic=public.one"),
        ("DELETE", "/v1/consumers/x?topic=public.one"),
        ("POST", "/v1/consumers/x/checkpoint?topic=public.one"),
        ("POST", "/v1/consumers/x/marks?topic=public.one"),
        ("POST", "/v1/consumers/x/pull?topic=public.one"),
        ("POST", "/v1/consumers/x/settle?topic=public.one"),
    ] {
        let answer = ask(&server, &nobody, method, path).await;
        assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
    }
    let counts = "/v1/consumers/x/counts?topic=public.one";
    assert_eq!(ask(&server, &nobody, "GET", counts).await.status, 200);
    let refused = ask_ticket(&server, &nobody, json!({"kind": "once"})).await;
    assert_eq!(refused.status, 401, "{refused:?}");
    let list = ask(&server, &nobody, "GET", "/v1/topics").await;
    let list = String::from_utf8_lossy(&list.body);
    assert!(list.contains("public.one") && !list.contains("secret"), "{list}");
    server.stop().await;
}

/// Goal: `/readyz` and `/metrics` are guarded as the settings say, and `/healthz` never is.
#[tokio::test]
async fn readiness_and_metrics_are_guarded_as_the_settings_say() {
    for (is_readyz_guarded, is_metrics_open) in [(false, false), (true, true)] {
        let mut config = config();
        config.access.guarded_readyz = is_readyz_guarded;
        config.access.open_metrics = is_metrics_open;
        let server = Server::with(config).await;
        let status = async |sent: &Sent, path: &str| ask(&server, sent, "GET", path).await.status;
        assert_eq!(status(&Sent::Nothing, "/healthz").await, 200);
        let readyz = if is_readyz_guarded { 401 } else { 200 };
        assert_eq!(status(&Sent::Nothing, "/readyz").await, readyz);
        assert_eq!(status(&admin(), "/readyz").await, 200);
        let metrics = if is_metrics_open { 200 } else { 401 };
        assert_eq!(status(&Sent::Nothing, "/metrics").await, metrics);
        assert_eq!(status(&admin(), "/metrics").await, 200);
        assert_eq!(status(&Sent::Nothing, "/v1/connections").await, 401);
        server.stop().await;
    }
}
