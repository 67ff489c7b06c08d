//! How a virtqueue goes from the control core to a ring core, and back once its device is lost.
//!
//! Whoever has the [`Engine`] is the only one to touch its memory. A ring core gives it back when it
//! fails what is in flight, and gets another one when the device is back. As long as it has none it
//! looks at a flag at each poll iteration; the lock is taken only when something is handed over.

use crate::engine::Engine;
use crate::sync::{AtomicBool, Mutex, Ordering};

/// The place where the virtqueue of one ring core lies when the core does not have it.
#[derive(Debug)]
pub(crate) struct Handover<T = Engine> {
    /// The core may take it.
    offered: AtomicBool,
    engine: Mutex<Option<T>>,
}

impl<T> Default for Handover<T> {
    fn default() -> Self {
        Self {
            offered: AtomicBool::new(false),
            engine: Mutex::new(None),
        }
    }
}

impl<T> Handover<T> {
    /// Puts a virtqueue here. The core does not take it before [`Self::offer`].
    pub(crate) fn keep(&self, engine: T) {
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
    pub(crate) fn take(&self) -> Option<T> {
        let mut engine = self.engine.lock();
        self.offered.store(false, Ordering::Relaxed);
        engine.take()
    }

    /// Ring core: takes what is offered.
    pub(crate) fn pick_up(&self) -> Option<T> {
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

/// Under every interleaving and every stale read that the memory model allows. Run by `cargo xtask
/// loom`.
#[cfg(all(test, loom))]
mod models {
    use super::*;
    use alloc::sync::Arc;
    use loom::thread;

    #[test]
    fn a_queue_is_with_one_of_both_and_stays_where_it_is_once_it_is_withdrawn() {
        loom::model(|| {
            let handover = Arc::new(Handover::default());
            handover.keep(1);
            handover.offer();
            let core = thread::spawn({
                let handover = Arc::clone(&handover);
                move || handover.pick_up()
            });
            handover.withdraw();
            let kept = handover.is_kept();
            let taken = handover.take();
            assert_eq!(taken.is_some(), kept, "taken after it was withdrawn");
            let with_core = core.join().unwrap();
            assert_eq!(taken.or(with_core), Some(1));
            assert!(taken.xor(with_core).is_some());
        });
    }

    #[test]
    fn a_core_that_gave_its_queue_back_gets_the_next_one_and_not_the_same() {
        loom::model(|| {
            let handover = Arc::new(Handover::default());
            let core = thread::spawn({
                let handover = Arc::clone(&handover);
                move || {
                    handover.keep(1);
                    handover.pick_up().or_else(|| handover.pick_up())
                }
            });
            let returned = handover.take();
            if returned.is_some() {
                handover.keep(2);
                handover.offer();
            }
            let picked_up = core.join().unwrap();
            assert!(matches!(picked_up, None | Some(2)), "{picked_up:?}");
            // What the core did not pick up is here.
            let expected = match (returned, picked_up) {
                (None, _) => Some(1),
                (_, None) => Some(2),
                _ => None,
            };
            assert_eq!(handover.take(), expected);
        });
    }
}
