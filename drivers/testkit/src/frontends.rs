//! What the frontends of the field do in xenstore, as data: what each writes, what it waits for,
//! and what makes it give up.
//!
//! A [`Frontend`] plays a [`Kind`] against the store, one [`Frontend::step`] at a time: it reads
//! the backend's state when it is stepped, as a guest does when it gets to run, and misses what
//! was there in between.

mod kinds;

use std::collections::VecDeque;

use crate::xenstored::{Vbd, Xenstored};
pub use kinds::{
    ALL, FREEBSD, GRUB, LINUX_4, LINUX_5_15, LINUX_KEXEC, MINIOS, NANOS, NETBSD, OPENBSD, OVMF,
    UNIKRAFT, WINDOWS, XENCRSH,
};

const MS: u64 = 1_000_000;

/// One thing that a frontend does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Publishes its keys and new rings, with this state last.
    Rings(u32),
    /// Writes its state.
    State(u32),
    /// Waits until the backend is in one of these states.
    Await(&'static [u32]),
    /// As `Await`; if the backend is in one of the other states first, it gives the disk up and
    /// does nothing more.
    AwaitOrGiveUp(&'static [u32], &'static [u32]),
    /// As `Await`; it gives up after so many ms.
    AwaitFor(&'static [u32], u64),
    /// As `Await`; it goes on after so many ms all the same.
    AwaitAtMost(&'static [u32], u64),
}

/// What a connected frontend with a disk in use does when the backend is Closing or Closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It does not look.
    Never,
    /// Gives the disk up at once.
    GivesUp,
    /// Ends its use of the disk, which takes so many ms, then closes.
    Unmounts(u64),
    /// Writes this state, if any, and closes when its last user has gone.
    UsesOn(Option<u32>),
}

/// A frontend of the field.
#[derive(Debug)]
pub struct Kind {
    /// Which one.
    pub name: &'static str,
    /// Keys that it writes besides rings and event channels.
    pub keys: &'static [(&'static str, &'static str)],
    /// The names of its rings' references.
    pub refs: &'static [&'static str],
    /// The names of its event channels.
    pub ports: &'static [&'static str],
    /// From the start until it uses the disk.
    pub connect: &'static [Op],
    /// How it ends its use itself: unloaded, or handing over to what it has loaded.
    pub close: &'static [Op],
    /// How it goes on after a suspend in the same directory; empty if it does not.
    pub resume: &'static [Op],
    /// What it does when it is asked to close.
    pub asked: Asked,
}

/// How far a frontend has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It waits.
    Waits(Op),
    /// It uses the disk, or would if anything did.
    Connected,
    /// It has closed, by itself or because it was asked.
    Closed,
    /// It has given the disk up since the backend was in this state.
    GaveUp(u32),
    /// Its directory has gone.
    Gone,
}

/// A frontend at work.
#[derive(Debug)]
pub struct Frontend {
    /// What it is.
    pub kind: &'static Kind,
    vbd: Vbd,
    /// Whether its disk is in use, as by a mounted file system.
    pub in_use: bool,
    /// The reference that its next ring gets.
    next_ref: u32,
    ops: VecDeque<Op>,
    /// When it began to wait.
    since: Option<u64>,
    status: Status,
    unmounted_at: Option<u64>,
    refs: Vec<u32>,
}

impl Frontend {
    /// One that starts; `first_ref` is the reference of its first ring, the same for two in
    /// succession if their allocators start alike.
    #[must_use]
    pub fn boot(kind: &'static Kind, vbd: Vbd, first_ref: u32) -> Self {
        let mut frontend = Self {
            kind,
            vbd,
            in_use: true,
            next_ref: first_ref,
            ops: VecDeque::new(),
            since: None,
            status: Status::Closed,
            unmounted_at: None,
            refs: Vec::new(),
        };
        frontend.run(kind.connect);
        frontend
    }

    /// Ends its use of the disk.
    pub fn close(&mut self) {
        self.run(self.kind.close);
    }

    /// Starts over.
    pub fn connect(&mut self) {
        self.run(self.kind.connect);
    }

    /// Goes on after a suspend.
    pub fn resume(&mut self) {
        self.run(self.kind.resume);
    }

    /// How far it has got.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// The references of the rings that it has published last.
    #[must_use]
    pub fn refs(&self) -> &[u32] {
        &self.refs
    }

