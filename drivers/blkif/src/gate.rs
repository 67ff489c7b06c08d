//! Barriers across the rings of a device (`BLKIF_OP_WRITE_BARRIER`).
//!
//! A barrier is not carried out before everything that the guest asked for earlier is done, on
//! all rings of the device, and nothing later begins before it is done. The rings may be on
//! different cores, which otherwise share nothing; a [`Gate`] is what they meet at, and only when
//! there is a barrier:
//!
//! 1. A ring that takes a barrier takes nothing more, and gets in line at the gate.
//! 2. The first in line is in force. Every ring that sees so notes how many requests its guest
//!    has published by then, takes these and no further ones, and tells the gate when all it has
//!    taken are answered: it is drained. What the guest published before the barrier is among
//!    them, because the barrier was seen before the ring's index was read. What it published on
//!    another ring between the barrier and that look counts as earlier, too.
//! 3. Once all are drained the barrier is carried out. Then the next in line is in force, or the
//!    rings go on.
//!
//! Barriers that are under way at once are carried out in the order in which their rings took
//! them, and what is behind one in its ring waits for it, though another ring's barrier that the
//! guest published later may then come first: rings do not tell in which order their guest wrote
//! into them.
//!
//! A ring that takes nothing any more is drained when what it took is answered, and one that
//! leaves is not waited for. A ring whose core sleeps is woken by the ring with the barrier,
//! whose core never sleeps meanwhile.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use spindle_xen::event::Port;

use crate::sync::{AtomicU64, Mutex, Ordering};

/// How many bits of a turn say whose it is.
const RING_BITS: u32 = 16;

/// Where the rings of one device meet.
#[derive(Debug)]
#[repr(align(64))]
pub struct Gate {
    /// Which barrier is in force: a number that no other ever has, and in the low bits its ring's
    /// number and 1. 0 = none. Read at every visit, written only by barriers.
    turn: AtomicU64,
    /// The turn for which all rings are drained.
    open: AtomicU64,
    state: Mutex<State>,
    /// Ports that wake the rings' cores; 0 = none.
    wakes: Box<[AtomicU32]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It may still have something to do that comes before the barrier in force.
    Open,
    Drained,
    /// It is no ring of the device any more.
    Gone,
}

#[derive(Debug)]
struct State {
    count: u64,
    rings: Box<[Standing]>,
    /// Rings with a barrier, at most one each; the first is in force.
    line: Vec<u16>,
}

impl Gate {
    /// The places of the rings of a device, for each one.
    #[must_use]
    pub fn members(rings: u16) -> Vec<Member> {
        let count = rings.into();
        let mut wakes = Vec::new();
        wakes.resize_with(count, AtomicU32::default);
        let gate = Arc::new(Self {
            turn: AtomicU64::new(0),
            open: AtomicU64::new(0),
            state: Mutex::new(State {
                count: 0,
                rings: vec![Standing::Open; count].into(),
                line: Vec::with_capacity(count),
            }),
            wakes: wakes.into(),
        });
        let member = |ring| Member {
            gate: Arc::clone(&gate),
            ring,
            seen: 0,
            before: 0,
            drained: false,
            mine: false,
        };
        (0..rings).map(member).collect()
    }

    /// Makes the first in line the one in force.
    fn next(&self, state: &mut State) {
        let Some(&first) = state.line.first() else {
            self.turn.store(0, Ordering::Release);
            return;
        };
        state.count += 1;
        for ring in &mut state.rings {
            if *ring == Standing::Drained {
                *ring = Standing::Open;
            }
        }
        let turn = state.count << RING_BITS | (u64::from(first) + 1);
        // Release: whoever sees the barrier sees what its guest published before it.
        self.turn.store(turn, Ordering::Release);
    }

    fn set(&self, state: &mut State, ring: u16, standing: Standing) {
        state.rings[usize::from(ring)] = standing;
        if !state.line.is_empty() && !state.rings.contains(&Standing::Open) {
            let turn = self.turn.load(Ordering::Relaxed);
            // Release: whoever sees that all are drained sees what they have done.
            self.open.store(turn, Ordering::Release);
        }
    }

    fn join(&self, ring: u16) {
        let state = &mut *self.state.lock();
        state.line.push(ring);
        if state.line.len() == 1 {
            self.next(state);
        }
    }

    fn drained(&self, ring: u16, turn: u64) {
        let state = &mut *self.state.lock();
        // The barrier may be over because its ring left.
        if turn == self.turn.load(Ordering::Relaxed) {
            self.set(state, ring, Standing::Drained);
        }
    }

