//! Names and numbers of device tree bindings.
//!
//! Spec: Devicetree Specification 0.4 (the format and the standard properties); the bindings that Linux keeps under
//! `Documentation/devicetree/bindings`, cited by file as `Spec: binding FILE`.
//! Not here: reading a tree (`firmware`), writing one (the lab's machines).

/// The flattened format.
///
/// Spec: Devicetree Specification 0.4, 5 "Flattened Devicetree (DTB) Format".
pub mod flat {
    /// The first word of a blob.
    pub const MAGIC: u32 = 0xd00d_feed;
    /// The version of the format that this is.
    pub const VERSION: u32 = 17;
    /// Bytes of the header: ten words.
    pub const HEADER_BYTES: usize = 40;
    /// Offset in the header of the whole blob's size in bytes. Every field is a big-endian word.
    pub const TOTAL_SIZE: usize = 0x04;
    /// Offset in the header of the structure block's offset.
    pub const STRUCT_OFFSET: usize = 0x08;
    /// Offset in the header of the strings block's offset.
    pub const STRINGS_OFFSET: usize = 0x0c;
    /// Offset in the header of the memory reservation block's offset.
    pub const RESERVATIONS_OFFSET: usize = 0x10;
    /// Offset in the header of the version.
    pub const VERSION_OFFSET: usize = 0x14;
    /// Offset in the header of the oldest version that this blob is compatible with.
    pub const LAST_COMPATIBLE_OFFSET: usize = 0x18;
    /// Offset in the header of the strings block's size in bytes.
    pub const STRINGS_SIZE: usize = 0x20;
    /// Offset in the header of the structure block's size in bytes.
    pub const STRUCT_SIZE: usize = 0x24;

    /// A node begins: its name follows, ended by a zero byte, padded to 4 bytes.
    pub const BEGIN_NODE: u32 = 1;
    /// A node ends.
    pub const END_NODE: u32 = 2;
    /// A property: the length of its value, the offset of its name in the strings block, the value, padded to 4 bytes.
    pub const PROP: u32 = 3;
    /// Nothing.
    pub const NOP: u32 = 4;
    /// The structure block ends.
    pub const END: u32 = 9;
}

/// Which bindings a node follows. Spec: Devicetree Specification 0.4, 2.3.1 "compatible".
pub const COMPATIBLE: &str = "compatible";
/// Whether a device is there to be used. Spec: Devicetree Specification 0.4, 2.3.4 "status".
pub const STATUS: &str = "status";
/// Values of [`STATUS`] that mean yes; so does no such property.
pub const STATUS_OKAY: [&str; 2] = ["okay", "ok"];
/// A node's number, by which others refer to it. Spec: Devicetree Specification 0.4, 2.3.3 "phandle".
pub const PHANDLE: &str = "phandle";
/// The old name of [`PHANDLE`].
pub const LINUX_PHANDLE: &str = "linux,phandle";
/// What the machine is called. Spec: Devicetree Specification 0.4, 2.3.2 "model".
pub const MODEL: &str = "model";
/// Cells of an address below a node. Spec: Devicetree Specification 0.4, 2.3.5 "#address-cells and #size-cells".
pub const ADDRESS_CELLS: &str = "#address-cells";
/// Cells of a size below a node. Spec: Devicetree Specification 0.4, 2.3.5 "#address-cells and #size-cells".
pub const SIZE_CELLS: &str = "#size-cells";
/// [`ADDRESS_CELLS`] of a node that does not say.
pub const DEFAULT_ADDRESS_CELLS: u32 = 2;
/// [`SIZE_CELLS`] of a node that does not say.
pub const DEFAULT_SIZE_CELLS: u32 = 1;
/// Where a device's registers are. Spec: Devicetree Specification 0.4, 2.3.6 "reg".
pub const REG: &str = "reg";
/// How addresses below a node become addresses above it. Spec: Devicetree Specification 0.4, 2.3.8 "ranges".
pub const RANGES: &str = "ranges";
/// How DMA addresses below a node become DMA addresses above it. Spec: Devicetree Specification 0.4, 2.3.9 "dma-ranges".
pub const DMA_RANGES: &str = "dma-ranges";
/// A device's accesses are coherent with the CPU's caches. Spec: Devicetree Specification 0.4, 2.3.10 "dma-coherent".
pub const DMA_COHERENT: &str = "dma-coherent";
/// A device's accesses are not. Spec: Devicetree Specification 0.4, 2.3.11 "dma-noncoherent".
pub const DMA_NONCOHERENT: &str = "dma-noncoherent";
/// What a node is, for `memory`, `cpu` and `pci` only. Spec: Devicetree Specification 0.4, 2.3.12 "device_type".
pub const DEVICE_TYPE: &str = "device_type";

