//! Whole lives of devices, with the toolstack's and the frontend's real steps.

use spindle_testkit::xenbus::{BE, Bed, MS, VBD, id};
use spindle_testkit::xenstored::Vbd;
use spindle_xen::Errno;
use spindle_xen::grant::GrantRef;
use spindle_xen::xenbus::{Abi, Access, Refusal, ShutdownKind};

#[test]
fn a_guest_is_created_connects_shuts_down_and_is_destroyed() {
    let mut bed = Bed::new();
    bed.settle();
    bed.attach(VBD);
    bed.settle();
    // At once: libxl waits for it.
    assert_eq!(VBD.back_state(&bed.store), 2);
    for key in [
        "feature-max-indirect-segments",
        "multi-queue-max-queues",
        "max-ring-page-order",
        "feature-flush-cache",
        "feature-barrier",
        "feature-discard",
        "feature-persistent",
    ] {
        assert!(bed.store.text(&VBD.back(key)).is_some(), "{key}");
    }
    bed.run(600);
    VBD.front_initialise(&mut bed.store);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 4);
    let request = &bed.kernel.connections[&id(VBD)];
    assert_eq!(request.layout.abi, Abi::Native);
    assert_eq!(request.layout.queues[0].refs, [GrantRef(8)]);
    assert_eq!(request.layout.queues[0].event_channel, 13);
    assert!(request.layout.persistent);
    for (key, value) in [
        ("sectors", "2048"),
        ("sector-size", "512"),
        ("info", "0"),
        ("physical-sector-size", "4096"),
        ("feature-flush-cache", "1"),
        ("feature-barrier", "0"),
        ("feature-discard", "1"),
        ("discard-granularity", "4096"),
        ("hotplug-status", "connected"),
    ] {
        assert_eq!(bed.store.text(&VBD.back(key)), Some(value), "{key}");
    }
    VBD.set_front_state(&mut bed.store, 4);
    bed.settle();
    // The guest shuts down cleanly; only then does the toolstack come.
    VBD.set_front_state(&mut bed.store, 5);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 5);
    VBD.set_front_state(&mut bed.store, 6);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 6);
    VBD.destroy(&mut bed.store);
    bed.run(400);
    assert_eq!(VBD.back_state(&bed.store), 6, "libxl must find it");
    bed.run(200);
    assert_eq!(bed.store.read(&VBD.back_dir()), None);
    bed.assert_clean();
}

#[test]
fn a_hot_plugged_disk_holds_init_wait_for_half_a_second() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.settle();
    VBD.front_initialise(&mut bed.store);
    bed.run(450);
    assert_eq!(VBD.back_state(&bed.store), 2);
    assert_eq!(bed.kernel.connects, 0);
    bed.run(100);
    assert_eq!(VBD.back_state(&bed.store), 4);
}

#[test]
fn a_detached_disk_waits_for_its_frontend_to_close() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    VBD.detach(&mut bed.store);
    bed.run(1000);
    assert_eq!(VBD.back_state(&bed.store), 5);
    assert_eq!(bed.kernel.connections.len(), 1);
    VBD.set_front_state(&mut bed.store, 6);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 6);
    bed.run(600);
    bed.assert_clean();
}

#[test]
fn a_disk_in_use_is_not_taken_away_by_a_plain_detach() {
    // A frontend that says nothing, and one that says Closing and goes on until its last user
    // has gone.
    for says in [None, Some(5)] {
        for then in [
            "closes",
            "is destroyed",
            "is resumed",
            "starts over",
            "is kept after all",
        ] {
            let mut bed = Bed::new();
            bed.connect(VBD);
            VBD.detach(&mut bed.store);
            bed.run(10);
            says.inspect(|state| VBD.set_front_state(&mut bed.store, *state));
            // libxl has long given up: it does not see 6.
            bed.run(60_000);
            assert_eq!(VBD.back_state(&bed.store), 5);
            assert_eq!(bed.kernel.connections.len(), 1, "{says:?} {then}");
            assert_eq!(bed.kernel.connects, 1);
            assert_eq!(bed.backend.next_deadline(), None);
            match then {
                "closes" => VBD.set_front_state(&mut bed.store, 6),
                "is destroyed" => VBD.destroy(&mut bed.store),
                "starts over" => VBD.set_front_state(&mut bed.store, 1),
                "is resumed" => {
                    resume(&mut bed, "77", "5");
                    bed.run(1000);
                    // It is told that it is connected, and asked again.
                    let rings = &bed.kernel.connections[&id(VBD)].layout.queues;
                    assert_eq!(rings[0].refs, [GrantRef(77)]);
                    assert_eq!(VBD.back_state(&bed.store), 5);
                    VBD.set_front_state(&mut bed.store, 6);
                }
                _ => {
                    bed.store.write(&VBD.back("online"), "1");
                    if says.is_some() {
                        VBD.set_front_state(&mut bed.store, 4);
                    }
                    bed.run(1000);
                    assert_eq!(VBD.back_state(&bed.store), 4);
                    assert_eq!(bed.kernel.connections.len(), 1);
                    VBD.destroy(&mut bed.store);
                }
            }
            bed.run(1000);
            assert_eq!(bed.store.read(&VBD.back_dir()), None);
            bed.assert_clean();
        }
    }
}

#[test]
fn a_frontend_that_is_only_about_to_connect_does_not_hold_up_a_detach() {
    for state in [1, 3, 4, 5, 6] {
        for slow in [false, true] {
            let mut bed = Bed::new();
            bed.attach(VBD);
            bed.run(600);
            bed.kernel.slow = slow;
            VBD.front_initialise(&mut bed.store);
            VBD.set_front_state(&mut bed.store, state);
            bed.breathe(if slow { 100 } else { 0 });
            VBD.detach(&mut bed.store);
            bed.kernel.slow = false;
            bed.run(1000);
            assert_eq!(bed.store.read(&VBD.back_dir()), None, "{state}");
            bed.assert_clean();
        }
    }
}

#[test]
fn a_closing_that_is_taken_back_ends_connected_again() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    VBD.set_front_state(&mut bed.store, 5);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 5);
    VBD.set_front_state(&mut bed.store, 4);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 4);
    // It may have been through everything since; with the same ring the session goes on where it
    // was.
    assert_eq!(bed.kernel.connects, 2);
    // Closing that others have written is theirs to take back.
    bed.store.write(&VBD.back("state"), "5");
    bed.run(1000);
    assert_eq!(VBD.back_state(&bed.store), 5);
    assert_eq!(bed.kernel.connections.len(), 1);
    VBD.set_front_state(&mut bed.store, 6);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert!(bed.kernel.connections.is_empty());
}

