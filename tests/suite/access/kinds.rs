//! Every kind of credential that the matrix presents, and what it stands for.

use serde_json::json;

use super::credentials::{
    Sent, all_of, claims, key_of, now_s, own_token, signed, signed_by_another,
    signed_by_the_key_inside, signed_with_the_public_key, unsigned, with,
};
use super::{ADMIN_KEY, OWNER_KEY, STRANGER_KEY, Standing, revoke, ticket};
use crate::common::Server;
use crate::websocket::Client;

/// A kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    None,
    MalformedHeader,
    MalformedToken,
    TokenInUrl,
    UnknownKey,
    KeyOfAnother,
    Key,
    AdminKey,
    WrongKey,
    AlgorithmNone,
    AlgorithmNoneSigned,
    PublicKeyAsSecret,
    KeyInside,
    ChangedClaims,
    Expired,
    NotYetValid,
    WithoutEnd,
    WrongAudience,
    WrongIssuer,
    IssuerOfAnotherKey,
    OfAnotherTopic,
    Valid,
    InCookie,
    WrongInCookie,
    ReadsOnly,
    Admin,
    OnceTicket,
    UsedTicket,
    UnknownTicket,
    StreamTicket,
    TicketOfAnother,
    TicketOfAnotherTopic,
    Revoked,
    TicketOfRevoked,
}

use Kind as K;

/// All kinds.
pub(super) const KINDS: [Kind; 34] = [
    K::None,
    K::MalformedHeader,
    K::MalformedToken,
    K::TokenInUrl,
    K::UnknownKey,
    K::KeyOfAnother,
    K::Key,
    K::AdminKey,
    K::WrongKey,
    K::AlgorithmNone,
    K::AlgorithmNoneSigned,
    K::PublicKeyAsSecret,
    K::KeyInside,
    K::ChangedClaims,
    K::Expired,
    K::NotYetValid,
    K::WithoutEnd,
    K::WrongAudience,
    K::WrongIssuer,
    K::IssuerOfAnotherKey,
    K::OfAnotherTopic,
    K::Valid,
    K::InCookie,
    K::WrongInCookie,
    K::ReadsOnly,
    K::Admin,
    K::OnceTicket,
    K::UsedTicket,
    K::UnknownTicket,
    K::StreamTicket,
    K::TicketOfAnother,
    K::TicketOfAnotherTopic,
    K::Revoked,
    K::TicketOfRevoked,
];

/// The use that a request makes of a credential: tickets are for one use each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// It opens a WebSocket.
    WebSocket,
    /// It reads events by `GET`.
    Reads,
    Other,
}

impl Kind {
    /// Returns what the credential stands for.
    pub(super) fn standing(self, purpose: Use) -> Standing {
        match self {
            K::KeyOfAnother | K::OfAnotherTopic => Standing::Stranger,
            K::ReadsOnly => Standing::Reader,
            K::Key | K::Valid | K::InCookie => Standing::Owner,
            K::Admin | K::AdminKey => Standing::Administrator,
            K::OnceTicket if purpose == Use::WebSocket => Standing::Owner,
            K::StreamTicket if purpose == Use::Reads => Standing::Reader,
            K::TicketOfAnother | K::TicketOfAnotherTopic if purpose == Use::Reads => {
                Standing::Stranger
            }
            _ => Standing::Nobody,
        }
    }
}

/// The credentials, each made once; tickets for one use are made anew for each use.
pub(super) struct Credentials {
    made: Vec<(Kind, Sent)>,
    owner: Sent,
}

impl Credentials {
    /// Makes all credentials. Some of them are used up or revoked by it.
    pub(super) async fn make(server: &Server) -> Self {
        let owner = Sent::bearer(signed(&claims("owner", all_of("secret.>"))));
        let stranger = Sent::bearer(signed(&claims("stranger", all_of("other.>"))));
        let gone = Sent::bearer(signed(&claims("gone", all_of("secret.>"))));
        let stream = async |sent: &Sent, topic: &str| {
            let wanted = json!({"kind": "stream", "subscribe": [topic]});
            Sent::ticket(&ticket(server, sent, wanted).await)
        };
        let used = Sent::ticket(&ticket(server, &owner, json!({"kind": "once"})).await);
        let first = Client::try_connect(server.address, &used.path("/v1/ws"), None).await;
        assert!(first.is_ok(), "the first use");
        let mut made = vec![
            (K::UsedTicket, used),
            (K::StreamTicket, stream(&owner, "secret.>").await),
            (K::TicketOfAnother, stream(&stranger, "other.>").await),
            (K::TicketOfAnotherTopic, stream(&owner, "secret.two").await),
            (K::TicketOfRevoked, stream(&gone, "secret.>").await),
            (K::Revoked, gone),
        ];
        revoke(server.address, "gone").await;
        made.extend(plain());
        made.extend(wrong());
        Self { made, owner }
    }

