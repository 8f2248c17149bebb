//! Machines of a QEMU that misbehaves, which always run; those of a real one are in [`on_qemu`].

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use super::*;
use crate::find::Arch;

/// Asks what the fake is started with for the place of its files.
const FOLDER: &str = r#"for word in "$@"; do case "$word" in unix:*) folder="${word#unix:}"; folder="${folder%/*}";; esac; done; "#;

/// A QEMU that is this shell script. It writes the folder of its files to `told`.
fn fake(script: &str, told: &Scratch) -> Qemu {
    let say = format!("echo $folder $$ > {}; ", told.at("told").display());
    Qemu::fake(Arch::Aarch64, &[FOLDER, &say, script].concat())
}

/// What is left of a machine that the fake was: its files, its process.
fn nothing_is_left(told: &Scratch) {
    let text = fs::read_to_string(told.at("told")).unwrap();
    let (folder, pid) = text.trim().split_once(' ').unwrap();
    assert!(folder.contains("portcullis-qemu") && !PathBuf::from(folder).exists(), "{folder}");
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists(), "process {pid} lives");
}

fn short() -> MachineOptions {
    MachineOptions::virt("").limit(Duration::from_millis(300))
}

#[test]
fn a_qemu_that_ends_at_once_has_its_last_words_shown() {
    let told = Scratch::new().unwrap();
    let qemu = fake("echo first >&2; echo no such device: foo >&2; exit 3", &told);
    let error = qemu.start(&short()).unwrap_err();
    let QemuError::Died { last_words, .. } = &error else { panic!("{error}") };
    assert_eq!(last_words, "exit status: 3\nfirst\nno such device: foo");
    nothing_is_left(&told);
}

#[test]
fn only_the_end_of_many_last_words_is_kept() {
    let told = Scratch::new().unwrap();
    let error = fake("seq 1 10000 >&2; exit 1", &told).start(&short()).unwrap_err();
    let text = error.to_string();
    assert!(text.ends_with("9999\n10000") && text.len() < 3000, "{}", text.len());
}

#[test]
fn a_qemu_that_never_opens_its_socket_is_waited_for_only_so_long() {
    let told = Scratch::new().unwrap();
    let error = fake("echo thinking >&2; exec sleep 1000", &told).start(&short()).unwrap_err();
    let QemuError::Hung { last_words, .. } = &error else { panic!("{error}") };
    assert_eq!(last_words, "thinking");
    nothing_is_left(&told);
}

#[test]
fn a_device_tree_that_never_comes_is_waited_for_only_so_long() {
    let told = Scratch::new().unwrap();
    let error = fake("exec sleep 1000", &told).device_tree(&short()).unwrap_err();
    assert!(matches!(error, QemuError::Hung { .. }), "{error}");
    let error = fake("echo none >&2", &told).device_tree(&short()).unwrap_err();
    assert!(matches!(error, QemuError::Died { .. }) && error.to_string().ends_with("none"), "{error}");
}

#[test]
fn a_qemu_that_cannot_be_started_is_an_error() {
    let mut command = std::process::Command::new("/no/such/program");
    command.arg("x");
    assert!(matches!(Process::start(command), Err(QemuError::Host { doing: "starting QEMU", .. })));
}

/// The real thing.
mod on_qemu {
    use super::*;
    use crate::testing::qemus;

    fn smmu() -> MachineOptions {
        MachineOptions::virt("iommu=smmuv3").ram_mib(64)
    }