#[test]
fn a_guest_destroyed_in_mid_io_is_let_go_when_the_io_is_done() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    bed.kernel.slow = true;
    VBD.destroy(&mut bed.store);
    bed.run(3000);
    assert_eq!(VBD.back_state(&bed.store), 5);
    assert_eq!(bed.kernel.connections.len(), 1);
    bed.kernel.slow = false;
    bed.run(600);
    bed.assert_clean();
}

#[test]
fn a_reloaded_frontend_connects_again_with_a_new_generation() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    let first = bed.kernel.connections[&id(VBD)].generation;
    for state in [5, 6, 1] {
        VBD.set_front_state(&mut bed.store, state);
        bed.settle();
    }
    assert_eq!(VBD.back_state(&bed.store), 2);
    bed.run(600);
    VBD.front_initialise(&mut bed.store);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 4);
    assert!(bed.kernel.connections[&id(VBD)].generation > first);
}

#[test]
fn a_frontend_that_starts_over_without_closing_connects_again() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    VBD.set_front_state(&mut bed.store, 1);
    bed.run(600);
    assert_eq!(VBD.back_state(&bed.store), 2);
    assert!(bed.kernel.connections.is_empty());
    VBD.front_initialise(&mut bed.store);
    bed.settle();
    assert_eq!(bed.kernel.connects, 2);
}

#[test]
fn a_frontend_that_never_connects_can_be_removed() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.run(60_000);
    assert_eq!(VBD.back_state(&bed.store), 2);
    VBD.detach(&mut bed.store);
    bed.run(600);
    bed.assert_clean();
}

#[test]
fn a_wrong_target_is_refused_with_the_reason_and_xl_need_not_wait() {
    let mut bed = Bed::new();
    VBD.attach(&mut bed.store, "nvme9n1", "w");
    bed.settle();
    assert_eq!(bed.error(VBD), Some("2 no such target"));
    // libxl ends its wait when the state vanishes.
    assert_eq!(bed.store.read(&VBD.back_dir()), None);
    bed.assert_clean();
    // A right one in its place works and takes the old reason away.
    bed.connect(VBD);
    assert_eq!(bed.error(VBD), None);
}

#[test]
fn errors_of_guests_long_gone_do_not_fill_the_store() {
    let mut bed = Bed::new();
    for frontend in 1..200 {
        let vbd = Vbd { frontend, ..VBD };
        vbd.attach(&mut bed.store, "nope", "w");
        bed.settle();
        assert!(bed.error(vbd).is_some());
    }
    assert!(bed.store.owned() < 150, "{}", bed.store.owned());
    bed.assert_clean();
}

#[test]
fn rubbish_rings_close_the_connection_and_a_retry_works() {
    for (key, value) in [
        ("ring-ref", &b"99999999999"[..]),
        ("ring-ref", b"\xff\xfe"),
        ("ring-ref", b"-1"),
        ("event-channel", b""),
        ("event-channel", &[b'9'; 4096]),
        ("protocol", b"pdp11-abi"),
        ("multi-queue-num-queues", b"0"),
        ("multi-queue-num-queues", b"3"),
        ("ring-page-order", b"2"),
    ] {
        let mut bed = Bed::new();
        bed.attach(VBD);
        bed.run(600);
        bed.store.write(&VBD.front(key), value);
        for (other, good) in [("ring-ref", "8"), ("event-channel", "13")] {
            if other != key {
                bed.store.write(&VBD.front(other), good);
            }
        }
        VBD.set_front_state(&mut bed.store, 3);
        bed.settle();
        assert_eq!(VBD.back_state(&bed.store), 6, "{key}");
        assert!(bed.error(VBD).unwrap().starts_with("22 frontend"), "{key}");
        assert_eq!(bed.kernel.connects, 0);
        bed.store.remove(&VBD.front(key));
        VBD.set_front_state(&mut bed.store, 6);
        bed.settle();
        VBD.set_front_state(&mut bed.store, 1);
        bed.run(600);
        VBD.front_initialise(&mut bed.store);
        bed.settle();
        assert_eq!(VBD.back_state(&bed.store), 4, "{key}");
        assert_eq!(bed.error(VBD), None);
    }
}

#[test]
fn a_connection_that_the_kernel_cannot_make_is_reported() {
    let mut bed = Bed::new();
    bed.kernel.refuse_connect = Some(Refusal::new(Errno::EFAULT, "ring page cannot be mapped"));
    bed.attach(VBD);
    bed.run(600);
    VBD.front_initialise(&mut bed.store);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert_eq!(bed.error(VBD), Some("14 ring page cannot be mapped"));
    VBD.destroy(&mut bed.store);
    bed.run(600);
    bed.assert_clean();
    assert_eq!(bed.error(VBD), None);
}

#[test]
fn many_queues_of_many_pages_reach_the_kernel() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.run(600);
    for (key, value) in [
        ("multi-queue-num-queues", "2"),
        ("ring-page-order", "1"),
        ("queue-0/ring-ref0", "8"),
        ("queue-0/ring-ref1", "9"),
        ("queue-0/event-channel", "3"),
        ("queue-1/ring-ref0", "10"),
        ("queue-1/ring-ref1", "11"),
        ("queue-1/event-channel", "4"),
    ] {
        bed.store.write(&VBD.front(key), value);
    }
    VBD.set_front_state(&mut bed.store, 3);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 4);
    let queues = &bed.kernel.connections[&id(VBD)].layout.queues;
    assert_eq!(queues.len(), 2);
    assert_eq!(queues[1].refs, [GrantRef(10), GrantRef(11)]);
}

#[test]
fn no_more_queues_are_offered_or_taken_than_the_disk_serves() {
    for (queues, offered) in [(0, "1"), (1, "1"), (2, "2"), (7, "2")] {
        let mut bed = Bed::new();
        bed.kernel.queues = Some(queues);
        bed.attach(VBD);
        bed.run(600);
        let key = VBD.back("multi-queue-max-queues");
        assert_eq!(bed.store.text(&key), Some(offered), "{queues}");
        for (key, value) in [
            ("multi-queue-num-queues", "2"),
            ("queue-0/ring-ref", "8"),
            ("queue-0/event-channel", "13"),
            ("queue-1/ring-ref", "9"),
            ("queue-1/event-channel", "14"),
        ] {
            bed.store.write(&VBD.front(key), value);
        }
        VBD.front_initialise(&mut bed.store);
        bed.settle();
        let rings = bed.kernel.connections.get(&id(VBD));
        let rings = rings.map(|request| request.layout.queues.len());
        assert_eq!(rings, (offered == "2").then_some(2), "{queues}");
        let error = bed.error(VBD).unwrap_or_default();
        assert_eq!(
            error.contains("2 queues, 1 to 1 are offered"),
            offered == "1"
        );
    }
}

