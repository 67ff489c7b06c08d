//! Carrying out admin commands (5).

use spindle_nvme::Status;

use super::registers::Control;
use super::ring::{Area, Entry, Ring};
use super::{Fault, Quirk, Shared, Stuck};

impl Shared {
    /// Carries out admin commands, at most `most`.
    pub(super) fn run_admin(&self, control: &mut Control, most: usize) {
        let fetch = |control: &mut Control| control.admin.as_mut().and_then(Ring::fetch);
        for _ in 0..most {
            let Some(entry) = fetch(control) else {
                return;
            };
            let opcode = entry.opcode();
            if self.config.quirks.has(Quirk::SilentAdmin(opcode)) {
                continue;
            }
            self.use_lent();
            let more = [13, 14, 15].map(|dword| entry.dword(dword));
            if more != [0; 3] && (opcode, entry.dword(10)) != (0x09, 0x0d) {
                self.violation(format!(
                    "admin command {opcode:#x} has doublewords {more:?}"
                ));
            }
            let cns = (opcode == 0x06).then(|| entry.dword(10) as u8);
            let swallowed = self.once(|fault| match fault {
                Fault::SwallowAdmin(which) if which == opcode => Some(()),
                Fault::SwallowIdentify(which) if cns == Some(which) => Some(()),
                _ => None,
            });
            if swallowed.is_some() {
                continue;
            }
            let failed = self.once(|fault| match fault {
                Fault::FailAdmin(which, status) if which == opcode => Some(Err(Status(status))),
                Fault::FailIdentify(which, status) if cns == Some(which) => {
                    Some(Err(Status(status)))
                }
                _ => None,
            });
            if opcode == 0x0c && failed.is_none() {
                self.request_event(control, entry);
                continue;
            }
            let result = failed.unwrap_or_else(|| self.admin(control, entry));
            if let Some(ring) = control.admin.as_mut() {
                match result {
                    Ok(value) => ring.post(entry.cid(), 0, value),
                    Err(status) => ring.post(entry.cid(), status.0, 0),
                }
            }
        }
    }

    fn admin(&self, control: &mut Control, entry: Entry) -> Result<u32, Status> {
        match entry.opcode() {
            0x00 => self.delete_submission(entry),
            0x01 => self.create_submission(entry),
            0x04 => self.delete_completion(entry),
            0x02 => self.log_page(control, entry),
            0x05 => self.create_completion(entry),
            0x06 => self.identify(entry),
            0x08 => Ok(u32::from(!self.abort(entry))),
            0x09 if entry.dword(10) == 0x0b => {
                control.event_mask = entry.dword(11);
                Ok(0)
            }
            0x09 if entry.dword(10) == 0x0d => self.set_host_memory(entry),
            0x09 if entry.dword(10) == 0x16 => {
                let mut data = [0; 512];
                if !self.bus.read(entry.prp1(), &mut data) {
                    return Err(Status::DATA_TRANSFER);
                }
                control.delays_told = data[0] == 1;
                Ok(0)
            }
            0x09 if entry.dword(10) == 7 => {
                let most = u32::from(self.granted()) - 1;
                Ok(most << 16 | most)
            }
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// Asynchronous Event Request: four may wait.
    fn request_event(&self, control: &mut Control, entry: Entry) {
        if control.requests.len() == 4 {
            self.violation("more event requests than are allowed");
        }
        control.requests.push_back(entry.cid());
        control.send_events();
    }

    /// Aborts a command that was swallowed; false if it is not there.
    fn abort(&self, entry: Entry) -> bool {
        let queue = (entry.dword(10) & 0xffff) as u16;
        let cid = (entry.dword(10) >> 16) as u16;
        if self.has(Fault::NoAbort) {
            return false;
        }
        let stuck = Stuck { queue, cid };
        let mut all = self.stuck.lock().unwrap();
        let Some(at) = all.iter().position(|other| *other == stuck) else {
            return false;
        };
        all.swap_remove(at);
        let mut queue = self.queues[usize::from(queue) - 1].lock().unwrap();
        if let Some(ring) = queue.ring.as_mut() {
            ring.post(cid, Status::ABORT_REQUESTED.0, 0);
        }
        true
    }

    fn queue_index(&self, entry: Entry) -> Result<usize, Status> {
        let id = (entry.dword(10) & 0xffff) as usize;
        if id == 0 || id > usize::from(self.granted()) {
            return Err(Status::QUEUE_IDENTIFIER);
        }
        Ok(id - 1)
    }

    fn queue_area(&self, entry: Entry, shift: usize) -> Result<Area, Status> {
        let entries = (entry.dword(10) >> 16) + 1;
        if entries < 2 || entries > self.entries() {
            return Err(Status::QUEUE_SIZE);
        }
        if entry.dword(11) & 1 == 0 || !entry.prp1().is_multiple_of(4096) {
            return Err(Status::INVALID_FIELD);
        }
        Area::new(&self.bus, entry.prp1(), (entries as usize) << shift).ok_or(Status::DATA_TRANSFER)
    }

    fn create_completion(&self, entry: Entry) -> Result<u32, Status> {
        let mut queue = self.queues[self.queue_index(entry)?].lock().unwrap();
        if queue.completion.is_some() || queue.ring.is_some() {
            return Err(Status::QUEUE_IDENTIFIER);
        }
        if entry.dword(11) & 2 != 0 {
            self.violation("interrupts on a polled queue");
        }
        let area = self.queue_area(entry, 4)?;
        if !area.is_clear() {
            self.violation("a completion queue is not clear");
        }
        queue.completion = Some(area);
        Ok(0)
    }

    /// Completions must go to the completion queue of the same number: this model has no other.
    fn create_submission(&self, entry: Entry) -> Result<u32, Status> {
        let mut queue = self.queues[self.queue_index(entry)?].lock().unwrap();
        let area = self.queue_area(entry, 6)?;
        if entry.dword(11) >> 16 != entry.dword(10) & 0xffff {
            return Err(Status(0x100));
        }
        let completion = queue.completion.take().ok_or(Status(0x100))?;
        queue.ring = Some(Ring::new(area, completion));
        Ok(0)
    }

    fn delete_submission(&self, entry: Entry) -> Result<u32, Status> {
        let mut queue = self.queues[self.queue_index(entry)?].lock().unwrap();
        let ring = queue.ring.take().ok_or(Status::QUEUE_IDENTIFIER)?;
        self.check_memory(&ring);
        queue.completion = Some(ring.completion);
        Ok(0)
    }

    fn delete_completion(&self, entry: Entry) -> Result<u32, Status> {
        let mut queue = self.queues[self.queue_index(entry)?].lock().unwrap();
        if queue.ring.is_some() {
            return Err(Status(0x10c));
        }
        let area = queue.completion.take().ok_or(Status::QUEUE_IDENTIFIER)?;
        if !area.is_there(&self.bus) {
            self.violation("queue memory was freed before the queue");
        }
        Ok(0)
    }
}
