//! A ring of a few slots, its guest and the kernel, in every state that they can come into.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use spindle_blkif::abi::{Abi, Operation, RING_HEADER, RspStatus};
use spindle_blkif::ring::{BackRing, Body};
use spindle_kept::journal::Journal;

use crate::memory::{Broken, Memory, with_stores};

const REQ_PROD: usize = 0;
const RSP_PROD: usize = 8;

type Ring = BackRing<Memory, Memory>;

/// How far the search goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Slots of the ring.
    pub(crate) slots: u32,
    /// The number of the first request.
    pub(crate) start: u32,
    /// Requests.
    pub(crate) requests: u32,
    /// Deaths.
    pub(crate) deaths: u32,
}

/// A request that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Held {
    place: u16,
    id: u64,
}

/// The words of request number `index`: what precedes the segments, and two of these.
fn request(index: u32) -> [u64; 5] {
    let id = u64::from(index);
    [1 | 2 << 8, id, id * 8, id | 1 << 40, id | 2 << 40]
}

/// All of it at one moment.
#[derive(Clone, Debug)]
pub(crate) struct State {
    ring: Ring,
    /// What the kernel has taken and not answered.
    held: Vec<Held>,
    req_prod: u32,
    rsp_cons: u32,
    /// What the guest has asked for and had no response to.
    asked: BTreeSet<u64>,
    deaths: u32,
    /// The kernel is dead. What it had beside the memory does not count.
    dead: bool,
}

/// What the kernel does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Takes so many requests.
    Take(u32),
    /// Answers one of those that it has.
    Answer(usize),
    /// Publishes.
    Publish,
}

impl State {
    /// The beginning.
    pub(crate) fn new(bounds: Bounds, broken: Broken) -> Self {
        let Bounds { slots, start, .. } = bounds;
        let memory = Memory::new(slots as usize, broken);
        for index in [REQ_PROD, RSP_PROD] {
            memory.poke(index, 4, start.into());
        }
        let journal = Journal::begin(Memory::new(slots as usize, Broken::No), slots, start);
        let journal = journal.unwrap_or_else(|(error, _)| panic!("{error}"));
        // Only what comes later is wrong.
        let kept = Memory::new(slots as usize, broken);
        for (at, word) in journal.memory().contents().0.into_iter().enumerate() {
            kept.poke(at * 8, 8, word);
        }
        let (journal, _) = Journal::recover(kept, slots, &mut vec![0; slots as usize])
            .unwrap_or_else(|(error, _)| panic!("{error}"));
        Self {
            ring: BackRing::new(memory, journal, Abi::Native, start),
            held: Vec::new(),
            req_prod: start,
            rsp_cons: start,
            asked: BTreeSet::new(),
            deaths: 0,
            dead: false,
        }
    }

    fn slots(&self) -> u32 {
        self.ring.size()
    }

    fn slot(&self, index: u32) -> usize {
        RING_HEADER + Abi::Native.slot_bytes() * (index % self.slots()) as usize
    }

    /// The guest asks for one more thing; false if it may not.
    pub(crate) fn ask(&mut self) -> bool {
        if self.req_prod.wrapping_sub(self.rsp_cons) == self.slots() {
            return false;
        }
        let at = self.slot(self.req_prod);
        let memory = self.ring.parts().0;
        for (word, value) in request(self.req_prod).into_iter().enumerate() {
            memory.poke(at + 8 * word, 8, value);
        }
        self.asked.insert(self.req_prod.into());
        self.req_prod = self.req_prod.wrapping_add(1);
        memory.poke(REQ_PROD, 4, self.req_prod.into());
        true
    }

    /// The guest takes the responses that are there.
    pub(crate) fn hear(&mut self) -> Result<bool, String> {
        let prod = self.ring.parts().0.peek(RSP_PROD, 4) as u32;
        let found = prod != self.rsp_cons;
        while self.rsp_cons != prod {
            let [id, rest] = self.in_slot(self.rsp_cons);
            if rest != 1 {
                return Err(format!("response {} is not whole", self.rsp_cons));
            }
            if !self.asked.remove(&id) {
                return Err(format!("request {id} was answered and not asked"));
            }
            self.rsp_cons = self.rsp_cons.wrapping_add(1);
        }
        Ok(found)
    }

