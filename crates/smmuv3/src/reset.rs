//! Bringing the hardware up and down, in the book's order.
//!
//! It fails closed: before anything else GBPA is told to abort, so that traffic is aborted whenever translation is off. Whatever goes wrong
//! later leaves it so, and so it is left where the driver cannot use what the registers or firmware say.
//!
//! Up: abort, everything off, errors of before acknowledged, attributes, stream table, command queue and ATSCHK, caches invalidated, event queue, PRI
//! queue, interrupts, translation. Down: translation off, caches invalidated, interrupts off, queues off. What a device did before translation went off may be under way when it is: only a
//! sync behind an invalidation has waited for that. If a queue that stands still keeps that from being asked, it is begun anew, once; if it is not confirmed then either, the queues stay on, so
//! that hardware can be asked again, and everything is kept.
//!
//! Streams that firmware uses ([`Config::boot_streams`](crate::Config)) want the opposite: who is let pass by an SMMU that is off goes on passing until the stream table
//! is in force, in which these pass and all others are not valid; then traffic is aborted whenever translation is off. Until then nobody was kept from anything anyway. A
//! probe that fails aborts all.
//!
//! Choice: ATSCHK is set wherever there is ATS. What devices send as translated then passes only if their entry allows ATS: a device that was never
//! enabled cannot forge it, and one that was blocked is blocked whatever it remembers. It goes in before caches are invalidated,
//! since they may hold it.
//!
//! Spec: SMMUv3 H.a, 3.9.2 "Changing ATS configuration", 3.11 "Reset, Enable and initialization", 3.21.3 "Configuration structures and configuration invalidation
//! completion", 6.3.9 "SMMU_CR0", 6.3.9.2 "ATSCHK", 6.3.9.5 "PRIQEN", 6.3.9.6 "SMMUEN", 6.3.14.1 "Update procedure".

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Platform, Registers, wait_for};
use portcullis_spec::smmuv3::command::Command;
use portcullis_spec::smmuv3::registers::{
    CMDQ_BASE, CMDQ_CONS, CMDQ_PROD, CR0, CR0ACK, CR1, CR2, Cr0, Cr1, Cr2, EVENTQ_BASE, EVENTQ_CONS,
    EVENTQ_IRQ_CFG0, EVENTQ_IRQ_CFG1, EVENTQ_IRQ_CFG2, EVENTQ_PROD, GBPA, GERROR, GERROR_IRQ_CFG0,
    GERROR_IRQ_CFG1, GERROR_IRQ_CFG2, GERRORN, Gbpa, IRQ_CTRL, IRQ_CTRLACK, IrqCfg0, IrqCfg2, IrqCtrl,
    PRIQ_BASE, PRIQ_CONS, PRIQ_IRQ_CFG0, PRIQ_IRQ_CFG1, PRIQ_IRQ_CFG2, PRIQ_PROD, STRTAB_BASE,
    STRTAB_BASE_CFG,
};
use portcullis_spec::smmuv3::{
    CACHE_NON_CACHEABLE, CACHE_WRITE_BACK, MEM_ATTR_DEVICE_NGNRE, SHARE_INNER, SHARE_NON,
};
use portcullis_types::mutant;

use crate::features::ProbeError;
use crate::hardware::Hardware;
use crate::stream_table::StreamTable;

/// A register did not come to say what was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegisterTimeout {
    register: &'static str,
    wanted: u32,
    last: u32,
}

impl From<RegisterTimeout> for ProbeError {
    fn from(timeout: RegisterTimeout) -> Self {
        let RegisterTimeout { register, wanted, last } = timeout;
        Self::Timeout { register, wanted, last }
    }
}

impl From<RegisterTimeout> for SyncError {
    fn from(timeout: RegisterTimeout) -> Self {
        Self::Timeout { waiting_for: timeout.register, last: timeout.last.into() }
    }
}

/// Registers with a clock: what bringing up and down needs.
pub(crate) struct Bench<'a, P, R> {
    pub(crate) platform: &'a P,
    pub(crate) registers: &'a R,
    pub(crate) limit_ns: u64,
}

