//! Bringing the hardware up and down.
//!
//! It fails closed. Hardware comes out of reset letting everything pass, and with UNKNOWN values in its groups and banks, so those are put in order
//! first: groups that nobody has say "fault" and match nothing, banks are off. Then one write turns the way around off and makes
//! whoever matches nothing, or several groups, fault. If the hardware does not confirm that it has forgotten what came before, that write is made all the same, and the
//! probe fails; then there are no groups, since nobody would ever attach who was to keep something.
//!
//! On the way up and down, as everywhere, a bank is turned off only when nothing is under way by it any more: that would pass untranslated. Interrupts for global faults are on only while
//! somebody is there to take them.
//!
//! # Streams that keep what they have
//!
//! Where the embedder asks for that, and the SMMU was found on, groups about such a stream stay as they are, with the banks that they lead to. A stream
//! that is in no group gets one that lets it pass. Groups of others first say "fault", so that nobody gets through while the table changes. The
//! format of StreamIDs stays what it is, since changing it would take valid groups down.
//!
//! Spec: SMMUv2 D.c, 2.3.10 "Reset state", 9.2 "Reset values", 9.6.3 "SMMU_sCR0", EXIDENABLE, 9.6.28 "SMMU_TLBIALLH", 9.6.29 "SMMU_TLBIALLNSNH".

use alloc::vec::Vec;

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Platform, Registers};
use portcullis_spec::smmuv2::bank::{SCTLR, TTBR0};
use portcullis_spec::smmuv2::global::{ACR, CBAR_NESTED, CR0, Cbar, Cr0, GFSR, NestedCbar, cbar};
use portcullis_spec::smmuv2::mmu500::Acr;
use portcullis_types::trace::{Event, Value};
use portcullis_types::{SourceId, mutant};