#[test]
fn devices_that_were_there_before_us_are_found() {
    let mut bed = Bed::new();
    let second = Vbd {
        frontend: 7,
        device: 51728,
        ..VBD
    };
    bed.attach(VBD);
    second.attach(&mut bed.store, "lun0", "r");
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 2);
    assert_eq!(second.back_state(&bed.store), 2);
    assert_eq!(bed.kernel.open[&id(second)], Access::Read);
}

#[test]
fn what_an_earlier_life_of_ours_left_connected_is_closed_and_taken_up_again() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.store.write(&VBD.back("state"), "4");
    VBD.set_front_state(&mut bed.store, 4);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert_eq!(bed.kernel.connects, 0);
    VBD.set_front_state(&mut bed.store, 6);
    bed.settle();
    VBD.set_front_state(&mut bed.store, 1);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 2);
}

#[test]
fn a_directory_made_anew_under_a_connection_is_a_new_device() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    bed.store.remove(&VBD.back_dir());
    bed.attach(VBD);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 2);
    assert!(bed.kernel.connections.is_empty());
    assert_eq!(bed.kernel.open.len(), 1);
}

#[test]
fn directories_that_vanish_or_lose_keys_leave_nothing_behind() {
    for key in ["", "/state", "/online", "/params", "/frontend", "/mode"] {
        for connected in [false, true] {
            let mut bed = Bed::new();
            if connected {
                bed.connect(VBD);
            }
            let path = format!("{}{key}", VBD.back_dir());
            if !connected {
                bed.attach(VBD);
            }
            bed.store.remove(&path);
            bed.run(10_000);
            bed.store.remove(&VBD.front_dir());
            bed.store.remove(&VBD.back_dir());
            bed.run(10_000);
            bed.assert_clean();
        }
    }
}

#[test]
fn conflicts_are_retried_and_storms_are_sat_out() {
    let mut bed = Bed::new();
    bed.settle();
    bed.store.force_conflicts(5);
    bed.attach(VBD);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 2);
    bed.store.force_conflicts(40);
    VBD.detach(&mut bed.store);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 5, "a pause, not a busy loop");
    bed.run(5000);
    bed.assert_clean();
}

#[test]
fn writes_that_xenstored_refuses_end_in_a_clear_refusal() {
    let quota = "xenstored's quota for this driver domain is used up: detach disks, or raise it";
    for (errno, text) in [
        ("EACCES", "xenstored refuses our changes to the device"),
        ("ENOSPC", quota),
        ("E2BIG", quota),
        ("EQUOTA", quota),
    ] {
        let mut bed = Bed::new();
        bed.store.fail_writes(&VBD.back("sectors"), Some(errno));
        bed.attach(VBD);
        bed.run(3000);
        assert!(bed.error(VBD).unwrap().ends_with(text), "{errno}");
        assert_eq!(bed.store.read(&VBD.back_dir()), None);
        bed.assert_clean();
        bed.store.fail_writes(&VBD.back("sectors"), None);
        bed.connect(VBD);
    }
}

#[test]
fn what_xenstored_refuses_for_a_moment_is_tried_again_as_long_as_libxl_waits() {
    for errno in ["EBUSY", "EAGAIN", "ENOMEM"] {
        let mut bed = Bed::new();
        bed.store.fail_writes(&VBD.back("sectors"), Some(errno));
        bed.attach(VBD);
        bed.run(5000);
        assert_eq!(bed.error(VBD), None, "{errno}: it may still pass");
        assert_eq!(VBD.back_state(&bed.store), 1);
        bed.store.fail_writes(&VBD.back("sectors"), None);
        bed.run(3500);
        assert_eq!(VBD.back_state(&bed.store), 2);

        // Before libxl gives up it is refused, with the reason.
        let second = Vbd { frontend: 7, ..VBD };
        bed.store.fail_writes(&second.back("sectors"), Some(errno));
        bed.attach(second);
        bed.run(9000);
        assert!(bed.error(second).unwrap().ends_with("for seconds"));
        assert_eq!(bed.store.read(&second.back_dir()), None);
    }
}

#[test]
fn a_device_refused_for_the_stores_sake_can_begin_again_when_something_changes() {
    for errno in ["EBUSY", "EACCES"] {
        let mut bed = Bed::new();
        // Not even the directory can be removed.
        let paths = [VBD.back("sectors"), VBD.back_dir()];
        for path in &paths {
            bed.store.fail_writes(path, Some(errno));
        }
        bed.attach(VBD);
        bed.run(60_000);
        assert!(bed.error(VBD).is_some());
        assert_eq!(bed.backend.next_deadline(), None, "not tried for ever");
        for path in &paths {
            bed.store.fail_writes(path, None);
        }
        VBD.set_front_state(&mut bed.store, 1);
        bed.run(100);
        assert_eq!(VBD.back_state(&bed.store), 2, "{errno}");
        assert_eq!(bed.error(VBD), None);
    }
}

#[test]
fn a_device_that_can_never_be_written_is_not_retried_for_ever() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    bed.store.fail_writes(&VBD.back("state"), Some("EACCES"));
    VBD.destroy(&mut bed.store);
    bed.run(60_000);
    assert!(
        bed.kernel.connections.is_empty(),
        "the guest is gone whatever xenstored says"
    );
    assert_eq!(bed.backend.next_deadline(), None);
    bed.store.remove(&VBD.back_dir());
    bed.run(100);
    bed.assert_clean();
}

