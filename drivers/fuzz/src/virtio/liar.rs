//! A device's registers with lies among what is read. A byte of 0 in the script is honest, and so
//! is everything after its end.

use std::cell::RefCell;
use std::rc::Rc;

use arbitrary::Unstructured;
use spindle_hw::{NarrowRegisters, Registers};
use spindle_testkit::virtio::FakeVirtio;

#[derive(Clone)]
pub(super) struct Liar<'a> {
    device: FakeVirtio,
    script: Rc<RefCell<Unstructured<'a>>>,
}

impl<'a> Liar<'a> {
    pub(super) fn new(device: FakeVirtio, script: &'a [u8]) -> Self {
        Self {
            device,
            script: Rc::new(RefCell::new(Unstructured::new(script))),
        }
    }

    fn lie(&self, honest: u32) -> u32 {
        let mut script = self.script.borrow_mut();
        match script.arbitrary::<u8>().unwrap_or(0) {
            1 => script.arbitrary().unwrap_or(0),
            2 => u32::MAX,
            3 => 0,
            4 => honest ^ 1 << (script.arbitrary::<u8>().unwrap_or(0) % 32),
            _ => honest,
        }
    }
}

impl Registers for Liar<'_> {
    fn len(&self) -> usize {
        self.device.len()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.lie(self.device.read32(offset))
    }

    fn write32(&self, offset: usize, value: u32) {
        self.device.write32(offset, value);
    }
}

impl NarrowRegisters for Liar<'_> {
    fn read8(&self, offset: usize) -> u8 {
        self.lie(self.device.read8(offset).into()) as u8
    }

    fn read16(&self, offset: usize) -> u16 {
        self.lie(self.device.read16(offset).into()) as u16
    }

    fn write8(&self, offset: usize, value: u8) {
        self.device.write8(offset, value);
    }

    fn write16(&self, offset: usize, value: u16) {
        self.device.write16(offset, value);
    }
}
