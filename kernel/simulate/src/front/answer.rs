//! What a frontend gets: each answer is judged, and the pages of its request are taken back.

use spindle_blkif::abi::RspStatus;
use spindle_hw::PAGE_SIZE;

use super::{Around, Front, POISON, Request, What};
use crate::trace;
use crate::volume::{SECTOR, Volume, is_filled};

impl Front {
    /// A request was answered, by response number `index` of its ring.
    pub(super) fn answered(
        &mut self,
        (ring, index): (usize, u32),
        request: Request,
        status: RspStatus,
        around: &mut Around<'_>,
    ) -> Result<(), String> {
        let ok = status == RspStatus::OKAY;
        let refused = matches!(request.what, What::Forbidden | What::Denied);
        let number = self.number;
        around.tally.answered += 1;
        around.tally.failed += u64::from(!ok && !refused);
        trace::step(u64::from(ok) << 32 | request.from);
        if !ok {
            let shown = match request.what {
                What::Read => "front {}: a read of {} sectors from {} has failed",
                What::Write => "front {}: a write of {} sectors from {} has failed",
                What::Flush => "front {}: a flush has failed",
                What::Discard => "front {}: a discard of {} sectors from {} has failed",
                What::Forbidden | What::Denied => "front {}: may not write {} sectors from {}",
            };
            trace::event(shown, [number as u64, request.count, request.from]);
            if !refused && !around.may_fail {
                return Err(format!("front {number}: {request:?} fails without a cause"));
            }
        }
        let age = around.now - request.issued.at();
        let since = request.issued.at().max(around.prompt_from);
        if around.now.saturating_sub(since) > around.prompt_ns && request.what != What::Forbidden {
            return Err(format!(
                "front {number}: a request that no disk delays took {} ms",
                age / 1_000_000
            ));
        }
        self.count(&request, ok, around.now);
        if ok {
            let bytes = request.count * SECTOR as u64;
            let used = match request.what {
                What::Read => [1, 1, 0, bytes, bytes, 0],
                What::Write => [1, 0, 1, bytes, 0, bytes],
                _ => [1, 0, 0, 0, 0, 0],
            };
            self.used = std::array::from_fn(|kind| self.used[kind] + used[kind]);
        }
        let volume = around.volume.as_deref_mut().ok_or("no volume")?;
        let range = (request.from, request.count);
        let mut judged = Ok(());
        match request.what {
            What::Read => {
                if ok {
                    judged = self.judge(&request, volume, around.now);
                    around.tally.judged += request.count;
                }
                volume.end_read();
            }
            What::Write | What::Discard => {
                let overwritten = ok && request.what == What::Write;
                volume.end_change(range, request.issued, overwritten, around.now);
                if let Some(flush) = request.flush {
                    volume.end_flush(flush, ok, around.now);
                }
            }
            What::Flush => volume.end_flush(request.issued, ok, around.now),
            What::Forbidden | What::Denied if ok => {
                return Err(format!(
                    "front {number}: what must be refused is carried out; {request:?}"
                ));
            }
            What::Forbidden | What::Denied => {}
        }
        let (domain, first) = (self.domain(), self.rings[ring].refs[0]);
        let pages = request.pieces.iter().map(|&(page, ..)| page);
        for page in pages.chain(request.list) {
            self.idle.push_back(page);
            if self.traits.persistent {
                continue;
            }
            let Some(gref) = self.pages[page].gref.take() else {
                continue;
            };
            if !around.machine.grants.revoke(domain, gref) {
                return Err(format!(
                    "front {number}: a page of {request:?} is mapped when it is answered"
                ));
            }
            if around
                .machine
                .calls
                .was_used_after((domain, gref.0), (first, index))
            {
                return Err(format!(
                    "front {number}: a page of {request:?} is used after it was answered"
                ));
            }
        }
        judged.map_err(|error| format!("front {number}: {error}; {request:?}"))
    }

    fn judge(&self, request: &Request, volume: &mut Volume, now: u64) -> Result<(), String> {
        let mut sector = request.from;
        for &(page, first, last) in &request.pieces {
            let mut bytes = [0; PAGE_SIZE];
            self.pages[page].memory.read_bytes(0, &mut bytes);
            for (at, bytes) in (0..).zip(bytes.chunks_exact(SECTOR)) {
                if (first..=last).contains(&at) {
                    volume.judge(request.issued, sector, bytes, now)?;
                    sector += 1;
                } else if !is_filled(bytes, POISON) {
                    return Err(format!("sector {at} of a page was not asked for"));
                }
            }
        }
        Ok(())
    }

    /// Counts an answer as the backend does.
    fn count(&mut self, request: &Request, ok: bool, now: u64) {
        let counted = &mut self.counted;
        counted.since = now;
        counted.failed |= !ok && request.what != What::Forbidden;
        let more = request.counts();
        counted.sums = std::array::from_fn(|at| counted.sums[at] + more[at]);
    }
}