#[test]
fn a_full_store_makes_nothing_by_halves_and_disturbs_nobody() {
    let mut other = Bed::new();
    other.connect(VBD);
    let nodes = other.store.owned();
    for room in 0..40 {
        let mut bed = Bed::new();
        let second = Vbd { frontend: 7, ..VBD };
        bed.connect(VBD);
        bed.attach(second);
        let attached = bed.store.owned();
        bed.store.set_quota(attached + room);
        bed.run(3000);
        if second.back_state(&bed.store) == 2 {
            assert!(room + attached >= 2 * nodes - 10, "{room}");
            for key in ["sectors", "feature-barrier", "hotplug-status"] {
                assert!(bed.store.text(&second.back(key)).is_some(), "{room} {key}");
            }
        } else {
            assert_eq!(bed.store.read(&second.back_dir()), None, "{room}");
            assert!(!bed.kernel.open.contains_key(&id(second)));
            // The directory has made room for the reason.
            assert!(bed.error(second).unwrap().contains("quota"), "{room}");
        }
        assert_eq!(VBD.back_state(&bed.store), 4);
        assert_eq!(bed.kernel.connections.len(), 1);
        // With room again, all is as ever.
        bed.store.set_quota(1000);
        for vbd in [VBD, second] {
            vbd.destroy(&mut bed.store);
        }
        bed.run(3000);
        bed.assert_clean();
        bed.connect(second);
    }
}

#[test]
fn who_cannot_watch_for_devices_or_a_shutdown_tries_again_and_does_not_say_it_serves() {
    for watches in [0, 1, 2] {
        let mut bed = Bed::new();
        let ready = format!("/local/domain/{BE}/data/spindle/ready");
        bed.store.set_watch_quota(watches);
        bed.backend.publish("data/spindle/ready", "1");
        bed.attach(VBD);
        bed.run(10_000);
        assert_eq!(bed.store.text(&ready), None);
        assert_eq!(VBD.back_state(&bed.store), 1);
        bed.store.set_watch_quota(100);
        bed.run(1100);
        assert_eq!(bed.store.text(&ready), Some("1"));
        assert_eq!(VBD.back_state(&bed.store), 2);
        let control = format!("/local/domain/{BE}/control/shutdown");
        bed.store.write(&control, "poweroff");
        bed.settle();
        assert_eq!(bed.kernel.shutdown_requested, Some(ShutdownKind::PowerOff));
    }
}

#[test]
fn without_a_watch_left_a_device_is_refused_and_the_others_go_on() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    bed.store.set_watch_quota(4);
    let second = Vbd { frontend: 7, ..VBD };
    bed.attach(second);
    bed.run(3000);
    assert!(bed.error(second).unwrap().contains("quota"));
    assert_eq!(bed.store.read(&second.back_dir()), None);
    assert_eq!(VBD.back_state(&bed.store), 4);
    bed.store.set_watch_quota(128);
    bed.connect(second);
}

#[test]
fn a_guest_at_work_is_not_given_up_because_xenstored_refuses_something() {
    for errno in ["ENOSPC", "EACCES"] {
        let mut bed = Bed::new();
        bed.connect(VBD);
        bed.store.fail_writes(&VBD.back("sectors"), Some(errno));
        bed.backend.resized(id(VBD), 4096);
        bed.run(60_000);
        assert_eq!(VBD.back_state(&bed.store), 4);
        assert_eq!(bed.kernel.connections.len(), 1);
        assert_eq!(bed.backend.next_deadline(), None, "not tried for ever");
        bed.store.fail_writes(&VBD.back("sectors"), None);
        // The next thing that happens there is reason to try again.
        VBD.set_front_state(&mut bed.store, 4);
        bed.run(5000);
        assert_eq!(bed.store.text(&VBD.back("sectors")), Some("4096"));
    }
}

#[test]
fn conflicts_without_end_are_given_up_before_libxl_gives_up() {
    let mut bed = Bed::new();
    bed.settle();
    bed.attach(VBD);
    bed.store.force_conflicts(usize::MAX);
    bed.run(9_500);
    assert!(bed.error(VBD).unwrap().starts_with("11 somebody else"));
    bed.store.force_conflicts(0);
    bed.run(2_000);
    assert_eq!(bed.store.read(&VBD.back_dir()), None);
    bed.assert_clean();
    // And so is a shutdown whose acknowledgement does not get through.
    bed.connect(VBD);
    bed.store.force_conflicts(usize::MAX);
    let control = format!("/local/domain/{BE}/control/shutdown");
    bed.store.write(&control, "poweroff");
    bed.settle();
    assert_eq!(bed.kernel.shutdown_requested, Some(ShutdownKind::PowerOff));
    assert_eq!(bed.kernel.connections.len(), 1);
}

/// The guest goes on with new rings in the same directory, without a word of closing.
fn resume(bed: &mut Bed, ring: &str, port: &str) {
    bed.store.write(&VBD.front("ring-ref"), ring);
    bed.store.write(&VBD.front("event-channel"), port);
    VBD.set_front_state(&mut bed.store, 3);
}

#[test]
fn a_guest_that_was_suspended_gets_its_new_rings_connected() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    bed.run(600);
    let first = bed.kernel.connections[&id(VBD)].generation;
    let states = bed.store.writes(&VBD.back("state"));
    resume(&mut bed, "77", "5");
    bed.settle();
    let request = &bed.kernel.connections[&id(VBD)];
    assert!(request.generation > first);
    assert_eq!(request.layout.queues[0].refs, [GrantRef(77)]);
    assert_eq!(request.layout.queues[0].event_channel, 5);
    // Connected is said again, since the frontend waits for it, and nothing else before.
    assert_eq!(VBD.back_state(&bed.store), 4);
    assert_eq!(bed.store.writes(&VBD.back("state")), states + 1);
    VBD.set_front_state(&mut bed.store, 4);
    bed.settle();
    assert_eq!(bed.kernel.connects, 2);
    // The same references once more are new rings all the same.
    VBD.set_front_state(&mut bed.store, 3);
    bed.settle();
    assert_eq!(bed.kernel.connects, 3);
    assert_eq!(bed.store.writes(&VBD.back("state")), states + 2);
    VBD.destroy(&mut bed.store);
    bed.run(600);
    bed.assert_clean();
}

#[test]
fn a_suspended_guest_that_changes_its_mind_half_way_leaves_nothing_behind() {
    for steps in 0..40 {
        for then in [0, 1, 5, 6] {
            let mut bed = Bed::new();
            bed.store.set_chunk(61);
            bed.connect(VBD);
            bed.kernel.slow = steps % 2 == 0;
            resume(&mut bed, "77", "5");
            bed.breathe(steps);
            match then {
                0 => VBD.destroy(&mut bed.store),
                state => VBD.set_front_state(&mut bed.store, state),
            }
            bed.breathe(steps);
            bed.kernel.slow = false;
            bed.run(1000);
            // One that closes may have use for it until it is closed.
            assert!(
                then == 5 || bed.kernel.connections.is_empty(),
                "{steps} {then}"
            );
            VBD.destroy(&mut bed.store);
            bed.run(1000);
            bed.assert_clean();
        }
    }
}

