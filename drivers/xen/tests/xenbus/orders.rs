//! What an operator asks for: drills, by `xl sysrq` and by the node for more words, and updates.

use spindle_testkit::xenbus::{BE, Bed, VBD};

fn node(name: &str) -> String {
    format!("/local/domain/{BE}/{name}")
}

#[test]
fn each_drill_comes_once_and_its_node_is_cleared_before() {
    let mut bed = Bed::new();
    bed.store.make(&node("control/sysrq"), b"", BE, &[]);
    bed.backend.take_drills();
    bed.connect(VBD);
    bed.settle();
    assert!(bed.kernel.drills.is_empty(), "nothing was written");
    for (name, text) in [
        ("control/sysrq", "c"),
        ("data/spindle/crash", "hang 1"),
        ("control/sysrq", "u"),
    ] {
        bed.store.write(&node(name), text);
        bed.settle();
        assert_eq!(bed.kernel.drills.pop().as_deref(), Some(text.as_bytes()));
        assert!(bed.kernel.drills.is_empty());
        assert_eq!(bed.store.text(&node(name)), Some(""));
    }
    // A letter that comes in the way of the transaction is taken in its place.
    bed.store.write(&node("control/sysrq"), "c");
    bed.store.force_conflicts(3);
    bed.settle();
    assert_eq!(bed.kernel.drills, [b"c"]);
}

#[test]
fn no_drill_is_looked_for_unless_it_is_allowed() {
    let mut bed = Bed::new();
    bed.store.make(&node("control/sysrq"), b"", BE, &[]);
    bed.connect(VBD);
    bed.store.write(&node("control/sysrq"), "c");
    bed.settle();
    assert!(bed.kernel.drills.is_empty());
    assert_eq!(bed.store.text(&node("control/sysrq")), Some("c"));
}

#[test]
fn an_order_to_update_comes_once_and_is_no_drill() {
    let mut bed = Bed::new();
    bed.backend.take_updates();
    bed.connect(VBD);
    bed.store.write(&node("data/spindle/update"), "7 8");
    bed.store.write(&node("data/spindle/crash"), "panic");
    bed.settle();
    assert_eq!(bed.kernel.updates, [b"7 8"]);
    assert!(bed.kernel.drills.is_empty());
    // The next life of the kernel does not find it.
    assert_eq!(bed.store.text(&node("data/spindle/update")), Some(""));
}

#[test]
fn an_order_of_limits_comes_whole() {
    let mut bed = Bed::new();
    bed.backend.take_limits();
    bed.connect(VBD);
    let words = "1234567890 5/51712 iops=500:bandwidth-read=104857600:bandwidth-write=104857600";
    bed.store.write(&node("data/spindle/limit"), words);
    bed.settle();
    assert_eq!(bed.kernel.limits, [words.as_bytes()]);
    assert_eq!(bed.store.text(&node("data/spindle/limit")), Some(""));
    let option = "1234567890123456789 io_timeout=3600 of which nothing is cut off, however long";
    bed.store.write(&node("data/spindle/setting"), option);
    bed.settle();
    assert_eq!(bed.kernel.limits[1..], [option.as_bytes()]);
    assert_eq!(bed.store.text(&node("data/spindle/setting")), Some(""));
}

#[test]
fn orders_of_volumes_and_pages_come_to_those_who_take_them() {
    for takes in [true, false] {
        let mut bed = Bed::new();
        if takes {
            bed.backend.take_volumes();
        }
        bed.connect(VBD);
        bed.store
            .write(&node("data/spindle/volume"), "7 remove vg0/db");
        bed.store
            .write(&node("data/spindle/inspect"), "8 smart nvme0 0 0");
        bed.settle();
        let mut orders = bed.kernel.limits.clone();
        orders.sort();
        let all = [&b"7 remove vg0/db"[..], b"8 smart nvme0 0 0"];
        assert_eq!(orders, all[..2 * usize::from(takes)]);
        let left = if takes { "" } else { "7 remove vg0/db" };
        assert_eq!(bed.store.text(&node("data/spindle/volume")), Some(left));
    }
}
