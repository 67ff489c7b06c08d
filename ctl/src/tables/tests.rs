//! What the tables of `list`, `stat` and `top` say, and how.

use super::*;
use crate::fake::Fake;

fn rows(table: &Sheet) -> Vec<Vec<String>> {
    table.rows().to_vec()
}

fn serving() -> Vec<Spindle> {
    Spindle::all(&mut Fake::serving()).expect("xenstore")
}

#[test]
fn the_list_tells_who_uses_what() {
    let who = ["spindle", "3", "serves"];
    let disk = [
        "nvme0n1",
        "1.0 MiB",
        "rw",
        "web xvda",
        "4096",
        "QEMU NVMe Ctrl, serial spindle0",
    ];
    let partition = [
        "nvme0n1p1",
        "512 KiB",
        "rw",
        "",
        "4096",
        "PARTLABEL=root nvme-x-part1",
    ];
    let expected = [disk, partition].map(|target| [&who[..], &target[..]].concat());
    assert_eq!(rows(&list(&serving())), expected);
    let mut without = serving();
    without[0].targets.clear();
    assert_eq!(rows(&list(&without)), [["spindle", "3", "serves", "none"]]);
    without[0].ours = false;
    assert_eq!(
        rows(&list(&without))[0][2],
        "serves (not made by spindlectl)"
    );
}

#[test]
fn deaths_and_reasons_are_said_below_the_list() {
    assert!(notes(&serving(), 2000).is_empty());
    let mut host = Fake::serving();
    let home = "/local/domain/3";
    for (path, value) in [
        ("data/spindle/life", "2"),
        ("data/spindle/start", "at=1000 down_us=250000 deaths=1"),
        ("data/spindle/death", "NMI core=0 \x07NMI"),
        ("error/backend/vbd/5/51712/error", "one of its rings\n\x1b"),
        ("error/backend/vbd/5/51728/error", "of a disk that is gone"),
    ] {
        host.store(&format!("{home}/{path}"), value);
    }
    let spindles = Spindle::all(&mut host).expect("xenstore");
    let expected = [
        "spindle has died once 60 s ago, by NMI on core 0 (?NMI); it served again after 250 ms",
        "web xvda (nvme0n1): one of its rings??",
    ];
    assert_eq!(notes(&spindles, 1060), expected);
    assert_eq!(rows(&list(&spindles))[0][2], "serves, life 2");
}

#[test]
fn one_that_has_ended_is_listed_with_what_to_do() {
    let mut spindles = serving();
    spindles.push(Spindle {
        name: "other".into(),
        ours: true,
        readable: true,
        silent: Some("has ended"),
        ..Spindle::default()
    });
    assert_eq!(
        rows(&list(&spindles))[2],
        ["other", "-", "has ended", "none"]
    );
    let notes = notes(&spindles, 0);
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0].starts_with("other has ended: `spindlectl log other`"),
        "{notes:?}"
    );
    let metrics = crate::metrics::text(&spindles);
    let down = "spindle_up{domain=\"other\",version=\"\"} 0";
    assert!(metrics.lines().any(|line| line == down), "{metrics}");
    assert_eq!(spindles[1].mismatch(), None);
}

#[test]
fn readers_sharers_and_disks_that_are_not_connected_are_told_apart() {
    let mut spindles = serving();
    let mut holder = |device, how: &str| {
        spindles[0].disks[0].state = 2;
        let holder = HolderWord {
            guest: 5,
            device,
            how: how.into(),
        };
        user(&spindles[0], &holder)
    };
    assert_eq!(holder(51712, "r"), "web xvda (ro) (connecting)");
    assert_eq!(holder(51728, "w!"), "5/51728 (shared)");
    // XenbusState (xen/include/public/io/xenbus.h).
    for (state, text) in [
        (3, " (connecting)"),
        (4, ""),
        (5, " (closing)"),
        (6, " (closed)"),
    ] {
        spindles[0].disks[0].state = state;
        assert_eq!(unsettled(&spindles[0].disks[0]), text);
    }
}

#[test]
fn counters_are_told_with_latencies() {
    let [disks, _, cores] = stat(&serving());
    for (heading, cell) in [
        ("domain", "spindle"),
        ("guest", "web"),
        ("disk", "xvda"),
        ("target", "nvme0n1"),
        ("reads", "100"),
        ("writes", "7"),
        ("read", "400 KiB"),
        ("written", "28.0 KiB"),
        ("flushes", "2"),
        ("lat 50%", "66 µs"),
        ("lat 99%", "131 µs"),
        ("rings", "2"),
    ] {
        assert_eq!(disks.cell(0, heading), cell, "{heading}");
    }
    assert_eq!(rows(&cores)[0][..3], ["spindle", "1", "20.0 %"]);
    assert_eq!(
        (cores.cell(0, "sleeps"), cores.cell(0, "busy s")),
        ("4", "2.0")
    );
}

