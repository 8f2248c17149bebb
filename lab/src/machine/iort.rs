//! IORT, as the firmware of an Arm machine without a device tree leaves it: which SMMU and which ITS whose requests meet, and what memory it keeps.
//!
//! Put together byte by byte, from the same [`MachineSpec`] as the models and the device tree; nothing is shared with who reads it.
//!
//! Spec: Arm DEN0049 E.f "IO Remapping Table".
//! Not here: the other tables (`acpi`).

use super::spec::{HostBridgeSpec, MachineSpec, SmmuSpec, Smmuv2Spec};

/// The table's header and fixed part.
const NODES_AT: u32 = 48;
/// Types of nodes.
const ITS_GROUP: u8 = 0;
const NAMED_COMPONENT: u8 = 1;
const ROOT_COMPLEX: u8 = 2;
const SMMU_V2: u8 = 3;
const SMMU_V3: u8 = 4;
const RESERVED: u8 = 6;
/// The flag of a mapping of everything to one id.
const SINGLE: u32 = 1;
/// The first interrupt of a GIC that is shared: what device trees count from.
const FIRST_SHARED: u32 = 32;

/// The nodes of the table, how many there are before them, and all that.
pub(super) fn body(spec: &MachineSpec) -> Result<Vec<u8>, String> {
    let mut nodes = Nodes::default();
    let groups =
        (0..).zip(&spec.itses).map(|(id, _)| nodes.add(ITS_GROUP, 1, &words(&[1, id]), &[])).collect();
    let writer = Writer { spec, groups };
    let mut smmus = Vec::new();
    for (index, smmu) in spec.smmus.iter().enumerate() {
        smmus.push(writer.smmu(&mut nodes, index, smmu)?);
    }
    for (index, smmu) in spec.smmuv2s.iter().enumerate() {
        smmus.push(writer.smmuv2(&mut nodes, spec.smmus.len() + index, smmu)?);
    }
    for (index, bridge) in spec.host_bridges.iter().enumerate() {
        writer.root_complex(&mut nodes, index, bridge, &smmus)?;
    }
    for device in &spec.accelerators {
        let smmu = *smmus.get(device.smmu).ok_or("an accelerator's SMMU is missing")?;
        let flags = u32::from(device.can_stall) | u32::from(device.pasid_bits) << 1;
        let name = format!("{}\0", device.acpi_name());
        let body =
            [&flags.to_le_bytes()[..], &memory_access(device.coherent), &[64], name.as_bytes()].concat();
        let streams = device.sources.map(|source| mapping(0, 1, source.0, smmu, SINGLE));
        nodes.add(NAMED_COMPONENT, 4, &body, &streams);
    }
    for region in &spec.reserved {
        let memory = region.memory.filter(|memory| memory.first().get() == region.iova.first().get());
        let memory = memory.ok_or("IORT reserves memory that is mapped 1:1, and nothing else")?;
        let (bridge, device) = region.slot;
        let (smmu, base) =
            spec.host_bridges.get(bridge).and_then(|bridge| bridge.smmu).ok_or("behind no SMMU")?;
        let smmu = *smmus.get(smmu).ok_or("a host bridge's SMMU is missing")?;
        let len_bytes = memory.len_bytes().ok_or("it reserves all memory")?;
        // Ordinary memory, written back. The ranges lie behind the mapping.
        let fixed = words(&[5 << 2, 1, 28]);
        let range = [&memory.first().get().to_le_bytes()[..], &len_bytes.to_le_bytes(), &[0; 4]].concat();
        let stream = mapping(0, 1, base + (u32::from(device) << 3), smmu, SINGLE);
        nodes.add(RESERVED, 3, &[fixed, range].concat(), &[stream]);
    }
    let count = u32::try_from(nodes.count).unwrap_or(u32::MAX);
    Ok([words(&[count, NODES_AT, 0]), nodes.bytes].concat())
}

struct Writer<'a> {
    spec: &'a MachineSpec,
    /// Where the group of each ITS lies.
    groups: Vec<u32>,
}

