//! A bar for work that takes long, on a terminal only.

use core::time::Duration;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is done sooner shows no bar.
const LONG: Duration = Duration::from_millis(500);

/// A bar on standard error.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar that shows itself once the work has taken long; none if standard error is no terminal, or carries `live` events.
    pub(crate) fn on_terminal(name: &str, live: bool) -> Option<Self> {
        if live || !io::stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden())
            .with_message(name.to_owned());
        let style =
            ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
        Some(Self { bar: bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())) })
    }

    /// What a run calls with the bytes done and the bytes in all.
    pub(crate) fn callback(&self) -> Box<dyn Fn(u64, u64) + Send + Sync> {
        let (bar, start, moving, shown) =
            (self.bar.clone(), Instant::now(), OnceLock::new(), OnceLock::new());
        Box::new(move |done_bytes, total_bytes| {
            // Getting ready takes time too, and would make the first estimates hours.
            moving.get_or_init(|| bar.reset());
            bar.set_length(total_bytes);
            bar.set_position(done_bytes);
            if start.elapsed() > LONG {
                shown.get_or_init(|| bar.set_draw_target(ProgressDrawTarget::stderr()));
            }
        })
    }

    /// Takes the bar off the terminal.
    pub(crate) fn clear(self) {
        self.bar.finish_and_clear();
    }
}
