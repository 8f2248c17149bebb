//! The memory that a unit reads its tables from.

use std::sync::Arc;

use model_bus::Fabric;

/// Memory by two ways: through the CPUs' caches, and past them.
///
/// Queues, status writes and messages always go through (11.4.3, C: "always snooped"); tables do as ECAP_REG.C, SMPWCS and PWSNP say.
#[derive(Clone)]
pub struct Memory {
    /// Through the caches: a [`Bus`](model_bus::Bus).
    pub snooped: Arc<dyn Fabric>,
    /// Past them: [`Bus::non_snooping`](model_bus::Bus::non_snooping).
    pub unsnooped: Arc<dyn Fabric>,
}

impl Memory {
    /// Where there are no caches, or none that matter.
    pub fn uncached(fabric: Arc<dyn Fabric>) -> Self {
        Self { snooped: Arc::clone(&fabric), unsnooped: fabric }
    }

    /// One of the two.
    pub(crate) fn way(&self, snooped: bool) -> &dyn Fabric {
        if snooped { &*self.snooped } else { &*self.unsnooped }
    }
}
