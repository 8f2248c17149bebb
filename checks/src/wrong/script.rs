//! Everything that an IOMMU's driver can be asked, in a row, and a look after each step: hardware with warm caches must do what the tables say.
//!
//! Before every store to the tables and every write of SMMU_CMDQ_PROD, every stream accesses every address, so that the hardware
//! remembers all that it may remember at every moment. When a step is done, every such access must end as it would end if nothing were cached. So an invalidation that changes anything at
//! all is missed at once, in whatever driver.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_bus::{Outcome, Translator, Width};
use model_smmuv3::{Outlook, Smmu as Model};
use portcullis::core::iommu::{Gather, HwDomain, Iommu, Target};
use portcullis::smmuv3::{Config, Smmu};
use portcullis::types::{Access, Iova, IovaRange, Pa, PaRange, Perms, Prot, SourceId};
use portcullis_lab::machine::{DiskContent, Machine, MachineSpec, builtin};
use portcullis_lab::platform::{LabPlatform, RegisterWindow};
use portcullis_lab::tamper::{Hands, Tamper};
use portcullis_lab::trace;

use super::commands::{Commands, NOTHING, Words, is_invalidation};
use super::view::{offset, register};

/// Two streams below one level 1 descriptor, and one below another where there are two levels.
const STREAMS: [SourceId; 3] = [SourceId(0x08), SourceId(0x10), SourceId(0x3f)];

const PAGE: u64 = 0x4800_0000;
const OTHER_PAGE: u64 = 0x4900_0000;
const BLOCK: u64 = 0x4a00_0000;
const LATE_PAGE: u64 = 0x4b00_1000;
const ADDRESSES: [u64; 6] = [PAGE, OTHER_PAGE, BLOCK, BLOCK + 0x1f_f000, LATE_PAGE, 0x4c00_0000];

type Domain = Arc<dyn HwDomain<LabPlatform>>;

/// What one run of the script showed.
#[derive(Debug)]
pub struct Shown {
    /// The invalidations that were queued, up to the last step.
    pub invalidations: Vec<Invalidation>,
    /// What was seen first that should not be.
    pub wrong: Option<String>,
}

/// One invalidation.
#[derive(Clone, Debug)]
pub struct Invalidation {
    /// The command.
    pub words: Words,
    /// Whether the tables mean something else to some access than they did at the invalidation before.
    pub changes: bool,
}

/// Warms the hardware's caches before commands and stores reach it.
struct Warm {
    model: Arc<Model>,
    inner: Arc<dyn Tamper>,
}

/// Every stream accesses every address.
pub fn warm(model: &Model) {
    everything().for_each(|request| {
        let _whatever = access(model, &request);
    });
}

impl Tamper for Warm {
    fn load(&self, hands: Hands<'_>, at: Pa) -> u64 {
        self.inner.load(hands, at)
    }

    fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
        warm(&self.model);
        self.inner.store(hands, at, word);
    }

    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        if register(at) == Some(offset::CMDQ_PROD) {
            warm(&self.model);
        }
        self.inner.write_register(hands, at, width, value);
    }
}

fn everything() -> impl Iterator<Item = model_bus::Request> {
    let request = |source, at| model_bus::Request {
        source,
        pasid: None,
        iova: Iova::new(at),
        len_bytes: 1,
        access: Access::READ,
    };
    STREAMS.into_iter().flat_map(move |source| ADDRESSES.into_iter().map(move |at| request(source, at)))
}

/// What an access ends as: the address that it reaches, or the event that is recorded.
fn access(model: &Model, request: &model_bus::Request) -> Outlook {
    let before = model.counters().events;
    let mut to = Pa::new(0);
    let outcome = model.access(request, &mut |passage| {
        to = passage.pa;
        Ok(())
    });
    if outcome == Outcome::Done {
        return Outlook::Allowed(to);
    }
    let after = model.counters().events;
    Outlook::Refused(
        after.into_iter().find(|(kind, count)| before.get(kind) != Some(count)).map(|(kind, _)| kind),
    )
}

/// What every access would end as if nothing were cached.
fn outlook(model: &Model) -> Vec<Outlook> {
    everything().map(|request| model.outlook(&request)).collect()
}

/// A driver on a machine, between them somebody who may make it wrong.
struct Bench {
    machine: Machine,
    model: Arc<Model>,
    driver: Arc<Smmu<LabPlatform, RegisterWindow>>,
}

