//! [`EngineHandle`]: keeps an engine open for acquisitions.

use std::sync::Arc;

use super::settings::Defaults;
use crate::engine::Engine;

/// Keeps an engine open for acquisitions. The engine's task ends after the last handle has gone.
pub(crate) struct EngineHandle {
    engine: Arc<Engine>,
    defaults: Defaults,
}

impl EngineHandle {
    pub(crate) fn new(engine: Arc<Engine>, defaults: Defaults) -> EngineHandle {
        EngineHandle { engine, defaults }
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) fn defaults(&self) -> Defaults {
        self.defaults
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.engine.abandon();
    }
}
