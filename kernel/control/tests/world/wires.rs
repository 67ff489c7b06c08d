//! Notifications between cores and domains, any of which can be lost.

use std::cell::RefCell;
use std::collections::BTreeSet;

use spindle_xen::event::{Deadline, Notify, Port};

/// By when another domain that missed a notification runs anyhow, for its own timers.
pub(crate) const TICK_NS: u64 = 1_000_000_000;

/// Who is notified, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wire {
    /// Control, by xenstored.
    ToControl,
    /// Xenstored, by control.
    ToStore,
    /// The ring core, by control.
    OrderToCore,
    /// The ring core, by the frontend.
    RingToCore,
    /// The frontend, by the ring core.
    ToFront,
}

/// What becomes of a notification. Another domain gets it at its next tick, whichever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It leaves no trace.
    Vanishes,
    /// It is marked pending, but the core that sleeps does not run before its own timer has ended the
    /// sleep, whatever else comes.
    FindsItDeaf,
}

/// All notifications.
#[derive(Debug)]
pub(crate) struct Wires(RefCell<State>);

#[derive(Debug)]
struct State {
    now: u64,
    faults: Vec<(usize, Fault)>,
    sent: Vec<Wire>,
    pending: BTreeSet<Wire>,
    /// Cores that hear nothing, by a wire to them.
    deaf: BTreeSet<Wire>,
    late: Vec<(u64, Wire)>,
}

/// The core's end of the ring's event channel.
pub(crate) const fn core_port() -> Port {
    Port(1)
}

impl Wires {
    pub(crate) fn new(faults: &[(usize, Fault)]) -> Self {
        Self(RefCell::new(State {
            now: 0,
            faults: faults.to_vec(),
            sent: Vec::new(),
            pending: BTreeSet::new(),
            deaf: BTreeSet::new(),
            late: Vec::new(),
        }))
    }

    /// Every notification sent, lost ones included.
    pub(crate) fn sent(&self) -> Vec<Wire> {
        self.0.borrow().sent.clone()
    }

    pub(crate) fn send(&self, wire: Wire) {
        let state = &mut *self.0.borrow_mut();
        let number = state.sent.len();
        state.sent.push(wire);
        let fault = state.faults.iter().find(|(at, _)| *at == number);
        let elsewhere = matches!(wire, Wire::ToStore | Wire::ToFront);
        match fault {
            Some(_) if elsewhere => state.late.push((state.now + TICK_NS, wire)),
            Some((_, Fault::Vanishes)) => {}
            Some((_, Fault::FindsItDeaf)) => {
                state.deaf.insert(wire);
                state.pending.insert(wire);
            }
            None => {
                state.pending.insert(wire);
            }
        }
    }

    /// Forgets what is pending; true if something was.
    pub(crate) fn take(&self, wire: Wire) -> bool {
        self.0.borrow_mut().pending.remove(&wire)
    }

    /// Time has gone on.
    pub(crate) fn pass(&self, now: u64) {
        let state = &mut *self.0.borrow_mut();
        state.now = now;
        let pending = &mut state.pending;
        state.late.retain(|&(at, wire)| {
            let due = at <= now;
            if due {
                pending.insert(wire);
            }
            !due
        });
    }

    /// When a notification comes that was late.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        self.0.borrow().late.iter().map(|&(at, _)| at).min()
    }

    /// Whether a core runs that sleeps on `ports`, or does not sleep at all.
    pub(crate) fn ends(&self, sleep: &mut Option<Deadline>, ports: &[Wire], now: u64) -> bool {
        let state = &mut *self.0.borrow_mut();
        let deaf = ports.iter().any(|port| state.deaf.contains(port));
        let heard = !deaf && ports.iter().any(|port| state.pending.contains(port));
        let runs = sleep.is_none_or(|until| until.ns() <= now || heard);
        if runs {
            *sleep = None;
            for port in ports {
                state.deaf.remove(port);
            }
        }
        runs
    }
}

impl Notify for &Wires {
    fn notify(&self, port: Port) {
        assert_eq!(port, core_port());
        self.send(Wire::ToFront);
    }
}