impl Bench {
    /// `tamper` is given the model, to look at it.
    fn new(spec: MachineSpec, tamper: impl FnOnce(&Arc<Model>) -> Arc<dyn Tamper>) -> Result<Self, String> {
        let (base, coherent) = (spec.smmus[0].base, spec.smmus[0].coherent);
        let sink = trace::shared(None);
        let machine =
            Machine::build(spec, DiskContent::Blank, 1, &sink).map_err(|error| error.to_string())?;
        let model = machine.smmus[0].clone();
        let tamper = Arc::new(Warm { model: model.clone(), inner: tamper(&model) });
        let platform = Arc::new(LabPlatform::new(machine.bus.clone(), sink, Some(tamper)));
        let frame = PaRange::new(base, 0x2_0000).ok_or("a frame of registers that wraps")?;
        let mut config = Config::new("smmu");
        config.coherent = coherent;
        let driver = Smmu::probe(platform.clone(), platform.registers(frame), config)
            .map_err(|error| format!("probe: {error:?}"))?;
        Ok(Self { machine, model, driver })
    }

    fn script(&self) -> Script<'_> {
        Script { model: &self.model, driver: &self.driver, wrong: None }
    }

    /// Switches off, and answers what is to be said against the driver.
    fn close(&self) -> Result<Option<String>, String> {
        self.driver.teardown().map_err(|error| format!("teardown: {error:?}"))?;
        let complaints = self.model.take_unpredictable();
        let forbidden = complaints.first().map(|first| format!("{} ({})", first.clause, first.detail));
        let uses = self.machine.bus.cpu().ram().freed_uses();
        Ok(forbidden.or(uses.first().map(|first| format!("freed memory was used: {first:?}"))))
    }
}

/// Keeps account of the invalidations, and leaves one out.
#[derive(Default)]
struct Account {
    left_out: Option<usize>,
    invalidations: Vec<Invalidation>,
    meant: Vec<Outlook>,
}

type SharedAccount = Arc<Mutex<Account>>;

fn lock(account: &SharedAccount) -> MutexGuard<'_, Account> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keeping(account: &SharedAccount, model: &Arc<Model>) -> Arc<dyn Tamper> {
    let (account, model) = (account.clone(), model.clone());
    Arc::new(Commands::new(move |batch: &mut [Words]| {
        let mut account = lock(&account);
        for words in batch.iter_mut().filter(|words| is_invalidation(**words)) {
            let means = outlook(&model);
            let changes = core::mem::replace(&mut account.meant, means.clone()) != means;
            let number = account.invalidations.len();
            account.invalidations.push(Invalidation { words: *words, changes });
            if account.left_out == Some(number) {
                *words = NOTHING;
            }
        }
    }))
}

fn spec(machine: &str) -> MachineSpec {
    builtin::find(machine).unwrap_or_else(|| panic!("there is no machine {machine}"))
}

/// Runs the script on a built-in machine, leaving out invalidation number `left_out`.
///
/// # Errors
///
/// A step failed: which, and how.
///
/// # Panics
///
/// If there is no such machine.
pub fn run(machine: &str, left_out: Option<usize>) -> Result<Shown, String> {
    let account = SharedAccount::default();
    lock(&account).left_out = left_out;
    let bench = Bench::new(spec(machine), |model| keeping(&account, model))?;
    let (wrong, domains) = bench.script().play()?;
    let invalidations = lock(&account).invalidations.clone();
    drop(domains);
    let complaint = bench.close()?;
    Ok(Shown { invalidations, wrong: wrong.or(complaint) })
}

/// Runs the script with something wrong. Answers what was seen first that should not be, or which step failed, and how; none if
/// nothing did. The tamper is given the model, to have devices do something at a moment of its own.
///
/// # Panics
///
/// If there is no such machine.
pub fn caught(machine: &str, tamper: impl FnOnce(&Arc<Model>) -> Arc<dyn Tamper>) -> Option<String> {
    let run = || {
        let bench = Bench::new(spec(machine), tamper)?;
        let (wrong, domains) = bench.script().play()?;
        drop(domains);
        let complaint = bench.close()?;
        Ok(wrong.or(complaint))
    };
    run().unwrap_or_else(Some)
}

/// Drops a domain, and makes domains until one has its ASID or VMID; leaving out, if `left_out`, what makes hardware forget the first one's.
/// Answers what was seen that should not be.
///
/// # Errors
///
/// A step failed: which, and how.
///
/// # Panics
///
/// If there is no such machine.
pub fn reuse_id(machine: &str, left_out: bool) -> Result<Option<String>, String> {
    let mut spec = spec(machine);
    // 255 domains are quicker made than 65,535.
    spec.smmus[0].config.asid_16_bits = false;
    spec.smmus[0].config.vmid_16_bits = false;
    let account = SharedAccount::default();
    let bench = Bench::new(spec, |model| keeping(&account, model))?;
    let mut script = bench.script();
    let [a, ..] = STREAMS;
    script.add(a)?;
    let new = || bench.driver.new_domain().map_err(|error| format!("{error:?}"));
    let first = new()?;
    script.map(&first, PAGE, 0x4100_0000, 0x1000)?;
    script.attach(a, &Target::Domain(first.clone()))?;
    script.attach(a, &Target::Blocked)?;
    if left_out {
        let mut account = lock(&account);
        account.left_out = Some(account.invalidations.len());
    }
    drop(first);
    for _ in 2..=255 {
        new()?;
    }
    let second = new()?;
    script.map(&second, OTHER_PAGE, 0x4310_0000, 0x1000)?;
    script.attach(a, &Target::Domain(second))?;
    script.attach(a, &Target::Blocked)?;
    let wrong = script.wrong;
    Ok(wrong.or(bench.close()?))
}

