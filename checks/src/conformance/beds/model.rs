//! Our models as a bed: the IOMMU of one of the lab's machines, under strict eyes.

use std::sync::{Arc, Mutex, PoisonError};

use model_bus::{Fabric, Outcome, Request, Translator, Unpredictable, Write};
use model_smmuv3::{Config, Policy};
use portcullis::types::{Access, AccessKind, Iova, Pa, PaRange, Pasid, SourceId};
use portcullis_lab::machine::{DiskContent, Machine, MachineSpec, builtin};
use portcullis_lab::platform::{LabPlatform, RegisterWindow};
use portcullis_lab::trace;

use crate::conformance::bed::{Ask, Bed, Carried, Engine, Limits, WayOut};

/// Streams below one level 1 descriptor, none of them a device of the machine that does anything.
const STREAMS: [SourceId; 3] = [SourceId(0x08), SourceId(0x10), SourceId(0x3f)];
/// What the engines write.
const SENT: u32 = 0x1122_3344;
/// What is in an engine's buffer before it reads.
const BUFFER: u8 = 0xbb;

/// What is judged.
struct Model {
    translator: Arc<dyn Translator>,
    registers: PaRange,
    coherent: bool,
    host_address_bits: u8,
    /// What software did against the book since the last call.
    complaints: Box<dyn Fn() -> Vec<Unpredictable> + Send + Sync>,
}

impl Model {
    /// The one IOMMU of a machine.
    fn of(machine: &Machine) -> Self {
        let spec = &machine.spec;
        let frame = |base: Pa, len| PaRange::new(base, len).expect("a frame that does not wrap");
        if let [model, ..] = &machine.smmus[..] {
            let (translator, asked) = (model.clone(), model.clone());
            let (registers, coherent) = (frame(spec.smmus[0].base, 0x2_0000), spec.smmus[0].coherent);
            let complaints = Box::new(move || asked.take_unpredictable());
            return Self { translator, registers, coherent, host_address_bits: 48, complaints };
        }
        if let [model, ..] = &machine.smmuv2s[..] {
            let (translator, asked) = (model.clone(), model.clone());
            let (smmu, bits) = (&spec.smmuv2s[0], model.config().output_bits);
            let (registers, coherent) = (frame(smmu.base, model.config().size_bytes()), smmu.coherent);
            let complaints = Box::new(move || asked.take_unpredictable());
            return Self { translator, registers, coherent, host_address_bits: bits, complaints };
        }
        let model = machine.vtds.first().expect("a machine with an IOMMU");
        let (translator, asked) = (model.clone(), model.clone());
        let base = spec.pc.as_ref().expect("VT-d is a PC's").units[0].base;
        let (registers, config) = (frame(base, model_vtd::Vtd::REGISTER_BYTES), model.config());
        let (coherent, host_address_bits) = (config.coherent, config.host_bits);
        let complaints = Box::new(move || asked.take_unpredictable());
        Self { translator, registers, coherent, host_address_bits, complaints }
    }
}

/// A machine of models.
pub struct ModelBed {
    name: String,
    machine: Machine,
    platform: Arc<LabPlatform>,
    memory: Arc<dyn Fabric>,
    iommu: Model,
    engines: Vec<Engine>,
    /// How many uses of freed memory were told.
    told: Mutex<usize>,
}

impl ModelBed {
    /// A built-in machine of the lab. The hardware keeps what it has cached for as long as it may.
    ///
    /// # Panics
    ///
    /// If there is no such machine.
    pub fn builtin(machine: &str) -> Self {
        let spec = builtin::find(machine).unwrap_or_else(|| panic!("there is no machine {machine}"));
        Self::new(format!("model-{machine}"), spec)
    }

    /// The same machine, with hardware that throws out, fetches ahead and delays.
    ///
    /// # Panics
    ///
    /// If there is no such machine.
    pub fn hostile(machine: &str) -> Self {
        let mut spec = builtin::find(machine).unwrap_or_else(|| panic!("there is no machine {machine}"));
        spec.smmus[0].config.policy = Policy::hostile();
        Self::new(format!("model-{machine}-hostile"), spec)
    }

    /// The default machine with an SMMU of another kind.
    pub fn with_config(name: &str, config: Config) -> Self {
        let mut spec = builtin::find(builtin::DEFAULT).expect("the default machine is there");
        let msi_source = spec.smmus[0].config.msi_source;
        spec.smmus[0].config = Config { msi_source, ..config };
        Self::new(name.into(), spec)
    }

    /// The PC with a VT-d unit of this kind. The bed is called `model-NAME`.
    pub fn vtd(name: &str, config: model_vtd::Config) -> Self {
        let mut spec = builtin::find("x86").expect("the PC is there");
        spec.pc.as_mut().expect("it is one").units[0].config = config;
        Self::new(format!("model-{name}"), spec)
    }