#[test]
fn a_frontend_that_changes_its_rings_all_the_time_is_connected_a_few_times_a_second() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    for round in 0..400 {
        resume(&mut bed, &(100 + round).to_string(), "14");
        bed.run(10);
        VBD.set_front_state(&mut bed.store, 4);
        bed.run(15);
    }
    // In ten seconds.
    let connects = bed.kernel.connects;
    assert!((10..=40).contains(&connects), "{connects}");
    VBD.destroy(&mut bed.store);
    bed.run(6000);
    bed.assert_clean();
}

#[test]
fn a_frontend_that_starts_over_all_the_time_is_answered_a_few_times_a_second() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    bed.run(600);
    let states = bed.store.writes(&VBD.back("state"));
    for _ in 0..400 {
        VBD.set_front_state(&mut bed.store, 6);
        bed.run(10);
        VBD.set_front_state(&mut bed.store, 1);
        bed.run(15);
    }
    // Closed and InitWait in turn, for ten seconds.
    let states = bed.store.writes(&VBD.back("state")) - states;
    assert!((10..=66).contains(&states), "{states}");
    // One that means it does not wait long.
    bed.run(600);
    assert_eq!(VBD.back_state(&bed.store), 2);
    VBD.destroy(&mut bed.store);
    bed.run(600);
    bed.assert_clean();
}

#[test]
fn a_suspended_guest_with_rubbish_rings_is_told() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    bed.run(600);
    bed.kernel.refuse_connect = Some(Refusal::new(Errno::EFAULT, "ring page cannot be mapped"));
    resume(&mut bed, "77", "5");
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert!(bed.kernel.connections.is_empty());
    assert_eq!(bed.error(VBD), Some("14 ring page cannot be mapped"));
}

#[test]
fn a_toolstack_that_stops_at_any_point_leaves_nothing_that_cannot_be_removed() {
    let keys = [
        ("frontend", VBD.front_dir()),
        ("params", "lun0".into()),
        ("frontend-id", VBD.frontend.to_string()),
        ("online", "1".into()),
        ("mode", "w".into()),
        ("state", "1".into()),
    ];
    // Any first key, then the others in turn, and an end after each.
    for first in 0..keys.len() {
        for made in 0..=keys.len() {
            let mut bed = Bed::new();
            bed.attach(VBD);
            bed.store.remove(&VBD.back_dir());
            bed.settle();
            let (back, fe) = (VBD.back_dir(), VBD.frontend);
            bed.store.make(&back, b"", BE, &[fe]);
            for step in 0..made {
                bed.settle();
                if bed.store.read(&back).is_none() {
                    break;
                }
                let (key, value) = &keys[(first + step) % keys.len()];
                bed.store.make(&VBD.back(key), value.as_bytes(), BE, &[fe]);
            }
            bed.run(10_000);
            assert!(bed.kernel.connections.is_empty());
            VBD.destroy(&mut bed.store);
            bed.run(10_000);
            bed.store.remove(&back);
            bed.run(1000);
            bed.assert_clean();
            bed.connect(VBD);
        }
    }
}

#[test]
fn every_way_of_splitting_the_stream_gives_the_same_life() {
    for chunk in 1..70 {
        let mut bed = Bed::new();
        bed.store.set_chunk(chunk);
        bed.connect(VBD);
        VBD.destroy(&mut bed.store);
        bed.run(600);
        bed.assert_clean();
    }
}

#[test]
fn floods_of_events_cost_no_memory_and_are_survived() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    for round in 0..20_000u32 {
        let path = format!("backend/vbd/{}/{round}", 1000 + round % 100);
        bed.store.inject_event(path.as_bytes(), b"backend");
        bed.store.inject_event(&[b'x'; 3000], b"frontend/5/51712");
        bed.store
            .inject_event(b"backend/vbd/5/51712/state", b"\xff\xff");
        if round % 500 == 0 {
            bed.settle();
            assert!(bed.backend.device_count() <= 64);
        }
    }
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 4);
    assert_eq!(bed.backend.device_count(), 1);
}

#[test]
fn a_frontend_that_toggles_never_has_two_connections() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    for round in 0..300u64 {
        for state in [5, 1, 3, 6, 4, 1, 3] {
            bed.kernel.slow = round % 3 == 0;
            VBD.set_front_state(&mut bed.store, state);
            bed.run(round % 7 * 90);
        }
    }
    bed.kernel.slow = false;
    VBD.destroy(&mut bed.store);
    bed.run(6000);
    bed.assert_clean();
}

#[test]
fn more_devices_than_fit_are_refused_and_served_when_there_is_room() {
    let mut bed = Bed::new();
    let vbds: Vec<Vbd> = (1..=66).map(|frontend| Vbd { frontend, ..VBD }).collect();
    for vbd in &vbds {
        // The quota for 64 devices is the administrator's to raise.
        bed.store.set_quota(10_000);
        bed.attach(*vbd);
        bed.settle();
    }
    assert!(bed.error(vbds[65]).unwrap().contains("too many devices"));
    assert_eq!(vbds[65].back_state(&bed.store), 1);
    vbds[0].destroy(&mut bed.store);
    vbds[1].destroy(&mut bed.store);
    bed.run(600);
    assert_eq!(vbds[65].back_state(&bed.store), 2);
    assert_eq!(bed.error(vbds[65]), None);
}

#[test]
fn shutdown_is_acknowledged_and_closes_every_device() {
    let mut bed = Bed::new();
    let second = Vbd { frontend: 7, ..VBD };
    bed.connect(VBD);
    bed.attach(second);
    bed.settle();
    let control = format!("/local/domain/{BE}/control/shutdown");
    bed.store.write(&control, "poweroff");
    bed.settle();
    assert_eq!(bed.kernel.shutdown_requested, Some(ShutdownKind::PowerOff));
    assert_eq!(bed.store.text(&control), Some(""));
    bed.backend.shutdown(bed.now, bed.now + 10_000 * MS);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 5);
    assert_eq!(bed.kernel.shut_down, None);
    VBD.set_front_state(&mut bed.store, 6);
    bed.settle();
    assert_eq!(bed.kernel.shut_down, Some(true));
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert_eq!(second.back_state(&bed.store), 6);
    assert!(bed.kernel.open.is_empty() && bed.kernel.connections.is_empty());
}

