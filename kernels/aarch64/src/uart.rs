//! The serial port: a PL011, which the firmware or QEMU has set up.
//!
//! Its place is known before the device tree is read, so that what goes wrong there can be said. A device driver's proper way is `discovery`.
//!
//! Spec: PrimeCell UART (PL011) TRM DDI 0183, 3.2 "Summary of registers": UARTDR at 0, UARTFR at 0x18 with TXFF in bit 5.

use core::fmt::{self, Write};

use portcullis_hal::Registers;
use portcullis_types::{Pa, PaRange};

use crate::lock::Lock;
use crate::mmio::Window;

const DATA: usize = 0;
const FLAGS: usize = 0x18;
const TRANSMIT_FULL: u32 = 1 << 5;

/// Where QEMU's `virt` has it.
const FIRST: Pa = Pa::new(0x900_0000);

static TURN: Lock<()> = Lock::new(());

struct Port(Window);

/// Its registers.
pub(crate) fn frame() -> PaRange {
    PaRange::new(FIRST, 0x1000).expect("a page does not wrap")
}

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}

impl Port {
    fn send(&self, byte: u8) {
        while self.0.read32(FLAGS) & TRANSMIT_FULL != 0 {
            core::hint::spin_loop();
        }
        self.0.write32(DATA, byte.into());
    }
}

/// Writes to the serial port; one caller at a time.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let _turn = TURN.lock();
    say(text);
}

/// The same for somebody who will not wait: who panics may have been interrupted in the middle of a line.
pub(crate) fn print_now(text: fmt::Arguments<'_>) {
    let _turn = TURN.try_lock();
    say(text);
}

fn say(text: fmt::Arguments<'_>) {
    // A port that takes everything never refuses.
    let _ = Port(Window::new(frame())).write_fmt(text);
}

/// Prints a line.
macro_rules! println {
    ($($text:tt)*) => { $crate::uart::print(format_args!("{}\n", format_args!($($text)*))) };
}

pub(crate) use println;