    /// Returns the credential of this kind for one request.
    pub(super) async fn one(&self, server: &Server, kind: Kind) -> Sent {
        if kind == K::OnceTicket {
            return Sent::ticket(&ticket(server, &self.owner, json!({"kind": "once"})).await);
        }
        let found = self.made.iter().find(|(its, _)| *its == kind);
        found.unwrap_or_else(|| panic!("{kind:?} is not made")).1.clone()
    }
}

/// Returns the credentials that are what they seem to be.
fn plain() -> Vec<(Kind, Sent)> {
    let owner = claims("owner", all_of("secret.>"));
    let reads = json!({"subscribe": ["secret.>"]});
    vec![
        (K::None, Sent::Nothing),
        (K::KeyOfAnother, Sent::Bearer(key_of(STRANGER_KEY))),
        (K::Key, Sent::Bearer(key_of(OWNER_KEY))),
        (K::AdminKey, Sent::Bearer(key_of(ADMIN_KEY))),
        (K::OfAnotherTopic, Sent::bearer(signed(&claims("stranger", all_of("other.>"))))),
        (K::Valid, Sent::bearer(signed(&owner))),
        (K::InCookie, Sent::Cookie(signed(&owner))),
        (K::ReadsOnly, Sent::bearer(own_token("reader", reads, 3_600))),
        (K::Admin, Sent::bearer(signed(&claims("root", json!({"admin": true}))))),
    ]
}

/// Returns the credentials that prove nothing.
fn wrong() -> Vec<(Kind, Sent)> {
    let owner = claims("owner", all_of("secret.>"));
    let valid = signed(&owner);
    let signature = valid.rsplit('.').next().unwrap();
    let but = |others| Sent::bearer(signed(&with(owner.clone(), others)));
    let (now, parts) = (now_s(), valid.split('.').collect::<Vec<_>>());
    let changed = unsigned(&with(owner.clone(), json!({"sub": "root"})), signature);
    let changed = format!("{}.{}.{signature}", parts[0], changed.split('.').nth(1).unwrap());
    let issuer_of_secret = json!({"iss": super::credentials::OWN_ISSUER, "aud": null});
    vec![
        (K::MalformedHeader, Sent::Authorization(format!("Basic {valid}"))),
        (K::MalformedToken, Sent::bearer("not.a-token")),
        (K::TokenInUrl, Sent::Query(format!("access_token={valid}"))),
        (K::UnknownKey, Sent::Bearer(key_of(99))),
        (K::WrongKey, Sent::bearer(signed_by_another(&owner))),
        (K::AlgorithmNone, Sent::bearer(unsigned(&owner, ""))),
        (K::AlgorithmNoneSigned, Sent::bearer(unsigned(&owner, signature))),
        (K::PublicKeyAsSecret, Sent::bearer(signed_with_the_public_key(&owner))),
        (K::KeyInside, Sent::bearer(signed_by_the_key_inside(&owner))),
        (K::ChangedClaims, Sent::bearer(changed)),
        (K::Expired, but(json!({"exp": now - 2}))),
        (K::NotYetValid, but(json!({"nbf": now + 600}))),
        (K::WithoutEnd, but(json!({"exp": null}))),
        (K::WrongAudience, but(json!({"aud": "another-service"}))),
        (K::WrongIssuer, but(json!({"iss": "https://evil.example"}))),
        (K::IssuerOfAnotherKey, but(issuer_of_secret)),
        (K::WrongInCookie, Sent::Cookie(signed_by_another(&owner))),
        (K::UnknownTicket, Sent::ticket("AAAAAAAAAAAAAAAAAAAAAA")),
    ]
}