use crate::config::Implementation;
use crate::features::ProbeError;
use crate::groups::{Mapping, Path};
use crate::hardware::Hardware;
use crate::matching::StreamMatch;
use crate::streams::{Attachment, Group, Streams};

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Brings the hardware up: on return nobody gets through but streams that are to keep what they have.
    pub(crate) fn bring_up(&self, streams: &mut Streams<P>) -> Result<(), ProbeError> {
        let boot: Vec<StreamMatch> =
            self.config.boot_streams.iter().map(|&source| StreamMatch::of(source)).collect();
        let found = Cr0::from_bits(self.registers.read32(CR0));
        let live = !found.clientpd();
        let keeps = live && !boot.is_empty();
        let extended = self.features.extended_ids && (found.exidenable() || !keeps);
        streams.mapping =
            if self.features.matching { Mapping::Matching { extended } } else { Mapping::Indexing };
        if keeps {
            self.find_boot_groups(streams, &boot);
            self.block_others(streams);
        }
        let closed = found.with_usfcfg(true).with_smcfcfg(true);
        if live {
            // From here on who matches nothing faults.
            self.registers.write32(CR0, closed.into_bits());
        }
        let kept: Vec<usize> = streams.valid().map(|(at, _)| at).collect();
        // Whichever format is in force: neither makes a group valid.
        let closing = match streams.mapping {
            Mapping::Matching { .. } => Mapping::Matching { extended: false },
            Mapping::Indexing => Mapping::Indexing,
        };
        for group in (0..self.features.groups).filter(|group| !kept.contains(group)) {
            self.close_group(closing, group);
        }
        if extended && !found.exidenable() {
            self.registers.write32(CR0, closed.with_exidenable(true).into_bits());
        }
        self.find_out_bits(streams, extended);
        let placed = self.place_boot_streams(streams, &boot);
        self.set_up_implementation();
        let ended = if live { self.end_all_but_boot() } else { Ok(()) };
        if ended.is_ok() {
            self.shut_all_banks();
        }
        self.registers.write32(GFSR, u32::MAX);
        let forgotten = ended.and_then(|()| self.forget_everything()).map_err(ProbeError::from);
        let outcome = placed.and(forgotten);
        if outcome.is_err() {
            self.close_all_groups(streams.mapping);
            streams.groups.fill_with(|| None);
        }
        if !mutant!("smmuv2-way-around-left-open") {
            self.registers.write32(CR0, self.control(extended, outcome.is_ok()).into_bits());
        }
        self.registers.read32(CR0);
        self.say_probe(streams);
        outcome
    }

    /// Waits for what was under way before the groups changed. What waits for an answer gets none from whoever had this before.
    fn end_all_but_boot(&self) -> Result<(), SyncError> {
        let is_boot = |bank: &usize| self.banks.lock().is_boot(*bank);
        (0..self.features.banks).filter(|bank| !is_boot(bank)).for_each(|bank| self.clear_faults(bank));
        self.forget_everything()
    }

    fn close_all_groups(&self, mapping: Mapping) {
        (0..self.features.groups).for_each(|at| self.close_group(mapping, at));
    }

    /// SMMU_CR0 while the SMMU is in use, or, when there is nobody any more to take faults, without interrupts for them. TLB maintenance of CPUs is about their own ids, which mean
    /// nothing here.
    fn control(&self, extended: bool, in_use: bool) -> Cr0 {
        Cr0::new()
            .with_gfre(true)
            .with_gfie(in_use)
            .with_exidenable(extended)
            .with_gcfgfre(true)
            .with_gcfgfie(in_use)
            .with_stalld(!self.config.stall)
            .with_usfcfg(!mutant!("smmuv2-unknown-streams-pass"))
            .with_vmidpne(true)
            .with_ptm(true)
            .with_smcfcfg(true)
    }

    /// Takes note of groups about streams that keep what they have, and of the banks that they lead to.
    fn find_boot_groups(&self, streams: &mut Streams<P>, boot: &[StreamMatch]) {
        for at in 0..self.features.groups {
            let Some((of, path)) = self.read_group(streams.mapping, at) else { continue };
            if !boot.iter().any(|boot| boot.overlaps(of)) {
                continue;
            }
            if let Path::Bank(bank) = path {
                self.keep_bank(bank.into());
            }
            streams.groups[at] = Some(Group { streams: of, device: None, attached: Attachment::Boot(path) });
        }
    }

    /// Leaves a bank as firmware set it up, and one of stage 2 that it leads to.
    fn keep_bank(&self, bank: usize) {
        if bank >= self.features.banks || self.banks.lock().is_boot(bank) {
            return;
        }
        let word = self.read_global1(cbar(bank));
        let cbar = Cbar::from_bits(word);
        self.banks.lock().keep_for_boot(bank, cbar.vmid());
        if cbar.kind() == CBAR_NESTED {
            self.keep_bank(NestedCbar::from_bits(word).cbndx().into());
        }
    }

    /// Groups that are not kept say "fault" before anything else changes.
    fn block_others(&self, streams: &Streams<P>) {
        for at in (0..self.features.groups).filter(|&at| streams.groups[at].is_none()) {
            if self.read_group(streams.mapping, at).is_some() {
                self.lead_group(streams.mapping, at, Path::Fault);
            }
        }
    }

    /// Which bits groups have, seen from one that is nobody's. Without one, those of all IDs and of no mask.
    fn find_out_bits(&self, streams: &mut Streams<P>, extended: bool) {
        let bits = if extended { 16 } else { u32::from(self.features.stream_bits) };
        let all = u16::MAX.checked_shr(16 - bits).unwrap_or(0);
        (streams.id_bits, streams.mask_bits) = match streams.groups.iter().position(Option::is_none) {
            Some(free) if self.features.matching => {
                let (ids, masks) = self.probe_group(extended, free);
                (ids & all, masks & all)
            }
            _ => (all, 0),
        };
    }

    /// A group that lets it pass for each stream that keeps what it has and is in none: firmware's groups may be about a part of those that one source names.
    fn place_boot_streams(&self, streams: &mut Streams<P>, boot: &[StreamMatch]) -> Result<(), ProbeError> {
        if boot.iter().any(|&of| !streams.sayable(of)) {
            return Err(ProbeError::BootStreams);
        }
        for &of in boot {
            let is_known = |id: u16| streams.valid().any(|(_, group)| group.streams.matches(id));
            let lacking: Vec<StreamMatch> =
                of.each().filter(|&id| !is_known(id)).map(|id| StreamMatch::new(id, 0)).collect();
            for entry in streams.entries(&lacking) {
                let at = match streams.mapping {
                    Mapping::Indexing => Some(usize::from(entry.id())),
                    Mapping::Matching { .. } => streams.groups.iter().position(Option::is_none),
                };
                let at = at.ok_or(ProbeError::BootStreams)?;
                self.open_group(streams.mapping, at, entry, Path::Bypass);
                let attached = Attachment::Boot(Path::Bypass);
                streams.groups[at] = Some(Group { streams: entry, device: None, attached });
            }
        }
        Ok(())
    }

    /// Traffic that passes is never kept in a TLB, where it would have to be forgotten; and banks can be told not to translate ahead.
    ///
    /// Choice: the bits that keep it save time for who passes, and cost an invalidation wherever somebody is to pass no longer.
    fn set_up_implementation(&self) {
        if self.config.implementation != Implementation::Mmu500 {
            return;
        }
        let acr = Acr::from_bits(self.registers.read32(ACR))
            .with_smtnmb_tlben(false)
            .with_mmudisb_tlben(false)
            .with_s2crb_tlben(false);
        let acr = if self.features.version.0 >= 2 { acr.with_cache_lock(false) } else { acr };
        self.registers.write32(ACR, acr.into_bits());
    }

    fn shut_all_banks(&self) {
        for bank in 0..self.features.banks {
            self.work_around_errata(bank);
            if !self.banks.lock().is_boot(bank) {
                self.turn_bank_off(bank);
                self.leave_bank(bank);
            }
        }
    }

    fn say_probe(&self, streams: &Streams<P>) {
        let features = &self.features;
        self.platform.event(&Event {
            source: "smmuv2",
            name: "probe",
            fields: &[
                ("smmu", Value::Str(&self.config.name)),
                ("stage", Value::Dec(if self.stage2 { 2 } else { 1 })),
                ("groups", Value::Dec(features.groups as u64)),
                ("banks", Value::Dec(features.banks as u64)),
                ("id_bits", Value::Hex(streams.id_bits.into())),
                ("mask_bits", Value::Hex(streams.mask_bits.into())),
                ("kept", Value::Dec(streams.valid().count() as u64)),
            ],
        });
        for (_, group) in streams.valid() {
            self.platform.event(&Event {
                source: "smmuv2",
                name: "boot_stream",
                fields: &[
                    ("id", Value::Hex(group.streams.id().into())),
                    ("mask", Value::Hex(group.streams.mask().into())),
                    ("to", Value::Str(group.attached.path().name())),
                ],
            });
        }
    }

    /// Nobody gets through any more, and no table is walked.
    pub(crate) fn shut_down(&self, streams: &Streams<P>) -> Result<(), SyncError> {
        // Whoever tries from now on would interrupt for nobody, and go on doing so.
        let extended = streams.mapping == Mapping::Matching { extended: true };
        self.registers.write32(CR0, self.control(extended, false).into_bits());
        self.close_all_groups(streams.mapping);
        // What is under way ends first, and what it put into TLBs is forgotten with the rest.
        if self.config.stall {
            let source_of = |stream: u16| streams.source_of(stream).unwrap_or(SourceId(stream.into()));
            (0..self.features.banks).for_each(|bank| self.end_stalled(bank, &|_| true, &source_of));
        }
        self.forget_everything()?;
        for bank in 0..self.features.banks {
            self.turn_bank_off(bank);
        }
        self.forget_everything()?;
        (0..self.features.banks).for_each(|bank| self.leave_bank(bank));
        Ok(())
    }

    /// After the last stream that firmware left there has gone: firmware's banks are everybody's, once what they put into TLBs is forgotten. What is not confirmed is asked
    /// again when the next stream moves, and when errors are next handled.
    pub(crate) fn release_boot_banks(&self, streams: &Streams<P>) {
        let led_to = |bank: usize| {
            let paths = streams.valid().map(|(_, group)| group.attached.under_way());
            paths.into_iter().any(|path| match path {
                Path::Bank(to) => {
                    let to = usize::from(to);
                    let word = self.read_global1(cbar(to));
                    let nested = Cbar::from_bits(word).kind() == CBAR_NESTED;
                    to == bank || nested && usize::from(NestedCbar::from_bits(word).cbndx()) == bank
                }
                _ => false,
            })
        };
        for bank in 0..self.features.banks {
            if !self.banks.lock().is_boot(bank) || led_to(bank) {
                continue;
            }
            self.write_bank(bank, SCTLR, 0);
            if self.forget_everything().is_err() {
                return;
            }
            self.turn_bank_off(bank);
            self.write_bank64(bank, TTBR0, 0);
            self.leave_bank(bank);
            self.banks.lock().give_back(bank);
        }
    }
}
