//! How `attach` and `detach` are refused, and what they ask of xl.

use super::*;
use crate::fake::Fake;

const PATIENCE: Duration = Duration::from_secs(10);

fn wanted(target: &str) -> Attach<'_> {
    Attach {
        guest: "web",
        target,
        vdev: None,
        read_only: false,
        from: None,
        patience: PATIENCE,
    }
}

/// One whose partition is free.
fn with_free_partition() -> Fake {
    let mut host = Fake::serving();
    let node = "/local/domain/3/data/spindle/targets/nvme0n1";
    host.store(
        node,
        "nvme0n1 2048 4096 w - nvme-x\nnvme0n1p1 1024 4096 w - PARTLABEL=root nvme-x-part1",
    );
    host.store("/local/domain/5/device/vbd/51712/state", "4");
    host
}

fn line(host: &Fake) -> Option<&str> {
    let mut calls = host
        .calls
        .iter()
        .filter(|call| call.text.starts_with("xl block-"));
    calls.next().map(|call| call.text.as_str())
}

#[test]
fn a_disk_is_given_under_the_first_free_name_and_waited_for() {
    for target in [
        "nvme0n1p1",
        "PARTLABEL=root",
        "/dev/nvme0n1p1",
        "PARTLABEL=r",
    ] {
        let mut host = with_free_partition();
        let said = attach(&mut host, &wanted(target)).expect(target);
        assert_eq!(said, "nvme0n1p1 of spindle is xvdb of web");
        let expected = "xl block-attach 5 \
                        format=raw,vdev=xvdb,access=rw,backend=spindle,target=nvme0n1p1";
        assert_eq!(line(&host), Some(expected));
    }
    let mut host = with_free_partition();
    let asked = Attach {
        vdev: Some("xvdf"),
        read_only: true,
        guest: "5",
        ..wanted("iops=500:512e:nvme0n1p1")
    };
    attach(&mut host, &asked).expect("given");
    let words = "vdev=xvdf,access=ro,backend=spindle,target=iops=500:512e:nvme0n1p1";
    assert!(line(&host).expect("a call").ends_with(words));
}

#[test]
fn what_cannot_be_had_is_refused_before_xl_is_asked() {
    let node = "/local/domain/3/data/spindle/targets/nvme0n1";
    for (line_of_target, target, kind, words) in [
        (
            "nvme0n1 2048 4096 w 5/51712:w",
            "nvme0n1",
            FaultKind::Refused,
            "in use: web xvda",
        ),
        (
            "nvme0n1 2048 4096 w 5/51712:r",
            "nvme0n1",
            FaultKind::Refused,
            "in use: web xvda (ro)",
        ),
        (
            "nvme0n1 2048 4096 - -",
            "nvme0n1",
            FaultKind::Refused,
            "nvme0n1 is lost",
        ),
        (
            "nvme0n1 2048 4096 r -",
            "nvme0n1",
            FaultKind::Refused,
            "only be read",
        ),
        (
            "nvme0n1 2048 4096 w -",
            "vda",
            FaultKind::Absent,
            "no Spindle has a disk vda",
        ),
        (
            "nvme0n1 2048 4096 w -\nnvme0n1p1 8 4096 w - a\nnvme0n1p2 8 4096 w - b",
            "nvme0n1p",
            FaultKind::Absent,
            "each of nvme0n1p1 of spindle, nvme0n1p2 of spindle",
        ),
    ] {
        let mut host = with_free_partition();
        host.store(node, line_of_target);
        let error = attach(&mut host, &wanted(target)).expect_err(target);
        assert_eq!(FaultKind::of(&error), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(line(&host), None);
    }
    // Those who share it let others do so, and readers others that read.
    for (holder, target, read_only) in [("w!", "shared:nvme0n1", false), ("r", "nvme0n1", true)] {
        let mut host = with_free_partition();
        host.store(node, &format!("nvme0n1 2048 4096 w 9/51712:{holder}"));
        let asked = Attach {
            read_only,
            ..wanted(target)
        };
        attach(&mut host, &asked).expect(target);
    }
    let mut host = with_free_partition();
    let asked = Attach {
        guest: "db",
        ..wanted("nvme0n1p1")
    };
    let error = attach(&mut host, &asked).expect_err("no guest");
    assert!(error.to_string().starts_with("no guest db runs"), "{error}");
}

#[test]
fn what_is_refused_or_not_connected_is_an_error_with_how_to_clean_up() {
    let mut host = with_free_partition();
    host.store(
        "/local/domain/3/error/backend/vbd/5/51728/error",
        "no memory",
    );
    let error = attach(&mut host, &wanted("nvme0n1p1")).expect_err("refused");
    assert_eq!(FaultKind::of(&error), FaultKind::Refused);
    let expected =
        "spindle refuses it: no memory\n`xl block-detach 5 xvdb` removes what is left of it";
    assert_eq!(error.to_string(), expected);
    let mut host = with_free_partition();
    host.deaf = true;
    let error = attach(&mut host, &wanted("nvme0n1p1")).expect_err("late");
    assert_eq!(FaultKind::of(&error), FaultKind::Late, "{error}");
}

#[test]
fn a_disk_is_taken_by_its_numbers_and_waited_for() {
    let mut host = with_free_partition();
    let said = detach(&mut host, "web/xvda", false, PATIENCE).expect("taken");
    assert_eq!(said, "web has no xvda any longer");
    assert_eq!(line(&host), Some("xl block-detach 5 51712"));
    let mut host = with_free_partition();
    detach(&mut host, "web", true, PATIENCE).expect("taken");
    assert_eq!(line(&host), Some("xl block-detach --force 5 51712"));
    let mut host = with_free_partition();
    host.deaf = true;
    let error = detach(&mut host, "web", false, PATIENCE).expect_err("in use");
    assert!(
        error.to_string().contains("--force cuts it off"),
        "{error:#}"
    );
    assert!(detach(&mut host, "db", false, PATIENCE).is_err());
}
