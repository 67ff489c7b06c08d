//! What `why` says of disks in each state, and of each thing that would make one faster.

use super::*;
use crate::fake::Fake;

const BACK: &str = "/local/domain/3/backend/vbd/5/51712";
const FRONT: &str = "/local/domain/5/device/vbd/51712";

/// A guest that uses all that it is offered.
fn serving() -> Fake {
    let mut host = Fake::serving();
    for (key, value) in [
        ("multi-queue-max-queues", "2"),
        ("max-ring-page-order", "4"),
        ("feature-persistent", "1"),
        ("sectors", "2048"),
        ("sector-size", "512"),
        ("physical-sector-size", "512"),
    ] {
        host.store(&format!("{BACK}/{key}"), value);
    }
    for (key, value) in [
        ("state", "4"),
        ("ring-page-order", "4"),
        ("feature-persistent", "1"),
        ("protocol", "x86_64-abi"),
    ] {
        host.store(&format!("{FRONT}/{key}"), value);
    }
    host
}

fn of(host: &mut Fake, topic: Topic) -> Vec<String> {
    let reasons = why(host, "web/xvda").expect("a disk").reasons;
    let of_topic = reasons.into_iter().filter(|reason| reason.topic == topic);
    of_topic
        .map(|reason| format!("{} > {}", reason.what, reason.next))
        .collect()
}

#[test]
fn a_disk_that_wants_for_nothing_is_connected_and_that_is_all() {
    let mut host = serving();
    assert_eq!(of(&mut host, Topic::Problem), [""; 0]);
    assert_eq!(of(&mut host, Topic::Faster), [""; 0]);
    let state = of(&mut host, Topic::State);
    assert_eq!(state[0], "connected > ");
    assert!(state[1].contains("50% took less than 66 µs"), "{state:?}");
    let agreed = of(&mut host, Topic::Agreed);
    assert!(
        agreed[0].starts_with("2 of 2 queues, pages in a ring: 16"),
        "{agreed:?}"
    );
    assert!(
        agreed[1].starts_with("protocol x86_64-abi; persistent grants"),
        "{agreed:?}"
    );
    let changes = host.calls.iter().filter(|call| call.changes).count();
    assert_eq!(changes, 0);
}

#[test]
fn what_its_requests_waited_for_is_said_of_each() {
    let mut host = serving();
    host.store(
        "/local/domain/3/data/spindle/delays/5-51712",
        "wait_us=0:90,4:10 wait_ns=50000 dev_us=32:100 dev_ns=4000000 tok_us=1024:4 tok_ns=8000000",
    );
    let state = of(&mut host, Topic::State);
    let waited: Vec<_> = state
        .iter()
        .filter(|line| line.starts_with("it waited"))
        .collect();
    assert_eq!(waited.len(), 3, "{state:?}");
    assert!(
        waited[0]
            .starts_with("it waited for tokens of its limits 2 ms on average; 50% less than 2 ms")
    );
    assert!(waited[1].starts_with(
        "it waited for Spindle 0 µs on average; 50% less than 1 µs, 99% less than 8 µs"
    ));
    assert!(
        waited[2].starts_with("it waited for the disk 40 µs on average; 50% less than 66 µs"),
        "{waited:?}"
    );
}

#[test]
fn how_the_data_of_requests_went_is_said_with_the_reason() {
    let stat = "/local/domain/3/data/spindle/stat/5-51712";
    for (line, persistent, words) in [
        (
            "rd_req=90 wr_req=10 mapped=7",
            "1",
            "data of 100 requests: 100 by pages that stay mapped (7 were mapped for that) > ",
        ),
        (
            "rd_req=100 copied=4",
            "1",
            "96 by pages that stay mapped (0 were mapped for that), 4 copied, as their pages found no place",
        ),
        (
            "rd_req=100 copied=100",
            "0",
            "data of 100 requests: 100 copied, as its pages do not stay mapped > ",
        ),
        (
            "rd_req=100 copied=1",
            "0",
            "99 by pages that were mapped for that request alone, 1 copied, as pages could not be mapped",
        ),
    ] {
        let mut host = serving();
        host.store(stat, line);
        host.store(&format!("{FRONT}/feature-persistent"), persistent);
        let agreed = of(&mut host, Topic::Agreed);
        assert!(agreed.iter().any(|it| it.contains(words)), "{agreed:?}");
    }
    let mut host = serving();
    host.store(stat, "rings=1");
    host.store("/local/domain/3/data/spindle/limits/5-51712", "group=gold");
    let agreed = of(&mut host, Topic::Agreed);
    assert!(
        !agreed.iter().any(|it| it.contains("data of")),
        "{agreed:?}"
    );
    assert!(
        agreed.iter().any(|it| it.starts_with("in the group gold,")),
        "{agreed:?}"
    );
}

