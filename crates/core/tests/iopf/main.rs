//! Page requests from the outside: groups, order, answers, flushing, removal, limits.

mod answers;
mod groups;
mod no_memory;
mod process;
mod races;
mod support;