    /// Takes a ring out of the line, where it is once at most.
    fn leave_line(&self, state: &mut State, ring: u16) {
        let first = state.line.first() == Some(&ring);
        state.line.retain(|&other| other != ring);
        if first {
            self.next(state);
        }
    }
}

/// One ring's part in the barriers of its device.
#[derive(Debug)]
pub struct Member {
    gate: Arc<Gate>,
    ring: u16,
    /// The turn that this ring has noticed.
    seen: u64,
    /// How many requests it still takes before the barrier in force.
    before: u32,
    /// Whether it has told the gate that it is drained.
    drained: bool,
    /// Whether it has a barrier of its own, which is in line or in force.
    mine: bool,
}

/// What a ring finds when it looks at the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Its own barrier is to be carried out.
    pub go: bool,
    /// Its own barrier has just come into force: the others' cores are to be woken.
    pub wake: bool,
}

impl Member {
    /// Says which port wakes the ring's core, if that ever sleeps on its own. Before the ring is
    /// attached to it.
    pub fn set_wake(&self, wake: Option<Port>) {
        let port = wake.map_or(0, |port| port.0);
        self.gate.wakes[usize::from(self.ring)].store(port, Relaxed);
    }

    /// Whether a barrier is in force, or was at the last look. All that a visit without barriers
    /// costs.
    #[inline]
    #[must_use]
    pub fn is_called(&self) -> bool {
        // Relaxed: `attend` looks again before anything is done about it.
        self.gate.turn.load(Ordering::Relaxed) | self.seen != 0
    }

    /// Looks at the gate; to be called at the start of a visit. `active` counts the requests that
    /// are taken and not answered, with an own barrier; `pending` tells how many more the guest
    /// has published, of which none if they will not be taken.
    pub fn attend(&mut self, active: usize, pending: impl FnOnce() -> u32) -> Call {
        let mut call = Call::default();
        // Acquire: see `Gate::next`; `pending` must look after this.
        let turn = self.gate.turn.load(Ordering::Acquire);
        if turn != self.seen {
            self.seen = turn;
            self.drained = false;
            self.before = u32::MAX;
            call.wake = self.owns(turn);
        }
        if turn == 0 {
            return call;
        }
        self.before = self.before.min(pending());
        let left = if self.mine { 0 } else { self.before };
        if !self.drained && left == 0 && active == usize::from(self.mine) {
            self.drained = true;
            self.gate.drained(self.ring, turn);
        }
        call.go = self.owns(turn) && self.gate.open.load(Ordering::Acquire) == turn;
        call
    }

    /// How many of `pending` requests may be taken now.
    #[inline]
    #[must_use]
    pub fn allows(&self, pending: u32) -> u32 {
        match self.seen {
            _ if self.mine => 0,
            0 => pending,
            _ => pending.min(self.before),
        }
    }

    /// Notes how many requests were taken.
    pub fn took(&mut self, requests: u32) {
        self.before = self.before.saturating_sub(requests);
    }

    /// Gets in line with a barrier; there must be none of this ring's yet.
    pub fn raise(&mut self) {
        debug_assert!(!self.mine);
        self.mine = true;
        self.gate.join(self.ring);
    }

    /// The ring's barrier is done.
    pub fn finish(&mut self) {
        self.mine = false;
        let gate = &*self.gate;
        gate.leave_line(&mut gate.state.lock(), self.ring);
    }

    /// Whether the core must not sleep before it has looked at the gate again.
    #[must_use]
    pub fn keeps_awake(&self) -> bool {
        let turn = self.gate.turn.load(Ordering::Acquire);
        turn != self.seen || turn != 0 && !self.drained || self.mine
    }

    /// The ports that wake the other rings' cores.
    pub fn others(&self) -> impl Iterator<Item = Port> {
        let wakes = self.gate.wakes.iter().enumerate();
        wakes
            .filter(|&(ring, _)| ring != usize::from(self.ring))
            .map(|(_, wake)| Port(wake.load(Relaxed)))
            .filter(|port| port.0 != 0)
    }

    fn owns(&self, turn: u64) -> bool {
        turn & ((1 << RING_BITS) - 1) == u64::from(self.ring) + 1
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let state = &mut *self.gate.state.lock();
        self.gate.leave_line(state, self.ring);
        self.gate.set(state, self.ring, Standing::Gone);
    }
}
