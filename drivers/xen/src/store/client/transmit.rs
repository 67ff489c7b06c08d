//! The way out: which request is encoded next, and how many of a priority are under way at once.

use super::{
    BACKGROUND, BRIEF, Client, Message, NORMAL, Outstanding, Priority, Queued, Request, WINDOW,
};
use crate::Errno;
use crate::store::wire::{self, MessageType};

impl Client {
    /// Encodes what may be sent now; the rest waits until the ring has taken what was encoded
    /// before: bounded memory.
    pub(super) fn encode(&mut self) {
        while self.out.len() < wire::PAYLOAD_MAX && self.outstanding.len() < WINDOW {
            let Some(next) = self.next_to_send() else {
                return;
            };
            self.write(next);
        }
    }

    fn next_to_send(&mut self) -> Option<Queued> {
        let [urgent, normal, background] = &mut self.queues;
        if let Some(next) = urgent.pop_front() {
            return Some(next);
        }
        let (queue, priority, (alone, beside)) = if normal.is_empty() {
            (background, Priority::Background, BACKGROUND)
        } else {
            (normal, Priority::Normal, NORMAL)
        };
        let beside_others = self.units.iter().any(|unit| unit.priority < priority);
        let sent = self.outstanding.iter();
        let sent = sent.filter(|o| o.slot.priority == priority).count();
        // What is on its way to the ring must not stand there before what is more urgent.
        let room = sent < if beside_others { beside } else { alone };
        (room && (self.out.is_empty() || !beside_others))
            .then(|| queue.pop_front())
            .flatten()
    }

    fn write(&mut self, next: Queued) {
        let end = |commit: bool| -> &[u8] { if commit { b"T\0" } else { b"F\0" } };
        let (message, parts, kept): (_, [&[u8]; 4], _) = match &next.message {
            Message::Start => (
                MessageType::TRANSACTION_START,
                [b"\0", b"", b"", b""],
                usize::MAX,
            ),
            Message::End(commit) => (
                MessageType::TRANSACTION_END,
                [end(*commit), b"", b"", b""],
                usize::MAX,
            ),
            Message::Request(request) => {
                let (message, path, last): (_, _, [&[u8]; 2]) = match request {
                    Request::Read(path) | Request::ReadBrief(path) => {
                        (MessageType::READ, path, [b"", b""])
                    }
                    Request::Directory(path) => (MessageType::DIRECTORY, path, [b"", b""]),
                    Request::Write(path, value) => (MessageType::WRITE, path, [value, b""]),
                    Request::Remove(path) => (MessageType::RM, path, [b"", b""]),
                    Request::Watch(path, token) => {
                        (MessageType::WATCH, path, [token.as_bytes(), b"\0"])
                    }
                    Request::Unwatch(path, token) => {
                        (MessageType::UNWATCH, path, [token.as_bytes(), b"\0"])
                    }
                };
                let kept = match request {
                    Request::ReadBrief(_) => BRIEF,
                    _ => usize::MAX,
                };
                (message, [path.as_bytes(), b"\0", last[0], last[1]], kept)
            }
        };
        let request = self.next_request;
        // Events carry request 0.
        self.next_request = self.next_request.checked_add(1).unwrap_or(1);
        if wire::encode(&mut self.out, message, request, next.transaction, &parts) {
            self.outstanding.push_back(Outstanding {
                request,
                message,
                kept,
                slot: next.slot,
            });
        } else {
            self.answer(next.slot, Err(Errno::E2BIG));
        }
    }
}
