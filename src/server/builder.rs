//! The builder of a server: what it serves beside the broker's own interfaces, where it listens,
//! and its limits.
//!
//! ```text
//! request ─▶ host and origin ─▶ rates ─▶ layers of the host ─┬▶ routes of the host
//!                                                            ├▶ routes of the broker
//!                                                            └▶ gRPC: layers for gRPC ─▶ services
//! ```

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::response::IntoResponse;
#[cfg(feature = "fleet")]
use tokio::sync::watch;
use tonic::body::Body as GrpcBody;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;
use tower::util::{MapRequestLayer, MapResponseLayer};

#[cfg(feature = "tls")]
use super::certificates::Certificates;
use super::checks::{RouteLayer, checks};
use super::config::ServerConfig;
use super::connection::Door;
#[cfg(feature = "fleet")]
use super::joining::{JoiningNode, only_how_it_is};
use super::listener::{Listener, Protocols};
use super::running::Server;
use super::services::{self, routes_of};
use crate::access::{AccessConfig, AccessControl, AccessMode, GrpcAccess};
use crate::broker::Broker;
#[cfg(feature = "fleet")]
use crate::cluster::{FleetLeader, FleetNode, JoiningState};
use crate::consumers::{Consumers, ConsumersConfig};
use crate::edge::hooks::Hooks;
use crate::edge::rates::Rates;
use crate::edge::refused;
use crate::edge::{Edge, FollowConfig, Parts, RatesConfig, grpc, http, origins};
use crate::error::{Error, Result};
#[cfg(feature = "webhooks")]
use crate::webhooks::{GrpcWebhooks, Webhooks, WebhooksConfig};

/// A layer of the host. It is put around the routes of each listener.
type HostLayer = Arc<dyn Fn(Router) -> Router + Send + Sync>;

/// The parts of a server before its sockets are bound. See [`Server::builder`].
#[must_use = "a server listens once it is bound"]
pub struct ServerBuilder {
    broker: Broker,
    edge: Edge,
    follow: FollowConfig,
    config: ServerConfig,
    access: AccessConfig,
    consumers: ConsumersConfig,
    rates: RatesConfig,
    #[cfg(feature = "webhooks")]
    webhooks: WebhooksConfig,
    listeners: Vec<Listener>,
    /// The routes of the host, if it has any.
    routes: Option<Router>,
    layers: Vec<HostLayer>,
    services: Routes,
    service_names: Vec<&'static str>,
    descriptors: Vec<&'static [u8]>,
    grpc_layers: Vec<HostLayer>,
    /// Access control, once the server is bound with it.
    control: Option<AccessControl>,
    /// The webhooks, once the server is bound.
    #[cfg(feature = "webhooks")]
    hooks: Option<Webhooks>,
    /// How far the node is, if that is all that is served.
    #[cfg(feature = "fleet")]
    joining: Option<watch::Receiver<JoiningState>>,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("broker", &self.broker)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Begins a server of `broker`.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use axum::routing::get;
    /// use leftoff::server::{Listener, Server, Shutdown};
    ///
    /// let broker = leftoff::Broker::in_memory(&Default::default())?;
    /// let own = axum::Router::new().route("/hello", get(async || "hello"));
    /// let server = Server::builder(broker)
    ///     .routes(own)
    ///     .listen(Listener::bind(([127, 0, 0, 1], 0).into())?)
    ///     .bind()
    ///     .await?;
    /// let shutdown = Shutdown::default();
    /// let serving = tokio::spawn(server.run(shutdown.clone()));
    /// shutdown.start();
    /// serving.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(broker: Broker) -> ServerBuilder {
        ServerBuilder::new(broker)
    }
}

impl ServerBuilder {
    fn new(broker: Broker) -> Self {
        Self {
            edge: Edge::new(broker.clone()),
            broker,
            follow: FollowConfig::default(),
            config: ServerConfig::default(),
            access: AccessConfig::default(),
            consumers: ConsumersConfig::default(),
            rates: RatesConfig::default(),
            #[cfg(feature = "webhooks")]
            webhooks: WebhooksConfig::default(),
            listeners: Vec::new(),
            routes: None,
            layers: Vec::new(),
            services: Routes::default(),
            service_names: Vec::new(),
            descriptors: Vec::new(),
            grpc_layers: Vec::new(),
            control: None,
            #[cfg(feature = "webhooks")]
            hooks: None,
            #[cfg(feature = "fleet")]
            joining: None,
        }
    }

