//! Hand-overs that must fail, and one that ends early.
