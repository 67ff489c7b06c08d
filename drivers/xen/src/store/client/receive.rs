//! The way in: whole messages out of the byte stream, and the request that each of them answers.

use alloc::vec::Vec;

use log::debug;

use super::{Client, Event};
use crate::Errno;
use crate::store::Ring;
use crate::store::wire::{self, Header, MessageType};

impl Client {
    pub(super) fn receive(
        &mut self,
        ring: &mut Ring,
    ) -> Result<Option<(Header, Vec<u8>)>, Option<Event>> {
        let mut bytes = [0; 256];
        loop {
            match self.assembler.take() {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(error) => return Err(self.lost(&error)),
            }
            let wanted = self.assembler.wanted().unwrap_or(0).min(bytes.len());
            match ring.read(&mut bytes[..wanted]) {
                Ok(0) => return Ok(None),
                Ok(count) => self.assembler.push(&bytes[..count]),
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    pub(super) fn take(&mut self, header: Header, payload: Vec<u8>) -> Option<Event> {
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
                "xenstore: reply to request {}, which is not awaited",
                header.request
            );
            return None;
        };
        let asked = self.outstanding.remove(at)?;
        let reply = match header.message {
            MessageType::ERROR => Err(wire::error(&payload)),
            message if message == asked.message => Ok(match payload.get(..asked.kept) {
                Some(kept) => kept.to_vec(),
                None => payload,
            }),
            _ => Err(Errno::EIO),
        };
        self.answer(asked.slot, reply);
        None
    }
}