#[test]
fn what_a_guest_does_not_use_would_make_it_faster() {
    for (path, value, words) in [
        (
            "/local/domain/3/data/spindle/stat/5-51712",
            "rings=1 rd_req=1",
            "uses 1 of 2 queues",
        ),
        (&*format!("{FRONT}/ring-page-order"), "2", "4 of 16 pages"),
        (
            &*format!("{FRONT}/feature-persistent"),
            "0",
            "mapped or copied for each",
        ),
        (
            "/local/domain/3/data/spindle/stat/5-51712",
            "rings=2 rd_req=100 copied=6",
            "6 of 100 requests were copied",
        ),
        (
            "/local/domain/3/data/spindle/stat/5-51712",
            "rings=2 rd_req=100 oo_req=6",
            "6 times a request waited",
        ),
        (
            "/local/domain/3/data/spindle/core/1",
            "busy_ns=95 idle_ns=5",
            "core 1 was busy for 95.0 %",
        ),
        (
            &*format!("{BACK}/physical-sector-size"),
            "4096",
            "smaller than the disk's blocks",
        ),
    ] {
        let mut host = serving();
        host.store(path, value);
        let faster = of(&mut host, Topic::Faster);
        assert_eq!(faster.len(), 1, "{words}: {faster:?}");
        assert!(
            faster[0].contains(words) && !faster[0].ends_with("> "),
            "{faster:?}"
        );
    }
}

#[test]
fn what_a_disk_waits_for_is_said_with_whom_to_ask() {
    for (ours, theirs, words) in [
        (
            "1",
            "1",
            "spindle has not opened the disk yet > `xl console",
        ),
        (
            "2",
            "1",
            "waits for web, whose driver has not begun > is its kernel",
        ),
        (
            "2",
            "3",
            "waits for web to set up its rings (its state is 3)",
        ),
        (
            "2",
            "",
            "which has no such device any more > `xl block-detach web xvda`",
        ),
        ("5", "4", "waits for web to close the disk"),
        ("6", "6", "closed"),
    ] {
        let mut host = serving();
        host.store(&format!("{BACK}/state"), ours);
        host.store(&format!("{FRONT}/state"), theirs);
        let state = of(&mut host, Topic::State);
        assert!(state[0].contains(words), "{ours} {theirs}: {state:?}");
        assert_eq!(of(&mut host, Topic::Agreed), [""; 0]);
    }
}

#[test]
fn what_keeps_it_from_working_is_a_problem() {
    let data = "/local/domain/3/data/spindle";
    for (path, value, words) in [
        (
            "/local/domain/3/error/backend/vbd/5/51712/error",
            "in use\x1b",
            "in use? > once",
        ),
        (
            &*format!("{data}/targets/nvme0n1"),
            "nvme0n1 2048 4096 - 5/51712:w",
            "nvme0n1 is lost > `spindlectl rescan spindle`",
        ),
        (
            &*format!("{data}/targets/nvme0n1"),
            "nvme0n1 2048 4096 - - x\nnvme0n1p1 8 4096 - 5/51712:w PARTLABEL=nvme0n1",
            "nvme0n1 is lost",
        ),
        (&*format!("{BACK}/sectors"), "0", "has size 0"),
        (&*format!("{data}/ready"), "0", "spindle does not serve yet"),
        (
            &*format!("{data}/stat/5-51712"),
            "rings=2 err=2",
            "2 requests were answered with an error",
        ),
        (
            &*format!("{data}/disk/vda"),
            "spurious_completions=3",
            "vda gave 3 answers",
        ),
        (
            &*format!("{data}/disk/nvme0"),
            "resets=2 aborts=1 spurious_completions=0",
            "nvme0 was reset 2 times, since it did not do its work > `spindlectl log",
        ),
    ] {
        let mut host = serving();
        host.store(path, value);
        let problems = of(&mut host, Topic::Problem);
        assert_eq!(problems.len(), 1, "{words}: {problems:?}");
        assert!(problems[0].contains(words), "{problems:?}");
    }
}

#[test]
fn a_disk_is_known_by_what_is_enough_of_its_names() {
    let mut host = serving();
    for name in [
        "web/xvda",
        "web:xvda",
        "5/51712",
        "web",
        "xvda",
        "nvme0n1",
        "web/nvme0n1",
    ] {
        assert!(why(&mut host, name).is_ok(), "{name}");
    }
    for name in ["db", "web/xvdb", "", "db/xvda"] {
        let error = why(&mut host, name).expect_err("none");
        assert_eq!(FaultKind::of(&error), FaultKind::Absent, "{name}");
    }
    host.store("/local/domain/3/backend/vbd/5/51728/state", "4");
    host.store("/local/domain/3/backend/vbd/5/51728/dev", "xvdb");
    let error = why(&mut host, "web").expect_err("two");
    assert_eq!(
        error.to_string(),
        "web could be each of web/xvda, web/xvdb\nsay which"
    );
}

#[test]
fn lines_fit_and_what_to_do_stands_below() {
    let mut host = serving();
    host.store(&format!("{FRONT}/feature-persistent"), "0");
    let reasons = why(&mut host, "web").expect("a disk");
    let text = reasons.text(60);
    assert!(
        text.starts_with("web xvda, target nvme0n1 of spindle\nstate    connected\n"),
        "{text}"
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 60),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|line| line.starts_with("       > a guest with")),
        "{text}"
    );
    let json = reasons.json();
    assert_eq!(json["device"]["vdev"], "xvda");
    assert_eq!(json["reasons"][0]["topic"], "state");
}
