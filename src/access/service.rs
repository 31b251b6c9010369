//! The gRPC service of access control: tickets, and revocations.

use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::control::AccessControl;
use super::requests::AskingCaller;
use super::ticket_table::TicketKind;
use super::tickets::TicketRequest;
use crate::edge::grpc::{call_head, deadline, guarded, list_size, within};
use crate::edge::permit::Permit;
use crate::edge::served::access_service_server::{AccessService, AccessServiceServer};
use crate::edge::{Edge, proto};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::lists;
use crate::topic::TopicPattern;

/// Largest request, in bytes.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// The paths of the calls.
const CREATE_TICKET: &str = "/leftoff.v1.AccessService/CreateTicket";
const REVOKE: &str = "/leftoff.v1.AccessService/Revoke";
const LIST_REVOCATIONS: &str = "/leftoff.v1.AccessService/ListRevocations";

/// The gRPC service of access control.
#[derive(Debug, Clone)]
pub(crate) struct GrpcAccess {
    edge: Edge,
    control: AccessControl,
}

impl AccessControl {
    /// Returns the service over gRPC.
    pub(crate) fn service(&self, edge: &Edge) -> Routes {
        let access = GrpcAccess { edge: edge.clone(), control: self.clone() };
        let service = AccessServiceServer::new(access).max_decoding_message_size(MAX_REQUEST_BYTES);
        guarded(edge, Routes::new(service))
    }
}

impl GrpcAccess {
    /// The full name of the service, for the health service.
    pub(crate) const NAME: &str =
        <AccessServiceServer<GrpcAccess> as tonic::server::NamedService>::NAME;

    /// Returns the caller of a call at `path`.
    async fn caller<T>(&self, request: &Request<T>, path: &'static str) -> Result<AskingCaller> {
        let head = call_head(request, path);
        let permit = Permit::ask(&self.edge, &head).await?;
        Ok(AskingCaller::new(permit, &head))
    }
}

#[tonic::async_trait]
impl AccessService for GrpcAccess {
    async fn create_ticket(
        &self,
        request: Request<proto::CreateTicketRequest>,
    ) -> Result<Response<proto::CreateTicketResponse>, Status> {
        let deadline = deadline(request.metadata())?;
        let caller = self.caller(&request, CREATE_TICKET).await?;
        let asked = ticket_request(request.into_inner())?;
        let issued = within(deadline, caller.ticket(&self.control, &asked)).await?;
        let texts = |all: Vec<TopicPattern>| all.into_iter().map(String::from).collect();
        Ok(Response::new(proto::CreateTicketResponse {
            ticket: issued.ticket,
            kind: kind_of(issued.kind).into(),
            expires_ms: issued.expires.as_ms(),
            subscribe: texts(issued.subscribe),
            publish: texts(issued.publish),
        }))
    }

    async fn revoke(
        &self,
        request: Request<proto::RevokeRequest>,
    ) -> Result<Response<proto::RevokeResponse>, Status> {
        let deadline = deadline(request.metadata())?;
        let caller = self.caller(&request, REVOKE).await?;
        let proto::RevokeRequest { sub, before_ms } = request.into_inner();
        let before = before_ms.map(Timestamp::from_ms);
        let revoked = within(deadline, caller.revoke(&self.control, &sub, before)).await?;
        let before_ms = revoked.before.as_ms();
        Ok(Response::new(proto::RevokeResponse { sub: revoked.sub, before_ms }))
    }

    async fn list_revocations(
        &self,
        request: Request<proto::ListRevocationsRequest>,
    ) -> Result<Response<proto::ListRevocationsResponse>, Status> {
        let deadline = deadline(request.metadata())?;
        let caller = self.caller(&request, LIST_REVOCATIONS).await?;
        let proto::ListRevocationsRequest { page_size, page_token } = request.into_inner();
        let limit = list_size(page_size)?;
        let listed =
            within(deadline, caller.revocations(&self.control, &page_token, limit)).await?;
        let next =
            if listed.len() == limit { listed.last().map(|it| it.sub.clone()) } else { None };
        let revocation = |it: super::revocations::Revocation| proto::Revocation {
            sub: it.sub,
            before_ms: it.before.as_ms(),
        };
        let revocations = listed.into_iter().map(revocation).collect();
        let next_page_token = next.unwrap_or_default();
        Ok(Response::new(proto::ListRevocationsResponse { revocations, next_page_token }))
    }
}

fn kind_of(kind: TicketKind) -> proto::TicketKind {
    match kind {
        TicketKind::Once => proto::TicketKind::Once,
        TicketKind::Stream => proto::TicketKind::Stream,
    }
}

/// Converts a request for a ticket. A list without patterns is one that is not given.
fn ticket_request(asked: proto::CreateTicketRequest) -> Result<TicketRequest> {
    let kind = match proto::TicketKind::try_from(asked.kind) {
        Ok(proto::TicketKind::Once) => TicketKind::Once,
        Ok(proto::TicketKind::Stream) => TicketKind::Stream,
        _ => return Err(Error::invalid("kind", "is missing or unknown; write ONCE or STREAM")),
    };
    let patterns = |texts: Vec<String>| {
        lists::check("patterns of a ticket", texts.len(), lists::MAX_ENTRIES)?;
        let all = texts.iter().map(|text| TopicPattern::new(text)).collect::<Result<Vec<_>>>()?;
        Ok::<_, Error>(Some(all).filter(|all| !all.is_empty()))
    };
    let (subscribe, publish) = (patterns(asked.subscribe)?, patterns(asked.publish)?);
    Ok(TicketRequest { kind, subscribe, publish, expires_s: asked.expires_s })
}
