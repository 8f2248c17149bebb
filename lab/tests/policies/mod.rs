//! How mean hardware is, said to all of a machine's at once.

use model_smmuv3::Policy;
use portcullis_lab::machine::MachineSpec;
use portcullis_lab::machine::spec::BridgeKind;

/// The machine with this policy of SMMUv3s, and with that of the same name of all others.
pub(crate) fn with_policy(mut spec: MachineSpec, policy: Policy) -> MachineSpec {
    spec.smmus.iter_mut().for_each(|smmu| smmu.config.policy = policy);
    let (stale, eager) = (Policy::stale(), Policy::eager());
    let alike = match policy {
        policy if policy == stale => model_ioda2::Policy::stale(),
        policy if policy == eager => model_ioda2::Policy::eager(),
        _ => model_ioda2::Policy::hostile(),
    };
    let of_smmuv2s = match policy {
        policy if policy == stale => model_smmuv2::Policy::stale(),
        policy if policy == eager => model_smmuv2::Policy::eager(),
        _ => model_smmuv2::Policy::hostile(),
    };
    spec.smmuv2s.iter_mut().for_each(|smmu| smmu.config.policy = of_smmuv2s);
    let of_vtds = match policy {
        policy if policy == stale => model_vtd::Policy::stale(),
        policy if policy == eager => model_vtd::Policy::eager(),
        _ => model_vtd::Policy::hostile(),
    };
    spec.pc.iter_mut().flat_map(|pc| &mut pc.units).for_each(|unit| unit.config.policy = of_vtds);
    for bridge in &mut spec.host_bridges {
        if let BridgeKind::Phb3(phb) = &mut bridge.kind {
            phb.config.policy = alike;
        }
    }
    spec
}