#[test]
fn shutdown_ends_by_its_deadline_whatever_guests_and_disks_do() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    bed.backend.shutdown(bed.now, bed.now + 4000 * MS);
    bed.run(2500);
    assert_eq!(bed.kernel.shut_down, Some(true), "cut off half-way");
    let mut bed = Bed::new();
    bed.connect(VBD);
    bed.kernel.slow = true;
    bed.backend.shutdown(bed.now, bed.now + 4000 * MS);
    bed.run(3900);
    assert_eq!(bed.kernel.shut_down, None);
    bed.run(200);
    assert_eq!(bed.kernel.shut_down, Some(false));
}

#[test]
fn what_is_published_reaches_the_store() {
    let mut bed = Bed::new();
    for round in 0..1000 {
        bed.backend.publish("data/spindle/ready", round.to_string());
    }
    bed.settle();
    let path = format!("/local/domain/{BE}/data/spindle/ready");
    assert_eq!(bed.store.text(&path), Some("999"));
}

#[test]
fn hundreds_of_disks_are_published_and_that_they_are_served() {
    let mut bed = Bed::new();
    for disk in 0..600 {
        let path = format!("data/spindle/targets/nvme{}n{}", disk / 100, disk % 100);
        bed.backend.publish(path, "x");
    }
    bed.backend.publish("data/spindle/ready", "1");
    let home = format!("/local/domain/{BE}/data/spindle");
    // Whoever waits for the last one finds all the others.
    while bed.store.text(&format!("{home}/ready")).is_none() {
        bed.breathe(1);
    }
    let last = format!("{home}/targets/nvme5n99");
    assert_eq!(bed.store.text(&last), Some("x"));
}

#[test]
fn a_lost_store_is_reported_once() {
    let mut bed = Bed::new();
    bed.settle();
    bed.store.inject_bytes(&[0xff; 64]);
    while bed.store.step() {}
    bed.settle();
    assert!(bed.kernel.store_lost);
}

#[test]
fn a_directory_that_comes_back_while_its_absence_is_being_read_is_not_missed() {
    for steps in 0..40 {
        let mut bed = Bed::new();
        bed.store.set_chunk(41);
        VBD.attach(&mut bed.store, "nope", "w");
        bed.kernel.slow = true;
        bed.settle();
        bed.store.remove(&VBD.back_dir());
        bed.answer();
        bed.kernel.slow = false;
        bed.breathe(steps);
        bed.attach(VBD);
        VBD.destroy(&mut bed.store);
        bed.run(1000);
        bed.assert_clean();
        assert_eq!(bed.store.read(&VBD.back_dir()), None, "{steps}");
    }
}

#[test]
fn a_frontend_that_broke_the_protocol_is_cut_off_and_may_start_over() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    let generation = bed.kernel.connections[&id(VBD)].generation;
    let why = Refusal::new(Errno::EINVAL, "ring halted: rubbish");
    bed.backend.failed(id(VBD), generation, why);
    bed.run(100);
    assert!(bed.kernel.connections.is_empty());
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert_eq!(bed.error(VBD), Some("22 ring halted: rubbish"));
    VBD.set_front_state(&mut bed.store, 6);
    VBD.set_front_state(&mut bed.store, 1);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 2);
    assert_eq!(bed.error(VBD), None);
}

#[test]
fn a_frontend_that_breaks_the_protocol_while_it_is_being_connected_is_cut_off_too() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.run(600);
    bed.kernel.slow = true;
    VBD.front_initialise(&mut bed.store);
    bed.settle();
    // One of its rings is attached and halted before the last one is attached.
    let generation = bed.kernel.connections[&id(VBD)].generation;
    let why = Refusal::new(Errno::EINVAL, "ring halted: rubbish");
    bed.backend.failed(id(VBD), generation, why);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 2, "nothing ends by halves");
    bed.kernel.slow = false;
    bed.run(100);
    assert!(bed.kernel.connections.is_empty());
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert_eq!(bed.error(VBD), Some("22 ring halted: rubbish"));
}

#[test]
fn what_the_toolstack_says_of_the_disk_reaches_the_frontend() {
    for (key, value, published, expected) in [
        ("device-type", "cdrom", "info", "1"),
        ("removable", "1", "info", "2"),
        ("mode", "r", "info", "4"),
        ("discard-enable", "0", "feature-discard", "0"),
        ("discard-enable", "0", "discard-granularity", "0"),
        ("discard-enable", "1", "feature-discard", "1"),
    ] {
        let mut bed = Bed::new();
        bed.attach(VBD);
        bed.store.write(&VBD.back(key), value);
        bed.settle();
        let shown = bed.store.text(&VBD.back(published));
        assert_eq!(shown, Some(expected), "{key}={value}");
        assert_eq!(
            bed.kernel.discard,
            (key, value) != ("discard-enable", "0"),
            "{key}={value}"
        );
    }
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.store.remove(&VBD.back("discard-enable"));
    bed.settle();
    assert!(bed.kernel.discard, "offered unless it is forbidden");
}

#[test]
fn what_a_guest_may_do_is_said_by_the_mode_and_before_the_target() {
    for (mode, params, expected) in [
        ("r", "lun0", Access::Read),
        ("w", "lun0", Access::Write),
        ("w!", "lun0", Access::SharedWrite),
        ("w", "shared:lun0", Access::SharedWrite),
        ("w!", "shared:lun0", Access::SharedWrite),
    ] {
        let mut bed = Bed::new();
        VBD.attach(&mut bed.store, params, mode);
        bed.settle();
        let opened = bed.kernel.open.get(&id(VBD));
        assert_eq!(opened, Some(&expected), "{mode} {params}");
    }
    for (mode, params, why) in [
        ("r", "shared:lun0", "shared: is for writers"),
        ("x", "lun0", "mode is \"x\""),
    ] {
        let mut bed = Bed::new();
        VBD.attach(&mut bed.store, params, mode);
        bed.settle();
        assert!(bed.error(VBD).unwrap().contains(why), "{mode} {params}");
        assert!(bed.kernel.open.is_empty());
    }
}

#[test]
fn a_resized_disk_is_shown_to_a_connected_frontend_with_the_state_written_again() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    let states = bed.store.writes(&VBD.back("state"));
    let keys = bed.store.writes(&VBD.back("feature-barrier"));
    bed.backend.resized(id(VBD), 4096);
    bed.store.force_conflicts(3);
    bed.settle();
    assert_eq!(bed.store.text(&VBD.back("sectors")), Some("4096"));
    assert_eq!(VBD.back_state(&bed.store), 4);
    assert_eq!(bed.store.writes(&VBD.back("state")), states + 1);
    assert_eq!(bed.store.writes(&VBD.back("feature-barrier")), keys);
    // The same size again is no news.
    bed.backend.resized(id(VBD), 4096);
    bed.settle();
    assert_eq!(bed.store.writes(&VBD.back("state")), states + 1);
    assert_eq!(bed.kernel.connects, 1);
}

