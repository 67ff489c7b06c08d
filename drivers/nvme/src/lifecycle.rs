//! The states of a controller: disabled, ready, shut down. Every wait is bounded.

use core::time::Duration;

use spindle_hw::{Clock, Registers};

use crate::Error;
use crate::registers::{Capabilities, ControllerRegisters, ControllerStatus, cc};

/// The least that a normal shutdown is given, whatever RTD3E says.
const SHUTDOWN_MIN: Duration = Duration::from_secs(5);
/// The most, whatever RTD3E says.
const SHUTDOWN_MAX: Duration = Duration::from_secs(60);
/// The most that one gets to be disabled which was lost, whatever CAP.TO says: it does not hold up a
/// shutdown. If it takes longer, its memory is kept.
pub(crate) const LOST_MAX: Duration = Duration::from_secs(2);
/// The least that a controller gets whose status reads as all ones after a change of CC.EN: those
/// known for it need 2 s, whatever CAP.TO says.
pub(crate) const BLIND_MIN: Duration = Duration::from_secs(5);

/// Has the controller behind `registers` forget all queues, whoever made them; afterwards it touches no
/// memory. For a driver that finds it as an earlier one has left it, before it uses any memory that was
/// the earlier one's.
///
/// # Errors
/// [`Error`]: it may still touch memory.
pub fn stop(registers: impl Registers, clock: &impl Clock) -> Result<(), Error> {
    let registers = ControllerRegisters(registers);
    let limit = registers.usable_capabilities()?.timeout();
    registers.disable(clock, limit)
}

impl<R: Registers> ControllerRegisters<R> {
    /// Waits until `reached`; `late` if that takes longer than `limit`. All ones in place of the
    /// status are waited through, up to the limit or [`BLIND_MIN`].
    fn wait(
        &self,
        clock: &impl Clock,
        limit: Duration,
        late: Error,
        reached: impl Fn(ControllerStatus) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let start = clock.now_ns();
        let mut limit = limit;
        loop {
            // Time first: a pause of this core between the two must not look like lateness.
            let waited = u128::from(clock.now_ns().saturating_sub(start));
            let failure = match self.status_in_change() {
                Some(status) if reached(status)? => return Ok(()),
                Some(_) => late,
                None => {
                    limit = limit.max(BLIND_MIN);
                    Error::Gone
                }
            };
            if waited > limit.as_nanos() {
                return Err(failure);
            }
            clock.relax();
        }
    }

    /// Makes the controller forget all queues (7.3.2); afterwards it touches no memory. `limit` is for
    /// each of two waits.
    #[inline(never)]
    pub(crate) fn disable(&self, clock: &impl Clock, limit: Duration) -> Result<(), Error> {
        let configuration = self.configuration();
        let becoming = |status: ControllerStatus| !status.ready() && !status.fatal();
        if configuration & cc::ENABLE != 0 && self.status_in_change().is_none_or(becoming) {
            // CC.EN must not be cleared while the controller is still becoming ready (3.1.5).
            // If it never does, clearing it is all that is left.
            let settled = |status: ControllerStatus| Ok(status.ready() || status.fatal());
            let _ = self.wait(clock, limit, Error::NotReady(limit), settled);
        }
        self.begin_disable();
        self.wait(clock, limit, Error::NotDisabled(limit), |status| {
            Ok(!status.ready())
        })
    }

    /// Has the controller stop; it has when CSTS.RDY is clear.
    pub(crate) fn begin_disable(&self) {
        let configuration = match self.configuration() {
            u32::MAX => cc::CONFIGURATION,
            configuration => configuration,
        };
        self.configure(configuration & !(cc::ENABLE | cc::SHUTDOWN_MASK));
    }

    /// Has the controller start with the admin queues that were set; it has when CSTS.RDY is set.
    pub(crate) fn begin_enable(&self) {
        self.mask_interrupts();
        self.configure(cc::CONFIGURATION);
        self.configure(cc::CONFIGURATION | cc::ENABLE);
    }

    /// Starts the controller with the admin queues that were set (7.6.1).
    pub(crate) fn enable(&self, clock: &impl Clock, cap: Capabilities) -> Result<(), Error> {
        let limit = cap.timeout();
        self.begin_enable();
        self.wait(clock, limit, Error::NotReady(limit), |status| {
            if status.fatal() {
                return Err(Error::Fatal);
            }
            Ok(status.ready())
        })
    }

    /// Normal shutdown (7.6.2): the controller writes out what it has cached. `announced` is
    /// what it said it may need.
    pub(crate) fn shut_down(&self, clock: &impl Clock, announced: Duration) -> Result<(), Error> {
        let limit = announced.clamp(SHUTDOWN_MIN, SHUTDOWN_MAX);
        let configuration = self.configuration() & !cc::SHUTDOWN_MASK;
        self.configure(configuration | cc::SHUTDOWN_NORMAL);
        self.wait(clock, limit, Error::NoShutdown(limit), |status| {
            Ok(status.shutdown_complete())
        })
    }
}
