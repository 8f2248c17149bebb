//! Where a run's events go: to the caller's sink, if there is one.

use std::sync::Arc;

use portcullis::types::trace::{Event, Silence, Sink};

/// A sink that many parts of a machine share.
pub type SharedSink = Arc<dyn Sink>;

/// The sink for a run: the caller's, or one that hears nothing.
pub fn shared(sink: Option<SharedSink>) -> SharedSink {
    sink.unwrap_or_else(|| Arc::new(Silence))
}

/// A sink that keeps the text of every event, for tests.
#[derive(Debug, Default)]
pub struct Memory(std::sync::Mutex<Vec<String>>);

impl Memory {
    /// The events so far: `source name: key=value …`.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Sink for Memory {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        let mut lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.push(format!("{} {event}", event.source));
    }
}