impl Writer<'_> {
    fn group(&self, its: usize) -> Result<u32, String> {
        self.groups.get(its).copied().ok_or_else(|| "an ITS is missing".into())
    }

    /// Where messages of the streams of an SMMU go.
    fn messages(&self, smmu: usize) -> Result<Vec<Vec<u8>>, String> {
        let mut mappings = Vec::new();
        for bridge in &self.spec.host_bridges {
            if let (Some((behind, stream)), Some((its, device))) = (bridge.smmu, bridge.its)
                && behind == smmu
            {
                mappings.push(mapping(
                    stream,
                    self.streams_of(bridge, smmu, stream),
                    device,
                    self.group(its)?,
                    0,
                ));
            }
        }
        Ok(mappings)
    }

    /// How many of a bridge's requester ids have a stream: a small SMMU has fewer, and some are other devices'.
    fn streams_of(&self, bridge: &HostBridgeSpec, smmu: usize, base: u32) -> u32 {
        let requester_ids = (u32::from(bridge.last_bus) + 1) << 8;
        let others =
            self.spec.accelerators.iter().filter(|device| device.smmu == smmu).flat_map(|one| one.sources);
        let first_other = others.map(|source| source.0).filter(|&source| source >= base).min();
        let streams = (1 << self.spec.stream_bits(smmu).min(16)).min(first_other.unwrap_or(u32::MAX));
        requester_ids.min(streams - base)
    }

    fn smmu(&self, nodes: &mut Nodes, index: usize, smmu: &SmmuSpec) -> Result<u32, String> {
        const OWN_MESSAGES: u32 = 1 << 4;
        let mut mappings = self.messages(index)?;
        let own = u32::try_from(mappings.len()).unwrap_or(0);
        let source = smmu.config.msi_source.filter(|_| smmu.config.msi);
        if let Some(device_id) = source {
            mappings.push(mapping(0, 1, device_id.0, self.group(0)?, SINGLE));
        }
        let flags = if source.is_some() { OWN_MESSAGES } else { 0 };
        let first = FIRST_SHARED + 74 + 4 * u32::try_from(index).unwrap_or(0);
        // Of events, page requests, errors and syncs; then the proximity domain, which is not told.
        let wires = [first, first + 1, first + 3, first + 2];
        let body = [
            &smmu.base.get().to_le_bytes()[..],
            &words(&[flags, 0, 0, 0, 0]),
            &words(&wires),
            &words(&[0, own]),
        ];
        Ok(nodes.add(SMMU_V3, 5, &body.concat(), &mappings))
    }

    fn smmuv2(&self, nodes: &mut Nodes, index: usize, smmu: &Smmuv2Spec) -> Result<u32, String> {
        const VERSION_2: u32 = 1;
        const COHERENT_WALKS: u32 = 2;
        let banks = u32::from(smmu.config.banks);
        let flags = if smmu.coherent { COHERENT_WALKS } else { 0 };
        let places = [smmu.base.get(), smmu.config.size_bytes()].map(u64::to_le_bytes).concat();
        // Two interrupts of all streams right behind the fixed part, then those of context banks; none of counters.
        let fixed = words(&[VERSION_2, flags, 60, banks, 76, 0, 0]);
        let first = FIRST_SHARED + 74 + 4 * u32::try_from(index).unwrap_or(0);
        let contexts = (1..=banks).map(|bank| first + bank);
        let wires: Vec<u32> = [first, 0].into_iter().chain(contexts).flat_map(|wire| [wire, 0]).collect();
        let wires = words(&wires);
        Ok(nodes.add(SMMU_V2, 3, &[places, fixed, wires].concat(), &self.messages(index)?))
    }

    fn root_complex(
        &self,
        nodes: &mut Nodes,
        index: usize,
        bridge: &HostBridgeSpec,
        smmus: &[u32],
    ) -> Result<(), String> {
        const ATS_PRI_AND_PASID: u32 = 0b111;
        const MOST_PASID_BITS: u8 = 20;
        let ids = (u32::from(bridge.last_bus) + 1) << 8;
        let mapping = match (bridge.smmu, bridge.its) {
            (Some((smmu, base)), _) => {
                let node = *smmus.get(smmu).ok_or("a host bridge's SMMU is missing")?;
                Some(mapping(0, self.streams_of(bridge, smmu, base), base, node, 0))
            }
            (None, Some((its, base))) => Some(mapping(0, ids, base, self.group(its)?, 0)),
            (None, None) => None,
        };
        let segment = u32::try_from(index).map_err(|_| "a segment's number has 16 bits")?;
        let ats = if bridge.ats { ATS_PRI_AND_PASID } else { 0 };
        let rest = [&words(&[ats, segment])[..], &[64, MOST_PASID_BITS, 0, 0], &words(&[1])].concat();
        nodes.add(
            ROOT_COMPLEX,
            4,
            &[&memory_access(bridge.coherent)[..], &rest].concat(),
            mapping.as_slice(),
        );
        Ok(())
    }
}

/// The nodes so far.
#[derive(Default)]
struct Nodes {
    bytes: Vec<u8>,
    count: usize,
}

impl Nodes {
    /// Adds a node: header, body, mappings, each aligned to a word; of reserved memory the mappings lie before its range, which is the body's end. Answers where it
    /// lies in the table.
    fn add(&mut self, kind: u8, revision: u8, body: &[u8], mappings: &[Vec<u8>]) -> u32 {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        if kind == RESERVED {
            let place = 28 + 20 * u32::try_from(mappings.len()).unwrap_or(0);
            body[8..12].copy_from_slice(&place.to_le_bytes());
        }
        let split = if kind == RESERVED { 12 } else { body.len() };
        let (before, behind) = body.split_at(split);
        let list = mappings.concat();
        let at = if mappings.is_empty() { 0 } else { 16 + before.len() };
        let length = u16::try_from(16 + body.len() + list.len()).unwrap_or(u16::MAX).to_le_bytes();
        let place = NODES_AT + u32::try_from(self.bytes.len()).unwrap_or(0);
        self.bytes.extend([kind, length[0], length[1], revision]);
        let identifier = u32::try_from(self.count).unwrap_or(0);
        let counts = [mappings.len(), at].map(|number| u32::try_from(number).unwrap_or(0));
        self.bytes.extend(words(&[identifier, counts[0], counts[1]]));
        self.bytes.extend([before, &list, behind].concat());
        self.count += 1;
        place
    }
}

/// So many ids from `first` on, which are `output` and what follows at the node at `reference`. The field holds one less than their number.
fn mapping(first: u32, count: u32, output: u32, reference: u32, flags: u32) -> Vec<u8> {
    words(&[first, count - 1, output, reference, flags])
}

/// Cache coherent or not, no hints; what is coherent is so by its path and by its own accesses.
fn memory_access(coherent: bool) -> [u8; 8] {
    let flags = if coherent { 0b11 } else { 0 };
    [coherent.into(), 0, 0, 0, 0, 0, 0, flags]
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
