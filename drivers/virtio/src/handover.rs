//! How a virtqueue goes from the control core to a ring core, and back once its device is lost.
//!
//! Whoever has the [`Engine`] is the only one to touch its memory. A ring core gives it back when it
//! fails what is in flight, and gets another one when the device is back. As long as it has none it
//! looks at a flag at each poll iteration; the lock is taken only when something is handed over.

use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;

use crate::engine::Engine;

/// The place where the virtqueue of one ring core lies when the core does not have it.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// The core may take it.
    offered: AtomicBool,
    engine: Mutex<Option<Engine>>,
}

impl Handover {
    /// Puts a virtqueue here. The core does not take it before [`Self::offer`].
    pub(crate) fn keep(&self, engine: Engine) {
        *self.engine.lock() = Some(engine);
    }

    /// Control: whether a virtqueue is here.
    pub(crate) fn is_kept(&self) -> bool {
        self.engine.lock().is_some()
    }

    /// Control: the core is to take what is here.
    pub(crate) fn offer(&self) {
        self.offered.store(true, Ordering::Release);
    }

    /// Control: the core is to take nothing from now on. It may have done so before.
    pub(crate) fn withdraw(&self) {
        let _engine = self.engine.lock();
        self.offered.store(false, Ordering::Relaxed);
    }

    /// Control: takes out what is here.
    pub(crate) fn take(&self) -> Option<Engine> {
        let mut engine = self.engine.lock();
        self.offered.store(false, Ordering::Relaxed);
        engine.take()
    }

    /// Ring core: takes what is offered.
    pub(crate) fn pick_up(&self) -> Option<Engine> {
        if !self.offered.load(Ordering::Relaxed) {
            return None;
        }
        let mut engine = self.engine.lock();
        // Control may have withdrawn it meanwhile.
        match self.offered.swap(false, Ordering::Relaxed) {
            true => engine.take(),
            false => None,
        }
    }
}
