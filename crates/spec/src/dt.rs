//! Names and numbers of device tree bindings.
