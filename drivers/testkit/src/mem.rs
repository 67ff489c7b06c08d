//! Memory with bus addresses as a device sees it, and a clock that tests move by hand.

use std::cell::Cell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use spindle_hw::{BusMemory, Clock, DmaAlloc, PAGE_SIZE, Retake, SharedPages};
use spindle_kept::{Journal, JournalPages};

/// A bus: hands out pages with bus addresses and finds them again by address, as a device's DMA
/// does.
#[derive(Debug)]
pub struct FakeBus {
    pages: Mutex<Pages>,
    next: Mutex<u64>,
    /// All runs of pages that were ever allocated: a device may reach them until it is over.
    allocated: Mutex<Vec<SharedPages>>,
    outstanding: AtomicUsize,
    limit: AtomicUsize,
    /// What a life of the kernel that is over has had, and this one has not: it is free.
    former: Mutex<BTreeSet<u64>>,
}

/// For each page of the bus, by number: the run of pages that it is in.
type Pages = HashMap<u64, SharedPages, BuildHasherDefault<PageHasher>>;

/// Numbers of pages are spread by a multiplication.
#[derive(Debug, Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u64(&mut self, page: u64) {
        self.0 = page.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The number of the page that an address is in.
fn page_of(bus: u64) -> u64 {
    bus / PAGE_SIZE as u64
}

/// The numbers of a run's pages.
fn numbers(run: &SharedPages) -> Range<u64> {
    let first = page_of(run.bus());
    first..first + (run.len() / PAGE_SIZE) as u64
}

/// Runs of pages of buses that are no more, by how many they have: pages of the host are never freed.
static SPARE: Mutex<BTreeMap<usize, Vec<SharedPages>>> = Mutex::new(BTreeMap::new());

/// Pages for the journal of a ring, of no kept memory in particular.
#[must_use]
pub fn journal(ring: &SharedPages) -> JournalPages {
    let pages = Journal::pages_for(ring.len() / PAGE_SIZE);
    JournalPages {
        pages: SharedPages::host(pages, 0),
        first: 0,
    }
}

impl Default for FakeBus {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeBus {
    /// An empty bus; the first page gets address 1 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pages: Mutex::default(),
            next: Mutex::new(1 << 20),
            allocated: Mutex::default(),
            outstanding: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            former: Mutex::default(),
        }
    }

    /// The kernel has died: what it has had is free, and holds what it held. Devices still reach it.
    pub fn die(&self) {
        let all = self.pages.lock().unwrap();
        let runs = all
            .iter()
            .filter(|(page, run)| page_of(run.bus()) == **page);
        self.former
            .lock()
            .unwrap()
            .extend(runs.map(|(_, run)| run.bus()));
        self.outstanding.store(0, Ordering::Relaxed);
    }

    /// Nothing uses the bus any longer: others may have its memory.
    pub fn retire(&self) {
        self.pages.lock().unwrap().clear();
        let mut spare = SPARE.lock().unwrap();
        for run in self.allocated.lock().unwrap().drain(..) {
            spare.entry(run.len() / PAGE_SIZE).or_default().push(run);
        }
    }

    /// Makes allocations fail beyond `pages` pages in use.
    pub fn set_limit(&self, pages: usize) {
        self.limit.store(pages, Ordering::Relaxed);
    }

    /// Pages allocated and not yet given back.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Makes `pages` reachable at `bus`, where a page begins, as a grant mapping does.
    ///
    /// # Panics
    /// If something else is there.
    pub fn insert(&self, bus: u64, pages: SharedPages) {
        assert_eq!(bus % PAGE_SIZE as u64, 0);
        let run = pages.alias_at(bus);
        let mut all = self.pages.lock().unwrap();
        for page in numbers(&run) {
            match all.entry(page) {
                Entry::Vacant(place) => place.insert(run.alias()),
                Entry::Occupied(_) => panic!("page {page:#x} is in use"),
            };
        }
    }

    /// Takes the pages at `bus` off the bus.
    pub fn remove(&self, bus: u64) -> Option<SharedPages> {
        let mut all = self.pages.lock().unwrap();
        let run = all.get(&page_of(bus)).filter(|run| run.bus() == bus)?;
        let run = run.alias();
        for page in numbers(&run) {
            all.remove(&page);
        }
        Some(run)
    }

    /// Calls `with` on the pages that hold bus address `bus` and the offset in them; `None` if
    /// `len` bytes from there on are not in one run of pages.
    pub fn at<T>(
        &self,
        bus: u64,
        len: usize,
        with: impl FnOnce(&SharedPages, usize) -> T,
    ) -> Option<T> {
        let pages = self.pages.lock().unwrap();
        let run = pages.get(&page_of(bus))?;
        let offset = (bus - run.bus()) as usize;
        (offset.checked_add(len)? <= run.len()).then(|| with(run, offset))
    }

    /// Reads `out.len()` bytes at `bus`; false if not all of that is memory.
    #[must_use]
    pub fn read(&self, bus: u64, out: &mut [u8]) -> bool {
        pieces(bus, out.len()).all(|(bus, piece)| {
            let out = &mut out[piece];
            let len = out.len();
            let read = |pages: &SharedPages, offset| pages.read_bytes(offset, out);
            self.at(bus, len, read).is_some()
        })
    }

    /// Writes `data` at `bus`; false if not all of that is memory.
    #[must_use]
    pub fn write(&self, bus: u64, data: &[u8]) -> bool {
        pieces(bus, data.len()).all(|(bus, piece)| {
            let data = &data[piece];
            let write = |pages: &SharedPages, offset| pages.write_bytes(offset, data);
            self.at(bus, data.len(), write).is_some()
        })
    }
}

