//! The frontends of the field against the backend, with every interleaving that a property test
//! finds: each ends connected, or closed with a reason, within a bound; none waits without end.

use proptest::prelude::*;
use spindle_testkit::frontends::{
    ALL, Asked, Frontend, GRUB, Kind, LINUX_4, LINUX_KEXEC, MINIOS, OVMF, Status, WINDOWS, XENCRSH,
};
use spindle_testkit::xenbus::{Bed, VBD, id};
use spindle_xen::grant::GrantRef;

/// How long anything may take, in ms. Frontends wait for up to ten seconds.
const LIMIT: u64 = 30_000;

/// One turn of the frontend, the backend or the clock, so that others see what is half done.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Frontend,
    Backend(usize),
    Pass(u64),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        2 => Just(Turn::Frontend),
        4 => (1usize..12).prop_map(Turn::Backend),
        1 => (1u64..700).prop_map(Turn::Pass),
    ];
    prop::collection::vec(turn, 0..40)
}

struct Play {
    bed: Bed,
    front: Frontend,
}

impl Play {
    /// A disk just attached, and its frontend about to start. libxl lets a guest run only when
    /// the backend is in `InitWait`.
    fn new(kind: &'static Kind, chunk: usize) -> Self {
        let mut bed = Bed::new();
        bed.store.set_chunk(chunk);
        bed.attach(VBD);
        bed.settle();
        assert_eq!(VBD.back_state(&bed.store), 2);
        Self {
            bed,
            front: Frontend::boot(kind, VBD, 8),
        }
    }

    fn connected(kind: &'static Kind) -> Self {
        let mut play = Self::new(kind, usize::MAX);
        play.finish();
        play.assert_connected();
        play
    }

    fn interleave(&mut self, turns: &[Turn]) {
        for turn in turns {
            match turn {
                Turn::Frontend => drop(self.front.step(&mut self.bed.store, self.bed.now)),
                Turn::Backend(steps) => self.bed.breathe(*steps),
                Turn::Pass(ms) => self.bed.run(*ms),
            }
        }
    }

    /// Until nothing moves any more; gives the ms that took.
    fn finish(&mut self) -> u64 {
        let start = self.bed.now;
        loop {
            self.bed.settle();
            if self.front.step(&mut self.bed.store, self.bed.now) {
                continue;
            }
            let due = [self.bed.next_due(), self.front.next_due()];
            let Some(due) = due.into_iter().flatten().min() else {
                return (self.bed.now - start) / 1_000_000;
            };
            self.bed.now = due.max(self.bed.now + 1);
            assert!(
                self.bed.now - start < LIMIT * 1_000_000,
                "{} does not get on: {:?}, backend {}",
                self.front.kind.name,
                self.front.status(),
                VBD.back_state(&self.bed.store)
            );
        }
    }

    fn assert_connected(&self) {
        let name = self.front.kind.name;
        assert_eq!(self.front.status(), Status::Connected, "{name}");
        assert_eq!(VBD.back_state(&self.bed.store), 4, "{name}");
        self.assert_served();
    }

    /// The frontend's own rings are what is connected.
    fn assert_served(&self) {
        let connection = self.bed.kernel.connections.get(&id(VBD));
        let queues = &connection.expect("a connection").layout.queues;
        let refs: Vec<GrantRef> = queues.iter().flat_map(|q| q.refs.clone()).collect();
        let expected = self.front.refs().iter().map(|gref| GrantRef(*gref));
        assert_eq!(
            refs,
            expected.collect::<Vec<_>>(),
            "{}",
            self.front.kind.name
        );
    }

    fn assert_removed(&mut self) {
        self.finish();
        self.bed.run(1_000);
        assert_eq!(self.bed.store.read(&VBD.back_dir()), None);
        self.bed.assert_clean();
    }
}

fn any_kind() -> impl Strategy<Value = &'static Kind> {
    (0..ALL.len()).prop_map(|n| ALL[n])
}

/// Those that hand the disk over to what they have loaded.
fn loader() -> impl Strategy<Value = &'static Kind> {
    prop_oneof![Just(&GRUB), Just(&OVMF), Just(&MINIOS)]
}

#[test]
fn each_connects_closes_and_connects_again() {
    for kind in ALL {
        let mut play = Play::connected(kind);
        for _ in 0..3 {
            play.front.close();
            let took = play.finish();
            // Without any hold: some spin with interrupts off.
            assert!(took < 100, "{} took {took} ms", kind.name);
            assert_eq!(play.front.status(), Status::Closed, "{}", kind.name);
            assert_eq!(VBD.back_state(&play.bed.store), 2, "{}", kind.name);
            assert!(play.bed.kernel.connections.is_empty());
            play.front.connect();
            let took = play.finish();
            assert!(took < 100, "{} took {took} ms", kind.name);
            play.assert_connected();
        }
    }
}

