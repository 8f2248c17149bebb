//! What is issued on a group.

layout! {
    /// Whether a group can be used.
    pub struct GroupStatus: 8 {
        /// Bytes of the caller's structure.
        argsz: u32 @ 0,
        /// [`GroupStatusFlags`].
        flags: u32 @ 4,
    }
}

flags! {
    /// Flags of [`GroupStatus`].
    pub struct GroupStatusFlags {
        /// Nobody stands in the way of a user.
        VIABLE = 0,
        /// It is in a container.
        CONTAINER_SET = 1,
    }
}
