//! The gRPC service of webhooks. All calls are for administrators.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::format::WebhookFormat;
use super::info::WebhookInfo;
use super::registry::Webhooks;
use super::settings::{PutWebhook, RotateWebhook, WebhookName, WebhookSettings};
use super::signing::SignatureKind;
use super::state::WebhookAttempt;
use super::stored::PauseReason;
use crate::edge::grpc::{call_head, deadline, filter, guarded, list_size, within};
use crate::edge::hooks::ActKind;
use crate::edge::permit::Permit;
use crate::edge::served::webhook_service_server::{WebhookService, WebhookServiceServer};
use crate::edge::{Edge, proto};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// Largest request, in bytes.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// The gRPC service of webhooks.
#[derive(Debug, Clone)]
pub(crate) struct GrpcWebhooks {
    edge: Edge,
    hooks: Webhooks,
}

impl Webhooks {
    /// Returns the service over gRPC.
    pub(crate) fn service(&self, edge: &Edge) -> Routes {
        let service = GrpcWebhooks { edge: edge.clone(), hooks: self.clone() };
        let service =
            WebhookServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES);
        guarded(edge, Routes::new(service))
    }
}

/// Returns the path of a call.
macro_rules! path {
    ($call:literal) => {
        concat!("/leftoff.v1.WebhookService/", $call)
    };
}

impl GrpcWebhooks {
    /// The full name of the service, for the health service.
    pub(crate) const NAME: &str =
        <WebhookServiceServer<GrpcWebhooks> as tonic::server::NamedService>::NAME;

    /// Returns the permit of a call at `path`, if its caller administers the broker.
    async fn permit<T>(&self, request: &Request<T>, path: &'static str) -> Result<Permit> {
        let permit = Permit::ask(&self.edge, &call_head(request, path)).await?;
        permit.check_administers().await?;
        Ok(permit)
    }

    fn info(&self, info: &WebhookInfo) -> proto::Webhook {
        let WebhookInfo { name, settings, keys, created, updated, paused, state, queue, lag } =
            info;
        let key = |key: &super::info::WebhookKeyInfo| proto::WebhookKey {
            kind: kind_number(key.kind).into(),
            public_key: key.public_key.clone().unwrap_or_default(),
            created_ms: key.created.as_ms(),
            until_ms: key.until.map(|until| until.as_ms()),
        };
        let paused = paused.as_ref();
        let checkpoint = queue.as_ref().and_then(|queue| queue.checkpoint);
        proto::Webhook {
            name: name.to_string(),
            settings: Some(settings_of(settings)),
            keys: keys.iter().map(key).collect(),
            created_ms: created.as_ms(),
            updated_ms: updated.as_ms(),
            pause_reason: paused.map_or(0, |pause| reason_number(pause.reason).into()),
            paused_since_ms: paused.map_or(0, |pause| pause.since.as_ms()),
            pause_problem: paused.map(|pause| pause.problem.clone()).unwrap_or_default(),
            delivered: state.delivered,
            failed: state.failed,
            in_flight: state.in_flight,
            failures_in_a_row: state.failures_in_a_row,
            next_try_ms: state.next_try.map(|time| time.as_ms()),
            attempts: state.attempts.iter().map(attempt).collect(),
            checkpoint: checkpoint.map(|cursor| cursor.to_string()).unwrap_or_default(),
            lag: lag.map(|lag| proto::WebhookLag {
                unfinished: lag.unfinished,
                more_than: lag.more_than,
                lost: lag.lost,
                lost_more_than: lag.lost_more_than,
            }),
        }
    }
}