    /// Sets the addresses, limits and timeouts. The addresses and the certificate count only if no
    /// listener is given.
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets who may reach the broker, and who may do what. With `mode = "required"` the server has
    /// the hooks of access control, and the host none of its own.
    pub fn access(mut self, access: AccessConfig) -> Self {
        self.access = access;
        self
    }

    /// Sets the settings of consumers, which the server opens when it is bound.
    pub fn consumers_config(mut self, consumers: ConsumersConfig) -> Self {
        self.consumers = consumers;
        self
    }

    /// Sets the consumers that the host has opened itself, in the place of the server's own: a
    /// broker has one [`Consumers`] at a time.
    pub fn consumers(mut self, consumers: Consumers) -> Self {
        self.edge = self.edge.consumers(consumers);
        self
    }

    /// Sets the rate limits of each caller.
    pub fn rates(mut self, rates: RatesConfig) -> Self {
        self.rates = rates;
        self
    }

    /// Sets the settings of live readers.
    pub fn follow(mut self, follow: FollowConfig) -> Self {
        self.follow = follow;
        self
    }

    /// Sets the settings of webhooks.
    #[cfg(feature = "webhooks")]
    pub fn webhooks(mut self, webhooks: WebhooksConfig) -> Self {
        self.webhooks = webhooks;
        self
    }

    /// Sets the node of a fleet that the broker is. The server says how the node is, is ready when
    /// the node has caught up, and has the node's service for the others. When it stops, it first
    /// has the node hand over the lead. The node itself is closed by the host, once the server has
    /// stopped.
    ///
    /// # Panics
    ///
    /// As [`Self::service`].
    #[cfg(feature = "fleet")]
    pub fn fleet(mut self, node: &FleetNode) -> Self {
        self.edge = self.edge.with_fleet(node.view());
        self.service(node.service().served()).service(node.joining_service().served())
    }

    /// Serves nothing but how far the node is that is being opened, with this name and address in
    /// its fleet. All other requests are refused for now.
    #[cfg(feature = "fleet")]
    pub(crate) fn joining(
        mut self,
        fleet: String,
        node: FleetLeader,
        state: watch::Receiver<JoiningState>,
    ) -> Self {
        self.joining = Some(state.clone());
        self.edge = self.edge.with_fleet(JoiningNode { fleet, node, state });
        self
    }

    /// Sets the hooks, which say who may do what, and see each event. They are asked on every
    /// interface alike, and not about the host's own routes and services.
    pub fn hooks(mut self, hooks: impl Hooks) -> Self {
        self.edge = self.edge.hooks(hooks);
        self
    }

    /// Adds a listener; any number of them. Without any, the addresses of the configuration are
    /// bound.
    pub fn listen(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Adds routes of the host's own, with their state given. They are served beside the broker's,
    /// with the same limits on connections, memory, time and rates, and for the same names and web
    /// pages ([`Self::access`]). A path that the host has is the host's, also where the broker has
    /// it: `/healthz` of the host replaces that of the broker. The answer to an unknown path is the
    /// broker's.
    ///
    /// # Panics
    ///
    /// If this is called again, and both routers have the same path, or a fallback.
    pub fn routes(mut self, routes: Router) -> Self {
        self.routes = Some(self.routes.unwrap_or_default().merge(routes));
        self
    }

    /// Adds a layer around everything that is served, such as one that finds out who asks and puts
    /// that into the request's extensions, where the hooks find it. The layer that is added last is
    /// the outermost, as in axum.
    pub fn layer(mut self, layer: impl RouteLayer) -> Self {
        self.layers.push(Arc::new(move |routes: Router| routes.layer(layer.clone())));
        self
    }

    /// Adds a gRPC service of the host's own. It is named in `grpc.health.v1`.
    ///
    /// # Panics
    ///
    /// If a service of the host has the same name already.
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: Service<::http::Request<GrpcBody>, Error = Infallible> + NamedService,
        S: Clone + Send + Sync + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        self.service_names.push(S::NAME);
        self.services = self.services.add_service(service);
        self
    }