    /// The numbers of the requests that the kernel has.
    pub(crate) fn held(&self) -> Vec<u64> {
        self.held.iter().map(|held| held.id).collect()
    }

    /// Two words of slot number `index` of the ring.
    pub(crate) fn in_slot(&self, index: u32) -> [u64; 2] {
        let (at, memory) = (self.slot(index), self.ring.parts().0);
        [0, 8].map(|word| memory.peek(at + word, 8))
    }

    fn broken(&self) -> Broken {
        self.ring.parts().1.memory().broken()
    }

    /// The kernel does something. True if it could.
    pub(crate) fn act(&mut self, act: Act) -> Result<bool, String> {
        match act {
            Act::Take(count) => {
                let waiting = self.ring.pending().map_err(|halt| halt.to_string())?;
                if waiting < count {
                    return Ok(false);
                }
                for _ in 0..count {
                    self.take()?;
                }
                self.ring.note_taken();
            }
            Act::Answer(at) => {
                let Held { place, id } = self.held.remove(at);
                if !self.asked.contains(&id) {
                    return Err(format!("request {id} is done after it was answered"));
                }
                self.ring
                    .push_response(place, id, Operation::WRITE, RspStatus::OKAY);
            }
            Act::Publish => {
                if self.ring.unpublished() == 0 {
                    return Ok(false);
                }
                self.ring.publish();
                self.ring.parts().1.memory().catch_up();
            }
        }
        Ok(true)
    }

    fn take(&mut self) -> Result<(), String> {
        let mut body: Body = [0; 11];
        let mut place = self.ring.next_place().ok_or("nothing to be taken")?;
        if self.broken() == Broken::FreedWhenAnswered && self.ring.unpublished() > 0 {
            let last = self.ring.consumed().wrapping_sub(self.ring.taken() + 1);
            let journal = self.ring.parts().1;
            place = journal.place(journal.slot(last));
        }
        let (taken, first) = self.ring.take(place);
        body[0] = first;
        self.ring
            .take_rest(place, &mut body[1..usize::from(taken.detail()).max(1)]);
        self.hold(place, taken.id, taken.sector, &body)
    }

    fn hold(&mut self, place: u16, id: u64, sector: u64, body: &Body) -> Result<(), String> {
        let found = [id, sector, body[0], body[1]];
        if found[..] != request(id as u32)[1..] {
            return Err(format!("a request that the guest did not make: {found:?}"));
        }
        if self.held.iter().any(|held| held.id == id) {
            return Err(format!("request {id} is there twice"));
        }
        self.held.push(Held { place, id });
        Ok(())
    }

    /// The next life of the kernel takes over.
    pub(crate) fn recover(self) -> Result<Self, String> {
        let (slots, broken) = (self.slots(), self.broken());
        let (memory, journal) = self.ring.into_memory();
        let mut places = vec![0; slots as usize];
        let recovered = Journal::recover(journal, slots, &mut places);
        let (journal, mut found) = recovered.map_err(|(error, _)| error.to_string())?;
        let count = found.count() as usize;
        if broken == Broken::RingBelieved {
            found.published = memory.peek(RSP_PROD, 4) as u32;
        }
        let mut next = Self {
            ring: BackRing::resume(memory, journal, Abi::Native, found),
            held: Vec::new(),
            asked: self.asked,
            dead: false,
            ..self
        };
        let mut before = None;
        for &place in &places[..count] {
            let mut body: Body = [0; 11];
            let index = next.ring.parts().1.read(place, &mut body).index;
            let mut raw = next.ring.take_again(place, &mut body);
            if broken == Broken::ReadFromRing {
                let (at, ring) = (next.slot(index), next.ring.parts().0);
                [raw.id, raw.sector, body[0], body[1]] =
                    [8, 16, 24, 32].map(|word| ring.peek(at + word, 8));
            }
            if broken == Broken::ZeroIsNone && index == 0 {
                continue;
            }
            let order = index.wrapping_sub(found.consumed);
            if before.replace(order).is_some_and(|before| before > order) {
                return Err("out of order".into());
            }
            next.hold(place, raw.id, raw.sector, &body)?;
        }
        Ok(next)
    }