#[tonic::async_trait]
impl WebhookService for GrpcWebhooks {
    async fn put_webhook(
        &self,
        request: Request<proto::PutWebhookRequest>,
    ) -> Result<Response<proto::PutWebhookResponse>, Status> {
        let deadline = deadline(request.metadata())?;
        let permit = self.permit(&request, path!("PutWebhook")).await?;
        let proto::PutWebhookRequest { webhook, settings, from, signature, secret } =
            request.into_inner();
        let name: WebhookName = webhook.parse()?;
        let given = |text: &String| !text.is_empty();
        let wanted = PutWebhook {
            settings: wanted_settings(settings)?,
            from: Some(from).filter(given).map(|from| from.parse()).transpose()?,
            signature: signature_kind(signature)?,
            secret: Some(secret).filter(given).map(Secret::from),
        };
        let work = self.hooks.put(&name, wanted);
        let work = permit.administering_webhook(ActKind::SetWebhook, name.as_str(), work);
        let made = within(deadline, work).await?;
        let secret = made.secret.map(|it| it.expose().to_owned()).unwrap_or_default();
        let webhook = Some(self.info(&made.info));
        Ok(Response::new(proto::PutWebhookResponse { webhook, secret }))
    }

    async fn update_webhook(
        &self,
        request: Request<proto::UpdateWebhookRequest>,
    ) -> Result<Response<proto::UpdateWebhookResponse>, Status> {
        let deadline = deadline(request.metadata())?;
        let permit = self.permit(&request, path!("UpdateWebhook")).await?;
        let proto::UpdateWebhookRequest { webhook, settings, update_mask } = request.into_inner();
        let name: WebhookName = webhook.parse()?;
        let paths = update_mask.map(|mask| mask.paths).unwrap_or_default();
        let change = change_of(settings.unwrap_or_default(), &paths)?;
        let work = self.hooks.update(&name, change);
        let work = permit.administering_webhook(ActKind::UpdateWebhook, name.as_str(), work);
        let webhook = Some(self.info(&within(deadline, work).await?));
        Ok(Response::new(proto::UpdateWebhookResponse { webhook }))
    }

    async fn get_webhook(
        &self,
        request: Request<proto::GetWebhookRequest>,
    ) -> Result<Response<proto::GetWebhookResponse>, Status> {
        let deadline = deadline(request.metadata())?;
        self.permit(&request, path!("GetWebhook")).await?;
        let name: WebhookName = request.into_inner().webhook.parse()?;
        let webhook = Some(self.info(&within(deadline, self.hooks.get(&name)).await?));
        Ok(Response::new(proto::GetWebhookResponse { webhook }))
    }

    async fn list_webhooks(
        &self,
        request: Request<proto::ListWebhooksRequest>,
    ) -> Result<Response<proto::ListWebhooksResponse>, Status> {
        self.permit(&request, path!("ListWebhooks")).await?;
        let proto::ListWebhooksRequest { page_size, page_token } = request.into_inner();
        let limit = list_size(page_size)?.min(MAX_PAGE);
        let after = Some(page_token).filter(|token| !token.is_empty());
        let after = after.map(|after| after.parse::<WebhookName>()).transpose()?;
        let listed = self.hooks.list(after.as_ref(), limit);
        let last = listed.last().filter(|_| listed.len() == limit);
        let next_page_token = last.map(|it| it.name.to_string()).unwrap_or_default();
        let webhooks = listed.iter().map(|info| self.info(info)).collect();
        Ok(Response::new(proto::ListWebhooksResponse { webhooks, next_page_token }))
    }

    async fn delete_webhook(
        &self,
        request: Request<proto::DeleteWebhookRequest>,
    ) -> Result<Response<proto::DeleteWebhookResponse>, Status> {
        let deadline = deadline(request.metadata())?;
        let permit = self.permit(&request, path!("DeleteWebhook")).await?;
        let name: WebhookName = request.into_inner().webhook.parse()?;
        let work = self.hooks.delete(&name);
        let work = permit.administering_webhook(ActKind::DeleteWebhook, name.as_str(), work);
        within(deadline, work).await?;
        Ok(Response::new(proto::DeleteWebhookResponse {}))
    }

    async fn pause_webhook(
        &self,
        request: Request<proto::PauseWebhookRequest>,
    ) -> Result<Response<proto::PauseWebhookResponse>, Status> {
        let deadline = deadline(request.metadata())?;
        let permit = self.permit(&request, path!("PauseWebhook")).await?;
        let name: WebhookName = request.into_inner().webhook.parse()?;
        let work = self.hooks.pause(&name);
        let work = permit.administering_webhook(ActKind::PauseWebhook, name.as_str(), work);
        let webhook = Some(self.info(&within(deadline, work).await?));
        Ok(Response::new(proto::PauseWebhookResponse { webhook }))
    }