    /// Adds the descriptors of the host's services, so that reflection lists them. Source:
    /// `tonic_prost_build`'s `file_descriptor_set_path`.
    pub fn descriptors(mut self, descriptors: &'static [u8]) -> Self {
        self.descriptors.push(descriptors);
        self
    }

    /// Adds a layer around the gRPC services of the broker and of the host, such as
    /// [`tonic::service::InterceptorLayer`]. Health and reflection are outside of it, so that a
    /// load balancer needs no key.
    pub fn grpc_layer(mut self, layer: impl RouteLayer) -> Self {
        self.grpc_layers.push(Arc::new(move |routes: Router| routes.layer(layer.clone())));
        self
    }

    /// Binds the sockets. Clients that connect wait until [`Server::run`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the setting, the value and the bounds; [`Error::Listen`] with the
    /// address. As [`Consumers::open`].
    ///
    /// # Panics
    ///
    /// If a service of the host has the name of one of the broker's. Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, all listeners are closed.
    pub async fn bind(mut self) -> Result<Server> {
        self.config.validate(self.broker.limits())?;
        self.access.validate()?;
        self.rates.validate()?;
        // Other nodes of a fleet call this one by the name that it advertises.
        let advertised = self.edge.fleet().and_then(|node| host_of(&node.state().node.address));
        self.access.allowed_hosts.extend(advertised);
        if self.access.mode == AccessMode::Required {
            self.control().await?;
        }
        if self.edge.consumers_if_any().is_none() {
            let consumers = Consumers::open(&self.broker, &self.consumers).await?;
            self.edge = self.edge.consumers(consumers);
        }
        #[cfg(feature = "webhooks")]
        self.open_webhooks().await?;
        let drain_ms = self.follow.drain_ms.min(self.config.shutdown_ms / 2);
        self.edge = self.edge.follow(FollowConfig { drain_ms, ..self.follow.clone() })?;
        self.edge = self.edge.with_console(self.config.console);
        #[cfg(feature = "tls")]
        let certificates = match self.listeners.is_empty() {
            true => Certificates::open(&self.config)?,
            false => None, // Each listener of the host has its own.
        };
        if self.listeners.is_empty() {
            self.listeners = configured(&self.config)?;
            #[cfg(feature = "tls")]
            if let Some(read) = &certificates {
                let listeners = self.listeners.into_iter();
                self.listeners = listeners.map(|it| it.certified(read.clone())).collect();
            }
        }
        let listeners = std::mem::take(&mut self.listeners);
        let names = std::mem::take(&mut self.service_names);
        let (health, operations) =
            services::operations(&self.broker, names, &self.descriptors).await?;
        // The listeners of this machine share the callers' allowances, and so do all others.
        let rates_of = |is_local| {
            let limits = self.broker.limits();
            Rates::new(&self.rates, is_local, limits, self.edge.counters().clone())
        };
        let (beyond, local) = (rates_of(false), rates_of(true));
        let doors = listeners.into_iter().map(|listener| {
            let rates = if listener.is_local() { &local } else { &beyond };
            let routes = self.guarded(&listener, &operations, rates.is_some())?;
            let door = Door { routes, rates: rates.clone(), security: listener.security() };
            Ok((listener, door))
        });
        let doors = doors.collect::<Result<Vec<_>>>()?;
        let edge = self.edge.clone();
        Ok(Server {
            broker: self.broker,
            config: self.config,
            doors,
            health,
            edge,
            #[cfg(feature = "tls")]
            certificates,
            #[cfg(feature = "webhooks")]
            hooks: self.hooks,
        })
    }

    /// Makes access control the hooks of the edge, and adds its service.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the host has hooks of its own, or a file of the settings is wrong. As
    /// [`AccessControl::open`].
    async fn control(&mut self) -> Result<()> {
        if self.edge.has_hooks() {
            let problem = "is required, and the host has hooks of its own: one of them decides who \
                           may do what, so take one away";
            return Err(Error::invalid("access.mode", problem));
        }
        let control = AccessControl::open(&self.access, self.broker.clone()).await?;
        self.edge = self.edge.clone().hooks(control.clone()).with_access_control();
        self.service_names.push(GrpcAccess::NAME);
        self.descriptors.push(grpc::ACCESS_DESCRIPTORS);
        self.control = Some(control);
        Ok(())
    }