    /// Dies after so many stores of `act`.
    pub(crate) fn die(
        &self,
        stores: usize,
        act: impl FnOnce(Self) -> Result<Self, String>,
    ) -> Result<Self, String> {
        let (dying, mut result) = (self.clone(), Err(String::new()));
        with_stores(stores, || result = act(dying));
        let mut dead = result?;
        dead.ring.parts().1.memory().forget_late();
        dead.held.clear();
        dead.deaths += 1;
        dead.dead = true;
        Ok(dead)
    }

    /// All that is asked for is done, without another death.
    pub(crate) fn finish(mut self, end: u32) -> Result<(), String> {
        if self.dead {
            self = self.recover()?;
        }
        for _ in 0..2 * (end.wrapping_sub(self.rsp_cons) + self.slots()) {
            while self.req_prod != end && self.ask() {}
            while self.act(Act::Take(1))? {}
            while let Some(last) = self.held.len().checked_sub(1) {
                self.act(Act::Answer(last))?;
            }
            self.act(Act::Publish)?;
            self.hear()?;
        }
        match self.asked.first() {
            Some(id) => Err(format!("request {id} is lost")),
            None if self.req_prod != end => Err("the guest cannot go on".into()),
            None => Ok(()),
        }
    }

    fn key(&self) -> u64 {
        let mut held = self.held.clone();
        held.sort_unstable_by_key(|held| held.id);
        let (memory, journal) = self.ring.parts();
        let ring = &self.ring;
        let indices = match self.dead {
            false => [ring.consumed(), ring.taken(), ring.unpublished()],
            true => [0; 3],
        };
        let mut hasher = DefaultHasher::new();
        (memory.contents(), journal.memory().contents()).hash(&mut hasher);
        (indices, held, self.req_prod, self.rsp_cons).hash(&mut hasher);
        (self.deaths, self.dead).hash(&mut hasher);
        hasher.finish()
    }

    /// All that the kernel may do.
    fn acts(&self) -> impl Iterator<Item = Act> {
        let answers = (0..self.held.len()).map(Act::Answer);
        [Act::Take(1), Act::Take(2), Act::Publish]
            .into_iter()
            .chain(answers)
    }

    /// All states that may come next.
    fn next(&self, bounds: Bounds) -> Result<Vec<Self>, String> {
        let end = bounds.start.wrapping_add(bounds.requests);
        let mut all = Vec::new();
        let mut guest = self.clone();
        if self.req_prod != end && guest.ask() {
            all.push(guest.clone());
        }
        let mut guest = self.clone();
        if guest.hear()? {
            all.push(guest);
        }
        if self.dead {
            all.push(self.clone().recover()?);
            if self.deaths < bounds.deaths {
                all.push(self.die(0, Self::recover)?);
            }
            return Ok(all);
        }
        for act in self.acts() {
            let (mut next, mut done) = (self.clone(), Ok(false));
            let stores = with_stores(usize::MAX, || done = next.act(act));
            if !done? {
                continue;
            }
            all.push(next);
            for cut in 0..stores {
                if self.deaths < bounds.deaths {
                    all.push(self.die(cut, |mut dying| dying.act(act).map(|_| dying))?);
                }
            }
        }
        if self.deaths < bounds.deaths {
            all.push(self.die(0, Ok)?);
        }
        Ok(all)
    }
}

/// Looks at every state: how many there are, or what is wrong in one of them.
pub(crate) fn explore(bounds: Bounds, broken: Broken) -> Result<usize, String> {
    let end = bounds.start.wrapping_add(bounds.requests);
    let mut seen = HashSet::new();
    let mut left = vec![State::new(bounds, broken)];
    while let Some(state) = left.pop() {
        if !seen.insert(state.key()) {
            continue;
        }
        left.extend(state.next(bounds)?);
        state.finish(end)?;
    }
    Ok(seen.len())
}