    async fn resume_webhook(
        &self,
        request: Request<proto::ResumeWebhookRequest>,
    ) -> Result<Response<proto::ResumeWebhookResponse>, Status> {
        let deadline = deadline(request.metadata())?;
        let permit = self.permit(&request, path!("ResumeWebhook")).await?;
        let name: WebhookName = request.into_inner().webhook.parse()?;
        let work = self.hooks.resume(&name);
        let work = permit.administering_webhook(ActKind::ResumeWebhook, name.as_str(), work);
        let webhook = Some(self.info(&within(deadline, work).await?));
        Ok(Response::new(proto::ResumeWebhookResponse { webhook }))
    }

    async fn rotate_webhook(
        &self,
        request: Request<proto::RotateWebhookRequest>,
    ) -> Result<Response<proto::RotateWebhookResponse>, Status> {
        let deadline = deadline(request.metadata())?;
        let permit = self.permit(&request, path!("RotateWebhook")).await?;
        let proto::RotateWebhookRequest { webhook, signature, secret, keep_old_ms } =
            request.into_inner();
        let name: WebhookName = webhook.parse()?;
        let wanted = RotateWebhook {
            signature: signature_kind(signature)?,
            secret: Some(secret).filter(|secret| !secret.is_empty()).map(Secret::from),
            keep_old: keep_old_ms.map(Duration::from_millis),
        };
        let work = self.hooks.rotate(&name, wanted);
        let work = permit.administering_webhook(ActKind::RotateWebhook, name.as_str(), work);
        let made = within(deadline, work).await?;
        let secret = made.secret.map(|it| it.expose().to_owned()).unwrap_or_default();
        let webhook = Some(self.info(&made.info));
        Ok(Response::new(proto::RotateWebhookResponse { webhook, secret }))
    }

    async fn test_webhook(
        &self,
        request: Request<proto::TestWebhookRequest>,
    ) -> Result<Response<proto::TestWebhookResponse>, Status> {
        let deadline = deadline(request.metadata())?;
        let permit = self.permit(&request, path!("TestWebhook")).await?;
        let name: WebhookName = request.into_inner().webhook.parse()?;
        let work = self.hooks.test(&name);
        let work = permit.administering_webhook(ActKind::TestWebhook, name.as_str(), work);
        let attempt = Some(attempt(&within(deadline, work).await?));
        Ok(Response::new(proto::TestWebhookResponse { attempt }))
    }
}

/// The most webhooks of one page: each has its last requests.
const MAX_PAGE: usize = 1_000;

fn attempt(attempt: &WebhookAttempt) -> proto::WebhookAttempt {
    proto::WebhookAttempt {
        time_ms: attempt.time.as_ms(),
        webhook_id: attempt.webhook_id.clone(),
        events: attempt.events,
        tries: attempt.tries,
        duration_ms: attempt.duration_ms,
        status: attempt.status.map(u32::from),
        answer: attempt.answer.clone(),
    }
}

fn kind_number(kind: SignatureKind) -> proto::SignatureKind {
    match kind {
        SignatureKind::Hmac => proto::SignatureKind::Hmac,
        SignatureKind::Ed25519 => proto::SignatureKind::Ed25519,
    }
}

fn reason_number(reason: PauseReason) -> proto::WebhookPauseReason {
    match reason {
        PauseReason::Asked => proto::WebhookPauseReason::Asked,
        PauseReason::Failing => proto::WebhookPauseReason::Failing,
        PauseReason::Gone => proto::WebhookPauseReason::Gone,
    }
}

fn signature_kind(number: i32) -> Result<Option<SignatureKind>> {
    match proto::SignatureKind::try_from(number) {
        Ok(proto::SignatureKind::Unspecified) => Ok(None),
        Ok(proto::SignatureKind::Hmac) => Ok(Some(SignatureKind::Hmac)),
        Ok(proto::SignatureKind::Ed25519) => Ok(Some(SignatureKind::Ed25519)),
        Err(_) => Err(Error::invalid("signature", format!("{number} is not known"))),
    }
}

