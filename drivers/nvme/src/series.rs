//! Series of admin commands that control does not wait for: it has other disks, and guests, to look
//! after, and a controller may take a minute for each.
//!
//! What is to be done is written as if it were waited for. It ends with [`Error::Pending`] where an
//! answer has not come yet, and is done once more from its beginning at the next look, with the
//! answers that have come so far; so it must come to the same when it is done again.

use alloc::boxed::Box;
use alloc::vec::Vec;

use spindle_hw::{Clock, DmaAlloc, PAGE_SIZE, Registers};
use zerocopy::IntoBytes;

use crate::admin::{self, Posted};
use crate::command::Entry;
use crate::identify::blank;
use crate::{Controller, Error, Status};

/// How long an answer is waited for nevertheless: most come at once.
const MOMENT_NS: u64 = 500_000;

/// A page that a command filled.
type Page = [u8; PAGE_SIZE];

/// A command, and how it ended.
#[derive(Debug)]
struct Answered {
    entry: Entry,
    result: Result<u32, Error>,
    /// If the command has a page.
    data: Option<Box<Page>>,
}

/// What a series has come to.
#[derive(Debug, Default)]
pub(crate) struct Series {
    answers: Vec<Answered>,
    /// The command that is in flight.
    asked: Option<Entry>,
    /// The answer in use.
    current: usize,
    /// Commands belong to it just now.
    active: bool,
}

impl Series {
    pub(crate) fn is_active(&self) -> bool {
        self.active
    }

    /// Whether an answer is awaited.
    pub(crate) fn is_pending(&self) -> bool {
        self.asked.is_some()
    }

    /// Copies out the beginning of what the last command filled.
    pub(crate) fn read_data(&self, out: &mut [u8]) {
        let answer = self.answers.get(self.current);
        if let Some(data) = answer.and_then(|answer| answer.data.as_ref()) {
            for (to, from) in out.iter_mut().zip(data.iter()) {
                *to = *from;
            }
        }
    }
}

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Does a series of admin commands, or as much of it as is answered by now.
    ///
    /// # Errors
    /// [`Error::Pending`]: it is to be done again, the same way.
    pub(crate) fn in_series<T>(
        &mut self,
        series: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.series.active = true;
        let result = series(self);
        self.series.active = false;
        if !matches!(result, Err(Error::Pending)) {
            self.series = Series::default();
        }
        result
    }

    /// A command of a series.
    #[inline(never)]
    pub(crate) fn step(&mut self, entry: Entry) -> Result<u32, Error> {
        let start = self.clock.now_ns();
        loop {
            let known = self.series.answers.iter();
            if let Some(at) = known.clone().position(|answer| answer.entry == entry) {
                self.series.current = at;
                return self.series.answers[at].result;
            }
            if self.series.asked.is_none() {
                self.admin.prepare_data(&entry);
                if !self.post(Posted::Series, entry) {
                    return Err(Error::OutOfOrder);
                }
                self.series.asked = Some(entry);
            }
            self.take_answer()?;
            if self.series.asked.is_some() {
                let now = self.clock.now_ns();
                if self.admin.is_late(Posted::Series, now) {
                    let (opcode, limit) = (entry.opcode, admin::LIMIT);
                    return Err(Error::Timeout { opcode, limit });
                }
                if now.saturating_sub(start) >= MOMENT_NS {
                    return Err(Error::Pending);
                }
                self.clock.relax();
            }
        }
    }

    /// Keeps the answer to the command in flight, if it has come.
    fn take_answer(&mut self) -> Result<(), Error> {
        let stride = self.capabilities.doorbell_stride();
        self.admin.poll(&self.registers, stride);
        let Some((status, value)) = self.admin.answer_to(Posted::Series) else {
            return Ok(());
        };
        let Some(entry) = self.series.asked.take() else {
            return Ok(());
        };
        let data = if entry.prp1 == self.admin.data() {
            let mut page = blank::<Page>().ok_or(Error::Memory)?;
            self.admin.read_data(page.as_mut_bytes());
            Some(page)
        } else {
            None
        };
        let result = match status.code() {
            Status::SUCCESS => Ok(value),
            _ => Err(Error::Command {
                opcode: entry.opcode,
                status,
            }),
        };
        self.series.answers.push(Answered {
            entry,
            result,
            data,
        });
        Ok(())
    }

    /// Copies out the beginning of what the last admin command filled.
    pub(crate) fn read_answer(&self, out: &mut [u8]) {
        if self.series.is_active() {
            self.series.read_data(out);
        } else {
            self.admin.read_data(out);
        }
    }
}
