//! The seams over a real machine.

mod on_qemu {
    use std::sync::Arc;
    use std::thread;

    use portcullis_hal::{Barriers, BlockLayout, DmaMemory, Registers, TableMemory, wait_for};
    use portcullis_types::trace::Silence;
    use portcullis_types::{Pa, PaRange};

    use crate::testing::qemus;
    use crate::{ByteOrder, MachineOptions, QemuPlatform, Width};

    fn platforms(options: &MachineOptions) -> impl Iterator<Item = Arc<QemuPlatform>> {
        let start = move |qemu: crate::Qemu| {
            let machine = Arc::new(qemu.start(options).unwrap());
            Arc::new(QemuPlatform::new(machine, Arc::new(Silence)))
        };
        qemus(options.arch()).into_iter().map(start)
    }

    #[test]
    fn table_memory_is_counted_zeroed_and_in_the_machines_ram() {
        for platform in platforms(&MachineOptions::virt("").ram_mib(64)) {
            let layout = BlockLayout::naturally_aligned(16);
            let first = platform.alloc(layout).unwrap();
            let buffer = platform.alloc_buffer(BlockLayout::naturally_aligned(12)).unwrap();
            assert_eq!((platform.live_table_bytes(), platform.live_buffer_bytes()), (0x1_0000, 0x1000));
            assert!(first.is_aligned(0x1_0000) && platform.load(first) == 0);
            platform.store(first, 7);
            assert_eq!(platform.compare_exchange(first, 6, 9), Err(7));
            assert_eq!(platform.compare_exchange(first, 7, 0x1234), Ok(7));
            platform.write32(Pa::new(buffer.get() + 4), 5);
            platform.full_barrier();
            assert_eq!(platform.machine().load(first, Width::Bits64), Ok(0x1234));
            assert_eq!(platform.machine().load(buffer, Width::Bits64), Ok(5 << 32));
            platform.free(first, layout);
            platform.free_buffer(buffer, BlockLayout::naturally_aligned(12));
            assert_eq!((platform.live_table_bytes(), platform.live_buffer_bytes()), (0, 0));
        }
    }

    /// Spec: SMMUv3 H.a, 6.3.9 "SMMU_CR0", EVENTQEN; 6.3.10 "SMMU_CR0ACK".
    #[test]
    fn registers_are_counted_and_hardware_answers_a_wait() {
        for platform in platforms(&MachineOptions::virt("iommu=smmuv3").ram_mib(64)) {
            let smmu = platform.registers(PaRange::new(Pa::new(0x0905_0000), 0x2_0000).unwrap());
            smmu.write32(0x20, 0x4);
            let acknowledged =
                wait_for(&*platform, 1_000_000_000, || (smmu.read32(0x24) == 0x4).then_some(()));
            assert_eq!(acknowledged, Ok(()));
            assert!(smmu.accesses() >= 2);
            let clone = smmu.clone();
            clone.read64(0x80);
            assert_eq!(smmu.accesses(), clone.accesses());
        }
    }

    #[test]
    fn a_machine_that_is_gone_reads_as_all_ones() {
        for platform in platforms(&MachineOptions::virt("iommu=smmuv3").ram_mib(64)) {
            let machine = platform.machine().clone();
            machine.fail_for_test();
            let smmu = platform.registers(PaRange::new(Pa::new(0x0905_0000), 0x2_0000).unwrap());
            assert_eq!((smmu.read32(0), smmu.read64(0x80)), (u32::MAX, u64::MAX));
            smmu.write32(0x20, 1);
            assert!(machine.failure().is_some());
        }
    }

    #[test]
    fn threads_share_one_socket() {
        for platform in platforms(&MachineOptions::virt("iommu=smmuv3").ram_mib(64)) {
            let window = PaRange::new(Pa::new(0x0905_0000), 0x2_0000).unwrap();
            let registers = platform.registers(window);
            let idr = [registers.read32(0), registers.read32(4)];
            thread::scope(|scope| {
                for offset in 0..2 {
                    let (registers, idr) = (registers.clone(), idr[offset]);
                    scope.spawn(move || (0..200).for_each(|_| assert_eq!(registers.read32(4 * offset), idr)));
                }
            });
        }
    }

    /// Observed: QEMU's `powernv8`, XSCOM register 0xf000f: the chip's id.
    #[test]
    fn big_endian_registers_read_as_the_book_numbers_them() {
        for platform in platforms(&MachineOptions::powernv8("").ram_mib(1024)) {
            // An address of XSCOM is a register's number, split around four bits, times 8.
            let window = PaRange::new(Pa::new(0x3_fc00_0000_0000), 1 << 35).unwrap();
            let big = crate::QemuRegisters::new(platform.machine().clone(), window, ByteOrder::Big);
            let little = crate::QemuRegisters::new(platform.machine().clone(), window, ByteOrder::Little);
            let offset = ((0xf_000f & !0xf) << 4 | (0xf_000f & 0xf) << 3) as usize;
            let id = big.read64(offset);
            assert_eq!(little.read64(offset), id.swap_bytes());
            // Observed: QEMU 7.2 and 11.1, the POWER8 model: chip id 0xea.
            assert_eq!(id, 0x220e_a049_8000_0000, "{id:#x}");
        }
    }
}