/// The pages that `len` bytes at `bus` lie in: where each begins, and which of the bytes it has.
/// Neighbours on the bus need not be so in memory, as grants that are mapped side by side.
fn pieces(bus: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = bus.wrapping_add(from as u64);
        let to = len.min(from + PAGE_SIZE - (at % PAGE_SIZE as u64) as usize);
        let piece = from..to;
        from = to;
        (!piece.is_empty()).then_some((at, piece))
    })
}

impl DmaAlloc for FakeBus {
    fn alloc(&self, pages: usize) -> Option<SharedPages> {
        let bytes = pages * PAGE_SIZE;
        if self.outstanding() + pages > self.limit.load(Ordering::Relaxed) {
            return None;
        }
        self.outstanding.fetch_add(pages, Ordering::Relaxed);
        let mut next = self.next.lock().unwrap();
        let bus = *next;
        // A hole after each run, so that an overrun is found.
        *next += (bytes + PAGE_SIZE) as u64;
        let spare = SPARE.lock().unwrap().get_mut(&pages).and_then(Vec::pop);
        let run = spare.map(|run| run.alias_at(bus));
        if let Some(run) = &run {
            run.zero(0, run.len());
        }
        let run = run.unwrap_or_else(|| SharedPages::host(pages, bus));
        self.insert(bus, run.alias());
        self.allocated.lock().unwrap().push(run.alias());
        Some(run)
    }

    fn free(&self, pages: SharedPages) {
        self.outstanding
            .fetch_sub(pages.len() / PAGE_SIZE, Ordering::Relaxed);
        let was = self.remove(pages.bus());
        assert!(
            was.is_some_and(|run| run.len() == pages.len()),
            "freed what was not allocated"
        );
    }
}

impl Retake for FakeBus {
    fn retake(&self, bus: u64, pages: usize) -> Option<SharedPages> {
        let all = self.pages.lock().unwrap();
        let same = |run: &&SharedPages| run.bus() == bus && run.len() == pages * PAGE_SIZE;
        let run = all.get(&page_of(bus)).filter(same)?;
        let was_former = self.former.lock().unwrap().remove(&bus);
        was_former.then(|| {
            self.outstanding.fetch_add(pages, Ordering::Relaxed);
            run.alias()
        })
    }
}

impl BusMemory for FakeBus {
    fn copy_from_bus(&self, bus: u64, to: &SharedPages, offset: usize, len: usize) -> bool {
        self.at(bus, len, |from, inside| {
            to.copy_from(offset, from, inside, len)
        })
        .is_some()
    }

    fn copy_to_bus(&self, from: &SharedPages, offset: usize, bus: u64, len: usize) -> bool {
        self.at(bus, len, |to, inside| {
            to.copy_from(inside, from, offset, len)
        })
        .is_some()
    }
}

/// A clock that moves only when it is set, or by a fixed step at each [`Clock::relax`].
#[derive(Debug, Default)]
pub struct FakeClock {
    now_ns: Cell<u64>,
    step_ns: u64,
}

impl FakeClock {
    /// A clock at 0 that moves by `step_ns` at each wait.
    #[must_use]
    pub fn new(step_ns: u64) -> Self {
        Self {
            now_ns: Cell::new(0),
            step_ns,
        }
    }

    /// Moves time on.
    pub fn advance(&self, ns: u64) {
        self.now_ns.set(self.now_ns.get() + ns);
    }
}

impl Clock for FakeClock {
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn relax(&self) {
        self.advance(self.step_ns);
    }
}
