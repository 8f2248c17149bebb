//! What kind of SMMU the model is: the features that its ID registers report.
//!
//! A [`Config`] is what an integrator would choose; [`Config::default`] is like an MMU-500: stream matching, both stages and both after one another, three
//! granules, 48 bits. [`Config::indexed`], [`Config::stage1_only`] and [`Config::stage2_only`] are the parts that drivers get wrong.
//!
//! Spec: SMMUv2 D.c, 9.6.1 "SMMU_IDR0-7, Identification registers", 8.1 "About the SMMU address space".

use crate::bits::ones;
use crate::geometry::Granule;
use crate::policy::Policy;

/// The features of a model, and how it behaves where the book leaves it open.
#[derive(Clone, Debug)]
pub struct Config {
    /// IDR0.S1TS: stage 1 is there.
    pub stage1: bool,
    /// IDR0.S2TS: stage 2 is there.
    pub stage2: bool,
    /// IDR0.NTS: stage 1 followed by stage 2. Needs both.
    pub nested: bool,
    /// IDR0.SMS: streams are matched; otherwise the StreamID is an index.
    pub stream_matching: bool,
    /// IDR0.PTFS: 0b01, the AArch32 Long-descriptor scheme, if set, and 0b10, no AArch32 scheme, if not.
    pub aarch32: bool,
    /// IDR0.CTTW: walks snoop the CPUs' caches. Only what is reported: which way walks take, the fabric says.
    pub coherent_walks: bool,
    /// IDR0.BTM: the SMMU can take part in broadcast TLB maintenance.
    pub broadcast: bool,
    /// IDR0.NUMSIDB: bits of a StreamID, 0 to 15.
    pub stream_id_bits: u8,
    /// IDR0.EXIDS: StreamIDs of 16 bits can be switched on. Then `stream_id_bits` is 15.
    pub extended_ids: bool,
    /// IDR0.NUMSMRG: stream mapping register groups, 0 to 128.
    pub stream_groups: u8,
    /// Which bits of SMR.MASK are implemented, of 16.
    pub match_mask: u16,
    /// IDR1.PAGESIZE: pages of 64 KiB rather than 4 KiB.
    pub large_pages: bool,
    /// IDR1.NUMPAGENDXB: the global space, and the space of context banks, have 2^(this + 1) pages each. 0 to 7.
    pub page_index_bits: u8,
    /// IDR1.NUMS2CB: context banks that can do stage 2 only; they are the first ones.
    pub stage2_banks: u8,
    /// IDR1.NUMCB: context banks, 0 to 128.
    pub banks: u8,
    /// IDR1.SMCD: every StreamID that matches several entries is noticed.
    pub conflict_detection: bool,
    /// IDR2.DIPANS: PRIVCFG 0b01 is Privileged Access Never.
    pub privileged_access_never: bool,
    /// IDR2.HADS: hierarchical attributes can be switched off.
    pub hierarchical_disable: bool,
    /// IDR2.VMID16S.
    pub vmid_16_bits: bool,
    /// IDR2.PTFSv8_4kB.
    pub granule_4k: bool,
    /// IDR2.PTFSv8_16kB.
    pub granule_16k: bool,
    /// IDR2.PTFSv8_64kB.
    pub granule_64k: bool,
    /// IDR2.UBS in bits: 32, 36, 40, 42, 44, 49 or 64.
    pub upstream_bits: u8,
    /// IDR2.IAS in bits: 32, 36, 40, 42, 44 or 48.
    pub ipa_bits: u8,
    /// IDR2.OAS in bits: 32, 36, 40, 42, 44 or 48.
    pub output_bits: u8,
    /// The stall model is there: SCTLR.CFCFG can be set.
    pub stall: bool,
    /// Registers that are not there are configuration access faults, rather than read as zero and ignored.
    pub configuration_faults: bool,
    /// Input addresses that the upstream bus cannot carry are UUT faults, rather than cut.
    pub upstream_faults: bool,
    /// 64-bit registers of the global space can be accessed by halves.
    pub split_global_accesses: bool,
    /// What the model does where the book leaves a choice.
    pub policy: Policy,
    /// Whether each translation is told to the trace, too.
    pub verbose: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stage1: true,
            stage2: true,
            nested: true,
            stream_matching: true,
            aarch32: true,
            coherent_walks: true,
            broadcast: false,
            stream_id_bits: 15,
            extended_ids: false,
            stream_groups: 32,
            match_mask: 0x7fff,
            large_pages: false,
            page_index_bits: 4,
            stage2_banks: 0,
            banks: 16,
            conflict_detection: true,
            privileged_access_never: false,
            hierarchical_disable: false,
            vmid_16_bits: false,
            granule_4k: true,
            granule_16k: true,
            granule_64k: true,
            upstream_bits: 49,
            ipa_bits: 48,
            output_bits: 48,
            stall: true,
            configuration_faults: false,
            upstream_faults: false,
            split_global_accesses: true,
            policy: Policy::default(),
            verbose: false,
        }
    }
}