    #[test]
    fn registers_and_memory_are_reached_and_memory_is_shared() {
        for qemu in qemus(Arch::Aarch64) {
            let machine = qemu.start(&smmu()).unwrap();
            assert_eq!(machine.byte_order(), ByteOrder::Little);
            let idr0 = machine.load(Pa::new(0x0905_0000), Width::Bits32).unwrap();
            assert_eq!(idr0 & 0xc, 0x8, "AArch64 tables only: {idr0:#x}");
            let at = Pa::new(0x4100_0000);
            machine.ram().store64(at, 0x1122_3344_5566_7788);
            assert_eq!(machine.load(at, Width::Bits64), Ok(0x1122_3344_5566_7788));
            assert_eq!(machine.load(at, Width::Bits16), Ok(0x7788));
            machine.store_all(&[(at, Width::Bits8, 0xaa), (at, Width::Bits8, 0xbb)]).unwrap();
            machine.fill(Pa::new(at.get() + 4), 2, 0xcc).unwrap();
            assert_eq!(machine.ram().load64(at), 0x1122_cccc_5566_77bb);
            let bytes: Vec<u8> = (0..0x2345u32).map(|index| (index % 251) as u8).collect();
            machine.write(Pa::new(at.get() + 3), &bytes).unwrap();
            let mut back = [vec![0; bytes.len()], vec![0; bytes.len()]];
            machine.read(Pa::new(at.get() + 3), &mut back[0]).unwrap();
            machine.ram().read(Pa::new(at.get() + 3), &mut back[1]);
            assert!(back.iter().all(|back| *back == bytes));
            assert_eq!(machine.failure(), None);
        }
    }

    #[test]
    fn the_device_tree_is_a_flattened_one_that_has_the_smmu() {
        for qemu in qemus(Arch::Aarch64) {
            let tree = qemu.device_tree(&smmu()).unwrap();
            assert_eq!(tree[..4], [0xd0, 0x0d, 0xfe, 0xed]);
            assert!(tree.windows(12).any(|window| window == b"arm,smmu-v3\0"));
        }
    }

    #[test]
    fn a_device_that_does_not_exist_is_told_in_qemus_words() {
        for qemu in qemus(Arch::Aarch64) {
            let error = qemu.start(&smmu().device("no-such-device")).unwrap_err();
            assert!(error.to_string().contains("no-such-device"), "{error}");
        }
    }

    #[test]
    fn a_qemu_that_is_killed_is_told_and_sticks() {
        for qemu in qemus(Arch::Aarch64) {
            let machine = qemu.start(&smmu()).unwrap();
            let pid = machine.process.id();
            kill(pid, "KILL");
            let error = machine.load(Pa::new(0x0905_0000), Width::Bits32).unwrap_err();
            assert!(
                matches!(&error, QemuError::Died { last_words, .. } if last_words.contains("signal: 9")),
                "{error}"
            );
            assert_eq!(machine.store(Pa::new(0x0905_0000), Width::Bits32, 0), Err(error));
            assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
        }
    }

    #[test]
    fn a_qemu_that_is_killed_is_noticed_without_being_asked() {
        for qemu in qemus(Arch::Aarch64) {
            let machine = qemu.start(&smmu()).unwrap();
            assert_eq!(machine.check(), Ok(()));
            kill(machine.process.id(), "KILL");
            let deadline = Instant::now() + Duration::from_secs(10);
            while machine.check().is_ok() {
                assert!(Instant::now() < deadline, "nobody noticed");
            }
            assert_eq!(
                machine.failure().cloned().map(Err),
                Some(machine.load(Pa::new(0x0905_0000), Width::Bits32))
            );
        }
    }

    #[test]
    fn a_qemu_that_is_stopped_is_waited_for_only_so_long_and_reaped() {
        for qemu in qemus(Arch::Aarch64) {
            let machine = qemu.start(&smmu().limit(Duration::from_secs(2))).unwrap();
            let pid = machine.process.id();
            kill(pid, "STOP");
            let error = machine.load(Pa::new(0x0905_0000), Width::Bits32).unwrap_err();
            assert!(matches!(error, QemuError::Hung { .. }), "{error}");
            drop(machine);
            assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
        }
    }

