//! Notifications between cores and domains, any of which can be lost.

use std::cell::RefCell;

use spindle_xen::event::{Deadline, Port};

/// By when another domain that missed a notification runs anyhow, for its own timers.
pub const TICK_NS: u64 = 1_000_000_000;

/// Who is notified, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wire {
    /// Control, by xenstored.
    ToControl,
    /// Xenstored, by control.
    ToStore,
    /// A ring core, by control.
    OrderToCore(usize),
    /// A ring core, by a frontend; the port is the core's.
    RingToCore(Port),
    /// A frontend, by a ring core; the port is the core's.
    ToFront(Port),
}

/// What becomes of a notification. Another domain gets it at its next tick, whichever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It leaves no trace.
    Vanishes,
    /// It is marked pending, but the core that sleeps does not run before its own timer has ended the
    /// sleep, whatever else comes.
    FindsItDeaf,
}

/// What a core sleeps on, and until when.
pub type Asleep = (Vec<Wire>, Deadline);

/// All notifications.
#[derive(Debug)]
pub struct Wires(RefCell<State>);

#[derive(Debug)]
struct State {
    now: u64,
    faults: Vec<(usize, Fault)>,
    sent: Vec<Wire>,
    /// A few, in order.
    pending: Vec<Wire>,
    /// Cores that hear nothing, by a wire to them.
    deaf: Vec<Wire>,
    late: Vec<(u64, Wire)>,
}

impl Wires {
    /// No notifications yet, of which some will be lost, by number.
    pub fn new(faults: &[(usize, Fault)]) -> Self {
        Self(RefCell::new(State {
            now: 0,
            faults: faults.to_vec(),
            sent: Vec::new(),
            pending: Vec::new(),
            deaf: Vec::new(),
            late: Vec::new(),
        }))
    }

    /// Every notification sent, lost ones included.
    pub fn sent(&self) -> Vec<Wire> {
        self.0.borrow().sent.clone()
    }

    /// Sends a notification, unless it is one that is lost.
    pub fn send(&self, wire: Wire) {
        let state = &mut *self.0.borrow_mut();
        let number = state.sent.len();
        state.sent.push(wire);
        let fault = state.faults.iter().position(|(at, _)| *at == number);
        let fault = fault.map(|place| state.faults.swap_remove(place).1);
        let elsewhere = matches!(wire, Wire::ToStore | Wire::ToFront(_));
        match fault {
            Some(_) if elsewhere => state.late.push((state.now + TICK_NS, wire)),
            Some(Fault::Vanishes) => {}
            Some(Fault::FindsItDeaf) => {
                state.deaf.push(wire);
                mark(&mut state.pending, wire);
            }
            None => mark(&mut state.pending, wire),
        }
    }

    /// Loses the next notification.
    pub fn lose_next(&self, fault: Fault) {
        let state = &mut *self.0.borrow_mut();
        state.faults.push((state.sent.len(), fault));
    }

    /// Forgets what is pending; true if something was.
    pub fn take(&self, wire: Wire) -> bool {
        let pending = &mut self.0.borrow_mut().pending;
        let place = pending.binary_search(&wire);
        place.is_ok_and(|place| pending.remove(place) == wire)
    }

    /// Time has gone on.
    pub fn pass(&self, now: u64) {
        let state = &mut *self.0.borrow_mut();
        state.now = now;
        if state.late.is_empty() {
            return;
        }
        let pending = &mut state.pending;
        state.late.retain(|&(at, wire)| {
            let due = at <= now;
            if due {
                mark(pending, wire);
            }
            !due
        });
    }

    /// When a notification comes that was late.
    pub fn next_tick(&self) -> Option<u64> {
        self.0.borrow().late.iter().map(|&(at, _)| at).min()
    }

    /// Whether a core runs that sleeps on `wires` until a time, or does not sleep at all.
    pub fn ends(&self, sleep: Option<&Asleep>, now: u64) -> bool {
        let Some((wires, until)) = sleep else {
            return true;
        };
        let state = &mut *self.0.borrow_mut();
        let is_one = |wire: &Wire| wires.contains(wire);
        let deaf = state.deaf.iter().any(is_one);
        let heard = !deaf && state.pending.iter().any(is_one);
        let runs = until.ns() <= now || heard;
        if runs && deaf {
            state.deaf.retain(|wire| !is_one(wire));
        }
        runs
    }

    /// Whether one to a frontend is pending.
    pub fn has_for_front(&self) -> bool {
        let state = self.0.borrow();
        state
            .pending
            .iter()
            .any(|wire| matches!(wire, Wire::ToFront(_)))
    }

    /// Takes the next one to a frontend that is pending.
    pub fn take_to_front(&self) -> Option<Port> {
        let pending = &mut self.0.borrow_mut().pending;
        let is_it = |wire: &Wire| matches!(wire, Wire::ToFront(_));
        let place = pending.iter().position(is_it)?;
        match pending.remove(place) {
            Wire::ToFront(port) => Some(port),
            _ => None,
        }
    }
}

/// Adds one that is not there yet, in its place.
fn mark(pending: &mut Vec<Wire>, wire: Wire) {
    if let Err(place) = pending.binary_search(&wire) {
        pending.insert(place, wire);
    }
}