/// A device's interrupts. Spec: Devicetree Specification 0.4, 2.4.1 "Properties for Interrupt Generating Devices".
pub const INTERRUPTS: &str = "interrupts";
/// A device's interrupts, each with its controller. Spec: as for [`INTERRUPTS`].
pub const INTERRUPTS_EXTENDED: &str = "interrupts-extended";
/// Names of a device's interrupts. Spec: binding interrupt-controller/interrupts.txt.
pub const INTERRUPT_NAMES: &str = "interrupt-names";
/// Where interrupts go, also for the nodes below. Spec: as for [`INTERRUPTS`].
pub const INTERRUPT_PARENT: &str = "interrupt-parent";
/// Cells of an interrupt. Spec: Devicetree Specification 0.4, 2.4.2 "Properties for Interrupt Controllers".
pub const INTERRUPT_CELLS: &str = "#interrupt-cells";

/// Cells that tell an IOMMU's masters apart. Spec: binding iommu/iommu.txt.
pub const IOMMU_CELLS: &str = "#iommu-cells";
/// Through which IOMMUs a device works, and as whom. Spec: binding iommu/iommu.txt.
pub const IOMMUS: &str = "iommus";
/// Which requester ids are whom at which IOMMU. Spec: binding pci/pci-iommu.txt.
pub const IOMMU_MAP: &str = "iommu-map";
/// Which bits of a requester id count for [`IOMMU_MAP`]. Spec: binding pci/pci-iommu.txt.
pub const IOMMU_MAP_MASK: &str = "iommu-map-mask";
/// How many bits of process address space id a device has. Spec: binding iommu/iommu.txt.
pub const PASID_NUM_BITS: &str = "pasid-num-bits";
/// A device can wait for a page fault to be handled. Spec: binding iommu/iommu.txt.
pub const DMA_CAN_STALL: &str = "dma-can-stall";

/// Where a device's messages go. Spec: binding interrupt-controller/msi.txt.
pub const MSI_PARENT: &str = "msi-parent";
/// Which requester ids are whom at which MSI controller. Spec: binding pci/pci-msi.txt.
pub const MSI_MAP: &str = "msi-map";
/// Which bits of a requester id count for [`MSI_MAP`]. Spec: binding pci/pci-msi.txt.
pub const MSI_MAP_MASK: &str = "msi-map-mask";
/// Cells that tell an MSI controller's clients apart. Spec: binding interrupt-controller/msi.txt.
pub const MSI_CELLS: &str = "#msi-cells";
/// Marks an MSI controller. Spec: binding interrupt-controller/msi.txt.
pub const MSI_CONTROLLER: &str = "msi-controller";

/// Lowest and highest bus number below a host bridge. Spec: binding pci/pci.txt.
pub const BUS_RANGE: &str = "bus-range";
/// A host bridge passes on what ATS needs: requests that say of their address whether it is translated. Spec: binding
/// pci/host-generic-pci.yaml.
pub const ATS_SUPPORTED: &str = "ats-supported";
/// What is below a port is outside the machine's case: anybody may have plugged it in. Spec: binding pci/pci.txt.
pub const EXTERNAL_FACING: &str = "external-facing";
/// The segment of a host bridge. Spec: binding pci/pci.txt.
pub const LINUX_PCI_DOMAIN: &str = "linux,pci-domain";

/// The node whose children are memory with a purpose. Spec: Devicetree Specification 0.4, 3.5 "/reserved-memory Node".
pub const RESERVED_MEMORY: &str = "reserved-memory";
/// The CPU must not map this memory. Spec: Devicetree Specification 0.4, 3.5.2 "/reserved-memory/ child nodes".
pub const NO_MAP: &str = "no-map";
/// Reserved addresses of devices. Spec: binding reserved-memory/reserved-memory.yaml.
pub const IOMMU_ADDRESSES: &str = "iommu-addresses";
/// Reserved memory that a device uses. Spec: binding reserved-memory/reserved-memory.txt.
pub const MEMORY_REGION: &str = "memory-region";