#[test]
fn a_disk_resized_before_its_frontend_connects_is_shown_with_the_new_size() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.settle();
    bed.backend.resized(id(VBD), 4096);
    bed.run(600);
    VBD.front_initialise(&mut bed.store);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 4);
    assert_eq!(bed.store.text(&VBD.back("sectors")), Some("4096"));
    // And one resized while the guest lets go is no reason to do anything.
    VBD.set_front_state(&mut bed.store, 6);
    bed.settle();
    bed.backend.resized(id(VBD), 8192);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 6);
    VBD.destroy(&mut bed.store);
    bed.run(600);
    bed.assert_clean();
}

#[test]
fn closing_is_held_until_the_frontend_is_closed() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    VBD.set_front_state(&mut bed.store, 5);
    bed.run(60_000);
    assert_eq!(VBD.back_state(&bed.store), 5);
    assert_eq!(bed.kernel.connections.len(), 1);
    VBD.set_front_state(&mut bed.store, 6);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert!(bed.kernel.connections.is_empty());
}

#[test]
#[cfg_attr(miri, ignore = "too many devices to interpret")]
fn whatever_a_frontend_went_through_between_two_looks_it_is_served() {
    let [closes, starts, leaves] = [6, 1, 0];
    for last in [3, 4] {
        for missed in [
            &[closes, starts][..],
            &[starts],
            &[5, closes, starts],
            &[leaves],
            &[5, closes, starts, 3, 4, 5, closes, starts],
        ] {
            // From each state in which it may have been seen last, with the same references to
            // its rings and with others.
            for seen in [1, 3, 4, 5, 6] {
                for ring in ["8", "9"] {
                    let mut bed = Bed::new();
                    if seen == 1 {
                        bed.attach(VBD);
                        bed.run(600);
                    } else {
                        bed.connect(VBD);
                        VBD.set_front_state(&mut bed.store, seen);
                        bed.run(1000);
                    }
                    let before = bed.kernel.connections.get(&id(VBD)).cloned();
                    for state in missed {
                        if *state == leaves {
                            bed.store.remove(&VBD.front("state"));
                        }
                        VBD.set_front_state(&mut bed.store, *state);
                    }
                    VBD.front_initialise(&mut bed.store);
                    bed.store.write(&VBD.front("ring-ref"), ring);
                    VBD.set_front_state(&mut bed.store, last);
                    bed.run(1000);
                    let what = format!("{seen} {missed:?} {last} {ring}");
                    assert_eq!(VBD.back_state(&bed.store), 4, "{what}");
                    let now = &bed.kernel.connections[&id(VBD)];
                    let same = before.is_some_and(|old| old.generation == now.generation);
                    // Connected at 3 and seen at 3, one may be at 4 now without more ado.
                    assert!(!same || seen == 3 && last == 4 && ring == "8", "{what}");
                }
            }
        }
    }
}

#[test]
fn a_frontend_that_failed_is_served_when_it_starts_over_and_not_before() {
    for seen in [3, 4] {
        let mut bed = Bed::new();
        bed.connect(VBD);
        VBD.set_front_state(&mut bed.store, seen);
        bed.run(100);
        let generation = bed.kernel.connections[&id(VBD)].generation;
        let why = Refusal::new(Errno::EINVAL, "ring halted: rubbish");
        bed.backend.failed(id(VBD), generation, why);
        bed.run(1000);
        let connects = bed.kernel.connects;
        // It goes on as if nothing had happened, or begins to close.
        for state in [4, 5] {
            if state > seen {
                VBD.set_front_state(&mut bed.store, state);
            }
            bed.run(1000);
            assert_eq!(VBD.back_state(&bed.store), 6);
            assert_eq!(bed.kernel.connects, connects);
        }
        for state in [6, 1, 3] {
            VBD.set_front_state(&mut bed.store, state);
        }
        bed.run(1000);
        assert_eq!(VBD.back_state(&bed.store), 4);
        assert_eq!(bed.kernel.connects, connects + 1);
    }
}

#[test]
fn only_the_first_init_wait_in_a_directory_is_held() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.settle();
    // Also if the frontend would close: the toolstack looks for it.
    VBD.set_front_state(&mut bed.store, 5);
    bed.run(450);
    assert_eq!(VBD.back_state(&bed.store), 2);
    bed.run(100);
    assert_eq!(VBD.back_state(&bed.store), 5);
    // After that every answer comes at once.
    let expected = [
        (6, 6),
        (1, 2),
        (3, 4),
        (4, 4),
        (5, 5),
        (6, 6),
        (1, 2),
        (3, 4),
    ];
    for (state, answer) in expected {
        VBD.front_initialise(&mut bed.store);
        VBD.set_front_state(&mut bed.store, state);
        bed.settle();
        assert_eq!(VBD.back_state(&bed.store), answer, "{state}");
    }
    // What is plugged in anew is held again.
    VBD.destroy(&mut bed.store);
    bed.run(1000);
    bed.attach(VBD);
    VBD.front_initialise(&mut bed.store);
    bed.run(450);
    assert_eq!(VBD.back_state(&bed.store), 2);
    bed.run(100);
    assert_eq!(VBD.back_state(&bed.store), 4);
}

#[test]
fn a_frontend_that_counts_in_blocks_is_refused_a_disk_of_larger_blocks() {
    for (sector_size, said, served) in [(512, "1", true), (4096, "0", true), (4096, "1", false)] {
        let mut bed = Bed::new();
        bed.kernel.sector_size = Some(sector_size);
        bed.attach(VBD);
        bed.run(600);
        bed.store
            .write(&VBD.front("feature-large-sector-size"), said);
        VBD.front_initialise(&mut bed.store);
        bed.run(100);
        assert_eq!(bed.kernel.connects, usize::from(served));
        assert_eq!(VBD.back_state(&bed.store), if served { 4 } else { 6 });
        let error = bed.error(VBD).unwrap_or_default();
        assert_eq!(error.contains("counts in blocks of 4096 bytes"), !served);
        // And a driver that counts otherwise may take its place.
        for state in [6, 1] {
            VBD.set_front_state(&mut bed.store, state);
            bed.run(100);
        }
        bed.store.remove(&VBD.front("feature-large-sector-size"));
        VBD.front_initialise(&mut bed.store);
        bed.run(100);
        assert_eq!(VBD.back_state(&bed.store), 4);
        assert_eq!(bed.error(VBD), None);
    }
}

