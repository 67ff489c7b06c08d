//! What a controller says of itself, as an administrator asks for it: one page at a time, by commands that
//! only read, of which nothing waits for the answer.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use spindle_block::Inspection;
use spindle_status::inspect::{InspectOrder, hexadecimal};

use super::Disks;
use super::care::Care;

/// How long a controller is waited for, which may be reset meanwhile.
const PATIENCE_NS: u64 = 10_000_000_000;

/// A page that is asked for.
pub(super) struct Inspecting {
    /// Stands before the answer.
    word: String,
    disk: usize,
    wanted: Inspection,
    /// The controller has been asked.
    asked: bool,
    /// When it is waited for no longer.
    until: u64,
}

impl<Q> Disks<Q> {
    /// Begins to read a page; the answer comes with [`Disks::inspected`].
    pub(crate) fn inspect(&mut self, text: &[u8], now: u64) {
        let text = str::from_utf8(text).unwrap_or_default();
        let order = InspectOrder::parse(text);
        let named = |name| {
            let mut disks = self.disks.iter();
            disks.position(|disk| disk.controller.name() == name)
        };
        let why = match order.map(|order| (order, named(order.disk))) {
            None => "it is no order",
            Some((_, None)) => "there is no such controller",
            Some(_) if self.inspecting.is_some() => "another page is being read",
            Some((order, Some(disk))) => {
                self.inspecting = Some(Inspecting {
                    word: order.word.to_string(),
                    disk,
                    wanted: order.wanted,
                    asked: false,
                    until: now.saturating_add(PATIENCE_NS),
                });
                return;
            }
        };
        let word = text.split(' ').next().unwrap_or_default();
        self.refuse(word, why);
    }

    fn refuse(&mut self, word: &str, why: &str) {
        self.inspected = Some(format!("{word} refused: {why}"));
    }

    /// Asks the controller, once that can be done, and waits for it no longer than it may take.
    pub(super) fn go_on_inspecting(&mut self, now: u64, care: &mut Care) {
        let Some(mut page) = self.inspecting.take() else {
            return;
        };
        let known = match page.asked {
            true => Some(true),
            false => self.disks[page.disk].controller.inspect(page.wanted),
        };
        let why = match known {
            None => "it is no NVMe controller",
            Some(_) if self.targets.lost(page.disk).is_some() => "it is lost",
            Some(_) if now >= page.until => "it has not answered within 10 s",
            Some(asked) => {
                page.asked = asked;
                self.inspecting = Some(page);
                care.soon = true;
                return;
            }
        };
        self.refuse(&page.word, why);
    }

    /// A controller has answered.
    pub(super) fn take_page(&mut self, number: usize, page: Result<Vec<u8>, String>) {
        let is_it = |page: &mut Inspecting| page.asked && page.disk == number;
        let Some(Inspecting { word, .. }) = self.inspecting.take_if(is_it) else {
            return;
        };
        match page {
            Ok(bytes) => self.inspected = Some(format!("{word} done, {}", hexadecimal(&bytes))),
            Err(why) => self.refuse(&word, &why),
        }
    }

    /// The answer to who asked, once.
    pub(crate) fn inspected(&mut self) -> Option<String> {
        self.inspected.take()
    }
}
