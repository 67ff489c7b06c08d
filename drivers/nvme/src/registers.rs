//! Controller registers (3.1) and doorbells.

use core::time::Duration;

use spindle_hw::{PAGE_SIZE, Registers};

use crate::Error;

const CAP: usize = 0x00;
const VS: usize = 0x08;
const INTMS: usize = 0x0c;
const CC: usize = 0x14;
const CSTS: usize = 0x1c;
const NSSR: usize = 0x20;
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;
const CRTO: usize = 0x68;
const DOORBELLS: usize = 0x1000;

/// Controller Capabilities (3.1.1), and what belongs to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    cap: u64,
    /// Controller Ready Timeouts (NVMe 2.0, 3.1.3.20), 0 where there are none.
    crto: u32,
}

/// The most that a change of CC.EN is given, whatever CRTO says: CAP.TO goes up to 127.5 s.
const READY_MAX: Duration = Duration::from_secs(300);
/// CAP.CRMS bit 0: CRTO.CRWMT counts, which CAP.TO may be too small for.
const READY_WITH_MEDIA: u64 = 1 << 59;

impl Capabilities {
    /// Those of a controller that does not answer yet.
    pub(crate) const UNKNOWN: Self = Self { cap: 0, crto: 0 };

    /// Most entries in an I/O queue: MQES, which is 0's based.
    pub(crate) fn max_queue_entries(self) -> u32 {
        (self.cap as u32 & 0xffff) + 1
    }

    /// Entries of an I/O queue, a power of two: as many as wanted, which are 2 at least, or as it takes.
    pub(crate) fn queue_entries(self, wanted: u16) -> u16 {
        let entries = self.max_queue_entries().min(wanted.into()).max(2);
        1 << entries.ilog2()
    }

    /// The longest that a change of CC.EN may take: TO or, where that is longer, CRWMT, both in
    /// 500 ms units. A controller that claims to need no time gets one unit.
    pub(crate) fn timeout(self) -> Duration {
        let ready = self.crto & 0xffff;
        let units = ((self.cap >> 24) as u32 & 0xff).max(ready).max(1);
        READY_MAX.min(Duration::from_millis(500) * units)
    }

    /// Bytes from one doorbell to the next: 4 << DSTRD.
    pub(crate) fn doorbell_stride(self) -> usize {
        4 << ((self.cap >> 32) & 0xf)
    }

    /// Whether it can have the whole subsystem reset: NSSRS.
    pub(crate) fn resets_subsystem(self) -> bool {
        self.cap >> 36 & 1 != 0
    }

    /// Whether the NVM command set is there: CSS bit 0.
    pub(crate) fn nvm_commands(self) -> bool {
        self.cap >> 37 & 1 != 0
    }

    /// log2 of the smallest memory page size in bytes: 12 + MPSMIN.
    pub(crate) fn min_page_shift(self) -> u32 {
        12 + (self.cap >> 48) as u32 % 16
    }
}

/// What NSSR takes for a request (3.1.7): "NVMe".
const SUBSYSTEM_RESET: u32 = 0x4e56_4d65;

/// Controller Configuration (3.1.5).
pub(crate) mod cc {
    pub(crate) const ENABLE: u32 = 1;
    /// SHN = 01b: normal shutdown.
    pub(crate) const SHUTDOWN_NORMAL: u32 = 1 << 14;
    pub(crate) const SHUTDOWN_MASK: u32 = 3 << 14;
    /// NVM command set, 4 KiB pages, round robin, 64-byte submission and 16-byte completion
    /// queue entries.
    pub(crate) const CONFIGURATION: u32 = 6 << 16 | 4 << 20;
}

/// Controller Status (3.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ControllerStatus(u32);

impl ControllerStatus {
    pub(crate) fn ready(self) -> bool {
        self.0 & 1 != 0
    }

    /// SHST = 10b: shutdown processing complete.
    pub(crate) fn shutdown_complete(self) -> bool {
        self.0 >> 2 & 3 == 2
    }

    pub(crate) fn fatal(self) -> bool {
        self.0 & 2 != 0
    }
}

/// The registers by name.
#[derive(Debug)]
pub(crate) struct ControllerRegisters<R>(pub(crate) R);

impl<R: Registers> ControllerRegisters<R> {
    /// The capabilities; [`Error::Gone`] if nobody answers.
    pub(crate) fn capabilities(&self) -> Result<Capabilities, Error> {
        let cap = self.0.read64(CAP);
        if cap == u64::MAX {
            return Err(Error::Gone);
        }
        let crto = match cap & READY_WITH_MEDIA {
            0 => 0,
            _ => self.0.read32(CRTO),
        };
        Ok(Capabilities { cap, crto })
    }

    /// The same, if this driver can work with it.
    pub(crate) fn usable_capabilities(&self) -> Result<Capabilities, Error> {
        let capabilities = self.capabilities()?;
        if !capabilities.nvm_commands() {
            return Err(Error::CommandSet);
        }
        let shift = capabilities.min_page_shift();
        if shift > PAGE_SIZE.trailing_zeros() {
            return Err(Error::PageSize { shift });
        }
        Ok(capabilities)
    }

    /// Version: major in bits 31:16, minor in bits 15:8 (3.1.2).
    pub(crate) fn version(&self) -> u32 {
        self.0.read32(VS)
    }

    /// The status; [`Error::Gone`] if nobody answers.
    pub(crate) fn status(&self) -> Result<ControllerStatus, Error> {
        match self.0.read32(CSTS) {
            u32::MAX => Err(Error::Gone),
            status => Ok(ControllerStatus(status)),
        }
    }