fn format_of(number: i32) -> Result<WebhookFormat> {
    match proto::WebhookFormat::try_from(number) {
        Ok(proto::WebhookFormat::Unspecified | proto::WebhookFormat::Envelope) => {
            Ok(WebhookFormat::Envelope)
        }
        Ok(proto::WebhookFormat::Payload) => Ok(WebhookFormat::Payload),
        Ok(proto::WebhookFormat::Cloudevents) => Ok(WebhookFormat::Cloudevents),
        Ok(proto::WebhookFormat::CloudeventsBinary) => Ok(WebhookFormat::CloudeventsBinary),
        Err(_) => Err(Error::invalid("format", format!("{number} is not known"))),
    }
}

fn format_number(format: WebhookFormat) -> proto::WebhookFormat {
    match format {
        WebhookFormat::Envelope => proto::WebhookFormat::Envelope,
        WebhookFormat::Payload => proto::WebhookFormat::Payload,
        WebhookFormat::Cloudevents => proto::WebhookFormat::Cloudevents,
        WebhookFormat::CloudeventsBinary => proto::WebhookFormat::CloudeventsBinary,
    }
}

/// Converts settings. What is not set gets its default.
fn wanted_settings(settings: Option<proto::WebhookSettings>) -> Result<WebhookSettings> {
    let settings = settings.ok_or_else(|| Error::invalid("settings", "is missing"))?;
    let mut wanted = WebhookSettings::new(settings.topic.parse()?, settings.url);
    wanted.filter = filter(settings.filter);
    wanted.format = format_of(settings.format)?;
    wanted.max_batch_events = settings.max_batch_events.unwrap_or(wanted.max_batch_events);
    wanted.max_in_flight = settings.max_in_flight.unwrap_or(wanted.max_in_flight);
    wanted.max_tries = settings.max_tries;
    let dead_letter = Some(settings.dead_letter).filter(|topic| !topic.is_empty());
    wanted.dead_letter = dead_letter.map(|topic| topic.parse()).transpose()?;
    wanted.max_redirects = u8::try_from(settings.max_redirects).unwrap_or(u8::MAX);
    Ok(wanted)
}

fn settings_of(settings: &WebhookSettings) -> proto::WebhookSettings {
    let filter = Some(&settings.filter).filter(|it| !it.is_empty()).map(|it| proto::Filter {
        types: it.types.iter().cloned().collect(),
        keys: it.keys.iter().cloned().collect(),
        key_prefixes: it.key_prefixes.iter().cloned().collect(),
        headers: it.headers.clone(),
    });
    proto::WebhookSettings {
        topic: settings.topic.as_str().to_owned(),
        filter,
        url: settings.url.clone(),
        format: format_number(settings.format).into(),
        max_batch_events: Some(settings.max_batch_events),
        max_in_flight: Some(settings.max_in_flight),
        max_tries: settings.max_tries,
        dead_letter: settings.dead_letter.as_ref().map(ToString::to_string).unwrap_or_default(),
        max_redirects: settings.max_redirects.into(),
    }
}

/// Returns the settings that the paths name, as members of an object; null for those that get their
/// default.
fn change_of(settings: proto::WebhookSettings, paths: &[String]) -> Result<Map<String, Value>> {
    if paths.is_empty() {
        return Err(Error::invalid("update_mask", "is empty; name the settings to change"));
    }
    let number = |number: Option<u32>| number.map_or(Value::Null, Value::from);
    let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    let mut change = Map::new();
    for path in paths {
        let value = match path.as_str() {
            "topic" => json!(settings.topic),
            "filter" => json!(filter(settings.filter.clone())),
            "url" => json!(settings.url),
            "format" => json!(format_of(settings.format)?),
            "max_batch_events" => number(settings.max_batch_events),
            "max_in_flight" => number(settings.max_in_flight),
            "max_tries" => number(settings.max_tries),
            "dead_letter" => text(&settings.dead_letter),
            "max_redirects" => json!(settings.max_redirects),
            other => {
                let problem = format!("{other:?} is no setting of a webhook");
                return Err(Error::invalid("update_mask", problem));
            }
        };
        change.insert(path.clone(), value);
    }
    Ok(change)
}
