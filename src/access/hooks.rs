//! Access control as hooks: the edges ask it as they ask a host's own.

use http::Method;

use super::control::AccessControl;
use super::identity::ANONYMOUS;
use crate::edge::hooks::{AdminAct, Connecting, Grant, HookAnswer, Hooks, RefusalContext};
use crate::permission::Permission;

/// The path of the metrics, which `access.open_metrics` opens.
const METRICS_PATH: &str = "/metrics";

impl Hooks for AccessControl {
    fn connect<'a>(&'a self, request: &'a Connecting<'a>) -> HookAnswer<'a, Grant> {
        Box::pin(async move {
            if self.config().open_metrics && is_read_of_metrics(request) {
                // A right to this one request: whoever has it may do nothing else with it.
                return Ok(Grant::new(ANONYMOUS, Permission::default().administering()));
            }
            Ok(self.identify(request).await?.grant)
        })
    }

    fn guards_readyz(&self) -> bool {
        self.config().guarded_readyz
    }

    fn refused(&self, context: &RefusalContext<'_>) {
        self.audit().refused(context);
    }

    fn administered(&self, grant: &Grant, act: &AdminAct<'_>) {
        self.audit().administered(grant, act);
    }
}

fn is_read_of_metrics(request: &Connecting<'_>) -> bool {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    is_read && request.uri().path() == METRICS_PATH
}