    /// The status of a controller that has just been switched off or on; `None` as long as it reads
    /// as all ones, which those of some makers do for seconds then.
    pub(crate) fn status_in_change(&self) -> Option<ControllerStatus> {
        self.status().ok()
    }

    /// Masks every interrupt vector (3.1.3): completions are found by polling.
    pub(crate) fn mask_interrupts(&self) {
        self.0.write32(INTMS, u32::MAX);
    }

    pub(crate) fn configuration(&self) -> u32 {
        self.0.read32(CC)
    }

    pub(crate) fn configure(&self, value: u32) {
        self.0.write32(CC, value);
    }

    /// Has the whole subsystem reset, as after power on (7.3.1).
    pub(crate) fn reset_subsystem(&self) {
        self.0.write32(NSSR, SUBSYSTEM_RESET);
    }

    /// Says where the admin queues are and that each has `entries` entries (3.1.8 to 3.1.10).
    pub(crate) fn set_admin_queues(&self, submission: u64, completion: u64, entries: u32) {
        self.0.write32(AQA, (entries - 1) << 16 | (entries - 1));
        self.0.write64(ASQ, submission);
        self.0.write64(ACQ, completion);
    }

    /// Whether the controller has kept what [`Self::set_admin_queues`] said of `entries`, as it does
    /// over each change of CC.EN. Without power and by a reset of the subsystem it forgets it.
    pub(crate) fn keeps_admin_queues(&self, entries: u32) -> bool {
        self.0.read32(AQA) == (entries - 1) << 16 | (entries - 1)
    }
}

/// Whether a controller is enabled as this driver does that, ready and well, and has the admin queues that
/// are meant.
pub(crate) fn stands_by(
    registers: &impl Registers,
    submission: u64,
    completion: u64,
    entries: u32,
) -> bool {
    let well = (1, cc::CONFIGURATION | cc::ENABLE);
    // Ready, neither failed nor shut down.
    (registers.read32(CSTS) & 0xf, registers.read32(CC)) == well
        && registers.read32(AQA) == (entries - 1) << 16 | (entries - 1)
        && (registers.read64(ASQ), registers.read64(ACQ)) == (submission, completion)
}

/// Offset of the submission queue tail doorbell of queue `id` (3.1.24).
pub(crate) fn submission_doorbell(id: u16, stride: usize) -> usize {
    DOORBELLS + 2 * usize::from(id) * stride
}

/// Offset of the completion queue head doorbell of queue `id` (3.1.25).
pub(crate) fn completion_doorbell(id: u16, stride: usize) -> usize {
    submission_doorbell(id, stride) + stride
}

/// Bytes of a controller's registers, from the first on, that a driver with `queues` I/O queue
/// pairs uses: all up to the last doorbell. BAR 0 may be far larger, with other things behind
/// them. `registers` are those before the doorbells.
pub fn register_bytes(registers: &impl Registers, queues: u16) -> usize {
    let cap = registers.read64(CAP);
    let stride = Capabilities { cap, crto: 0 }.doorbell_stride();
    completion_doorbell(queues, stride) + 4
}

/// Checks that both doorbells of queue `id` are inside the registers.
pub(crate) fn check_doorbells(
    registers: &impl Registers,
    id: u16,
    stride: usize,
) -> Result<(), Error> {
    let need = completion_doorbell(id, stride) + 4;
    if need > registers.len() {
        let have = registers.len();
        return Err(Error::RegistersTooSmall { need, have });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_their_bits() {
        // QEMU's controller: MQES 2047, CQR, TO 15, CSS NVM, MPSMAX 4.
        let of = |cap, crto| Capabilities { cap, crto };
        let qemu = of(0x0040_0020_0f01_07ff, 0);
        assert_eq!(qemu.max_queue_entries(), 2048);
        assert_eq!(qemu.timeout(), Duration::from_millis(7500));
        assert_eq!(qemu.doorbell_stride(), 4);
        assert!(qemu.nvm_commands());
        assert_eq!(qemu.min_page_shift(), 12);
        assert_eq!(of(0, 0).timeout(), Duration::from_millis(500));
        assert_eq!(of(1 << 48, 0).min_page_shift(), 13);
        assert_eq!(of(1 << 24, 0xffff_0014).timeout(), Duration::from_secs(10));
        assert_eq!(of(40 << 24, 20).timeout(), Duration::from_secs(20));
        assert_eq!(of(255 << 24, 0).timeout(), Duration::from_millis(127_500));
        assert_eq!(of(0, u32::MAX).timeout(), READY_MAX);
    }

    #[test]
    fn doorbells_follow_the_stride() {
        assert_eq!(submission_doorbell(0, 4), 0x1000);
        assert_eq!(completion_doorbell(3, 4), 0x101c);
        assert_eq!(completion_doorbell(1, 16), 0x1030);
    }

    #[test]
    fn as_many_registers_are_used_as_the_queues_need() {
        struct Front(u64);
        impl Registers for Front {
            fn len(&self) -> usize {
                0x1000
            }
            fn read32(&self, offset: usize) -> u32 {
                match offset {
                    CAP => self.0 as u32,
                    4 => (self.0 >> 32) as u32,
                    _ => unreachable!(),
                }
            }
            fn write32(&self, _: usize, _: u32) {
                unreachable!()
            }
        }
        let of = |dstrd: u64, queues| register_bytes(&Front(dstrd << 32), queues);
        assert_eq!(of(0, 0), 0x1008);
        assert_eq!(of(0, 3), 0x1020);
        assert_eq!(of(0, u16::MAX), 0x8_1000);
        assert_eq!(of(15, 1), 0x1000 + 3 * (128 << 10) + 4);
    }
}