/// What is counted is shown, whatever is added to it.
#[test]
fn every_statistic_has_its_column_and_its_line() {
    let spindles = serving();
    let texts = [explained(&spindles, usize::MAX)];
    for sheets in [stat(&spindles), top(&spindles, &spindles, 1.0)] {
        let [disks, _, cores] = sheets.map(|sheet| sheet.render(crate::sheet::Paper::PLAIN));
        for (sheet, all) in [
            (disks, &RingSnapshot::ABOUT[..]),
            (cores, &CoreSnapshot::ABOUT[..]),
        ] {
            let heads = sheet.lines().next().unwrap_or_default();
            for about in all.iter().filter(|about| !about.is_sum) {
                assert!(heads.contains(about.heading), "{}: {heads}", about.heading);
                assert!(texts[0].contains(about.help.trim()), "{}", about.help);
            }
        }
    }
    let first: Vec<_> = texts[0].lines().take(2).collect();
    assert_eq!(first[0], "spindle: web xvda (nvme0n1), rings: 2");
    assert!(first[1].contains(" 100 ") && first[1].ends_with("Read requests accepted."));
}

#[test]
fn rates_go_by_the_clock_of_the_cores() {
    let before = serving();
    let mut host = Fake::serving();
    let data = "/local/domain/3/data/spindle";
    host.store(
        &format!("{data}/stat/5-51712"),
        "rings=2 rd_req=1100 wr_req=7 rd_sect=8192800 wr_sect=56 err=15 peak=9 \
         lat_us=32:1099,64:8",
    );
    let core = "busy_ns=4500000000 idle_ns=10500000000 sleeps=14";
    host.store(&format!("{data}/core/1"), core);
    let now = Spindle::all(&mut host).expect("xenstore");
    // Five seconds by the core, whatever dom0's clock says.
    let [disks, _, cores] = top(&before, &now, 1.0);
    for (heading, cell) in [
        ("reads/s", "200"),
        ("writes/s", "0"),
        ("read/s", "800 MiB"),
        ("written/s", "0 B"),
        ("lat 50%", "66 µs"),
        ("lat 99%", "66 µs"),
        ("errors/s", "3"),
        ("peak", "9"),
    ] {
        assert_eq!(disks.cell(0, heading), cell, "{heading}");
    }
    assert_eq!(
        (cores.cell(0, "busy"), cores.cell(0, "sleeps/s")),
        ("50.0 %", "2")
    );
    // A disk whose core has published nothing: by dom0's clock.
    let mut stopped = before.clone();
    stopped[0].disks.clone_from(&now[0].disks);
    let [disks, _, _] = top(&before, &stopped, 2.0);
    assert_eq!(disks.cell(0, "reads/s"), "500");
    // Nothing was published in between: nothing has happened.
    let [disks, _, cores] = top(&now, &now, 1.0);
    assert_eq!(
        (disks.cell(0, "reads/s"), disks.cell(0, "read/s")),
        ("0", "0 B")
    );
    assert_eq!(cores.cell(0, "busy"), "-");
}

#[test]
fn sizes_have_the_unit_that_fits() {
    for (bytes, text) in [
        (0.0, "0 B"),
        (1023.0, "1023 B"),
        (1024.0, "1.0 KiB"),
        (1536.0 * 1024.0, "1.5 MiB"),
        (99.97 * 1024.0, "100 KiB"),
        (1023.96 * 1024.0, "1.0 MiB"),
        (3.84e12, "3.5 TiB"),
        (1e18, "909495 TiB"),
    ] {
        assert_eq!(size(bytes), text);
    }
}

#[test]
fn a_disk_that_is_lost_is_listed_as_that() {
    let mut host = Fake::serving();
    let node = "/local/domain/3/data/spindle/targets/nvme0n1";
    host.store(
        node,
        "nvme0n1 2048 4096 - 5/51712:w\nnvme0n1p1 1024 4096 - -",
    );
    let table = list(&Spindle::all(&mut host).expect("xenstore"));
    let modes: Vec<_> = rows(&table).into_iter().map(|row| row[5].clone()).collect();
    assert_eq!(modes, ["lost", "lost"]);
}

#[test]
fn times_have_the_unit_that_fits() {
    for (seconds, text) in [
        (0.000_032, "32 µs"),
        (0.000_999, "999 µs"),
        (0.001, "1 ms"),
        (0.25, "250 ms"),
        (1.0, "1.0 s"),
        (2.26, "2.3 s"),
        (f64::INFINITY, "> 8 s"),
    ] {
        assert_eq!(time(Some(seconds)), text);
    }
    assert_eq!(time(None), "-");
}

#[test]
fn nothing_that_a_domain_writes_reaches_the_terminal_as_a_command() {
    let mut host = Fake::serving();
    host.store(
        "/local/domain/3/data/spindle/disks",
        "\u{1b}[2J 1 512 w \u{7}bell",
    );
    let table = list(&Spindle::all(&mut host).expect("xenstore"));
    let table = table.render(crate::sheet::Paper::PLAIN);
    assert!(!table.contains(['\u{1b}', '\u{7}']), "{table}");
    assert_eq!(text("a\u{202e}b\u{200b}é"), "a?b?é");
}

#[test]
fn limits_are_said_below_the_list() {
    let mut host = Fake::serving();
    let limits = "/local/domain/3/data/spindle/limits";
    host.store(&format!("{limits}/5-51712"), "iops=500:group=db");
    host.store(&format!("{limits}/@db"), "bandwidth=1048576");
    let spindles = Spindle::all(&mut host).expect("xenstore");
    let expected = [
        "web xvda (nvme0n1): iops=500:group=db",
        "spindle group db: bandwidth=1048576",
    ];
    assert_eq!(notes(&spindles, 1060), expected);
}
