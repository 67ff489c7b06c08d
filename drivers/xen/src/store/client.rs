//! The client: batches of requests and transactions, several at a time, over any splitting of
//! the byte stream.
//!
//! The owner runs *units of work*: plain batches ([`Client::send`]) and transactions
//! ([`Client::begin`], any number of [`Client::within`], then [`Client::commit`] or
//! [`Client::abandon`]). Every request of a batch goes out without waiting for any reply, and
//! units do not wait for each other, so that the time of a unit is its number of batches times
//! xenstored's round trip. xenstored answers the requests of one connection in their order, and
//! the client sends those of a [`Priority`] in the order in which they were given. A watch event is handed over the moment it
//! is read and never queued here: the owner marks what it concerns, so that a flood costs no
//! memory (XSA-349).
//!
//! # Example
//! A batch of two requests, answered by the test kit's daemon through the ring page:
//!
//! ```
//! use spindle_hw::SharedPages;
//! use spindle_testkit::xenstored::Xenstored;
//! use spindle_xen::Errno;
//! use spindle_xen::store::{Client, Event, Priority, Request, Ring};
//!
//! let page = SharedPages::host(1, 0);
//! let mut daemon = Xenstored::new(page.alias(), 3); // we are domain 3
//! let (mut client, mut ring) = (Client::new(), Ring::new(page));
//!
//! let batch = vec![
//!     Request::Write("data/spindle/ready".into(), b"1".to_vec()),
//!     Request::Read("data/nothing".into()),
//! ];
//! let unit = client.send(batch, Priority::Normal);
//!
//! let (answered, replies) = loop {
//!     match client.poll(&mut ring) {
//!         Some(Event::Replies(unit, replies)) => break (unit, replies),
//!         Some(event) => panic!("not asked for: {event:?}"),
//!         // The kernel would notify xenstored and sleep; here the daemon runs.
//!         None => assert!(daemon.step(), "it has nothing to do either"),
//!     }
//! };
//! assert_eq!(answered, unit);
//! assert!(replies[0].is_ok());
//! assert_eq!(replies[1], Err(Errno::ENOENT));
//! assert_eq!(daemon.text("/local/domain/3/data/spindle/ready"), Some("1"));
//! ```

mod receive;
mod stages;
mod transmit;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::Ring;
use super::wire::{Assembler, MessageType};
use crate::Errno;

/// Requests sent and not yet answered, at most.
const WINDOW: usize = 64;

/// Requests of a lower priority sent and not yet answered, at most: alone, and beside units of a
/// higher one, which find no more than these before them in xenstored's queue.
const NORMAL: (usize, usize) = (24, 2);
const BACKGROUND: (usize, usize) = (16, 2);

/// Bytes of a value that [`Request::ReadBrief`] keeps.
const BRIEF: usize = 64;

/// What can be asked of xenstored. Paths without a leading `/` are relative to our own home,
/// `/local/domain/<domid>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The value of a node.
    Read(String),
    /// As [`Request::Read`], for what guests write: of the value no more is kept than a number
    /// or a name takes, so that what many of them hold is bounded.
    ReadBrief(String),
    /// The names of a node's children, each ended by a NUL.
    Directory(String),
    /// Sets a node's value, making it and its parents as needed.
    Write(String, Vec<u8>),
    /// Removes a node and all below it.
    Remove(String),
    /// Watches a node and all below it, with a token of the caller's choice.
    Watch(String, String),
    /// Ends a watch.
    Unwatch(String, String),
}

/// The answer to one [`Request`].
pub type Reply = Result<Vec<u8>, Errno>;

/// Why a transaction came to nothing. Nothing of it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// What it had read was changed meanwhile: look again, decide again.
    #[error("transaction conflict")]
    Conflict,
    /// xenstored refused it or a change in it.
    #[error("xenstored refused: {0}")]
    Refused(Errno),
}

/// Names a unit of work; no two of a client ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(u64);

/// Which units of work go first. Beside one of a higher priority few requests of a lower one are
/// on their way to xenstored at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before all others, for what a toolstack waits for.
    Urgent,
    /// For what guests can bring about.
    Normal,
    /// When nothing else is to be done.
    Background,
}

/// What came of the bytes read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node changed under a watch.
    Watch {
        /// The node, relative if the watch was.
        path: Vec<u8>,
        /// The watch's token.
        token: Vec<u8>,
    },
    /// All requests of the unit's last batch are answered, in their order. A transaction is open
    /// now and has to be ended.
    Replies(UnitId, Vec<Reply>),
    /// The transaction has ended, or could not be started.
    Ended(UnitId, Result<(), TransactionError>),
    /// The byte stream makes no sense any more; nothing will come of this client again.
    Broken,
}

