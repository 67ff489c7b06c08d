//! Whether a visit has anything to do for a ring. Most rings of a core have nothing in most visits, and
//! are not to cost anything then.

use super::Session;

impl Session {
    /// Whether there is nothing that a visit could do for it: of what it has, if anything, all is with
    /// the disk.
    #[inline]
    pub(crate) fn is_still(&self, now_ns: u64) -> bool {
        // What is likely comes first. What a visit would only reset counts as something to do.
        !self.has_request(now_ns)
            && self.ring.unpublished() == 0
            && self.finished.len() | self.line.len() | self.asides | self.held() == 0
            && !(self.throttled | self.answered | self.fault)
            && !self.is_called()
    }

    /// Whether it is served in the usual way: what is persistent goes straight to the disk.
    pub(crate) fn is_plain(&self) -> bool {
        let takes = !self.stopped | self.limited;
        let usual = takes & !(self.throttled | self.special | self.fault);
        usual && self.goes_directly()
    }

    /// Whether nothing that was taken waits for anything but the disk, and no barrier is near.
    #[inline(always)]
    pub(crate) fn is_short(&self) -> bool {
        let none =
            self.ledger.is_all_sent() || self.finished.len() | self.line.len() | self.asides == 0;
        none && !self.is_called()
    }

    /// Whether there is a request in a ring that takes them.
    #[inline]
    pub(crate) fn has_new(&self) -> bool {
        self.ring.has_new()
    }

    /// Whether there is anything for [`Session::intake`].
    #[inline]
    pub(crate) fn takes(&self, now_ns: u64) -> bool {
        self.has_request(now_ns) || self.throttled
    }

    /// Whether it is to be found by those who look at rings that were still for long: something
    /// has come from outside, or its limits let it go on.
    #[inline]
    pub(crate) fn is_stirred(&self, now_ns: u64) -> bool {
        self.has_request(now_ns) || self.is_called()
    }

    /// Whether it may be left alone until [`Session::is_stirred`], at `now_ns`, after so long a time in
    /// which every visit found it still.
    #[inline]
    pub(crate) fn is_asleep(&self, now_ns: u64, after_ns: u64) -> bool {
        now_ns.saturating_sub(self.now_ns) >= after_ns
            && self.ring.is_settled()
            && !self.has_idle()
            && self.held_until(now_ns).is_none()
    }

    /// Whether there is a request that would be taken if there were nothing else to wait for.
    #[inline]
    fn has_request(&self, now_ns: u64) -> bool {
        if self.stopped {
            return self.may_take(now_ns);
        }
        self.ring.has_new()
    }
}