#[test]
fn who_counts_in_blocks_ends_closed_with_the_reason() {
    let mut play = Play::new(&WINDOWS, usize::MAX);
    play.bed.kernel.sector_size = Some(4096);
    // The disk is opened already: another one.
    play.front = Frontend::boot(&WINDOWS, VBD, 8);
    VBD.destroy(&mut play.bed.store);
    play.bed.run(1_000);
    play.bed.attach(VBD);
    play.bed.settle();
    play.finish();
    assert!(matches!(play.front.status(), Status::GaveUp(5 | 6)));
    assert!(play.bed.error(VBD).unwrap().contains("counts in blocks"));
    assert_eq!(play.bed.kernel.connects, 0);
    // Its firmware, which counts in sectors, can use the disk.
    VBD.set_front_state(&mut play.bed.store, 1);
    play.bed
        .store
        .remove(&VBD.front("feature-large-sector-size"));
    play.front = Frontend::boot(&OVMF, VBD, 8);
    play.finish();
    play.assert_connected();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 400 }))]

    #[test]
    fn every_frontend_connects(kind in any_kind(), chunk in 40usize..400, turns in turns()) {
        let mut play = Play::new(kind, chunk);
        play.interleave(&turns);
        play.finish();
        play.assert_connected();
    }

    #[test]
    fn a_loader_hands_over_to_any(
        first in loader(),
        second in any_kind(),
        same_refs in any::<bool>(),
        before in turns(),
        between in turns(),
        after in turns(),
    ) {
        // Without waiting for anything there is no telling what the second one finds.
        let waits = first.name != GRUB.name || matches!(second.name, "GRUB" | "NetBSD" | "nanos");
        let mut play = Play::new(first, usize::MAX);
        play.interleave(&before);
        play.finish();
        play.assert_connected();
        play.front.close();
        play.interleave(&between);
        if waits && first.name == GRUB.name {
            play.front.step(&mut play.bed.store, play.bed.now);
        } else {
            play.finish();
        }
        play.front = Frontend::boot(second, VBD, if same_refs { 8 } else { 100 });
        play.interleave(&after);
        play.finish();
        play.assert_connected();
    }

    #[test]
    fn a_kernel_that_is_started_by_another_connects(before in turns(), after in turns()) {
        let mut play = Play::connected(&LINUX_KEXEC);
        play.front.close();
        play.interleave(&before);
        play.finish();
        play.front = Frontend::boot(&LINUX_KEXEC, VBD, 8);
        play.interleave(&after);
        play.finish();
        play.assert_connected();
    }

    #[test]
    fn a_guest_that_was_suspended_goes_on(kind in any_kind(), before in turns(), after in turns()) {
        let mut play = Play::new(kind, usize::MAX);
        play.finish();
        if !kind.resume.is_empty() {
            play.interleave(&before);
            play.front.resume();
            play.interleave(&after);
            play.finish();
            play.assert_connected();
        }
    }

    #[test]
    fn a_plain_detach_waits_for_the_guest(
        kind in any_kind(),
        in_use in any::<bool>(),
        connected in any::<bool>(),
        before in turns(),
        after in turns(),
    ) {
        let mut play = Play::new(kind, usize::MAX);
        play.interleave(&before);
        if connected {
            play.finish();
        }
        play.front.in_use = in_use;
        VBD.detach(&mut play.bed.store);
        play.interleave(&after);
        play.finish();
        let refuses = match kind.asked {
            Asked::Never => true,
            Asked::GivesUp | Asked::Unmounts(_) => false,
            Asked::UsesOn(_) => in_use,
        };
        if connected && refuses {
            // libxl has given up by now.
            play.bed.run(20_000);
            prop_assert_eq!(play.front.status(), Status::Connected);
            prop_assert_eq!(VBD.back_state(&play.bed.store), 5);
            prop_assert_eq!(play.bed.kernel.connects, 1);
            play.assert_served();
            // A later close completes it.
            VBD.set_front_state(&mut play.bed.store, 6);
        } else if connected {
            prop_assert_eq!(play.front.status(), Status::Closed);
        } else if play.bed.kernel.connections.contains_key(&id(VBD)) {
            play.assert_served();
            play.bed.run(20_000);
            play.assert_served();
            VBD.destroy(&mut play.bed.store);
        }
        play.assert_removed();
    }

    #[test]
    fn a_forced_detach_does_not(kind in any_kind(), before in turns(), detach in any::<bool>(), after in turns()) {
        let mut play = Play::new(kind, usize::MAX);
        play.interleave(&before);
        if detach {
            VBD.detach(&mut play.bed.store);
            play.interleave(&after);
        }
        VBD.destroy(&mut play.bed.store);
        play.interleave(&after);
        let took = play.finish();
        prop_assert!(took < 1_000, "{}", took);
        play.assert_removed();
    }
}

#[test]
fn a_crash_driver_connects_from_whatever_the_one_before_has_left() {
    for kind in [&WINDOWS, &XENCRSH] {
        for left in [&[][..], &[5], &[5, 6], &[6], &[6, 1], &[1]] {
            let mut play = Play::connected(&LINUX_4);
            for state in left {
                VBD.set_front_state(&mut play.bed.store, *state);
                play.bed.run(100);
            }
            // The keys of two queues are not for it.
            let keys = ["queue-0", "queue-1", "multi-queue-num-queues"];
            for key in keys {
                play.bed.store.remove(&VBD.front(key));
            }
            play.front = Frontend::boot(kind, VBD, 100);
            let took = play.finish();
            assert!(took < 100, "{} took {took} ms", kind.name);
            play.assert_connected();
        }
    }
}

#[test]
fn linux_in_use_says_closing_and_goes_on_until_its_last_user_has_gone() {
    let mut play = Play::connected(&LINUX_4);
    VBD.detach(&mut play.bed.store);
    play.finish();
    play.bed.run(60_000);
    assert_eq!(play.bed.store.text(&VBD.front("state")), Some("5"));
    play.assert_served();
    play.front.in_use = false;
    play.assert_removed();
    assert_eq!(play.front.status(), Status::Closed);
}
