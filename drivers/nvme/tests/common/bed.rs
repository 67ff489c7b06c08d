//! A controller with its cores and its control, in one thread, and time that passes for all of them.

use spindle_block::{DiskQueue, IoResult, Op, Segment, Tag};
use spindle_hw::SharedPages;
use spindle_nvme::{Attention, Back, Change, Lost};
use spindle_testkit::queue::pages;

use super::{Queue, Rig, Running, command};

pub(crate) const SECOND: u64 = 1_000_000_000;
/// Half a minute is the limit of a command, another half that of its abort.
pub(crate) const LIMIT: u64 = 31 * SECOND;

/// A controller, its clock, and the core with its queue, all in one thread.
pub(crate) struct Bed<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) controller: Running<'a>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) memory: SharedPages,
    pub(crate) now: u64,
    pub(crate) answers: Vec<(u32, IoResult)>,
    pub(crate) lost: Option<Lost>,
    pub(crate) back: Option<Back>,
    /// How often the write cache may have been lost.
    pub(crate) cache_losses: usize,
    /// All that has changed so far.
    pub(crate) changes: Vec<Change>,
    /// Control closes namespaces that are removed for those who use them.
    pub(crate) closes: bool,
}

impl<'a> Bed<'a> {
    pub(crate) fn new(rig: &'a Rig, queues: usize) -> Self {
        Self::with(rig, rig.start().unwrap(), queues)
    }

    /// The same with a controller that exists.
    pub(crate) fn with(rig: &'a Rig, mut controller: Running<'a>, queues: usize) -> Self {
        let queue = |_| controller.create_queue(rig.disk.clone()).unwrap();
        let queues = (0..queues).map(queue).collect();
        let mut bed = Self {
            rig,
            controller,
            queues,
            memory: rig.memory(4),
            now: 0,
            answers: Vec::new(),
            lost: None,
            back: None,
            cache_losses: 0,
            changes: Vec::new(),
            closes: true,
        };
        bed.turn();
        bed
    }

    pub(crate) fn segments(&self) -> Vec<Segment> {
        pages(&self.memory)
    }

    pub(crate) fn submit(&mut self, queue: usize, op: Op, tag: u32) {
        let segments = self.segments();
        let segments = match op {
            Op::Flush => &[],
            Op::Read => &segments[1..2],
            _ => &segments[..1],
        };
        let command = command(op, 1, 9, u64::from(tag) * 8, segments);
        self.queues[queue].submit(&command, Tag(tag)).unwrap();
        self.queues[queue].commit();
    }

    /// A command of one block for namespace `unit`.
    pub(crate) fn submit_to(&mut self, queue: usize, op: Op, unit: u32, shift: u8, tag: u32) {
        let segment = Segment::new(self.memory.bus(), 1 << shift);
        let segments = [segment];
        let command = command(op, unit, shift, u64::from(tag), &segments);
        self.queues[queue].submit(&command, Tag(tag)).unwrap();
        self.queues[queue].commit();
    }

    /// Has all that is in flight fail, as the cores do when the disk is lost.
    pub(crate) fn fail_all(&mut self) {
        for queue in &mut self.queues {
            queue.fail_all(|tag, result| self.answers.push((tag.0, result)));
        }
    }

    /// What each core does at a turn.
    pub(crate) fn turn(&mut self) {
        for queue in &mut self.queues {
            queue.poll(|tag, result| self.answers.push((tag.0, result)));
            queue.tick(self.now);
        }
    }

    /// Time passes for cores and control; control comes by.
    pub(crate) fn pass(&mut self, ns: u64) -> Attention {
        self.now += ns;
        self.rig.clock.advance(ns);
        self.turn();
        if self.closes {
            self.controller.closed();
        }
        let attention = self.controller.attend();
        self.lost = self.lost.or(attention.lost);
        self.back = self.back.or(attention.back);
        self.changes.extend(&attention.changes);
        self.cache_losses += usize::from(attention.cache_lost);
        attention
    }

    /// As long as control has to come by soon.
    pub(crate) fn settle(&mut self) {
        let mut turns = 0;
        while self.pass(1_000_000).soon {
            turns += 1;
            assert!(turns < 100_000, "no end of it");
        }
        // One turn to submit again, one for the answers.
        self.turn();
        self.turn();
    }

    /// Passes a limit twice, so that an abort that does not help is followed by a reset.
    pub(crate) fn wait(&mut self) {
        self.pass(LIMIT);
        self.pass(LIMIT);
        self.settle();
    }
}
