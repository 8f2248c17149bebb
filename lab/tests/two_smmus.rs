//! A device tree that leads some of what a function may be at the top to one SMMU and some to another: nobody could keep it apart, so that it is not used.

use portcullis::types::Pa;
use portcullis_lab::boot::{BootRequest, Standing, System};
use portcullis_lab::machine::spec::{Plugged, Slot, SmmuSpec};
use portcullis_lab::machine::{DiskContent, Machine, builtin, fdt};
use portcullis_lab::trace;

/// The tree with `more` behind the words `old` of a property, which is that much longer then.
///
/// Spec: Devicetree 0.4, 5.2 "Header", 5.4 "Structure Block": FDT_PROP, its length, its name, and its value.
fn with_more(mut tree: Vec<u8>, old: &[u32], more: &[u32]) -> Vec<u8> {
    let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    let (old, more) = (bytes(old), bytes(more));
    let at = tree.windows(old.len()).position(|found| found == old).expect("the property is there");
    let longer = |tree: &mut Vec<u8>, at: usize| {
        let word = u32::from_be_bytes(tree[at..at + 4].try_into().unwrap());
        let word = word + u32::try_from(more.len()).unwrap();
        tree[at..at + 4].copy_from_slice(&word.to_be_bytes());
    };
    // The value's length; all bytes, where names begin, and bytes of structure.
    for place in [at - 8, 4, 12, 36] {
        longer(&mut tree, place);
    }
    tree.splice(at + old.len()..at + old.len(), more);
    tree
}

#[test]
fn a_function_whose_requester_ids_are_behind_different_iommus_is_not_used() {
    let mut spec = builtin::find("arm").unwrap();
    spec.reserved.clear();
    spec.accelerators.clear();
    let second = SmmuSpec { base: Pa::new(0x0907_0000), ..spec.smmus[0].clone() };
    spec.smmus.push(second);
    spec.host_bridges[0].slots.push(Slot { device: 6, what: Plugged::PortWithPciBridge });
    let tree = fdt::emit(&spec).unwrap();
    // Both disks are on bus 4, and what they send may have its bus's name: 04:00.0. From 04:01.0 on the second SMMU is in charge as well.
    let count = (u32::from(spec.host_bridges[0].last_bus) + 1) << 8;
    let first = [0, 0x20, 0, count].map(u32::to_be_bytes).concat();
    let at = tree.windows(first.len()).position(|found| found == first).unwrap();
    let mut tree = with_more(tree, &[0, 0x20, 0, count], &[0x408, 0x21, 0x408, count - 0x408]);
    tree[at + 12..at + 16].copy_from_slice(&0x408u32.to_be_bytes());

    let machine = Machine::build(spec, DiskContent::Blank, 1, &trace::shared(None)).unwrap();
    let system = System::boot(BootRequest::new(&machine, &tree, trace::shared(None))).unwrap();
    for (_, endpoint) in system.endpoints() {
        let is_between = ["0000:04:01.0", "0000:04:02.0"].contains(&endpoint.name.as_str());
        match &endpoint.standing {
            Standing::Behind { .. } => assert!(!is_between, "{}", endpoint.name),
            Standing::Uncovered(why) => {
                assert_eq!(*why, "its requester ids are behind different IOMMUs", "{}", endpoint.name);
                assert!(is_between, "{}", endpoint.name);
            }
        }
    }
    assert!(system.endpoints().any(|(_, endpoint)| endpoint.name == "0000:04:02.0"));
    system.shut_down().unwrap();
}
