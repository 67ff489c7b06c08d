//! A small disk that reaches memory when a command ends, not when it is submitted, and holds
//! every command against what a disk may be asked.

use std::collections::VecDeque;

use spindle_block::{
    Command, Discard, DiskQueue, IoResult, Op, SECTOR_SIZE, Segment, SubmitError, Tag, Unit, Volume,
};
use spindle_testkit::mem::FakeBus;

/// Sectors of each of the two volumes.
pub(crate) const SECTORS: u64 = 64;

pub(crate) struct SmallDisk<'b> {
    bus: &'b FakeBus,
    data: Vec<u8>,
    depth: usize,
    commands: VecDeque<(Tag, Op, usize, Vec<Segment>)>,
    /// Commands do not end.
    pub(crate) hold: bool,
}

impl<'b> SmallDisk<'b> {
    pub(crate) fn new(bus: &'b FakeBus, depth: usize) -> Self {
        Self {
            bus,
            data: vec![0; (2 * SECTORS * SECTOR_SIZE) as usize],
            depth,
            commands: VecDeque::new(),
            hold: false,
        }
    }
}

/// One half of the disk.
pub(crate) fn volume(half: u64) -> Volume {
    Volume {
        name: format!("half{half}"),
        aliases: Vec::new(),
        disk: 0,
        unit: Unit(1),
        start: half * SECTORS,
        sectors: SECTORS,
        block_shift: 9,
        physical_block_shift: 9,
        read_only: false,
        write_cache: true,
        discard: Some(Discard {
            granularity: 512,
            alignment: 0,
            secure: true,
        }),
        description: String::new(),
        map: None,
    }
}

impl DiskQueue for SmallDisk<'_> {
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        if self.commands.len() >= self.depth {
            return Err(SubmitError::Full);
        }
        let mut total = 0;
        for segment in command.segments {
            assert!(segment.bus() % 4096 + u64::from(segment.bytes()) <= 4096);
            total += segment.bytes() as usize;
        }
        let at = command.block as usize * SECTOR_SIZE as usize;
        if matches!(command.op, Op::Discard | Op::SecureDiscard) {
            let end = command.block.checked_add(command.blocks);
            assert!(command.blocks > 0 && total == 0);
            assert!(end.is_some_and(|end| end <= 2 * SECTORS), "beyond the end");
        } else if command.op == Op::Flush {
            assert_eq!(total, 0);
        } else {
            assert!(total > 0 && total.is_multiple_of(SECTOR_SIZE as usize));
            assert!(at + total <= self.data.len(), "beyond the end of the disk");
        }
        let segments = command.segments.to_vec();
        self.commands.push_back((tag, command.op, at, segments));
        Ok(())
    }

    fn commit(&mut self) {}

    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        if self.hold {
            return 0;
        }
        let count = self.commands.len();
        for (tag, op, mut at, segments) in self.commands.drain(..) {
            for segment in segments {
                let bytes = &mut self.data[at..at + segment.bytes() as usize];
                let reached = match op {
                    Op::Read => self.bus.write(segment.bus(), bytes),
                    _ => self.bus.read(segment.bus(), bytes),
                };
                assert!(reached, "memory of a command in flight went away");
                at += segment.bytes() as usize;
            }
            done(tag, Ok(()));
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.commands.len()
    }

    fn fail_all(&mut self, mut done: impl FnMut(Tag, IoResult)) {
        self.depth = 0;
        for (tag, ..) in self.commands.drain(..) {
            done(tag, Err(spindle_block::IoError::Aborted));
        }
    }
}