impl Config {
    /// The StreamID is an index of 7 bits.
    pub fn indexed() -> Self {
        Self { stream_matching: false, stream_id_bits: 7, stream_groups: 128, ..Self::default() }
    }

    /// No stage 2.
    pub fn stage1_only() -> Self {
        Self { stage2: false, nested: false, ..Self::default() }
    }

    /// No stage 1: the input size is that of intermediate addresses.
    pub fn stage2_only() -> Self {
        Self { stage1: false, nested: false, ipa_bits: 44, upstream_bits: 44, ..Self::default() }
    }

    /// Bytes of a page of registers.
    pub fn page_bytes(&self) -> u64 {
        if self.large_pages { 0x1_0000 } else { 0x1000 }
    }

    /// Where the context banks begin: bytes of the global space.
    pub fn banks_at(&self) -> u64 {
        self.page_bytes() << (self.page_index_bits + 1)
    }

    /// Bytes of all registers.
    pub fn size_bytes(&self) -> u64 {
        2 * self.banks_at()
    }

    /// What is wrong with the choice, if something is: a part that the book does not allow.
    pub fn problem(&self) -> Option<&'static str> {
        let sizes = [32, 36, 40, 42, 44, 48];
        let rules = [
            (self.nested && !(self.stage1 && self.stage2), "NTS needs S1TS and S2TS"),
            (!self.stage1 && !self.stage2, "neither stage is there"),
            (self.stream_id_bits > 15, "NUMSIDB above 15"),
            (self.extended_ids && self.stream_id_bits != 15, "EXIDS needs NUMSIDB 15"),
            (self.stream_groups > 128, "NUMSMRG above 128"),
            (self.banks > 128 || self.stage2_banks > self.banks, "NUMCB above 128, or NUMS2CB above NUMCB"),
            (self.page_index_bits > 7, "NUMPAGENDXB above 7"),
            (
                u64::from(self.banks) > 2 << self.page_index_bits,
                "NUMPAGENDXB too small for the context banks",
            ),
            (!sizes.contains(&self.ipa_bits) || !sizes.contains(&self.output_bits), "reserved IAS or OAS"),
            (![32, 36, 40, 42, 44, 49, 64].contains(&self.upstream_bits), "reserved UBS"),
            (!self.stage2 && self.ipa_bits != self.output_bits, "without stage 2, IAS is OAS"),
            (!self.aarch32 && self.granules().next().is_none(), "no granule at all"),
        ];
        rules.into_iter().find_map(|(wrong, what)| wrong.then_some(what))
    }

    /// The granules that there are.
    pub(crate) fn granules(&self) -> impl Iterator<Item = Granule> + use<> {
        [
            self.granule_4k.then_some(Granule::Kib4),
            self.granule_16k.then_some(Granule::Kib16),
            self.granule_64k.then_some(Granule::Kib64),
        ]
        .into_iter()
        .flatten()
    }

    /// Whether there is an AArch64 scheme.
    pub(crate) fn has_aarch64(&self) -> bool {
        self.granules().next().is_some()
    }

    /// Which bits of a StreamID are wired.
    pub(crate) fn stream_mask(&self, extended: bool) -> u32 {
        if extended { 0xffff } else { (ones(self.stream_id_bits.into()) & 0x7fff) as u32 }
    }

    /// The least of bank n: whether it can do stage 1.
    pub(crate) fn bank_has_stage1(&self, bank: u8) -> bool {
        self.stage1 && bank >= self.stage2_banks
    }

    fn size_code(bits: u8) -> u32 {
        match bits {
            36 => 1,
            40 => 2,
            42 => 3,
            44 => 4,
            48 | 49 => 5,
            64 => 15,
            _ => 0,
        }
    }

    /// IDR0 to IDR7, as Non-secure software reads them.
    pub(crate) fn identification(&self, index: u64) -> u32 {
        let at = |set: bool, bit: u32| u32::from(set) << bit;
        match index {
            0 => {
                let formats = if self.aarch32 { 1 } else { 2 };
                // ATOSNS: "when S1TS is 0, this bit is 0". NUMIRPT 1: each bank has an interrupt of its own.
                at(self.stage1, 30)
                    | at(self.stage2, 29)
                    | at(self.nested, 28)
                    | at(self.stream_matching, 27)
                    | at(self.stage1, 26)
                    | formats << 24
                    | 1 << 16
                    | at(self.coherent_walks, 14)
                    | at(self.broadcast, 13)
                    | u32::from(self.stream_id_bits & 0xf) << 9
                    | at(self.extended_ids, 8)
                    | u32::from(self.stream_groups)
            }
            1 => {
                at(self.large_pages, 31)
                    | u32::from(self.page_index_bits & 7) << 28
                    | u32::from(self.stage2_banks) << 16
                    | at(self.conflict_detection, 15)
                    | u32::from(self.banks)
            }
            2 => {
                at(self.privileged_access_never, 30)
                    | at(self.hierarchical_disable, 28)
                    | at(self.vmid_16_bits, 15)
                    | at(self.granule_64k, 14)
                    | at(self.granule_16k, 13)
                    | at(self.granule_4k, 12)
                    | Self::size_code(self.upstream_bits) << 8
                    | Self::size_code(self.output_bits) << 4
                    | Self::size_code(self.ipa_bits)
            }
            7 => 0x20,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_are_parts_that_the_book_allows() {
        for config in [Config::default(), Config::indexed(), Config::stage1_only(), Config::stage2_only()] {
            assert_eq!(config.problem(), None);
        }
        let wrong = Config { stage1: false, ..Config::default() };
        assert_eq!(wrong.problem(), Some("NTS needs S1TS and S2TS"));
    }

    #[test]
    fn the_identification_registers_say_what_was_chosen() {
        let config = Config::default();
        // S1TS, S2TS, NTS, SMS, ATOSNS, PTFS 1, NUMIRPT 1, CTTW, NUMSIDB 15, NUMSMRG 32.
        assert_eq!(config.identification(0), 0x7d01_5e20);
        // NUMPAGENDXB 4, SMCD, NUMCB 16.
        assert_eq!(config.identification(1), 0x4000_8010);
        // Three granules, UBS 49 bits, OAS and IAS 48 bits.
        assert_eq!(config.identification(2), 0x0000_7555);
        assert_eq!((config.banks_at(), config.size_bytes()), (0x2_0000, 0x4_0000));
        let other = Config {
            extended_ids: true,
            vmid_16_bits: true,
            large_pages: true,
            upstream_bits: 64,
            broadcast: true,
            coherent_walks: false,
            ..Config::default()
        };
        assert_eq!(other.identification(0), 0x7d01_3f20);
        assert_eq!(other.identification(1), 0xc000_8010);
        assert_eq!(other.identification(2), 0x0000_ff55);
        assert_eq!(other.banks_at(), 0x20_0000);
        assert_eq!(Config::indexed().identification(0), 0x7501_4e80);
        assert_eq!(Config::stage2_only().identification(0), 0x2901_5e20);
    }
}
