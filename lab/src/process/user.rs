//! The process's own loads and stores: on its CPU, with a kernel that serves the faults.

use portcullis::core::mm::{MmFault, MmFaultError};
use portcullis::hal::{Barriers, DmaMemory};
use portcullis::types::{Iova, Pa};

use super::cores::{Core, Refused};
use super::error::UserError;
use super::process::Process;

/// How often an access may fault at one byte before it is given up.
const FAULTS_AT_ONE_BYTE: usize = 1000;

impl Process {
    /// The process loads bytes from `at` on.
    ///
    /// # Errors
    ///
    /// As [`UserError`] says; bytes before the one it names have been loaded.
    pub fn read(&self, at: Iova, into: &mut [u8]) -> Result<(), UserError> {
        self.user_access(at, |cpu, va, done| cpu.load(va, &mut into[done..]))
    }

    /// The process stores bytes from `at` on. Devices see them after the next barrier, as with any store.
    ///
    /// # Errors
    ///
    /// As [`UserError`] says; bytes before the one it names have been stored.
    pub fn write(&self, at: Iova, from: &[u8]) -> Result<(), UserError> {
        self.user_access(at, |cpu, va, done| cpu.store(va, &from[done..]))
    }

    /// The process fetches the instruction at `at`.
    ///
    /// # Errors
    ///
    /// As [`UserError`] says.
    pub fn fetch(&self, at: Iova) -> Result<u32, UserError> {
        let mut word = 0;
        self.user_access(at, |cpu, va, _| cpu.fetch(va).map(|fetched| word = fetched))?;
        Ok(word)
    }

    /// Has everything that the process has stored reach whoever looks (DSB).
    pub fn barrier(&self) {
        self.kernel.platform().full_barrier();
    }

    /// The process writes back what caches hold of these bytes, and has them forget it (DC CIVAC for each line, and DSB): for devices that do not
    /// snoop.
    ///
    /// # Errors
    ///
    /// As [`UserError`] says.
    pub fn clean_and_invalidate(&self, at: Iova, len_bytes: u64) -> Result<(), UserError> {
        let (platform, page_bytes) = (self.kernel.platform(), self.kernel.page_bytes());
        let end = at.get().saturating_add(len_bytes);
        let mut next = at.get();
        while next < end {
            let piece_end = (next - next % page_bytes).saturating_add(page_bytes).min(end);
            let mut pa = Pa::new(0);
            self.user_access(Iova::new(next), |cpu, va, _| cpu.translate(va).map(|found| pa = found))?;
            platform.clean(pa, piece_end - next);
            platform.invalidate(pa, piece_end - next);
            next = piece_end;
        }
        self.barrier();
        Ok(())
    }

    /// Goes on with `access`, which is told where and how many bytes are done, until it needs nothing more.
    fn user_access(
        &self,
        at: Iova,
        mut access: impl FnMut(&Core, u64, usize) -> Result<(), Refused>,
    ) -> Result<(), UserError> {
        let refused = |at, why| UserError::Fault { at: Iova::new(at), why };
        let _inside = self.enter().ok_or(refused(at.get(), MmFaultError::Exited))?;
        let (mut va, mut faults_here) = (at.get(), 0);
        loop {
            let done = usize::try_from(va - at.get()).map_err(|_| refused(va, MmFaultError::NoArea))?;
            let result =
                self.kernel.run_on(self.home(), self.root(), self.tag(), |cpu| access(cpu, va, done));
            let Err(fault) = result else { return Ok(()) };
            faults_here = if fault.va == va { faults_here + 1 } else { 1 };
            va = fault.va;
            let wanted = fault.wanted.ok_or(UserError::Abort { at: Iova::new(va) })?;
            if faults_here > FAULTS_AT_ONE_BYTE {
                return Err(refused(va, MmFaultError::Retry));
            }
            match self.fault_in(&MmFault { address: Iova::new(va), wanted }) {
                Ok(()) | Err(MmFaultError::Retry) => {}
                Err(why) => return Err(refused(va, why)),
            }
        }
    }
}
