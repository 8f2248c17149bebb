//! The words of VT-d: entries in memory, descriptors, records, registers. All masks are typed by hand from the book's bit numbers.
//!
//! Structures larger than 64 bits keep the book's numbering of bits, from the start of the structure.
//!
//! Spec: VT-d 5.10, D51397-018. Numbers and titles stand at each table.
//! Not here: host permission tables, performance monitoring, posted interrupt descriptors.

mod descriptors;
mod entries;
mod registers;

pub use descriptors::{
    CC_INV, DEV_TLB_INV, FRCD, IEC_INV, INV_WAIT, IOTLB_INV, P_DEV_TLB_INV, P_IOTLB_INV, PAGE_GRP_RESP,
    PAGE_REQ, PC_INV, REASONS,
};
pub use entries::{
    CONTEXT, FS_LEAF, IRTE, IRTE_POSTED, PASID_DIRECTORY, PASID_TABLE, ROOT, SCALABLE_CONTEXT, SCALABLE_ROOT,
    SS_LEAF,
};
pub use registers::{
    CAP, CCMD, ECAP, FSTS, GCMD, GSTS, IOTLB, IQA, IQERCD, IRTA, IVA, OFFSETS, PQA, PRS, RTADDR,
};

use super::{Field, Table};

const fn table(
    name: &'static str,
    clause: &'static str,
    fields: &'static [Field],
    res0: &'static [u64],
) -> Table {
    Table { name, clause, code: None, fields, res0 }
}