    #[test]
    fn a_panic_leaves_no_process_and_a_start_leaves_no_file() {
        for qemu in qemus(Arch::Aarch64) {
            let (pid, command) = std::thread::spawn(move || {
                let machine = qemu.start(&smmu()).unwrap();
                let pid = machine.process.id();
                let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
                let unwound = std::panic::catch_unwind(core::panic::AssertUnwindSafe(move || {
                    let _machine = machine;
                    std::panic::resume_unwind(Box::new("on purpose"));
                }));
                assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&"on purpose"));
                (pid, command)
            })
            .join()
            .unwrap();
            assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
            let socket = command.split('\0').find_map(|word| word.strip_prefix("unix:")).unwrap();
            let folder = PathBuf::from(socket.split(',').next().unwrap());
            assert!(!folder.parent().unwrap().exists());
        }
    }

    #[test]
    fn a_killed_process_takes_its_qemu_with_it() {
        const CHILD: &str = "PORTCULLIS_TEST_STARTS_AND_WAITS";
        const THIS: &str = "machine::tests::on_qemu::a_killed_process_takes_its_qemu_with_it";
        for qemu in qemus(Arch::Aarch64) {
            if std::env::var_os(CHILD).is_some() {
                let machine = qemu.start(&smmu()).unwrap();
                eprintln!("\npid {}.", machine.process.id());
                std::thread::sleep(Duration::from_secs(60));
            }
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", THIS, "--nocapture"])
                .env(CHILD, "1")
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
            let pid = lines
                .find_map(|line| Some(line.strip_prefix("pid ")?.strip_suffix('.')?.to_owned()))
                .unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            while lives(&pid) {
                assert!(Instant::now() < deadline, "process {pid} lives");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Whether a process is there, and not only waiting for its parent to look.
    fn lives(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[test]
    fn a_machine_outlives_the_thread_that_started_it() {
        for qemu in qemus(Arch::Aarch64) {
            let machine = std::thread::spawn(move || qemu.start(&smmu()).unwrap()).join().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            assert!(machine.load(Pa::new(0x0905_0000), Width::Bits32).is_ok());
        }
    }

    #[test]
    fn a_file_on_a_drive_may_be_only_read() {
        for qemu in qemus(Arch::Aarch64) {
            let scratch = Scratch::new().unwrap();
            let file = scratch.write("a,b", &[1; 1024]).unwrap();
            let options =
                smmu().drive("disk", crate::DriveContent::ReadOnly(file)).device("nvme,serial=1,drive=disk");
            assert!(qemu.start(&options).is_ok());
        }
    }

    #[test]
    fn a_power_machine_begins_in_big_endian() {
        for qemu in qemus(Arch::Ppc64) {
            let machine = qemu.start(&MachineOptions::powernv8("").ram_mib(1024)).unwrap();
            assert_eq!(machine.byte_order(), ByteOrder::Big);
            machine.ram().write(Pa::new(0x1000_0000), &[1, 2, 3, 4]);
            assert_eq!(machine.load(Pa::new(0x1000_0000), Width::Bits32), Ok(0x0102_0304));
        }
    }

    #[test]
    fn a_power_machines_bridge_answers_once_firmwares_part_is_done() {
        use crate::powernv8::{REGISTERS, bring_up};
        for qemu in qemus(Arch::Ppc64) {
            let machine = qemu.start(&MachineOptions::powernv8("").ram_mib(1024)).unwrap();
            // Its version register: that of a POWER8.
            let version = || machine.load(Pa::new(REGISTERS + 0x800), Width::Bits64).unwrap();
            assert_ne!(version(), 0xa3_0000_0005);
            bring_up(&machine).unwrap();
            assert_eq!(version(), 0xa3_0000_0005);
        }
    }

    #[test]
    fn a_pc_comes_up_with_its_cpu_halted() {
        for qemu in qemus(Arch::X86_64) {
            let machine = qemu.start(&MachineOptions::q35("").device("intel-iommu")).unwrap();
            // VT-d's version register: 1.0.
            assert_eq!(machine.load(Pa::new(0xfed9_0000), Width::Bits32), Ok(0x10));
        }
    }

    fn kill(pid: u32, signal: &str) {
        let status =
            std::process::Command::new("/bin/kill").args([&format!("-{signal}"), &pid.to_string()]).status();
        assert!(status.unwrap().success());
    }
}