    /// The machine with an SMMUv2 of this kind. The bed is called `model-NAME`.
    pub fn smmuv2(name: &str, config: model_smmuv2::Config) -> Self {
        let mut spec = builtin::find("smmuv2").expect("the machine is there");
        spec.smmuv2s[0].coherent = config.coherent_walks;
        spec.smmuv2s[0].config = config;
        Self::new(format!("model-{name}"), spec)
    }

    fn new(name: String, spec: MachineSpec) -> Self {
        let sink = trace::shared(None);
        let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).expect("a machine of the lab");
        let platform = Arc::new(LabPlatform::new(machine.bus.clone(), sink, None));
        let snoops = machine.spec.host_bridges[0].coherent;
        let plain: Arc<dyn Fabric> = if snoops { machine.bus.clone() } else { machine.bus.non_snooping() };
        let memory = machine.behind_unit(0, snoops).map_or(plain, |(_, behind)| behind);
        let iommu = Model::of(&machine);
        let engines = STREAMS.map(|stream| Engine { stream, reads: true }).to_vec();
        Self { name, machine, platform, memory, iommu, engines, told: Mutex::new(0) }
    }

    fn one(&self, ask: &Ask) -> Carried {
        let Ask { engine, pasid, at, len, kind, privileged } = *ask;
        let sent: Vec<u8> = SENT.to_le_bytes().into_iter().cycle().take(len).collect();
        let mut buffer = if kind == AccessKind::Write { sent } else { vec![BUFFER; len] };
        let mut done = 0;
        while done < len {
            let iova = at.wrapping_add(done as u64);
            // A requester cuts at 4 KiB.
            let piece =
                (len - done).min(0x1000 - usize::try_from(iova & 0xfff).expect("an offset in a page"));
            let request = Request {
                source: self.engines[engine].stream,
                pasid: pasid.and_then(Pasid::new),
                iova: Iova::new(iova),
                len_bytes: u32::try_from(piece).expect("a piece of 4 KiB"),
                access: Access { kind, privileged },
            };
            let bytes = &mut buffer[done..done + piece];
            let outcome = self.iommu.translator.access(&request, &mut |passage| match kind {
                AccessKind::Write => {
                    self.memory.write(Write { at: passage.pa, bytes, source: Some(request.source) })
                }
                AccessKind::Read | AccessKind::Execute => self.memory.read(passage.pa, bytes),
            });
            match outcome {
                Outcome::Done => done += piece,
                // The device sees zeroes, or nothing.
                Outcome::Ignored => return Carried { bytes: buffer, refused: None },
                _ => return Carried { bytes: buffer, refused: Some(true) },
            }
        }
        Carried { bytes: buffer, refused: Some(false) }
    }
}

impl Bed for ModelBed {
    type Platform = LabPlatform;
    type Registers = RegisterWindow;

    fn name(&self) -> &str {
        &self.name
    }

    fn platform(&self) -> Arc<LabPlatform> {
        self.platform.clone()
    }

    fn registers(&self) -> RegisterWindow {
        self.platform.registers(self.iommu.registers)
    }

    fn engines(&self) -> &[Engine] {
        &self.engines
    }

    fn limits(&self) -> Limits {
        Limits { marks: true, pasids: true }
    }

    fn carry_out(&self, asks: &[Ask], _: Option<WayOut>) -> Vec<Carried> {
        asks.iter().map(|ask| self.one(ask)).collect()
    }

    fn complaints(&self) -> Vec<String> {
        let forbidden = (self.iommu.complaints)();
        let mut said: Vec<String> =
            forbidden.iter().map(|one| format!("{} ({})", one.clause, one.detail)).collect();
        let uses = self.machine.bus.cpu().ram().freed_uses();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend(uses.iter().skip(*told).map(|one| format!("freed memory was used: {one:?}")));
        *told = uses.len();
        said
    }

    fn coherent(&self) -> bool {
        self.iommu.coherent
    }

    fn host_address_bits(&self) -> u8 {
        self.iommu.host_address_bits
    }

    fn send_message(&self, engine: usize, at: u64, data: u32) -> Option<Vec<u8>> {
        let apics = self.machine.apics.as_ref()?;
        let request = Request {
            source: self.engines[engine].stream,
            pasid: None,
            iova: Iova::new(at),
            len_bytes: 4,
            access: Access { kind: AccessKind::Write, privileged: false },
        };
        let bytes = data.to_le_bytes();
        let _what_it_is_told = self.iommu.translator.access(&request, &mut |passage| {
            self.memory.write(Write { at: passage.pa, bytes: &bytes, source: Some(request.source) })
        });
        Some(core::iter::from_fn(|| apics.take_pending()).map(|vector| vector.vector).collect())
    }
}
