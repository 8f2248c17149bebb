//! PCI Express: configuration space and what lies in it.
