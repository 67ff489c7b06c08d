//! What goes wrong in a run, how often, and how often it has.

use crate::chance::Chance;

macro_rules! kinds {
    ($($name:ident $text:literal,)*) => {
        /// Something that goes wrong, or that someone does in the middle of everything else.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = $text] $name,)*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What it is, in a few words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

kinds! {
    MediaError "a block that cannot be read or written",
    Transient "an NVMe status after which the command is to be sent again",
    Late "a disk that answers nothing for seconds",
    LostCompletion "an NVMe command that is carried out and never answered",
    Stuck "a command that is never carried out",
    Spurious "a completion of no command",
    Fatal "a controller that reports its own failure",
    Hung "an NVMe controller that answers nothing until it is reset",
    Removed "a disk that is pulled out, and put in again later",
    MapOperation "a grant that is not mapped",
    MapHypercall "a hypercall to map grants that fails",
    CopyOperation "a grant copy that fails",
    CopyHypercall "a hypercall to copy that fails",
    BindRefused "an event channel that cannot be bound",
    FramesShort "no guest frames left to map at",
    HeapShort "no memory left",
    EventLost "a notification that is lost",
    EventUnheard "a notification that does not end the sleep of a core",
    CoreStalls "a ring core that is not run for a while",
    StoreSlow "a slow xenstored",
    StoreConflict "a transaction that must be repeated",
    GuestKilled "a guest that is destroyed in the middle of its requests",
    Detached "a disk that is detached from its guest",
    Reloaded "a frontend that closes and connects again",
    RingBroken "a frontend that publishes more requests than its ring holds",
    Death "a death of the kernel, which starts again in its domain",
    Update "an update of the kernel, before which cores are drained",
    Limited "an order of an operator for other limits",
    Storm "several of all these within a second",
}

impl Kind {
    /// The kind of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let named = |kind: &&Self| format!("{kind:?}") == name;
        Self::ALL.iter().find(named).copied()
    }
}

/// How often each kind happens.
#[derive(Clone, Debug)]
pub(crate) struct Rates {
    /// Mean time between two, in ns, by kind; `None` if it does not happen.
    mean: Vec<Option<u64>>,
    due: Vec<u64>,
    /// How many more come at once, by kind.
    burst: Vec<u64>,
    count: Vec<u64>,
    /// The earliest that is due.
    next: u64,
    chance: Chance,
    /// For what comes by [`Kind::Storm`].
    storms: Chance,
}

/// After these, something else often goes wrong at once in a run with storms: while the domain recovers.
const ENDS: [Kind; 6] = [
    Kind::Stuck,
    Kind::Fatal,
    Kind::Hung,
    Kind::Removed,
    Kind::Death,
    Kind::Update,
];

const SECOND: u64 = 1_000_000_000;

impl Rates {
    /// Each of `kinds` half of the time, at any rate; one that is alone in any case, and often.
    pub(crate) fn draw(mut chance: Chance, kinds: &[Kind], now: u64) -> Self {
        let mut mean = vec![None; Kind::ALL.len()];
        let mut own = chance.clone();
        for kind in Kind::ALL {
            // What came to the kinds later is drawn apart: seeds that have found something find it yet.
            let chance = match *kind <= Kind::Update {
                true => &mut chance,
                false => &mut own,
            };
            // Drawn for all, so that a run with fewer kinds has the same rates of those.
            let rate = chance.scale(4..1024) * SECOND;
            let happens = chance.one_in(2);
            if kinds == [*kind] {
                mean[*kind as usize] = Some(rate / 32 + SECOND / 4);
            } else if happens && kinds.contains(kind) {
                mean[*kind as usize] = Some(rate);
            }
        }
        let mut rates = Self {
            due: vec![u64::MAX; mean.len()],
            burst: vec![0; mean.len()],
            count: vec![0; mean.len()],
            next: u64::MAX,
            mean,
            chance,
            storms: own,
        };
        Kind::ALL.iter().for_each(|kind| rates.plan(*kind, now));
        rates
    }

    fn plan(&mut self, kind: Kind, now: u64) {
        let Some(mean) = self.mean[kind as usize] else {
            return;
        };
        let burst = &mut self.burst[kind as usize];
        let wait = if *burst > 0 {
            *burst -= 1;
            self.chance.within(0..SECOND / 10)
        } else {
            if self.chance.one_in(5) {
                *burst = self.chance.scale(1..16);
            }
            self.chance.within(0..mean * 2)
        };
        self.due[kind as usize] = now + wait;
        self.next = self.due.iter().copied().min().unwrap_or(u64::MAX);
    }

    /// Has up to `most` kinds that happen in this run go wrong soon.
    fn gather(&mut self, most: usize, now: u64, within: u64) {
        let happens = |kind: &&Kind| self.mean[**kind as usize].is_some();
        let kinds: Vec<Kind> = Kind::ALL.iter().filter(happens).copied().collect();
        for _ in 0..=self.storms.index(most) {
            let kind = self.storms.pick(&kinds);
            let due = now + self.storms.scale(1_000..within);
            if kind != Kind::Storm {
                let before = &mut self.due[kind as usize];
                *before = due.min(*before);
                self.next = due.min(self.next);
            }
        }
    }

    /// When something goes wrong next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes what is due.
    pub(crate) fn take(&mut self, now: u64) -> Option<Kind> {
        let kind = *Kind::ALL.iter().find(|k| self.due[**k as usize] <= now)?;
        self.plan(kind, now);
        if kind == Kind::Storm {
            self.gather(8, now, SECOND);
        } else if self.mean[Kind::Storm as usize].is_some()
            && ENDS.contains(&kind)
            && self.storms.one_in(2)
        {
            self.gather(4, now, 3 * SECOND);
        }
        Some(kind)
    }

    /// It has happened.
    pub(crate) fn note(&mut self, kind: Kind) {
        self.count[kind as usize] += 1;
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn end(&mut self) {
        self.due.fill(u64::MAX);
        self.next = u64::MAX;
    }

    /// How often each has happened.
    pub(crate) fn counts(&self) -> Vec<u64> {
        self.count.clone()
    }
}
