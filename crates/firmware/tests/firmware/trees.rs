//! Device trees for tests, written by an independent writer.

use vm_fdt::FdtWriter;

/// A node with its properties' bytes and its children.
#[derive(Clone, Default)]
pub(crate) struct Node {
    name: String,
    properties: Vec<(String, Vec<u8>)>,
    children: Vec<Node>,
}

/// The bytes of cells.
pub(crate) fn cells(cells: &[u32]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}

impl Node {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub(crate) fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.properties.retain(|property| property.0 != name);
        self.properties.push((name.into(), value.into()));
        self
    }

    pub(crate) fn cells(self, name: &str, value: &[u32]) -> Self {
        self.bytes(name, &cells(value))
    }

    /// Texts, each with its zero byte.
    pub(crate) fn text(self, name: &str, texts: &str) -> Self {
        let texts: String = texts.split(' ').map(|text| format!("{text}\0")).collect();
        self.bytes(name, texts.as_bytes())
    }

    pub(crate) fn flag(self, name: &str) -> Self {
        self.bytes(name, &[])
    }

    pub(crate) fn child(mut self, child: Node) -> Self {
        self.children.push(child);
        self
    }

    /// The node at a path below this one: `soc/dma@1000`; this one at the empty path.
    pub(crate) fn at(&mut self, path: &str) -> &mut Self {
        path.split('/').filter(|name| !name.is_empty()).fold(self, |node, name| {
            node.children.iter_mut().find(|child| child.name == name).expect("there is such a node")
        })
    }

    /// This tree with a property of a node changed, or taken out.
    pub(crate) fn with(mut self, path: &str, property: &str, value: Option<&[u8]>) -> Self {
        let node = self.at(path);
        node.properties.retain(|existing| existing.0 != property);
        if let Some(value) = value {
            node.properties.push((property.into(), value.into()));
        }
        self
    }

    fn write(&self, writer: &mut FdtWriter) {
        let node = writer.begin_node(&self.name).unwrap();
        for (name, value) in &self.properties {
            writer.property(name, value).unwrap();
        }
        self.children.iter().for_each(|child| child.write(writer));
        writer.end_node(node).unwrap();
    }

    pub(crate) fn blob(&self) -> Vec<u8> {
        let reservations = [vm_fdt::FdtReserveEntry::new(0x4000_0000, 0x1_0000).unwrap()];
        let mut writer = FdtWriter::new_with_mem_reserv(&reservations).unwrap();
        self.write(&mut writer);
        writer.finish().unwrap()
    }
}

fn smmu(name: &str, phandle: u32, address: u32) -> Node {
    Node::new(name)
        .text("compatible", "arm,smmu-v3")
        .cells("phandle", &[phandle])
        .cells("#iommu-cells", &[1])
        .cells("reg", &[0, address, 0, 0x2_0000])
        .cells("interrupts", &[0, 74, 1, 0, 77, 1])
        .text("interrupt-names", "eventq gerror")
        .cells("msi-parent", &[2, 0xff00 + phandle])
        .flag("dma-coherent")
}

fn soc() -> Node {
    let dma = Node::new("dma@1000")
        .text("compatible", "acme,dma-2 acme,dma")
        .cells("phandle", &[6])
        .cells("reg", &[0x1000, 0x100])
        .cells("iommus", &[3, 0x42, 4, 0x43])
        .flag("dma-can-stall")
        .cells("pasid-num-bits", &[8])
        .cells("msi-parent", &[2, 0x99]);
    let uncovered = Node::new("dma@2000")
        .text("compatible", "acme,dma")
        .cells("phandle", &[7])
        .cells("reg", &[0x2000, 0x100])
        .flag("dma-coherent");
    let disabled = Node::new("dma@3000").text("status", "disabled").cells("iommus", &[0xdead]);
    Node::new("soc")
        .text("compatible", "simple-bus")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[1])
        .cells("ranges", &[0, 0, 0x1000_0000, 0x1000_0000])
        .cells("dma-ranges", &[0, 0, 0x4000_0000, 0x4000_0000])
        .child(dma)
        .child(uncovered)
        .child(disabled)
}

fn pcie() -> Node {
    Node::new("pcie@10000000")
        .text("compatible", "pci-host-ecam-generic")
        .text("device_type", "pci")
        .cells("phandle", &[5])
        .cells("#address-cells", &[3])
        .cells("#size-cells", &[2])
        .cells("reg", &[0x40, 0x1000_0000, 0, 0x100_0000])
        .cells("bus-range", &[0, 0x0f])
        .cells("linux,pci-domain", &[1])
        .cells(
            "ranges",
            &[
                0x0100_0000,
                0,
                0,
                0,
                0x3eff_0000,
                0,
                0x1_0000, //
                0x0200_0000,
                0,
                0x1000_0000,
                0,
                0x5000_0000,
                0,
                0x1000_0000, //
                0x4300_0000,
                0x80,
                0,
                0x80,
                0,
                0x80,
                0,
            ],
        )
        .cells("dma-ranges", &[0x0300_0000, 0, 0x8000_0000, 0, 0x4000_0000, 0, 0x4000_0000])
        .cells("iommu-map", &[0, 3, 0x100, 0x80, 0x100, 4, 0x8000, 0xff00])
        .cells("iommu-map-mask", &[0xfff8])
        .cells("msi-map", &[0, 2, 0x2_0000, 0x1_0000])
        .flag("dma-coherent")
        .child(Node::new("nic@1,0").cells("phandle", &[8]).cells("reg", &[0x0800, 0, 0, 0, 0]))
}

/// A machine with two SMMUs, an ITS, a PCI host bridge, devices on a bus of their own, and reserved memory.
pub(crate) fn machine() -> Node {
    let its = Node::new("its@8080000")
        .text("compatible", "arm,gic-v3-its")
        .cells("phandle", &[2])
        .flag("msi-controller")
        .cells("#msi-cells", &[1])
        .cells("reg", &[0, 0x0808_0000, 0, 0x2_0000]);
    let gic = Node::new("intc@8000000")
        .text("compatible", "arm,gic-v3")
        .cells("phandle", &[1])
        .cells("#interrupt-cells", &[3])
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .flag("ranges")
        .cells("reg", &[0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, 0xf6_0000])
        .child(its);
    let framebuffer = Node::new("framebuffer@48000000")
        .cells("reg", &[0, 0x4800_0000, 0, 0x10_0000])
        .flag("no-map")
        .cells("iommu-addresses", &[6, 0x0800_0000, 0x10_0000, 8, 0, 0, 0x4800_0000, 0, 0x10_0000]);
    let window = Node::new("window").cells("iommu-addresses", &[5, 1, 0, 0, 0x1000]);
    let reserved = Node::new("reserved-memory")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .flag("ranges")
        .child(framebuffer)
        .child(window);
    Node::new("")
        .text("model", "Test")
        .text("compatible", "acme,test acme,any")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .cells("interrupt-parent", &[1])
        .child(
            Node::new("memory@40000000")
                .text("device_type", "memory")
                .cells("reg", &[0, 0x4000_0000, 0, 0x1000_0000, 8, 0, 1, 0]),
        )
        .child(gic)
        .child(smmu("smmu@9050000", 3, 0x0905_0000))
        .child(smmu("smmu@9070000", 4, 0x0907_0000))
        .child(pcie())
        .child(soc())
        .child(reserved)
}
