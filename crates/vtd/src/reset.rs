//! Taking a unit over from firmware, and turning it off.
//!
//! # Order of taking over
//!
//! 1. The unit's own interrupts are held back. Translation off (TE), then interrupt remapping (IRE), then, once its queue is empty, the queue (QIE): what needs the queue
//!    goes before it. Fault records of before are cleared.
//! 2. The queue: IQT 0, IQA, QIE.
//! 3. The root table: RTADDR, SRTP; then, unless hardware does it by itself (ESRTPS), all of the context cache, of the PASID cache, and of the IOTLB, in that
//!    order, are invalidated.
//! 4. Interrupts: IRTA, SIRTP, the interrupt entry cache (ESIRTPS), IRE. CFI stays clear: what does not name an entry is blocked.
//! 5. Translation on. By now whatever firmware reserved memory for is attached to it. Regions that firmware protected (PMEN) are opened.
//!
//! Choice: translation that firmware left on is turned off, because without ESRTPS a root table may only be exchanged for one that says the same. Who is to be kept
//! from DMA in between must not be a bus master yet. Turned off by the driver, a unit goes on
//! translating, with a root table that has nothing in it: that page is kept for good. Until hardware has confirmed that it knows nothing else, everything is kept, and the queue stays on, so
//! that it can be asked again; a queue that was given up is begun anew for that.
//!
//! Spec: VT-d 5.10, 6.6 "Set Root Table Pointer Operation", 6.7 "Set Interrupt Remapping Table Pointer Operation", 6.5.2 "Queued Invalidation Interface",
//! 6.5.2.11 "Hardware Handling of Queued Invalidation Interface Errors", 11.4.4.1 "Global Command Register", 11.4.8.1 "Protected Memory Enable Register".

use core::sync::atomic::Ordering;

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Clock, Platform, Registers, wait_for};
use portcullis_spec::vtd::registers::*;
use portcullis_types::mutant;

use crate::config::Msi;
use crate::context::Tables;
use crate::descriptor::Descriptor;
use crate::fault;
use crate::features::{Features, ProbeError};
use crate::hardware::{Hardware, command};
use crate::interrupt::InterruptRemapping;

/// A wait for GSTS_REG that ran out.
fn timeout(register: &'static str) -> impl Fn(u32) -> ProbeError {
    move |last| ProbeError::Timeout { register, last: last.into() }
}

/// The same, of a unit that is turned off.
fn unconfirmed(waiting_for: &'static str) -> impl Fn(u32) -> SyncError {
    move |last| SyncError::Timeout { waiting_for, last: last.into() }
}

