//! Carrying requests out (5.2.6).

use super::ring::Piece;
use super::{Fault, Shared, feature};

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A request: what is before the data, the data, and the place for the status.
struct Request {
    kind: u32,
    sector: u64,
    data: Vec<Piece>,
    status: u64,
}

impl Shared {
    /// Carries out what is in a queue, at most `most` requests of it, and returns how many that were.
    pub(super) fn run(&self, number: usize, most: usize) -> usize {
        let features = {
            let control = self.control.lock().unwrap();
            if !control.live() {
                return 0;
            }
            control.features
        };
        let (mut done, mut kinds) = (Vec::new(), Vec::new());
        let mut queue = self.queues[number].lock().unwrap();
        while kinds.len() < most
            && let Some(head) = queue.take(&self.bus)
        {
            let indirect = features & feature::INDIRECT_DESC != 0;
            let pieces = queue.pieces(&self.bus, head, indirect);
            let request = pieces.and_then(|pieces| self.parse(&pieces, features));
            let request = match request {
                Ok(request) => request,
                Err(wrong) => {
                    self.violation(wrong);
                    continue;
                }
            };
            let kind = request.kind;
            kinds.push(kind);
            let swallowed = |fault| (fault == Fault::Swallow(kind)).then_some(());
            if self.once(swallowed).is_some() {
                continue;
            }
            let failed = self.once(|fault| match fault {
                Fault::Fail(what, status) if what == kind => Some(status),
                _ => None,
            });
            let status = failed.unwrap_or_else(|| self.carry_out(&request, features));
            self.bus.at(request.status, 1, |pages, offset| {
                use std::sync::atomic::Ordering::Relaxed;
                pages.u8_at(offset).store(status, Relaxed);
            });
            let written = request.data.iter().filter(|piece| piece.write);
            let written: u32 = written.map(|piece| piece.len).sum();
            done.push((head, written + 1));
        }
        if self.config().out_of_order {
            done.reverse();
        }
        for &(head, len) in &done {
            queue.post(&self.bus, head.into(), len);
        }
        drop(queue);
        self.control.lock().unwrap().requests.extend(kinds);
        done.len()
    }

    fn parse(&self, pieces: &[Piece], features: u64) -> Result<Request, String> {
        let [header, data @ .., status] = pieces else {
            return Err(format!("request of {pieces:?}"));
        };
        let mut raw = [0; 16];
        if header.write || header.len != 16 || !self.bus.read(header.bus, &mut raw) {
            return Err(format!("header {header:?}"));
        }
        if !status.write || status.len != 1 {
            return Err(format!("status {status:?}"));
        }
        let most = match features & feature::SEG_MAX {
            0 => 1,
            _ => self.config().seg_max as usize,
        };
        let largest = match features & feature::SIZE_MAX {
            0 => u32::MAX,
            _ => self.config().size_max,
        };
        if data.len() > most || data.iter().any(|piece| piece.len > largest) {
            return Err(format!("more than {most} pieces of {largest}: {data:?}"));
        }
        Ok(Request {
            kind: u32::from_le_bytes(raw[..4].try_into().expect("four bytes")),
            sector: u64::from_le_bytes(raw[8..].try_into().expect("eight bytes")),
            data: data.to_vec(),
            status: status.bus,
        })
    }

    fn carry_out(&self, request: &Request, features: u64) -> u8 {
        let has = |feature| features & feature != 0;
        match request.kind {
            0 => self.transfer(request, false),
            1 if has(feature::RO) => IO_ERROR,
            1 => self.transfer(request, true),
            4 if has(feature::FLUSH) => {
                self.disk.lock().unwrap().flush();
                OK
            }
            8 => self.identify(request),
            11 if has(feature::DISCARD) => self.erase(request, 0, 0xd1),
            13 if has(feature::WRITE_ZEROES) => self.erase(request, 1, 0),
            14 if has(feature::SECURE_ERASE) => self.erase(request, 0, 0x5e),
            _ => UNSUPPORTED,
        }
    }

    fn transfer(&self, request: &Request, to_disk: bool) -> u8 {
        let len: u64 = request.data.iter().map(|piece| u64::from(piece.len)).sum();
        let blocks = u64::from(self.config().block_size);
        let aligned = len.is_multiple_of(blocks) && request.sector.is_multiple_of(blocks / 512);
        if len == 0 || !aligned {
            self.violation(format!("{len} bytes at sector {}", request.sector));
            return IO_ERROR;
        }
        let mut disk = self.disk.lock().unwrap();
        let start = request.sector.checked_mul(512);
        let end = start.and_then(|start| start.checked_add(len));
        let (Some(start), Some(end)) = (start, end) else {
            return IO_ERROR;
        };
        if end > disk.bytes().len() as u64 {
            return IO_ERROR;
        }
        let mut at = start as usize;
        for piece in &request.data {
            let there = at..at + piece.len as usize;
            at = there.end;
            let ok = match to_disk {
                _ if piece.write == to_disk => false,
                true => self.bus.read(piece.bus, disk.write(there)),
                false => self.bus.write(piece.bus, &disk.bytes()[there]),
            };
            if !ok {
                self.violation(format!("{piece:?} is not memory for that"));
                return IO_ERROR;
            }
        }
        if self.config().features & feature::FLUSH == 0 {
            disk.flush();
        }
        OK
    }

    fn identify(&self, request: &Request) -> u8 {
        let [place] = request.data[..] else {
            self.violation("GET_ID of other than one piece");
            return IO_ERROR;
        };
        let Some(serial) = self.config().serial else {
            return UNSUPPORTED;
        };
        let mut id = [0; 20];
        id[..serial.len()].copy_from_slice(serial.as_bytes());
        if place.len != 20 || !place.write || !self.bus.write(place.bus, &id) {
            self.violation(format!("GET_ID into {place:?}"));
        }
        OK
    }

    /// Fills a range with `fill`.
    fn erase(&self, request: &Request, flags: u32, fill: u8) -> u8 {
        let mut raw = [0; 16];
        let range = match request.data[..] {
            [range] if range.len == 16 && !range.write => self.bus.read(range.bus, &mut raw),
            _ => false,
        };
        let [first, extent] =
            [0, 8].map(|at| u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes")));
        let (count, given) = (extent & 0xffff_ffff, (extent >> 32) as u32);
        let blocks = u64::from(self.config().block_size) / 512;
        if !range || count > self.config().max_discard.into() || given != flags {
            self.violation(format!("erase of {count} sectors, flags {given}"));
            return IO_ERROR;
        }
        if !first.is_multiple_of(blocks) || !count.is_multiple_of(blocks) {
            self.violation(format!("erase of {count} sectors at {first}"));
        }
        let mut disk = self.disk.lock().unwrap();
        let end = first
            .checked_add(count)
            .and_then(|end| end.checked_mul(512));
        match end {
            Some(end) if end <= disk.bytes().len() as u64 => {
                disk.write(first as usize * 512..end as usize).fill(fill);
                OK
            }
            _ => IO_ERROR,
        }
    }
}
