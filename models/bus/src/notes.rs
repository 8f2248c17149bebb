//! The list of a model in strict mode: everything software did that the model's book forbids.
//!
//! Not here: the rules, which are each model's own.

use std::sync::Arc;

use portcullis_types::trace::{Event, Sink, Value};

/// One use that the model's book forbids, or leaves open what comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpredictable {
    /// Which rule, and who says so.
    pub clause: &'static str,
    /// What was done.
    pub detail: String,
}

/// Where the list is kept, and told to the trace.
pub struct Notes {
    list: Vec<Unpredictable>,
    /// As whom it is told, and to whom; none if to nobody.
    told: Option<(&'static str, Arc<dyn Sink>)>,
}

impl Notes {
    /// After so many, further ones are only traced: a device that loops must not fill memory.
    const MOST: usize = 4096;

    /// An empty list of the model that traces as `source`.
    pub fn new(source: &'static str, sink: Arc<dyn Sink>) -> Self {
        Self { list: Vec::new(), told: Some((source, sink)) }
    }

    /// Notes that nobody reads, for looks that must leave no trace.
    pub fn discarded() -> Self {
        Self { list: Vec::new(), told: None }
    }

    /// Notes a use.
    pub fn record(&mut self, clause: &'static str, detail: String) {
        if let Some((source, sink)) = self.told.as_ref().filter(|(_, sink)| sink.listening()) {
            let fields = [("clause", Value::Str(clause)), ("detail", Value::Str(&detail))];
            sink.event(&Event { source, name: "unpredictable", fields: &fields });
        }
        if self.list.len() < Self::MOST {
            self.list.push(Unpredictable { clause, detail });
        }
    }

    /// Everything since the last call.
    pub fn take(&mut self) -> Vec<Unpredictable> {
        core::mem::take(&mut self.list)
    }
}