struct Script<'a> {
    model: &'a Model,
    driver: &'a Arc<Smmu<LabPlatform, RegisterWindow>>,
    wrong: Option<String>,
}

impl Script<'_> {
    /// Compares what hardware does with what the tables say.
    fn look(&mut self, after: &str) {
        for request in everything() {
            let wanted = self.model.outlook(&request);
            let found = access(self.model, &request);
            if found != wanted && self.wrong.is_none() {
                let model_bus::Request { source, iova, .. } = request;
                self.wrong = Some(format!(
                    "after {after}: stream {source} at {iova}: {found:?} where the tables say {wanted:?}"
                ));
            }
        }
    }

    fn step<T, E: core::fmt::Debug>(&mut self, name: &str, done: Result<T, E>) -> Result<T, String> {
        let done = done.map_err(|error| format!("{name}: {error:?}"))?;
        self.look(name);
        Ok(done)
    }

    fn add(&mut self, stream: SourceId) -> Result<(), String> {
        let name = format!("adding {stream}");
        self.step(&name, self.driver.add_device(&name, &[stream]))
    }

    fn remove(&mut self, stream: SourceId) -> Result<(), String> {
        self.step(&format!("removing {stream}"), self.driver.remove_device(&[stream]))
    }

    fn attach(&mut self, stream: SourceId, target: &Target<LabPlatform>) -> Result<(), String> {
        self.step(&format!("attaching {stream} to {target:?}"), self.driver.attach(&[stream], target))
    }

    fn map(&mut self, domain: &Domain, at: u64, to: u64, len_bytes: u64) -> Result<(), String> {
        let prot = Prot::cached(Perms::READ_WRITE);
        self.step(&format!("mapping {at:#x}"), domain.map(Iova::new(at), Pa::new(to), len_bytes, prot))
    }

    fn unmap(&mut self, domain: &Domain, at: u64, len_bytes: u64) -> Result<(), String> {
        let range = IovaRange::new(Iova::new(at), len_bytes).expect("a range of the script");
        let mut gather = Gather::new();
        domain.unmap(range, &mut gather).map_err(|error| format!("{error:?}"))?;
        self.step(&format!("unmapping {at:#x}"), domain.sync(&mut gather)).map(drop)
    }

    /// Plays it. Answers what was wrong, and the domains, which nobody uses any more.
    fn play(mut self) -> Result<(Option<String>, Vec<Domain>), String> {
        let [a, b, c] = STREAMS;
        self.look("probe");
        for stream in STREAMS {
            self.add(stream)?;
        }
        let new = || self.driver.new_domain().map_err(|error| format!("{error:?}"));
        let (one, two) = (new()?, new()?);
        let (to_one, to_two) = (Target::Domain(one.clone()), Target::Domain(two.clone()));
        self.attach(a, &Target::Identity)?;
        self.attach(a, &Target::Blocked)?;
        self.map(&one, PAGE, 0x4100_0000, 0x1000)?;
        self.map(&one, BLOCK, 0x4200_0000, 0x20_0000)?;
        self.map(&two, PAGE, 0x4300_0000, 0x4000)?;
        self.map(&two, OTHER_PAGE, 0x4310_0000, 0x1000)?;
        self.attach(a, &to_one)?;
        self.attach(b, &to_one)?;
        self.attach(c, &to_two)?;
        self.map(&one, LATE_PAGE, 0x4320_0000, 0x1000)?;
        self.unmap(&one, PAGE, 0x1000)?;
        self.unmap(&one, BLOCK, 0x20_0000)?;
        self.map(&one, PAGE, 0x4330_0000, 0x1000)?;
        self.attach(a, &to_two)?;
        self.attach(a, &to_one)?;
        self.attach(b, &Target::Identity)?;
        self.attach(b, &to_two)?;
        self.attach(b, &Target::Blocked)?;
        let range = IovaRange::new(Iova::new(PAGE), 0x4000).expect("a range of the script");
        let mut gather = Gather::new();
        two.unmap(range, &mut gather).map_err(|error| format!("{error:?}"))?;
        drop(self.step("a flush of everything", two.flush_all())?);
        self.remove(b)?;
        self.add(b)?;
        self.attach(b, &to_one)?;
        for stream in STREAMS {
            self.attach(stream, &Target::Blocked)?;
            self.remove(stream)?;
        }
        Ok((self.wrong, vec![one, two]))
    }
}