/// What the refusal above names as the way out.
#[test]
fn a_disk_of_larger_blocks_is_shown_with_sectors_of_512_bytes_if_asked_for() {
    for (params, mode, access, sectors) in [
        ("512e:lun0", "w", Access::Write, true),
        ("512e:lun0", "r", Access::Read, true),
        ("512e:shared:lun0", "w", Access::SharedWrite, true),
        ("shared:512e:lun0", "w", Access::SharedWrite, true),
        ("lun0", "w", Access::Write, false),
    ] {
        let mut bed = Bed::new();
        bed.kernel.sector_size = Some(4096);
        VBD.attach(&mut bed.store, params, mode);
        bed.settle();
        assert_eq!(bed.kernel.open.get(&id(VBD)), Some(&access), "{params}");
        assert_eq!(bed.kernel.sectors, sectors);
        let shown = |key: &str| bed.store.read(&VBD.back(key)).unwrap().to_vec();
        let size: &[u8] = if sectors { b"512" } else { b"4096" };
        assert_eq!(shown("sector-size"), size);
        assert_eq!(shown("physical-sector-size"), b"4096");
        bed.run(600);
        bed.store
            .write(&VBD.front("feature-large-sector-size"), "1");
        VBD.front_initialise(&mut bed.store);
        bed.run(100);
        assert_eq!(VBD.back_state(&bed.store), if sectors { 4 } else { 6 });
        let error = bed.error(VBD).unwrap_or_default();
        assert_eq!(error.contains("target=512e:"), !sectors);
    }
}

#[test]
fn no_guest_takes_the_place_of_all_others() {
    let mut bed = Bed::new();
    bed.store.set_quota(10_000);
    let vbd = |n: u32| Vbd {
        device: 51712 + n,
        ..VBD
    };
    for n in 0..40 {
        vbd(n).attach(&mut bed.store, "lun0", "w");
        bed.settle();
    }
    assert_eq!(vbd(31).back_state(&bed.store), 2);
    assert_eq!(vbd(32).back_state(&bed.store), 1);
    let error = bed.error(vbd(32)).unwrap();
    assert!(error.contains("too many devices of this guest"), "{error}");
    for frontend in 100..132 {
        let other = Vbd { frontend, ..VBD };
        bed.attach(other);
        bed.settle();
        assert_eq!(other.back_state(&bed.store), 2, "{frontend}");
    }
    vbd(0).destroy(&mut bed.store);
    bed.run(2000);
    let served = (32..40).filter(|n| vbd(*n).back_state(&bed.store) == 2);
    assert_eq!(served.count(), 1);
}

#[test]
fn a_frontend_that_goes_on_at_any_moment_is_connected_once() {
    for steps in 0..if cfg!(miri) { 10 } else { 120 } {
        let mut bed = Bed::new();
        // So that a step of the daemon is less than a request.
        bed.store.set_chunk(16);
        bed.attach(VBD);
        bed.run(600);
        VBD.front_initialise(&mut bed.store);
        while VBD.back_state(&bed.store) != 4 {
            bed.breathe(1);
            bed.answer();
        }
        bed.breathe(steps);
        VBD.set_front_state(&mut bed.store, 4);
        bed.settle();
        assert_eq!(bed.kernel.connects, 1, "{steps} steps after Connected");
    }
}

#[test]
fn a_disk_in_use_outlives_a_store_that_starts_no_transaction() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    for starts in [0, 0, 0, 0, 0, 0, 0, 0, 0, 10] {
        bed.store.set_transaction_quota(starts);
        // Something to look at.
        bed.store.write(&VBD.back("mode"), "w");
        bed.run(10_000);
        assert_eq!(bed.kernel.connections.len(), 1);
    }
    VBD.set_front_state(&mut bed.store, 6);
    bed.run(10_000);
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert!(bed.kernel.connections.is_empty());
    VBD.set_front_state(&mut bed.store, 1);
    bed.run(10_000);
    VBD.front_initialise(&mut bed.store);
    bed.run(10_000);
    assert_eq!(VBD.back_state(&bed.store), 4);
}

#[test]
fn a_connection_that_failed_as_its_frontend_went_on_is_not_made_again() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.run(600);
    VBD.front_initialise(&mut bed.store);
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 4);
    let generation = bed.kernel.connections[&id(VBD)].generation;
    VBD.set_front_state(&mut bed.store, 4);
    let why = Refusal::new(Errno::EIO, "it broke the protocol");
    bed.backend.failed(id(VBD), generation, why);
    bed.run(60_000);
    assert_eq!(bed.kernel.connects, 1);
    assert!(VBD.back_state(&bed.store) > 4);
    // It may start over.
    VBD.set_front_state(&mut bed.store, 1);
    bed.run(1000);
    VBD.front_initialise(&mut bed.store);
    bed.run(1000);
    assert_eq!(VBD.back_state(&bed.store), 4);
    assert_eq!(bed.kernel.connects, 2);
}

#[test]
fn rings_initialised_again_while_they_are_connected_are_the_ones_that_count() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.run(600);
    bed.kernel.slow = true;
    VBD.front_initialise(&mut bed.store);
    VBD.set_front_state(&mut bed.store, 4);
    bed.settle();
    assert_eq!(bed.kernel.connects, 1);
    bed.store.write(&VBD.front("ring-ref"), "9");
    VBD.set_front_state(&mut bed.store, 4);
    bed.settle();
    bed.kernel.slow = false;
    bed.settle();
    let layout = &bed.kernel.connections[&id(VBD)].layout;
    assert_eq!(layout.queues[0].refs, [GrantRef(9)]);
    assert_eq!(bed.kernel.connects, 2);
    assert_eq!(VBD.back_state(&bed.store), 4);
}

#[test]
fn a_rescan_is_asked_for_by_a_node_and_is_not_missed() {
    let mut bed = Bed::new();
    bed.connect(VBD);
    bed.settle();
    assert_eq!(bed.kernel.rescans, 0, "nothing was written");
    let node = format!("/local/domain/{BE}/data/spindle/rescan");
    for rescans in 1..=3 {
        bed.store.write(&node, "1");
        bed.settle();
        assert_eq!(bed.kernel.rescans, rescans);
    }
}
