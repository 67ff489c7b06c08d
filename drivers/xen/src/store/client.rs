//! The client: batches of requests and transactions, over any splitting of the byte stream.
//!
//! The owner runs one *unit of work* at a time: a plain batch ([`Client::send`]), or a
//! transaction ([`Client::begin`], then [`Client::commit`]). Requests of a batch are pipelined,
//! at most 16 at a time. A watch event is handed over the moment it is read and never
//! queued here: the owner marks what it concerns, so that a flood costs no memory (XSA-349).

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use log::debug;

use super::Ring;
use super::wire::{self, Assembler, Header, MessageType};
use crate::Errno;

/// Requests sent and not yet answered, at most.
const WINDOW: usize = 16;

/// Bytes of a value that [`Client::send_brief`] keeps.
const BRIEF: usize = 64;

/// What can be asked of xenstored. Paths without a leading `/` are relative to our own home,
/// `/local/domain/<domid>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The value of a node.
    Read(String),
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
    /// Somebody else changed what it had read: look again, decide again.
    #[error("transaction conflict")]
    Conflict,
    /// xenstored refused it or a change in it.
    #[error("xenstored refused: {0}")]
    Refused(Errno),
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
    /// All of [`Client::send`]'s or [`Client::begin`]'s requests are answered, in their order.
    /// After `begin`, [`Client::commit`] is due.
    Replies(Vec<Reply>),
    /// The transaction has ended.
    Ended(Result<(), TransactionError>),
    /// The byte stream makes no sense any more; nothing will come of this client again.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing under way; `true` inside an open transaction whose reads are answered.
    Idle {
        open: bool,
    },
    Plain,
    Starting,
    Reading,
    Changing,
    Ending {
        refused: Option<Errno>,
    },
    Broken,
}

#[derive(Debug)]
struct Outstanding {
    request: u32,
    message: MessageType,
    /// Index into `replies`.
    index: usize,
}

