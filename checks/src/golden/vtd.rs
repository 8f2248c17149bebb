//! The words of VT-d: entries in memory, descriptors, records, registers. All masks are typed by hand from the book's bit numbers.
//!
//! Structures larger than 64 bits keep the book's numbering of bits, from the start of the structure.
//!
//! Spec: VT-d 5.10, D51397-018. Numbers and titles stand at each table.
//! Not here: host permission tables, performance monitoring, posted interrupt descriptors.

mod descriptors;
mod entries;
mod registers;
pub mod scenes;

pub use descriptors::{
    CC_INV, DEV_TLB_INV, FRCD, IEC_INV, INV_WAIT, IOTLB_INV, P_DEV_TLB_INV, P_IOTLB_INV, PAGE_GRP_RESP,
    PAGE_REQ, PC_INV, REASONS,
};
pub use entries::{
    CONTEXT, FS_LEAF, IRTE, IRTE_POSTED, PASID_DIRECTORY, PASID_TABLE, REMAPPABLE, ROOT, SCALABLE_CONTEXT,
    SCALABLE_ROOT, SS_LEAF,
};
pub use registers::{
    CAP, CCMD, ECAP, EVENT_ADDRESS, EVENT_CONTROL, EVENT_DATA, FSTS, GCMD, GSTS, ICS, IOTLB, IQA, IQERCD,
    IQH, IQT, IRTA, IVA, OFFSETS, PMEN, PQA, PQH, PQT, PRS, RTADDR, VER,
};

use super::Table;

/// All tables of whole 64-bit words but [`DESCRIPTORS`].
pub const TABLES: &[Table] = &[
    ROOT,
    SCALABLE_ROOT,
    CONTEXT,
    SCALABLE_CONTEXT,
    PASID_DIRECTORY,
    PASID_TABLE,
    IRTE,
    IRTE_POSTED,
    FRCD,
    PAGE_REQ,
    CAP,
    ECAP,
    RTADDR,
    CCMD,
    IOTLB,
    IVA,
    IQH,
    IQT,
    IQA,
    IQERCD,
    IRTA,
    PQH,
    PQT,
    PQA,
];

/// All descriptors of the invalidation queue. Type\[6:4\], bits 11:9, is no field here: it is 0 in all of them.
pub const DESCRIPTORS: &[Table] =
    &[CC_INV, PC_INV, IOTLB_INV, P_IOTLB_INV, DEV_TLB_INV, P_DEV_TLB_INV, IEC_INV, INV_WAIT, PAGE_GRP_RESP];

/// All registers of 32 bits but those of events, and the address of an interrupt request.
pub const NARROW_REGISTERS: &[Table] = &[VER, GCMD, GSTS, FSTS, PMEN, ICS, PRS, REMAPPABLE];
