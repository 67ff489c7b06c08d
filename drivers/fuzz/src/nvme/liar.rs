//! The registers and admin queue of a controller that follows a script; where the script ends,
//! it is honest. A byte of 0 in the script is honest too, so that lies can be few.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use arbitrary::Unstructured;
use spindle_hw::Registers;
use spindle_testkit::mem::FakeBus;

/// MQES 255, TO 20 s, CSS NVM.
const CAPABILITIES: u64 = 0x0020_2801_00ff;
const DOORBELLS: usize = 0x1000;
const ENTRIES: u64 = 16;

/// A completion queue, as the controller fills it.
#[derive(Clone, Copy, Default)]
struct Completions {
    bus: u64,
    entries: u64,
    tail: u64,
    phase: u32,
}

impl Completions {
    fn new(bus: u64, entries: u64) -> Self {
        Self {
            bus,
            entries,
            tail: 0,
            phase: 1,
        }
    }

    fn post(&mut self, memory: &FakeBus, cid: u16, status: u16, value: u32) {
        if self.entries == 0 {
            return;
        }
        let word = u32::from(status) << 17 | self.phase << 16 | u32::from(cid);
        put(memory, self.bus + 16 * self.tail, value);
        put(memory, self.bus + 16 * self.tail + 12, word);
        self.tail = (self.tail + 1) % self.entries;
        self.phase ^= u32::from(self.tail == 0);
    }
}

/// A word, if there is memory.
fn put(memory: &FakeBus, at: u64, word: u32) {
    memory.at(at, 4, |pages, offset| {
        pages.u32_at(offset).store(word, SeqCst)
    });
}

struct State<'a> {
    script: Unstructured<'a>,
    memory: Arc<FakeBus>,
    capabilities: u64,
    version: u32,
    /// Each completion taken calls forth another.
    flood: bool,
    cc: u32,
    asq: u64,
    head: u64,
    admin: Completions,
    io: Completions,
}

#[derive(Clone)]
pub(super) struct Liar<'a>(Rc<RefCell<State<'a>>>);

impl<'a> Liar<'a> {
    pub(super) fn new(memory: &Arc<FakeBus>, script: &'a [u8]) -> Self {
        let mut script = Unstructured::new(script);
        let mut lie = || script.arbitrary::<u64>().unwrap_or(0);
        let (bits, version) = (lie(), lie() as u32);
        Self(Rc::new(RefCell::new(State {
            flood: script.arbitrary::<u8>().unwrap_or(0) == 99,
            script,
            memory: memory.clone(),
            capabilities: CAPABILITIES ^ bits,
            version: 0x0001_0400 ^ version,
            cc: 0,
            asq: 0,
            head: 0,
            admin: Completions::default(),
            io: Completions::default(),
        })))
    }

    /// Posts a completion on the I/O queue.
    pub(super) fn post_io(&self, cid: u16, status: u16) {
        let state = &mut *self.0.borrow_mut();
        state.io.post(&state.memory, cid, status, 0);
    }

    /// Writes a word into the I/O completion queue.
    pub(super) fn scribble(&self, at: u16, word: u32) {
        let state = self.0.borrow();
        let words = (state.io.entries * 4).max(1);
        put(
            &state.memory,
            state.io.bus + u64::from(at) % words * 4,
            word,
        );
    }
}

impl State<'_> {
    fn byte(&mut self) -> u8 {
        self.script.arbitrary().unwrap_or(0)
    }

    fn word(&mut self) -> u32 {
        self.script.arbitrary().unwrap_or(0)
    }

    fn status(&mut self) -> u32 {
        let honest = self.cc & 1 | if self.cc >> 14 & 3 != 0 { 8 } else { 0 };
        match self.byte() {
            1 => self.word(),
            2 => honest ^ 1,
            3 => 2,
            4 => u32::MAX,
            _ => honest,
        }
    }

    fn run_admin(&mut self, tail: u64) {
        let mut left = ENTRIES;
        while self.head != tail % ENTRIES && left > 0 {
            let mut entry = [0; 64];
            let there = self.memory.read(self.asq + 64 * self.head, &mut entry);
            assert!(there, "the admin queue is not in memory");
            self.head = (self.head + 1) % ENTRIES;
            left -= 1;
            let dword = |n: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| entry[4 * n + i]));
            let prp1 = u64::from(dword(6)) | u64::from(dword(7)) << 32;
            let cid = (dword(0) >> 16) as u16;
            let value = self.execute(entry[0], prp1, dword(10));
            self.answer(cid, value);
        }
    }

    fn execute(&mut self, opcode: u8, prp1: u64, cdw10: u32) -> u32 {
        match opcode {
            0x05 => {
                let entries = u64::from(cdw10 >> 16) + 1;
                self.io = Completions::new(prp1, entries);
                0
            }
            0x06 => {
                let mut page = identify(cdw10 & 0xff);
                for _ in 0..self.byte() % 16 {
                    let at = self.word() as usize % 1024;
                    let lie = self.word().to_le_bytes();
                    page[4 * at..4 * at + 4].copy_from_slice(&lie);
                }
                assert!(self.memory.write(prp1, &page), "Identify into no memory");
                0
            }
            0x09 if self.byte() == 0 => 3 << 16 | 3,
            0x09 => self.word(),
            _ => 0,
        }
    }

    fn answer(&mut self, cid: u16, value: u32) {
        let mut lies = [(cid, 0); 2];
        let count = match self.byte() {
            1 => {
                lies[0].1 = self.word() as u16 & 0x7fff;
                1
            }
            2 => {
                lies[0] = (self.word() as u16, self.word() as u16 & 0x7fff);
                2
            }
            3 => 0,
            4 => 2,
            _ => 1,
        };
        for &(cid, status) in &lies[..count] {
            self.admin.post(&self.memory, cid, status, value);
        }
    }
}

/// An honest Identify page: one namespace of 1000 blocks.
fn identify(cns: u32) -> Vec<u8> {
    let mut page = vec![0; 4096];
    match cns {
        0 => {
            page[..8].copy_from_slice(&1000u64.to_le_bytes());
            page[130] = 9;
        }
        1 => {
            page[512..514].copy_from_slice(&[0x66, 0x44]);
            page[516] = 1;
            page[520] = 4;
        }
        _ => page[0] = 1,
    }
    page
}

impl Registers for Liar<'_> {
    fn len(&self) -> usize {
        0x4000
    }

    fn read32(&self, offset: usize) -> u32 {
        let state = &mut *self.0.borrow_mut();
        match offset {
            0x00 => state.capabilities as u32,
            0x04 => (state.capabilities >> 32) as u32,
            0x08 => state.version,
            0x14 => state.cc,
            0x1c => state.status(),
            _ => 0,
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        let state = &mut *self.0.borrow_mut();
        let stride = 4 << (state.capabilities >> 32 & 0xf);
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            0x14 => {
                if state.cc & 1 == 0 && value & 1 != 0 {
                    (state.head, state.io) = (0, Completions::default());
                    state.admin = Completions::new(state.admin.bus, ENTRIES);
                }
                state.cc = value;
            }
            0x28 => state.asq = low(state.asq),
            0x2c => state.asq = high(state.asq),
            0x30 => state.admin.bus = low(state.admin.bus),
            0x34 => state.admin.bus = high(state.admin.bus),
            DOORBELLS => state.run_admin(value.into()),
            _ if offset == DOORBELLS + stride && state.flood => {
                state.admin.post(&state.memory, 0xffff, 0, 0);
            }
            _ => {}
        }
    }
}
