//! A function's way to memory: up through the bridges, to the IOMMU.

use core::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use model_bus::{
    DmaError, Fabric, Moved, PageRequest, Port, Stall, StallState, Traffic, TranslationAnswer,
    TranslationRequest, Translator,
};
use portcullis_types::trace::Sink;
use portcullis_types::{Iova, Pa, Pasid, SourceId};

use super::config::ConfigSpace;
use super::rid::{Rid, RidMap};

/// What lies above all functions of a root complex.
pub struct Host {
    /// The IOMMU, or nothing.
    pub translator: Arc<dyn Translator>,
    /// The system behind it.
    pub fabric: Arc<dyn Fabric>,
    /// Who the IOMMU takes a requester for.
    pub stream_ids: RidMap,
    /// Who the interrupt controller takes it for.
    pub device_ids: RidMap,
    /// Who hears what happens.
    pub sink: Arc<dyn Sink>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("stream_ids", &self.stream_ids).finish_non_exhaustive()
    }
}

/// Why a request did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The function, or a bridge above it, may not make requests: Bus Master Enable is clear.
    NotMaster,
    /// The function is in no slot.
    Unplugged,
    /// It went out, and failed there.
    Dma(DmaError),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMaster => f.write_str("bus mastering is off"),
            Self::Unplugged => f.write_str("the function is in no slot"),
            Self::Dma(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RequestError {}

/// Makes a function's requests.
#[derive(Debug)]
pub struct Requester {
    config: Arc<ConfigSpace>,
    link: RwLock<Option<Arc<Link>>>,
}

#[derive(Debug)]
struct Link {
    host: Arc<Host>,
    port: Port,
    devfn: u8,
    /// The bridges above, nearest first.
    above: Vec<Arc<ConfigSpace>>,
    /// It is on a conventional bus, whose bridge puts its own name on requests.
    conventional: bool,
}

impl Link {
    /// As whom it sends while its bus has this number.
    fn id_on(&self, bus: u8) -> Rid {
        Rid::new(bus, if self.conventional { 0 } else { self.devfn })
    }

    fn rename(&self, bus: u8) {
        let rid = self.id_on(bus);
        self.port.rename(self.host.stream_ids.get(rid), self.host.device_ids.get(rid));
    }
}

impl Requester {
    /// The requester of the function with this configuration space, in no slot yet.
    pub fn new(config: Arc<ConfigSpace>) -> Self {
        Self { config, link: RwLock::new(None) }
    }

    /// Puts the function into a slot. It does not know its bus yet: until it is told, that is 0.
    pub(crate) fn connect(
        &self,
        host: &Arc<Host>,
        devfn: u8,
        above: Vec<Arc<ConfigSpace>>,
        conventional: bool,
    ) {
        let source = host.stream_ids.get(Rid::new(0, devfn));
        let port = Port::new(source, host.translator.clone(), host.fabric.clone());
        let link = Link { host: host.clone(), port, devfn, above, conventional };
        link.rename(0);
        *self.link.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(link));
    }

    /// Takes the function out of its slot.
    pub(crate) fn disconnect(&self) {
        *self.link.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Learns the bus number from a configuration write, as functions do. Spec: PCIe 6.0, 2.2.6.2.
    pub(crate) fn capture_bus(&self, bus: u8) {
        if let Ok(link) = self.link() {
            link.rename(bus);
        }
    }

    /// What went through since the function was put into its slot.
    pub fn traffic(&self) -> Traffic {
        self.link().map(|link| link.port.traffic()).unwrap_or_default()
    }

    /// Reads memory.
    ///
    /// # Errors
    ///
    /// As [`RequestError`] says.
    pub fn read(&self, pasid: Option<Pasid>, iova: Iova, into: &mut [u8]) -> Result<(), RequestError> {
        self.allowed()?.port.read(pasid, iova, into).map_err(RequestError::Dma)
    }

    /// Writes memory.
    ///
    /// # Errors
    ///
    /// As [`RequestError`] says.
    pub fn write(&self, pasid: Option<Pasid>, iova: Iova, from: &[u8]) -> Result<(), RequestError> {
        self.allowed()?.port.write(pasid, iova, from).map_err(RequestError::Dma)
    }

    /// Sends an interrupt message.
    ///
    /// # Errors
    ///
    /// As [`RequestError`] says.
    pub fn message(&self, to: Iova, data: u32) -> Result<(), RequestError> {
        self.allowed()?.port.message(to, data).map_err(RequestError::Dma)
    }

    /// Who the function is taken for, while it is in a slot. Messages carry it whatever is put into them.
    pub fn source(&self) -> Option<SourceId> {
        self.link().ok().map(|link| link.port.source())
    }

    /// What went through in one address space since the function was put into its slot.
    pub fn moved(&self, pasid: Pasid) -> Moved {
        self.link().map(|link| link.port.moved(pasid)).unwrap_or_default()
    }

    /// Asks for a translation.
    ///
    /// # Errors
    ///
    /// As [`RequestError`] says, but for what becomes of the request out there.
    pub fn translate(&self, request: &TranslationRequest) -> Result<TranslationAnswer, RequestError> {
        Ok(self.allowed()?.port.translate(request))
    }

    /// Reads memory at a translated address.
    ///
    /// # Errors
    ///
    /// As [`RequestError`] says.
    pub fn read_translated(
        &self,
        pasid: Option<Pasid>,
        from: Pa,
        into: &mut [u8],
    ) -> Result<(), RequestError> {
        self.allowed()?.port.read_translated(pasid, from, into).map_err(RequestError::Dma)
    }

    /// Writes memory at a translated address.
    ///
    /// # Errors
    ///
    /// As [`RequestError`] says.
    pub fn write_translated(&self, pasid: Option<Pasid>, to: Pa, from: &[u8]) -> Result<(), RequestError> {
        self.allowed()?.port.write_translated(pasid, to, from).map_err(RequestError::Dma)
    }

    /// What became of an access that was held back.
    pub fn stalled(&self, stall: Stall) -> StallState {
        self.link().map_or(StallState::Aborted, |link| link.port.stalled(stall))
    }

    /// Asks for a page. Messages do not wait for Bus Master Enable. Spec: PCIe 6.0, 7.5.1.1.3 "Command Register": it controls memory
    /// and I/O requests only.
    ///
    /// # Errors
    ///
    /// [`RequestError::Unplugged`].
    pub fn request_page(&self, request: &PageRequest) -> Result<(), RequestError> {
        self.link()?.port.request_page(request);
        Ok(())
    }

    /// Completes invalidations, by their tags.
    ///
    /// # Errors
    ///
    /// [`RequestError::Unplugged`].
    pub fn complete_invalidations(&self, tags: u32) -> Result<(), RequestError> {
        self.link()?.port.complete_invalidations(tags);
        Ok(())
    }

    /// Whether the function is in a slot below this host.
    pub(crate) fn is_below(&self, host: &Arc<Host>) -> bool {
        self.link().is_ok_and(|link| Arc::ptr_eq(&link.host, host))
    }

    fn link(&self) -> Result<Arc<Link>, RequestError> {
        let link = self.link.read().unwrap_or_else(PoisonError::into_inner);
        link.clone().ok_or(RequestError::Unplugged)
    }

    /// The link, if everybody on the way up lets requests pass.
    /// Spec: PCIe 6.0, 7.5.1.1.3 "Command Register", Bus Master Enable, of functions and of bridges.
    fn allowed(&self) -> Result<Arc<Link>, RequestError> {
        let link = self.link()?;
        let masters = core::iter::once(&self.config).chain(&link.above);
        if masters.into_iter().all(|config| config.master_enabled()) {
            Ok(link)
        } else {
            Err(RequestError::NotMaster)
        }
    }
}