    /// When it will do something by itself.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        match self.ops.front() {
            Some(Op::AwaitFor(_, ms) | Op::AwaitAtMost(_, ms)) => Some(self.since? + ms * MS),
            Some(_) => None,
            None => self
                .unmounted_at
                .filter(|_| self.status == Status::Connected),
        }
    }

    fn run(&mut self, ops: &'static [Op]) {
        self.ops = ops.iter().copied().collect();
        self.since = None;
        self.unmounted_at = None;
        if let Some(op) = self.ops.front() {
            self.status = Status::Waits(*op);
        }
    }

    /// Does what it can do now; true if it did anything.
    pub fn step(&mut self, store: &mut Xenstored, now: u64) -> bool {
        if store.read(&self.vbd.front_dir()).is_none() {
            self.ops.clear();
            return core::mem::replace(&mut self.status, Status::Gone) != Status::Gone;
        }
        let mut moved = false;
        while let Some(op) = self.ops.front().copied() {
            if !self.carry_out(op, store, now) {
                return moved;
            }
            moved = true;
            self.since = None;
            self.ops.pop_front();
            self.status = match self.ops.front() {
                Some(next) => Status::Waits(*next),
                None if matches!(self.status, Status::GaveUp(_)) => self.status,
                None => self.at_the_end(store),
            };
        }
        self.look(store, now) || moved
    }

    fn at_the_end(&self, store: &Xenstored) -> Status {
        match store.text(&self.vbd.front("state")) {
            Some("3" | "4") => Status::Connected,
            _ => Status::Closed,
        }
    }

    /// True if the next one is due.
    fn carry_out(&mut self, op: Op, store: &mut Xenstored, now: u64) -> bool {
        let backend = self.vbd.back_state(store);
        let since = *self.since.get_or_insert(now);
        let waited = |ms: u64| now >= since + ms * MS;
        match op {
            Op::Rings(state) => self.publish(store, state),
            Op::State(state) => self.vbd.set_front_state(store, state),
            Op::Await(states) => return states.contains(&backend),
            Op::AwaitOrGiveUp(_, others) if others.contains(&backend) => {
                self.ops.truncate(1);
                self.status = Status::GaveUp(backend);
            }
            Op::AwaitOrGiveUp(states, _) => return states.contains(&backend),
            Op::AwaitAtMost(states, ms) => return states.contains(&backend) || waited(ms),
            Op::AwaitFor(states, _) if states.contains(&backend) => {}
            Op::AwaitFor(_, ms) => {
                if !waited(ms) {
                    return false;
                }
                self.ops.truncate(1);
                self.status = Status::GaveUp(backend);
            }
        }
        true
    }

    fn publish(&mut self, store: &mut Xenstored, state: u32) {
        self.refs.clear();
        for name in self.kind.refs {
            store.write(&self.vbd.front(name), self.next_ref.to_string());
            self.refs.push(self.next_ref);
            self.next_ref += 1;
        }
        for (n, name) in self.kind.ports.iter().enumerate() {
            store.write(&self.vbd.front(name), (20 + n).to_string());
        }
        for (key, value) in self.kind.keys {
            store.write(&self.vbd.front(key), value);
        }
        self.vbd.set_front_state(store, state);
    }

    /// What a connected one does when it is asked to close.
    fn look(&mut self, store: &mut Xenstored, now: u64) -> bool {
        let asked = matches!(self.vbd.back_state(store), 5 | 6);
        if self.status != Status::Connected || !asked {
            return false;
        }
        match self.kind.asked {
            Asked::Never => return false,
            Asked::Unmounts(ms) if self.in_use => {
                if now < *self.unmounted_at.get_or_insert(now + ms * MS) {
                    return false;
                }
            }
            Asked::UsesOn(says) if self.in_use => {
                let said = store.text(&self.vbd.front("state")).map(str::to_owned);
                let Some(state) = says.filter(|state| said != Some(state.to_string())) else {
                    return false;
                };
                self.vbd.set_front_state(store, state);
                return true;
            }
            Asked::GivesUp | Asked::Unmounts(_) | Asked::UsesOn(_) => {}
        }
        self.vbd.set_front_state(store, 6);
        self.status = Status::Closed;
        true
    }
}
