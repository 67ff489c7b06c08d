//! How a unit of work goes on when all replies that it waits for are there.

use super::{Client, Event, Message, Stage, TransactionError, UnitId, parse_decimal, refused};
use crate::Errno;

impl Client {
    /// Takes a unit that has all its replies to its next stage.
    pub(super) fn advance(&mut self) -> Option<Event> {
        while let Some(id) = self.answered.pop_front() {
            let event = self.advance_unit(id);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn advance_unit(&mut self, id: UnitId) -> Option<Event> {
        let unit = self.find(id)?;
        let mut replies = core::mem::take(&mut unit.replies);
        match unit.stage {
            Stage::Plain => {
                self.forget(id);
                Some(Event::Replies(id, replies))
            }
            Stage::Starting => {
                let number = replies.pop().unwrap_or(Err(Errno::EIO));
                match number.and_then(|number| parse_decimal(&number).ok_or(Errno::EIO)) {
                    Ok(number) => {
                        unit.transaction = number;
                        unit.stage = Stage::Open;
                        Some(Event::Replies(id, replies))
                    }
                    Err(errno) => self.ended(id, Err(TransactionError::Refused(errno))),
                }
            }
            Stage::Reading => {
                unit.stage = Stage::Open;
                Some(Event::Replies(id, replies))
            }
            Stage::Changing => {
                let transaction = unit.transaction;
                if let Some(errno) = refused(&replies) {
                    self.give_up(id, transaction);
                    return Some(Event::Ended(id, Err(TransactionError::Refused(errno))));
                }
                unit.stage = Stage::Ending;
                self.enqueue(Some(id), transaction, Message::End(true));
                None
            }
            Stage::Ending => {
                let end = replies.pop().unwrap_or(Err(Errno::EIO));
                self.ended(
                    id,
                    match (refused(&replies), end) {
                        (_, Err(Errno::EAGAIN)) => Err(TransactionError::Conflict),
                        (Some(errno), _) | (None, Err(errno)) => {
                            Err(TransactionError::Refused(errno))
                        }
                        (None, Ok(_)) => Ok(()),
                    },
                )
            }
            Stage::Open => None,
        }
    }

    fn ended(&mut self, id: UnitId, result: Result<(), TransactionError>) -> Option<Event> {
        self.forget(id);
        Some(Event::Ended(id, result))
    }

    pub(super) fn forget(&mut self, id: UnitId) {
        self.units.retain(|unit| unit.id != id);
    }

    pub(super) fn give_up(&mut self, id: UnitId, transaction: u32) {
        self.forget(id);
        // At once: xenstored limits how many a domain may have.
        self.enqueue(None, transaction, Message::End(false));
    }
}