/// The xenstore client.
#[derive(Debug)]
pub struct Client {
    assembler: Assembler,
    /// Encoded, not yet in the ring.
    out: Vec<u8>,
    next_request: u32,
    stage: Stage,
    transaction: u32,
    batch: VecDeque<Request>,
    replies: Vec<Reply>,
    outstanding: VecDeque<Outstanding>,
    /// Bytes of a reply that are kept.
    kept: usize,
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
            stage: Stage::Idle { open: false },
            transaction: 0,
            batch: VecDeque::new(),
            replies: Vec::new(),
            outstanding: VecDeque::new(),
            kept: usize::MAX,
        }
    }

    /// Whether a new unit of work may be started.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Idle { open: false }
    }

    /// Starts a plain batch. The client must be idle; otherwise nothing happens.
    pub fn send(&mut self, requests: Vec<Request>) {
        if self.is_idle() {
            self.start(Stage::Plain, requests);
        }
    }

    /// As [`Client::send`], for what guests write: of a value no more is kept than a number or a
    /// name takes, so that what many of them hold is bounded.
    pub fn send_brief(&mut self, requests: Vec<Request>) {
        if self.is_idle() {
            self.start(Stage::Plain, requests);
            self.kept = BRIEF;
        }
    }

    /// Starts a transaction that first reads. The client must be idle; otherwise nothing happens.
    pub fn begin(&mut self, reads: Vec<Request>) {
        if self.is_idle() {
            self.start(Stage::Starting, reads);
            let index = self.replies.len();
            self.replies.push(Err(Errno::EIO));
            self.ask(MessageType::TRANSACTION_START, &[b"\0"], index);
        }
    }

    /// Makes `changes` in the open transaction and commits it; without any, abandons it.
    /// Does nothing unless a transaction's reads have just been answered.
    pub fn commit(&mut self, changes: Vec<Request>) {
        if self.stage == (Stage::Idle { open: true }) {
            self.start(Stage::Changing, changes);
        }
    }

    /// Moves bytes and gives the next thing that came of it; `None` if there is nothing more
    /// until xenstored acts.
    pub fn poll(&mut self, ring: &mut Ring) -> Option<Event> {
        loop {
            if self.stage == Stage::Broken {
                return None;
            }
            if let Some(event) = self.advance() {
                return Some(event);
            }
            let sent = match ring.write(&self.out) {
                Ok(sent) => sent,
                Err(error) => return self.broken(&error),
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
                None if sent == 0 => return None,
                None => {}
            }
        }
    }

    fn start(&mut self, stage: Stage, requests: Vec<Request>) {
        self.stage = stage;
        self.batch = requests.into();
        self.replies = Vec::new();
        self.kept = usize::MAX;
    }

    fn broken(&mut self, why: &dyn core::fmt::Display) -> Option<Event> {
        log::error!("xenstore connection lost: {why}");
        self.stage = Stage::Broken;
        Some(Event::Broken)
    }

    /// Sends what may be sent now, and goes on to the next stage when one is done.
    fn advance(&mut self) -> Option<Event> {
        if matches!(self.stage, Stage::Plain | Stage::Reading | Stage::Changing) {
            // Encoding waits until the ring has taken what was encoded before: bounded memory.
            while self.out.len() < wire::PAYLOAD_MAX && self.outstanding.len() < WINDOW {
                let Some(request) = self.batch.pop_front() else {
                    break;
                };
                self.request(&request);
            }
        }
        if !self.outstanding.is_empty() || !self.batch.is_empty() && self.stage != Stage::Starting {
            return None;
        }
        match self.stage {
            Stage::Idle { .. } | Stage::Broken => None,
            Stage::Plain => {
                self.stage = Stage::Idle { open: false };
                Some(Event::Replies(core::mem::take(&mut self.replies)))
            }
            Stage::Starting => match self.replies.pop()? {
                Ok(number) => match parse_decimal(&number) {
                    Some(number) => {
                        self.transaction = number;
                        self.stage = Stage::Reading;
                        self.advance()
                    }
                    None => self.ended(Err(TransactionError::Refused(Errno::EIO))),
                },
                Err(errno) => self.ended(Err(TransactionError::Refused(errno))),
            },
            Stage::Reading => {
                self.stage = Stage::Idle { open: true };
                Some(Event::Replies(core::mem::take(&mut self.replies)))
            }
            Stage::Changing => {
                // A remove of what is already gone has what it wanted.
                let refused = self.replies.iter().find_map(|reply| match reply {
                    Err(errno) if *errno != Errno::ENOENT => Some(*errno),
                    _ => None,
                });
                let keep = refused.is_none() && !self.replies.is_empty();
                self.replies = Vec::from([Err(Errno::EIO)]);
                self.stage = Stage::Ending { refused };
                let how: &[u8] = if keep { b"T\0" } else { b"F\0" };
                self.ask(MessageType::TRANSACTION_END, &[how], 0);
                None
            }
            Stage::Ending { refused } => {
                let reply = self.replies.pop()?;
                self.ended(match (refused, reply) {
                    (Some(errno), _) => Err(TransactionError::Refused(errno)),
                    (None, Err(Errno::EAGAIN)) => Err(TransactionError::Conflict),
                    (None, Err(errno)) => Err(TransactionError::Refused(errno)),
                    (None, Ok(_)) => Ok(()),
                })
            }
        }
    }

    fn ended(&mut self, result: Result<(), TransactionError>) -> Option<Event> {
        self.stage = Stage::Idle { open: false };
        self.transaction = 0;
        self.batch.clear();
        Some(Event::Ended(result))
    }

    fn request(&mut self, request: &Request) {
        let index = self.replies.len();
        // Stands until the reply is there; also the answer to what is too long to be sent.
        self.replies.push(Err(Errno::E2BIG));
        match request {
            Request::Read(path) => self.ask(MessageType::READ, &[path.as_bytes(), b"\0"], index),
            Request::Directory(path) => {
                self.ask(MessageType::DIRECTORY, &[path.as_bytes(), b"\0"], index);
            }
            Request::Write(path, value) => {
                self.ask(MessageType::WRITE, &[path.as_bytes(), b"\0", value], index);
            }
            Request::Remove(path) => self.ask(MessageType::RM, &[path.as_bytes(), b"\0"], index),
            Request::Watch(path, token) => self.ask_watch(MessageType::WATCH, path, token, index),
            Request::Unwatch(path, token) => {
                self.ask_watch(MessageType::UNWATCH, path, token, index);
            }
        }
    }

    fn ask_watch(&mut self, message: MessageType, path: &str, token: &str, index: usize) {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        self.ask(message, &parts, index);
    }

    fn ask(&mut self, message: MessageType, parts: &[&[u8]], index: usize) {
        let request = self.next_request;
        // Watches belong to no transaction, and events carry request 0.
        self.next_request = self.next_request.checked_add(1).unwrap_or(1);
        let transaction = match self.stage {
            Stage::Starting | Stage::Plain => 0,
            _ => self.transaction,
        };
        if wire::encode(&mut self.out, message, request, transaction, parts) {
            self.outstanding.push_back(Outstanding {
                request,
                message,
                index,
            });
        }
    }

    fn receive(&mut self, ring: &mut Ring) -> Result<Option<(Header, Vec<u8>)>, Option<Event>> {
        let mut bytes = [0; 256];
        loop {
            match self.assembler.take() {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(error) => return Err(self.broken(&error)),
            }
            let wanted = self.assembler.wanted().unwrap_or(0).min(bytes.len());
            match ring.read(&mut bytes[..wanted]) {
                Ok(0) => return Ok(None),
                Ok(count) => self.assembler.push(&bytes[..count]),
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    fn take(&mut self, header: Header, payload: Vec<u8>) -> Option<Event> {
        if header.message == MessageType::WATCH_EVENT {
            let mut strings = wire::strings(&payload);
            let path = strings.next()?.to_vec();
            let token = strings.next().unwrap_or_default().to_vec();
            return Some(Event::Watch { path, token });
        }
        let Some(at) = self
            .outstanding
            .iter()
            .position(|o| o.request == header.request)
        else {
            debug!(
                "xenstore: reply to request {} that nobody awaits",
                header.request
            );
            return None;
        };
        let asked = self.outstanding.remove(at)?;
        if let Some(reply) = self.replies.get_mut(asked.index) {
            *reply = match header.message {
                MessageType::ERROR => Err(wire::error(&payload)),
                message if message == asked.message => Ok(match payload.get(..self.kept) {
                    Some(kept) => kept.to_vec(),
                    None => payload,
                }),
                _ => Err(Errno::EIO),
            };
        }
        None
    }
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