/// Step 1.
pub(crate) fn take_over(
    clock: &impl Clock,
    registers: &impl Registers,
    features: &Features,
    limit_ns: u64,
) -> Result<(), ProbeError> {
    registers.write32(FECTL, EventControl::new().with_im(true).into_bits());
    if features.extended.prs() {
        registers.write32(PECTL, EventControl::new().with_im(true).into_bits());
    }
    let none = GlobalStatus::new();
    let off = |clear: GlobalStatus, name, done: fn(GlobalStatus) -> bool| {
        if done(GlobalStatus::from_bits(registers.read32(GSTS))) {
            return Ok(());
        }
        command(clock, registers, limit_ns, none, clear, done).map_err(timeout(name))
    };
    off(none.with_tes(true), "GSTS_REG.TES", |status| !status.tes())?;
    off(none.with_ires(true), "GSTS_REG.IRES", |status| !status.ires())?;
    off(none.with_cfis(true), "GSTS_REG.CFIS", |status| !status.cfis())?;
    if GlobalStatus::from_bits(registers.read32(GSTS)).qies() {
        // An error of firmware's would keep its queue from becoming empty: then it is turned off as it is.
        let _ = wait_for(clock, limit_ns, || (registers.read64(IQH) == registers.read64(IQT)).then_some(()));
    }
    off(none.with_qies(true), "GSTS_REG.QIES", |status| !status.qies())?;
    fault::clear(registers, features.fault_records_at, features.fault_records);
    Ok(())
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Step 2.
    pub(crate) fn start_queue(&self) -> Result<(), ProbeError> {
        self.turn_queue_on().map_err(timeout("GSTS_REG.QIES"))
    }

    /// Turns an empty queue on. On failure, what GSTS_REG said last.
    fn turn_queue_on(&self) -> Result<(), u32> {
        self.registers.write64(IQT, 0);
        self.registers.write64(IQA, self.queue.address_register());
        self.platform.write_barrier();
        self.command(GlobalStatus::new().with_qies(true), GlobalStatus::new(), |it| it.qies())
    }

    /// Turns a queue that was given up off, and on again as an empty one, so that hardware can be asked. What needs the queue goes before it.
    fn begin_queue_anew(&self) -> Result<(), SyncError> {
        self.turn_interrupts_off()?;
        self.turn_queue_off()?;
        self.queue.empty();
        self.turn_queue_on().map_err(unconfirmed("GSTS_REG.QIES"))?;
        self.queue.open();
        Ok(())
    }

    fn turn_interrupts_off(&self) -> Result<(), SyncError> {
        let off = self.command(GlobalStatus::new(), GlobalStatus::new().with_ires(true), |it| !it.ires());
        off.map_err(unconfirmed("GSTS_REG.IRES"))
    }

    fn turn_queue_off(&self) -> Result<(), SyncError> {
        let off = self.command(GlobalStatus::new(), GlobalStatus::new().with_qies(true), |it| !it.qies());
        off.map_err(unconfirmed("GSTS_REG.QIES"))
    }

    /// Step 3.
    pub(crate) fn set_root(&self, root: u64) -> Result<(), ProbeError> {
        let ttm = if self.features.scalable { TTM_SCALABLE } else { TTM_LEGACY };
        self.registers
            .write64(RTADDR, RootTableAddress::new().with_ttm(ttm).with_rta_address(root).into_bits());
        let set = self.command(GlobalStatus::new().with_rtps(true), GlobalStatus::new(), |it| it.rtps());
        set.map_err(timeout("GSTS_REG.RTPS"))?;
        if self.features.capability.esrtps() {
            return Ok(());
        }
        self.forget_everything().map_err(ProbeError::Sync)
    }

    /// Empties the caches of entries and translations, in the order of the book.
    pub(crate) fn forget_everything(&self) -> Result<(), SyncError> {
        self.forget_everything_and_drain(false)
    }

    /// The same; if `drain`, also until the page requests that had been received are in their queue.
    fn forget_everything_and_drain(&self, drain: bool) -> Result<(), SyncError> {
        let all: &[Descriptor] = if self.features.scalable {
            &[Descriptor::context_all(), Descriptor::pasid_cache_all(), Descriptor::iotlb_all()]
        } else {
            &[Descriptor::context_all(), Descriptor::iotlb_all()]
        };
        self.run_and_drain(all, drain)
    }

    /// Step 4.
    pub(crate) fn start_interrupts(&self, interrupts: &InterruptRemapping<P, R>) -> Result<(), ProbeError> {
        self.registers.write64(IRTA, interrupts.address_register());
        let none = GlobalStatus::new();
        let set = self.command(none.with_irtps(true), none, |status| status.irtps());
        set.map_err(timeout("GSTS_REG.IRTPS"))?;
        if !self.features.capability.esirtps() {
            self.run(&[Descriptor::interrupts_all()]).map_err(ProbeError::Sync)?;
        }
        let compatible = mutant!("vtd-interrupts-that-name-no-entry-pass");
        let set = none.with_ires(true).with_cfis(compatible);
        let on = self.command(set, none.with_cfis(!compatible), |status| status.ires());
        on.map_err(timeout("GSTS_REG.IRES"))
    }

    /// Step 5.
    pub(crate) fn start_translation(&self) -> Result<(), ProbeError> {
        let none = GlobalStatus::new();
        let on = self.command(none.with_tes(true), none, |status| status.tes());
        on.map_err(timeout("GSTS_REG.TES"))?;
        let capability = self.features.capability;
        if !capability.plmr() && !capability.phmr() {
            return Ok(());
        }
        self.registers.write32(PMEN, ProtectedMemoryEnable::new().into_bits());
        let opened = wait_for(&*self.platform, self.config.wait_limit_ns, || {
            (!ProtectedMemoryEnable::from_bits(self.registers.read32(PMEN)).prs()).then_some(())
        });
        let last = self.registers.read32(PMEN).into();
        opened.map_err(|_| ProbeError::Timeout { register: "PMEN_REG.PRS", last })
    }

    /// Says where the unit's own interrupts go, and lets them come.
    pub(crate) fn start_events(&self) {
        let Some(Msi { address, fault_data, page_request_data }) = self.config.msi else { return };
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of an address")]
        let (low, high) = (EventAddress::from_bits(address as u32), (address >> 32) as u32);
        let events = [
            (true, [FEDATA, FEADDR, FEUADDR, FECTL], fault_data),
            (self.page_requests.is_some(), [PEDATA, PEADDR, PEUADDR, PECTL], page_request_data),
        ];
        for (_, [data_at, low_at, high_at, control], data) in events.into_iter().filter(|it| it.0) {
            self.registers.write32(data_at, EventData::from_bits(data).into_bits());
            self.registers.write32(low_at, low.into_bits());
            self.registers.write32(high_at, high);
            self.registers.write32(control, EventControl::new().into_bits());
        }
    }

    /// Turns off all but translation, which goes on with a root table that has nothing in it: every request of a device is blocked.
    pub(crate) fn shut_down(&self, tables: &Tables<P>) -> Result<(), SyncError> {
        self.registers.write32(FECTL, EventControl::new().with_im(true).into_bits());
        if self.page_requests.is_some() {
            self.registers.write32(PECTL, EventControl::new().with_im(true).into_bits());
        }
        tables.empty(self);
        // Once: who turned off too slowly the last time has no queue any more with which to be asked.
        if !self.emptied.load(Ordering::Acquire) {
            // Else hardware could not be asked, now or later.
            if self.queue.is_given_up() {
                self.begin_queue_anew()?;
            }
            // Its queue of page requests is given back: what was let through before is written there until then.
            self.forget_everything_and_drain(self.page_requests.is_some())?;
            self.emptied.store(true, Ordering::Release);
        }
        self.turn_interrupts_off()?;
        self.queue.close();
        self.turn_queue_off()
    }
}