    /// Opens the webhooks, and adds their service.
    ///
    /// # Errors
    ///
    /// As [`Webhooks::open`].
    #[cfg(feature = "webhooks")]
    async fn open_webhooks(&mut self) -> Result<()> {
        let Some(of_edge) = self.edge.consumers_if_any() else { return Ok(()) };
        let consumers = of_edge.all();
        let hooks = Webhooks::open(&self.broker, consumers, &self.webhooks).await?;
        self.edge = self.edge.clone().with_webhooks(hooks.clone());
        self.hooks = Some(hooks);
        self.service_names.push(GrpcWebhooks::NAME);
        self.descriptors.push(grpc::WEBHOOKS_DESCRIPTORS);
        Ok(())
    }

    /// Returns all routes of a listener, with the checks around them.
    fn guarded(&self, listener: &Listener, operations: &Router, is_rated: bool) -> Result<Router> {
        let (protocols, parts) = listener.served();
        let mut routes = match protocols {
            Protocols::All => {
                let grpc = self.grpc_routes(parts, operations);
                self.http_routes(parts, grpc.fallback(refused::not_found))
            }
            Protocols::Http => self.http_routes(parts, Router::new().fallback(refused::not_found)),
            Protocols::Grpc => self.grpc_routes(parts, operations).fallback(refused::not_found),
        };
        for layer in &self.layers {
            routes = layer(routes);
        }
        #[cfg(feature = "fleet")]
        if let Some(state) = self.joining.clone() {
            let only = move |request, next| only_how_it_is(state.clone(), request, next);
            routes = routes.layer(axum::middleware::from_fn(only));
        }
        Ok(routes.layer(checks(&self.access, listener.is_local(), is_rated)?))
    }

    /// Returns the routes over HTTP, the host's before the broker's, and `rest` for all other
    /// paths.
    fn http_routes(&self, parts: Parts, rest: Router) -> Router {
        let mut broker = http::parts(&self.edge, parts).merge(rest);
        if let Some(control) = self.control.as_ref().filter(|_| has_access(parts)) {
            broker = broker.merge(http::mounted(&self.edge, control.routes(parts)));
        }
        #[cfg(feature = "webhooks")]
        if let Some(hooks) = self.hooks.as_ref().filter(|_| parts.has(Parts::ADMINISTRATION)) {
            broker = broker.merge(http::mounted(&self.edge, hooks.routes()));
        }
        match &self.routes {
            Some(routes) => routes.clone().fallback_service(broker),
            None => broker,
        }
    }

    fn grpc_routes(&self, parts: Parts, operations: &Router) -> Router {
        let mut routes = routes_of(grpc::parts(&self.edge, parts));
        if let Some(control) = self.control.as_ref().filter(|_| has_access(parts)) {
            routes = routes.merge(routes_of(control.service(&self.edge)));
        }
        #[cfg(feature = "webhooks")]
        if let Some(hooks) = self.hooks.as_ref().filter(|_| parts.has(Parts::ADMINISTRATION)) {
            routes = routes.merge(routes_of(hooks.service(&self.edge)));
        }
        routes = routes.merge(routes_of(self.services.clone()));
        for layer in &self.grpc_layers {
            routes = layer(routes);
        }
        if parts.has(Parts::OPERATIONS) {
            routes = routes.merge(operations.clone());
        }
        let pace = self.edge.pace();
        let paced = MapRequestLayer::new(move |request| grpc::paced(request, &pace));
        let mended = MapResponseLayer::new(grpc::mend);
        routes.layer((paced, mended, origins::only_grpc()))
    }
}

/// Returns the host of a URL, without its port.
fn host_of(url: &str) -> Option<String> {
    url.parse::<axum::http::Uri>().ok()?.host().map(str::to_owned)
}

/// Returns whether these parts have operations of access control.
fn has_access(parts: Parts) -> bool {
    parts.has(Parts::EVENTS) || parts.has(Parts::ADMINISTRATION)
}

/// Binds the addresses of the configuration.
fn configured(config: &ServerConfig) -> Result<Vec<Listener>> {
    let Some(grpc) = config.grpc_listen else { return Ok(vec![Listener::bind(config.listen)?]) };
    let http = Listener::bind(config.listen)?.protocols(Protocols::Http);
    Ok(vec![http, Listener::bind(grpc)?.protocols(Protocols::Grpc)])
}