/// What an open unit of work waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Plain,
    /// The transaction's number; the last reply.
    Starting,
    /// The owner, who is to go on with the transaction.
    Open,
    Reading,
    /// Changes whose failure must keep the transaction from being committed.
    Changing,
    /// The end; the last reply.
    Ending,
}

#[derive(Debug)]
struct Unit {
    id: UnitId,
    priority: Priority,
    stage: Stage,
    transaction: u32,
    replies: Vec<Reply>,
    /// Replies still to come.
    missing: usize,
}

#[derive(Debug)]
enum Message {
    Request(Request),
    Start,
    /// `true` to commit.
    End(bool),
}

/// Where a reply belongs: the unit and the index into its replies. Replies to what was posted,
/// or to a unit that has gone, are dropped.
#[derive(Clone, Copy, Debug)]
struct Slot {
    unit: Option<UnitId>,
    index: usize,
    priority: Priority,
}

#[derive(Debug)]
struct Queued {
    slot: Slot,
    transaction: u32,
    message: Message,
}

#[derive(Debug)]
struct Outstanding {
    request: u32,
    message: MessageType,
    /// Bytes of the reply that are kept.
    kept: usize,
    slot: Slot,
}

/// The xenstore client.
#[derive(Debug)]
pub struct Client {
    assembler: Assembler,
    /// Encoded, not yet in the ring.
    out: Vec<u8>,
    next_request: u32,
    next_unit: u64,
    broken: bool,
    units: Vec<Unit>,
    /// What is to be sent, by priority.
    queues: [VecDeque<Queued>; 3],
    outstanding: VecDeque<Outstanding>,
    /// Units that have all replies they wait for.
    answered: VecDeque<UnitId>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client with nothing under way.
    #[must_use]
    pub fn new() -> Self {
        Self {
            assembler: Assembler::default(),
            out: Vec::new(),
            next_request: 1,
            next_unit: 1,
            broken: false,
            units: Vec::new(),
            queues: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            outstanding: VecDeque::new(),
            answered: VecDeque::new(),
        }
    }

