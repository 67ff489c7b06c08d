//! A volume that grows while its ring is served, to blocks that need a map, or another one.
//!
//! The ring takes nothing new until all that it has taken has been answered, which is no longer than the
//! slowest of that takes; then it goes on with the new map. So no request is cut by two maps.

use alloc::boxed::Box;
use alloc::sync::Arc;

use spindle_block::{Discard, Map, Unit};
use spindle_hw::PAGE_SIZE;

use super::Session;
use super::spread::Spread;
use crate::abi::{Abi, MAX_INDIRECT_SEGMENTS, MAX_SEGMENTS};
use crate::ring::slots_in;
use crate::room::NoRoom;

/// What a ring needs to go on with a volume that has grown.
#[derive(Debug)]
pub struct RingGrowth {
    map: Arc<Map>,
    sectors: u64,
    discard: Option<Discard>,
    spread: Box<Spread>,
}

impl RingGrowth {
    /// For a ring of `pages` pages with requests of at most so many segments, whose volume has this `map`
    /// from now on, `sectors` of 512 bytes, and frees blocks as `discard` says.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(
        map: &Arc<Map>,
        sectors: u64,
        discard: Option<Discard>,
        (pages, abi, indirect_segments): (usize, Abi, u16),
    ) -> Result<Self, NoRoom> {
        // What is no ring has no session either.
        let requests = slots_in(pages * PAGE_SIZE, abi).unwrap_or(0) as usize;
        let segments = usize::from(indirect_segments).min(MAX_INDIRECT_SEGMENTS);
        let spread = Spread::new(map, requests, segments.max(MAX_SEGMENTS))?;
        Ok(Self {
            map: Arc::clone(map),
            sectors,
            discard,
            spread: Box::new(spread),
        })
    }

    /// Whether any of the volume's blocks is on this part of a disk.
    pub(crate) fn is_on_unit(&self, disk: usize, unit: Unit) -> bool {
        let mut disks = self.map.disks().iter();
        disks.any(|it| (it.disk, it.unit) == (disk, unit))
    }
}

impl Session {
    /// It takes nothing new until [`Session::grow`].
    pub(crate) fn begin_growth(&mut self) {
        self.growing = true;
        self.judge_stopped();
    }

    /// Whether all has been answered that it had taken by then.
    pub(crate) fn can_grow(&self) -> bool {
        self.growing && self.ring.taken() == 0
    }

    /// Goes on with the volume as it has grown. What is left of the former map is given back.
    pub(crate) fn grow(&mut self, growth: RingGrowth) {
        self.growing = false;
        if !self.removed {
            let RingGrowth {
                map,
                sectors,
                discard,
                spread,
            } = growth;
            let weight = self.account.weight();
            let volume = &mut self.volume;
            // As in [`Session::new`].
            (volume.disk, volume.map, volume.sectors) = (usize::MAX, Some(map), sectors);
            let known = volume.discard.zip(discard);
            volume.discard = known.map(|(before, now)| Discard {
                secure: before.secure && now.secure,
                ..before
            });
            self.spread = Some(spread);
            self.set_weight(weight);
            self.extent = self.volume.extent();
            self.judge_special();
        }
        self.judge_stopped();
    }
}
