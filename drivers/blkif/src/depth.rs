//! How many pages a disk is given at once while rings compete for it: what keeps all of it busy,
//! and not so many that what comes next waits long.
//!
//! By Little's law the pages with a disk, times the time, over the pages that it finished in it,
//! are how long it has each. With as few as one for each ring that is what a page takes alone, or
//! beside what other cores do; this is tried now and then. Given more, a disk finishes more in the
//! same time up to the number that it works on at once, and from then on takes longer for each.
//! The window is held where a page takes one and a half to two times as long as it must: disks do
//! not come to their limit at once, and less would leave much of them idle.
//! Whatever mix the rings ask for, the same mix is compared.

/// The window to begin with.
const FIRST: u32 = 32;

/// How long the window is used before it is tried again how long a page takes alone.
const RUN_NS: u64 = 500_000_000;

/// A measurement ends after so long, or after so many pages for each that may be with the disk.
const EPOCH_NS: u64 = 20_000_000;
const EPOCH_PAGES: u64 = 4;

/// Fewer pages than this say little.
const LEAST_PAGES: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The window is used, and adapted, until this time.
    Run { until_ns: u64 },
    /// What is too much for a trial is waited for.
    Drain,
    /// A page for each ring is with the disk.
    Probe,
}

/// The window of one disk.
#[derive(Debug)]
pub(crate) struct Depth {
    window: u32,
    most: u32,
    rings: u32,
    phase: Phase,
    /// What a page takes, in nanoseconds, with a page for each ring; 0 = not known yet.
    alone_ns: u64,
    /// Since this time there were so many page-nanoseconds, and pages finished.
    began_ns: u64,
    area: u64,
    finished: u64,
    /// More would have been sent.
    crowded: bool,
    /// Pages with the disk since the last look, and when that was.
    load: u32,
    looked_ns: u64,
}

impl Depth {
    /// For a queue with so many places.
    pub(crate) fn new(places: usize) -> Self {
        // A full window leaves places for the rings that have less than their share.
        let most = u32::try_from(places - places / 4)
            .unwrap_or(u32::MAX)
            .max(1);
        Self {
            window: FIRST.min(most),
            most,
            rings: 0,
            // Nothing is known yet: it is tried after the first measurement.
            phase: Phase::Run { until_ns: 0 },
            alone_ns: 0,
            began_ns: 0,
            area: 0,
            finished: 0,
            crowded: false,
            load: 0,
            looked_ns: 0,
        }
    }

    /// Pages that may be with the disk at once.
    #[inline]
    pub(crate) fn pages(&self) -> u32 {
        match self.phase {
            Phase::Run { .. } => self.window,
            Phase::Drain | Phase::Probe => self.rings.max(1),
        }
    }

    /// `load` pages are with the disk from now on.
    pub(crate) fn note(&mut self, load: u32, now_ns: u64) {
        let time = now_ns.saturating_sub(core::mem::replace(&mut self.looked_ns, now_ns));
        self.area = self.area.saturating_add(u64::from(self.load) * time);
        self.load = load;
    }

    /// The disk has finished what it had beyond `load` pages. So many rings compete for it, some
    /// of which had no room for more, if it was `crowded`.
    pub(crate) fn observe(&mut self, load: u32, rings: u32, crowded: bool, now_ns: u64) {
        self.finished += u64::from(self.load.saturating_sub(load));
        self.note(load, now_ns);
        self.rings = rings;
        self.crowded |= crowded;
        let time = now_ns.saturating_sub(self.began_ns);
        let pages = u64::from(self.pages());
        let enough = match self.phase {
            Phase::Drain => u64::from(load) <= pages,
            _ => self.finished >= (pages * EPOCH_PAGES).max(LEAST_PAGES),
        };
        if !enough && time < EPOCH_NS {
            return;
        }
        let each_ns = self.area / self.finished.max(1);
        let phase = self.phase;
        match phase {
            Phase::Drain => self.enter(Phase::Probe, now_ns),
            Phase::Probe => {
                if self.finished > 0 {
                    self.alone_ns = match self.alone_ns {
                        0 => each_ns,
                        known => known.midpoint(each_ns),
                    };
                }
                let until_ns = now_ns.saturating_add(RUN_NS);
                self.enter(Phase::Run { until_ns }, now_ns);
            }
            Phase::Run { until_ns } => {
                if self.finished >= LEAST_PAGES && self.alone_ns > 0 {
                    self.adapt(each_ns);
                }
                let over = now_ns >= until_ns;
                self.enter(if over { Phase::Drain } else { phase }, now_ns);
            }
        }
    }

    /// A page took so long.
    fn adapt(&mut self, each_ns: u64) {
        let step = (self.window / 8).max(1);
        if each_ns > self.alone_ns * 2 {
            let least = (self.rings + 1).min(self.most);
            self.window = self.window.saturating_sub(step).max(least);
        } else if self.crowded && each_ns * 2 <= self.alone_ns * 3 {
            self.window = (self.window + step).min(self.most);
        }
    }

    fn enter(&mut self, phase: Phase, now_ns: u64) {
        self.phase = phase;
        self.began_ns = now_ns;
        (self.area, self.finished, self.crowded) = (0, 0, false);
    }
}