    /// Whether no unit of work is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.broken && self.units.is_empty()
    }

    /// Whether the connection is lost ([`Event::Broken`]): no unit will ever end.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Starts a plain batch; [`Event::Replies`] ends it.
    pub fn send(&mut self, requests: Vec<Request>, priority: Priority) -> UnitId {
        let unit = self.unit(Stage::Plain, priority);
        self.batch(unit, 0, requests);
        self.check(unit);
        unit
    }

    /// Sends what needs no answer, before all that is given later.
    pub fn post(&mut self, requests: Vec<Request>) {
        for request in requests {
            self.enqueue(None, 0, Message::Request(request));
        }
    }

    /// Starts a transaction, and sends `outside` in the same batch, which is no part of it.
    pub fn begin(&mut self, outside: Vec<Request>, priority: Priority) -> UnitId {
        let unit = self.unit(Stage::Starting, priority);
        self.batch(unit, 0, outside);
        self.enqueue(Some(unit), 0, Message::Start);
        unit
    }

    /// Sends a batch of two parts: `outside`, which is no part of the transaction, then `inside`,
    /// which is. Does nothing unless the transaction is open.
    pub fn within(&mut self, unit: UnitId, outside: Vec<Request>, inside: Vec<Request>) {
        let Some(transaction) = self.go_on(unit, Stage::Reading) else {
            return;
        };
        self.batch(unit, 0, outside);
        self.batch(unit, transaction, inside);
        self.check(unit);
    }

    /// Makes `changes` in the transaction and commits it; [`Event::Ended`] ends the unit. One
    /// change goes out with the commit in one batch. More of them are committed only when
    /// xenstored has taken each, so that a quota leaves nothing done by halves. Does nothing
    /// unless the transaction is open.
    pub fn commit(&mut self, unit: UnitId, changes: Vec<Request>) {
        let single = changes.len() <= 1;
        let stage = if single {
            Stage::Ending
        } else {
            Stage::Changing
        };
        let Some(transaction) = self.go_on(unit, stage) else {
            return;
        };
        self.batch(unit, transaction, changes);
        if single {
            self.enqueue(Some(unit), transaction, Message::End(true));
        }
        self.check(unit);
    }

    /// Ends the unit with nothing done and nothing more to come of it. Does nothing unless the
    /// transaction is open.
    pub fn abandon(&mut self, unit: UnitId) {
        if let Some(transaction) = self.go_on(unit, Stage::Ending) {
            self.give_up(unit, transaction);
        }
    }

    /// Whether the reply to request number `index` of the unit's batch has come: what
    /// [`Event::Watch`] tells of after that has happened after xenstored has answered it.
    #[must_use]
    pub(crate) fn has_reply(&self, unit: UnitId, index: usize) -> bool {
        let is_it = |slot: &Slot| slot.unit == Some(unit) && slot.index == index;
        let mut queued = self.queues.iter().flatten();
        !self.outstanding.iter().any(|o| is_it(&o.slot)) && !queued.any(|q| is_it(&q.slot))
    }

    /// Moves bytes and gives the next thing that came of it; `None` if there is nothing more
    /// until xenstored acts.
    pub fn poll(&mut self, ring: &mut Ring) -> Option<Event> {
        loop {
            if self.broken {
                return None;
            }
            if let Some(event) = self.advance() {
                return Some(event);
            }
            self.encode();
            let sent = match ring.write(&self.out) {
                Ok(sent) => sent,
                Err(error) => return self.lost(&error),
            };
            self.out.drain(..sent);
            let message = match self.receive(ring) {
                Ok(message) => message,
                Err(event) => return event,
            };
            match message {
                Some((header, payload)) => {
                    if let Some(event) = self.take(header, payload) {
                        return Some(event);
                    }
                }
                None if sent == 0 && self.answered.is_empty() => return None,
                None => {}
            }
        }
    }

    fn unit(&mut self, stage: Stage, priority: Priority) -> UnitId {
        let id = UnitId(self.next_unit);
        self.next_unit += 1;
        if !self.broken {
            self.units.push(Unit {
                id,
                priority,
                stage,
                transaction: 0,
                replies: Vec::new(),
                missing: 0,
            });
        }
        id
    }

    fn find(&mut self, id: UnitId) -> Option<&mut Unit> {
        self.units.iter_mut().find(|unit| unit.id == id)
    }

    /// Takes an open transaction to `stage`, and gives its number.
    fn go_on(&mut self, id: UnitId, stage: Stage) -> Option<u32> {
        let unit = self.find(id).filter(|unit| unit.stage == Stage::Open)?;
        unit.stage = stage;
        Some(unit.transaction)
    }

    fn batch(&mut self, id: UnitId, transaction: u32, requests: Vec<Request>) {
        for request in requests {
            self.enqueue(Some(id), transaction, Message::Request(request));
        }
    }

    /// A batch without any request is answered at once.
    fn check(&mut self, id: UnitId) {
        if self.find(id).is_some_and(|unit| unit.missing == 0) {
            self.answered.push_back(id);
        }
    }

    /// Queues a message: of a unit, which gets its reply, or of none.
    fn enqueue(&mut self, unit: Option<UnitId>, transaction: u32, message: Message) {
        if self.broken {
            return;
        }
        let mut slot = Slot {
            unit,
            index: 0,
            priority: Priority::Urgent,
        };
        if let Some(id) = unit {
            let Some(unit) = self.find(id) else {
                return;
            };
            // Stands until the reply is there; also the answer to what is too long to be sent.
            unit.replies.push(Err(Errno::E2BIG));
            unit.missing += 1;
            slot.index = unit.replies.len() - 1;
            slot.priority = unit.priority;
        }
        self.queues[slot.priority as usize].push_back(Queued {
            slot,
            transaction,
            message,
        });
    }

    fn lost(&mut self, why: &dyn core::fmt::Display) -> Option<Event> {
        log::error!("xenstore connection lost: {why}");
        self.broken = true;
        Some(Event::Broken)
    }

    /// Notes a reply, and whether it was the last one that its unit waits for.
    fn answer(&mut self, slot: Slot, reply: Reply) {
        let Some(unit) = slot.unit.and_then(|id| self.find(id)) else {
            return;
        };
        let id = unit.id;
        if let Some(place) = unit.replies.get_mut(slot.index) {
            *place = reply;
            unit.missing = unit.missing.saturating_sub(1);
            if unit.missing == 0 {
                self.answered.push_back(id);
            }
        }
    }
}

/// The first change that xenstored refused. A remove of what is already gone has what it wanted.
fn refused(changes: &[Reply]) -> Option<Errno> {
    changes.iter().find_map(|reply| match reply {
        Err(errno) if *errno != Errno::ENOENT => Some(*errno),
        _ => None,
    })
}

/// A number in plain decimal, as every number in xenstore is written; a trailing NUL is allowed.
pub(crate) fn parse_decimal(value: &[u8]) -> Option<u32> {
    let digits = value.strip_suffix(b"\0").unwrap_or(value);
    if digits.is_empty() || digits.len() > 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse_decimal;

    #[test]
    fn numbers_are_plain_decimals_only() {
        assert_eq!(parse_decimal(b"51712"), Some(51712));
        assert_eq!(parse_decimal(b"8\0"), Some(8));
        assert_eq!(parse_decimal(b"4294967295"), Some(u32::MAX));
        for bad in [
            &b""[..],
            b"+1",
            b"-1",
            b" 1",
            b"1 ",
            b"0x10",
            b"4294967296",
            b"99999999999",
            b"\xff",
            b"\0",
        ] {
            assert_eq!(parse_decimal(bad), None, "{bad:?}");
        }
    }
}
