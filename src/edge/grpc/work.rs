//! The gRPC service of shared work: pulls, settlements, and workers on streams.

use futures_util::stream;
use tonic::{Request, Response, Status, Streaming};

use super::super::clients::Peer;
use super::super::rates::{CallerRates, Rate};
use super::super::served::work_service_server::WorkService;
use super::call::{Responses, holding, permit, share, until, within};
use super::working::{Working, lease_messages, queue, settled_message, settlement};
use super::{messages, paths};
use crate::edge::work::requests;
use crate::edge::{Edge, proto};
use crate::error::Result;

/// The bytes of a pull that names no bound.
const DEFAULT_BYTES: u32 = 1 << 20;

/// The gRPC service of shared work.
#[derive(Debug, Clone)]
pub struct GrpcWork {
    pub(super) edge: Edge,
}

#[tonic::async_trait]
impl WorkService for GrpcWork {
    type WorkStream = Responses<proto::WorkResponse>;

    async fn pull(
        &self,
        request: Request<proto::PullRequest>,
    ) -> Result<Response<proto::PullResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::PULL).await?;
        let share = share(&request);
        let proto::PullRequest { of, worker, max_events, max_bytes, wait_ms } =
            request.into_inner();
        let queue = queue(of, &permit, &self.edge).await?;
        let bytes = if max_bytes == 0 { DEFAULT_BYTES } else { max_bytes };
        let amount = (max_events.max(1) as usize, Some(bytes as usize));
        let bounds = (&self.edge.config, self.edge.broker.max_page_bytes());
        let request = requests::pull(worker, amount, wait_ms, bounds);
        let leased = within(deadline, queue.pull(request)).await?;
        let leases = lease_messages(&leased).await;
        holding(proto::PullResponse { leases }, share.nothing())
    }

    async fn settle(
        &self,
        request: Request<proto::SettleRequest>,
    ) -> Result<Response<proto::SettleResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::SETTLE).await?;
        let mut request = request.into_inner();
        let queue = queue(request.of.take(), &permit, &self.edge).await?;
        let settlement = settlement(request)?;
        let settled = within(deadline, queue.settle(settlement)).await?;
        Ok(Response::new(settled_message(&settled)))
    }

    async fn work(
        &self,
        request: Request<Streaming<proto::WorkRequest>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::WORK).await?;
        let rates = CallerRates::of(request.extensions().get::<Peer>());
        rates.take(Rate::Subscriptions, 1)?;
        let working = Working::new(&self.edge, permit, rates, request.into_inner());
        let responses =
            stream::unfold(
                working,
                |mut working| async move { Some((working.next().await?, working)) },
            );
        Ok(Response::new(until(deadline, responses)))
    }

    async fn get_work(
        &self,
        request: Request<proto::GetWorkRequest>,
    ) -> Result<Response<proto::GetWorkResponse>, Status> {
        let permit = permit(&self.edge, &request, paths::GET_WORK).await?;
        let queue = queue(request.into_inner().of, &permit, &self.edge).await?;
        let status = queue.queue().status()?;
        let epoch = Some(self.edge.broker.epoch());
        let checkpoint = status.checkpoint.map(|cursor| crate::cursor::Cursor { epoch, ..cursor });
        Ok(Response::new(proto::GetWorkResponse {
            checkpoint: checkpoint.map(|cursor| cursor.to_string()).unwrap_or_default(),
            in_flight: status.in_flight,
            delayed: status.delayed,
            dying: status.dying,
            waiting: status.waiting,
            finished: status.totals.finished,
            dead: status.totals.dead,
            lost: status.totals.lost,
            problem: status.problem.unwrap_or_default(),
            workers: status.workers.into_iter().collect(),
        }))
    }
}