/// An SMMUv2 of no design that is known. Spec: binding iommu/arm,smmu.yaml.
pub const ARM_SMMU_V2: &str = "arm,smmu-v2";
/// An MMU-500, which is an SMMUv2. Designs of others that behave as one say this behind their own name. Spec: binding iommu/arm,smmu.yaml.
pub const ARM_MMU_500: &str = "arm,mmu-500";
/// How many of an SMMUv2's interrupts, the first ones, are of global faults; the others are context banks', in their order. Spec: binding
/// iommu/arm,smmu.yaml.
pub const GLOBAL_INTERRUPTS: &str = "#global-interrupts";
/// Which bits of every StreamID do not matter, where there is one cell for it. Spec: binding iommu/arm,smmu.yaml.
pub const STREAM_MATCH_MASK: &str = "stream-match-mask";
/// Who is behind an SMMUv2, in a binding that has been given up. Spec: binding iommu/arm,smmu.yaml.
pub const MMU_MASTERS: &str = "mmu-masters";
/// An SMMUv3. Spec: binding iommu/arm,smmu-v3.yaml.
pub const ARM_SMMU_V3: &str = "arm,smmu-v3";
/// [`INTERRUPT_NAMES`] of an SMMUv3: an event was recorded. Spec: binding iommu/arm,smmu-v3.yaml.
pub const SMMU_EVENTQ: &str = "eventq";
/// [`INTERRUPT_NAMES`] of an SMMUv3: a global error. Spec: binding iommu/arm,smmu-v3.yaml.
pub const SMMU_GERROR: &str = "gerror";
/// [`INTERRUPT_NAMES`] of an SMMUv3: a page request was recorded. Spec: binding iommu/arm,smmu-v3.yaml.
pub const SMMU_PRIQ: &str = "priq";
/// [`INTERRUPT_NAMES`] of an SMMUv3: a command completed. Spec: binding iommu/arm,smmu-v3.yaml.
pub const SMMU_CMDQ_SYNC: &str = "cmdq-sync";
/// [`INTERRUPT_NAMES`] of an SMMUv3: any of the others. Spec: binding iommu/arm,smmu-v3.yaml.
pub const SMMU_COMBINED: &str = "combined";

/// A GICv3. Spec: binding interrupt-controller/arm,gic-v3.yaml.
pub const ARM_GIC_V3: &str = "arm,gic-v3";
/// The interrupt translation service of a GICv3. Spec: binding interrupt-controller/arm,gic-v3.yaml.
pub const ARM_GIC_V3_ITS: &str = "arm,gic-v3-its";
/// The message frame of a GICv2m. Spec: binding interrupt-controller/arm,gic.yaml.
pub const ARM_GIC_V2M_FRAME: &str = "arm,gic-v2m-frame";
/// A PCI host bridge with an ECAM and nothing of its own. Spec: binding pci/host-generic-pci.yaml.
pub const PCI_HOST_ECAM_GENERIC: &str = "pci-host-ecam-generic";
/// A bus whose devices need nothing of it. Spec: Devicetree Specification 0.4, 4.5 "simple-bus Compatible Value".
pub const SIMPLE_BUS: &str = "simple-bus";

/// A PHB3, with all that IODA2 says. Observed: skiboot hw/phb3.c, `phb3_probe_pbcq`.
pub const IBM_IODA2_PHB: &str = "ibm,ioda2-phb";
/// The number by which firmware knows a bridge, two cells. Observed: skiboot core/pci.c, `pci_add_nodes`.
pub const IBM_OPAL_PHBID: &str = "ibm,opal-phbid";
/// How many partitionable endpoints a bridge has. Observed: skiboot hw/phb3.c, `phb3_add_properties`.
pub const IBM_OPAL_NUM_PES: &str = "ibm,opal-num-pes";
/// The endpoint that is for nobody. Observed: skiboot hw/phb3.c, `phb3_add_properties`.
pub const IBM_OPAL_RESERVED_PE: &str = "ibm,opal-reserved-pe";
/// First and count of a bridge's message interrupts. Observed: skiboot hw/phb3.c, `phb3_add_properties`.
pub const IBM_OPAL_MSI_RANGES: &str = "ibm,opal-msi-ranges";
/// Page sizes of TCE tables, as powers of two. Observed: skiboot hw/phb3.c, `phb3_add_properties`.
pub const IBM_SUPPORTED_TCE_SIZES: &str = "ibm,supported-tce-sizes";
/// Window 0 can pass addresses as they are. Observed: skiboot hw/phb3.c, `phb3_init_hw`.
pub const IBM_32_BIT_BYPASS_SUPPORTED: &str = "ibm,32-bit-bypass-supported";

/// The first cell of an address on a PCI bus.
///
/// Spec: PCI Bus Binding to Open Firmware 2.1, 2.2.1.1 "Numerical Representation" (phys.hi).
pub mod pci_address {
    /// Bit 31: not relocatable.
    pub const FIXED: u32 = 1 << 31;
    /// Bit 30: prefetchable.
    pub const PREFETCHABLE: u32 = 1 << 30;
    /// Bits 25:24: which space.
    pub const SPACE: u32 = 0b11 << 24;
    /// [`SPACE`]: configuration space.
    pub const CONFIGURATION: u32 = 0b00 << 24;
    /// [`SPACE`]: I/O space.
    pub const IO: u32 = 0b01 << 24;
    /// [`SPACE`]: memory, 32-bit addresses.
    pub const MEMORY_32: u32 = 0b10 << 24;
    /// [`SPACE`]: memory, 64-bit addresses.
    pub const MEMORY_64: u32 = 0b11 << 24;
    /// Bits 23:8: bus, device and function, in configuration space.
    pub const BDF_SHIFT: u32 = 8;
}
