//! A server of a node that is not open yet: it says how far the node is, and refuses all else for
//! now, so that balancers, people and clients need not guess.

use std::pin::Pin;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::json;
use tokio::sync::watch;

use crate::cluster::{FleetLeader, JoiningState, JoiningStep};
use crate::edge::fleet::{
    FleetState, NodeOfFleet, ShownForwards, ShownNode, ShownRelays, ShownRole,
};
use crate::edge::refused::RefusalForm;
use crate::error::Error;

/// The time after which a refused client may ask again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// The paths that are served: they tell how the node is.
const SERVED: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/v1/cluster"];
const HEALTH_SERVICE: &str = "/grpc.health.v1.Health/";

/// A node of a fleet that is not open yet.
#[derive(Debug, Clone)]
pub(super) struct JoiningNode {
    pub(super) fleet: String,
    pub(super) node: FleetLeader,
    pub(super) state: watch::Receiver<JoiningState>,
}

impl NodeOfFleet for JoiningNode {
    fn state(&self) -> FleetState {
        let state = self.state.borrow().clone();
        let FleetLeader { node, address, .. } = self.node.clone();
        let engine_problem = match &state.step {
            JoiningStep::Waiting { engine_problem } => Some(engine_problem.clone()),
            _ => None,
        };
        FleetState {
            fleet: self.fleet.clone(),
            node: ShownNode { node, address },
            role: ShownRole::Joining,
            term: 0,
            leader: None,
            read_record: 0,
            applied_record: 0,
            last_record: 0,
            lag_records: 0,
            lag_ms: 0,
            announcements: 0,
            terms: 0,
            nodes: Vec::new(),
            has_more_nodes: false,
            forwarded: ShownForwards::default(),
            refused_messages: 0,
            relayed: ShownRelays::default(),
            members_elsewhere: 0,
            members_cut: 0,
            problem: state.problem.clone(),
            engine_problem,
            damage: None,
            repaired: None,
            searched: None,
            joining: Some(json!(state)),
        }
    }

    fn has_secret(&self) -> bool {
        false
    }

    fn check_ready(&self) -> Result<(), String> {
        Err(self.state.borrow().to_string())
    }

    fn name(&self) -> &str {
        &self.node.node
    }

    fn ask<'a>(
        &'a self,
        _node: &'a str,
        _kind: &'a str,
        _question: Bytes,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + 'a>> {
        Box::pin(std::future::ready(Err(self.state.borrow().to_string())))
    }

    fn hand_over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// Passes on what asks how the node is, and refuses all else, in the form that its client reads.
pub(super) async fn only_how_it_is(
    state: watch::Receiver<JoiningState>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    if SERVED.contains(&path) || path.starts_with(HEALTH_SERVICE) {
        return next.run(request).await;
    }
    let detail = format!("{}: ask again, or ask another node", *state.borrow());
    let form = RefusalForm::of(&request);
    if form == RefusalForm::Grpc {
        return form.answer(Error::NotLeading); // Such a client reads no other form.
    }
    form.answer_for(ASK_AGAIN, StatusCode::SERVICE_UNAVAILABLE, &detail)
}
