//! What firmware hands over: a device tree, or ACPI's tables.
//!
//! An Arm machine has either, as its spec says: the two say the same, and a machine does the same work with both.

use super::spec::MachineSpec;
use super::{acpi, fdt};
use crate::error::RunError;

/// The tables of a run: those that were given, or else the machine's own. Where they are ACPI's, the area in which they lie ([`acpi::AREA_FIRST`]), otherwise
/// a flattened device tree.
///
/// # Errors
///
/// [`RunError::BadInput`]: the machine is none that such tables can tell of.
pub(crate) fn tables_of(spec: &MachineSpec, given: Option<&[u8]>) -> Result<Vec<u8>, RunError> {
    match (given, &spec.pc) {
        (Some(tables), _) => Ok(tables.to_vec()),
        (None, Some(pc)) => {
            acpi::emit(spec, pc).map_err(|what| RunError::bad_input(&spec.name, what, "change the machine"))
        }
        (None, None) if spec.acpi => {
            acpi::emit_arm(spec).map_err(|what| RunError::bad_input(&spec.name, what, "change the machine"))
        }
        (None, None) => {
            fdt::emit(spec).map_err(|error| RunError::bad_input(&spec.name, error, "change the machine"))
        }
    }
}