impl<P: Platform, R: Registers> Bench<'_, P, R> {
    fn wait(
        &self,
        register: &'static str,
        offset: usize,
        mask: u32,
        wanted: u32,
    ) -> Result<(), RegisterTimeout> {
        let mut last = 0;
        let arrived = wait_for(self.platform, self.limit_ns, || {
            last = self.registers.read32(offset);
            (last & mask == wanted & mask).then_some(())
        });
        arrived.map_err(|_| RegisterTimeout { register, wanted, last })
    }

    /// Traffic is aborted while translation is off.
    pub(crate) fn abort_bypass(&self) -> Result<(), RegisterTimeout> {
        let update = Gbpa::new().with_update(true).into_bits();
        self.wait("SMMU_GBPA", GBPA, update, 0)?;
        let gbpa = Gbpa::from_bits(self.registers.read32(GBPA)).with_abort(true).with_update(true);
        self.registers.write32(GBPA, gbpa.into_bits());
        self.wait("SMMU_GBPA", GBPA, update, 0)
    }

    fn set_cr0(&self, cr0: Cr0) -> Result<(), RegisterTimeout> {
        let enables = Cr0::new()
            .with_smmuen(true)
            .with_priqen(true)
            .with_eventqen(true)
            .with_cmdqen(true)
            .with_atschk(true);
        self.registers.write32(CR0, cr0.into_bits());
        self.wait("SMMU_CR0ACK", CR0ACK, enables.into_bits(), cr0.into_bits())
    }

    fn set_interrupts(&self, enabled: IrqCtrl) -> Result<(), RegisterTimeout> {
        self.registers.write32(IRQ_CTRL, enabled.into_bits());
        self.wait("SMMU_IRQ_CTRLACK", IRQ_CTRLACK, 0b111, enabled.into_bits())
    }

    /// Everything off, and nobody's traffic passes.
    pub(crate) fn quiesce(&self) -> Result<(), RegisterTimeout> {
        self.end_translation()?;
        self.turn_off()
    }

    /// Nobody's traffic passes, and none is translated any more. What is on goes on.
    fn end_translation(&self) -> Result<(), RegisterTimeout> {
        if !mutant!("traffic-passes-while-off") {
            self.abort_bypass()?;
        }
        let cr0 = Cr0::from_bits(self.registers.read32(CR0));
        // Before the queues go off: what translation does may still fill them.
        if cr0.smmuen() { self.set_cr0(cr0.with_smmuen(false).with_priqen(false)) } else { Ok(()) }
    }

    /// Turns the command queue off, and on again when `empty` has made it an empty one.
    fn begin_commands_anew(&self, empty: impl FnOnce()) -> Result<(), RegisterTimeout> {
        let cr0 = Cr0::from_bits(self.registers.read32(CR0));
        self.set_cr0(cr0.with_cmdqen(false))?;
        empty();
        self.set_cr0(cr0.with_cmdqen(true))
    }

    /// The same, but who passes an SMMU that is off goes on doing so, until translation is on and [`Bench::abort_bypass`] has been called.
    pub(crate) fn quiesce_open(&self) -> Result<(), RegisterTimeout> {
        if Cr0::from_bits(self.registers.read32(CR0)).smmuen() {
            return self.quiesce();
        }
        self.turn_off()
    }

    fn turn_off(&self) -> Result<(), RegisterTimeout> {
        self.set_interrupts(IrqCtrl::new())?;
        self.set_cr0(Cr0::new())
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    fn bench(&self) -> Bench<'_, P, R> {
        Bench { platform: &self.platform, registers: &self.registers, limit_ns: self.config.wait_limit_ns }
    }

    /// Brings up hardware that is quiet ([`Bench::quiesce`]).
    pub(crate) fn bring_up(&self, streams: &StreamTable<P>) -> Result<(), ProbeError> {
        let bench = self.bench();
        // An error that nobody acknowledged would stop the new command queue.
        self.registers.write32(GERRORN, self.registers.read32(GERROR));
        self.set_attributes();
        self.registers.write64(STRTAB_BASE, streams.base_register());
        self.registers.write32(STRTAB_BASE_CFG, streams.config_register());
        self.registers.write64(CMDQ_BASE, self.commands.ring.base_register());
        self.registers.write32(CMDQ_PROD, 0);
        self.registers.write32(CMDQ_CONS, 0);
        self.platform.write_barrier();
        let commands = Cr0::new().with_cmdqen(true).with_atschk(self.features.ats);
        bench.set_cr0(commands)?;
        if !mutant!("caches-of-before-kept-at-reset") {
            self.forget_everything().map_err(ProbeError::Sync)?;
        }
        self.clean_event_queue();
        self.registers.write64(EVENTQ_BASE, self.events.ring.base_register());
        self.registers.write32(EVENTQ_PROD, 0);
        self.registers.write32(EVENTQ_CONS, 0);
        let events = commands.with_eventqen(true);
        bench.set_cr0(events)?;
        let events = self.bring_up_page_requests(events)?;
        self.route_interrupts();
        let interrupts = IrqCtrl::new()
            .with_gerror_irqen(true)
            .with_eventq_irqen(true)
            .with_priq_irqen(self.page_requests.is_some());
        bench.set_interrupts(interrupts)?;
        bench.set_cr0(events.with_smmuen(true))?;
        if !self.config.boot_streams.is_empty() {
            bench.abort_bypass()?;
        }
        Ok(())
    }

    /// The queue was zeroed through the CPU's caches. A line of zeroes that is written back later would cover the records beside the one that is read.
    fn clean_event_queue(&self) {
        if !self.coherent() {
            self.platform.clean_table(self.events.ring.address(0), self.events.ring.bytes());
        }
    }

    /// Turns the PRI queue on, if there is one. Answers what CR0 says then.
    fn bring_up_page_requests(&self, cr0: Cr0) -> Result<Cr0, RegisterTimeout> {
        let Some(queue) = &self.page_requests else { return Ok(cr0) };
        self.registers.write64(PRIQ_BASE, queue.ring.base_register());
        self.registers.write32(PRIQ_PROD, 0);
        self.registers.write32(PRIQ_CONS, 0);
        let cr0 = cr0.with_priqen(true);
        self.bench().set_cr0(cr0)?;
        Ok(cr0)
    }

    fn set_attributes(&self) {
        let (cache, share) =
            if self.coherent() { (CACHE_WRITE_BACK, SHARE_INNER) } else { (CACHE_NON_CACHEABLE, SHARE_NON) };
        let cr1 = Cr1::new()
            .with_queue_ic(cache)
            .with_queue_oc(cache)
            .with_queue_sh(share)
            .with_table_ic(cache)
            .with_table_oc(cache)
            .with_table_sh(share);
        self.registers.write32(CR1, cr1.into_bits());
        // Where no process is shared every ASID is this driver's own: what CPUs broadcast is not about it.
        let deaf = self.features.broadcast && !self.hears_broadcasts();
        let cr2 = Cr2::new().with_recinvsid(true).with_ptm(deaf).with_e2h(self.e2h());
        self.registers.write32(CR2, cr2.into_bits());
    }

    /// Caches may hold anything after reset. Configuration goes first: TLB entries could be made from stale configuration.
    ///
    /// Spec: SMMUv3 H.a, 4.3.6 "CMD_CFGI_ALL", its notes.
    fn forget_everything(&self) -> Result<(), SyncError> {
        self.commands.run(Command::cfgi_all())?;
        let mut batch = self.commands.batch();
        if self.features.hyp && self.features.stage1 {
            batch.add(Command::tlbi_el2_all());
        }
        batch.add(Command::tlbi_nsnh_all());
        batch.sync()
    }

    /// Where MSIs go. The registers hold anything after reset, so that without a doorbell they are told to send none.
    fn route_interrupts(&self) {
        if !self.features.msi {
            return;
        }
        let data = |pick: fn(&crate::Msi) -> u32| self.config.msi.as_ref().map_or(0, pick);
        self.route(GERROR_IRQ_CFG0, GERROR_IRQ_CFG1, GERROR_IRQ_CFG2, data(|msi| msi.error_data));
        self.route(EVENTQ_IRQ_CFG0, EVENTQ_IRQ_CFG1, EVENTQ_IRQ_CFG2, data(|msi| msi.event_data));
        if self.features.page_requests {
            self.route(PRIQ_IRQ_CFG0, PRIQ_IRQ_CFG1, PRIQ_IRQ_CFG2, data(|msi| msi.page_request_data));
        }
    }

    fn route(&self, address: usize, data: usize, attributes: usize, value: u32) {
        let doorbell = self.config.msi.map_or(0, |msi| msi.doorbell.get());
        self.registers.write64(address, IrqCfg0::new().with_addr(doorbell >> 2).into_bits());
        self.registers.write32(data, value);
        self.registers.write32(attributes, IrqCfg2::new().with_mem_attr(MEM_ATTR_DEVICE_NGNRE).into_bits());
    }

    /// Ends translation: all traffic is aborted from now on, and commands can be queued still.
    pub(crate) fn end_translation(&self) -> Result<(), RegisterTimeout> {
        self.bench().end_translation()?;
        // Who was told before and did not confirm it translates until he does.
        self.bench().wait("SMMU_CR0ACK", CR0ACK, Cr0::new().with_smmuen(true).into_bits(), 0)
    }

    /// Whether it has been told to translate.
    pub(crate) fn translates(&self) -> bool {
        Cr0::from_bits(self.registers.read32(CR0)).smmuen()
    }

    /// Whether hardware takes commands: it was told to, and has confirmed it. Not while the queue is turned off and on, which hardware may not have confirmed the last time.
    fn takes_commands(&self) -> bool {
        [CR0, CR0ACK].iter().all(|&register| Cr0::from_bits(self.registers.read32(register)).cmdqen())
    }

    /// Waits, when translation is off, for the end of accesses that were on their way then: they are over when hardware has forgotten all that led them. So are signals of syncs. False if
    /// that is not confirmed. Of hardware that has not `translated` the queue may be nowhere yet: it is not begun anew.
    ///
    /// Spec: SMMUv3 H.a, 6.3.9.6 "SMMUEN": who was on his way goes it as if translation were on; 3.21.3 "Configuration structures and configuration invalidation completion".
    pub(crate) fn end_accesses(&self, translated: bool) -> bool {
        let ended = || self.takes_commands() && self.commands.end_with(Command::cfgi_all());
        let anew = || self.bench().begin_commands_anew(|| self.commands.empty()).is_ok();
        ended() || translated && anew() && ended()
    }

    /// Turns the hardware off: all traffic is aborted, and no table or queue is read any more.
    pub(crate) fn shut_down(&self) -> Result<(), RegisterTimeout> {
        self.bench().quiesce()
    }
}
