//! `list`, `stat` and `top` as tables.

use comfy_table::{Table, presets};

use crate::counters::Counters;
use crate::spindle::{DiskHolder, PublishedDisk, Spindle};

/// What serves what to whom: a row for each target.
pub(crate) fn list(spindles: &[Spindle]) -> Table {
    let mut table = table(&[
        "domain", "id", "state", "target", "MiB", "block", "mode", "used by", "about",
    ]);
    for spindle in spindles {
        let state = match (spindle.readable, spindle.ready) {
            (false, _) => "cannot be read",
            (true, true) => "serves",
            (true, false) => "starts",
        };
        let life = match spindle.life.number {
            0 | 1 => String::new(),
            number => format!(", life {number}"),
        };
        let by = if spindle.ours {
            ""
        } else {
            " (not made by spindlectl)"
        };
        let state = format!("{state}{life}{by}");
        let who = [text(&spindle.name), spindle.id.to_string(), state];
        if spindle.targets.is_empty() {
            table.add_row(who.into_iter().chain(["none".into()]));
            continue;
        }
        for target in &spindle.targets {
            let users = target.holders.iter().map(|holder| user(spindle, holder));
            let users: Vec<String> = users.collect();
            let mode = match target.writable {
                _ if target.lost => "lost",
                true => "rw",
                false => "ro",
            };
            table.add_row(who.clone().into_iter().chain([
                text(&target.name),
                (target.sectors >> 11).to_string(),
                target.block.to_string(),
                mode.into(),
                users.join("\n"),
                text(&target.about),
            ]));
        }
    }
    table
}

/// What is to be said below the list, `now` seconds after 1970: which kernels have died, and why disks
/// were refused or closed.
pub(crate) fn notes(spindles: &[Spindle], now: u64) -> Vec<String> {
    let of = |spindle: &Spindle| {
        let disk = |disk: &PublishedDisk| {
            let error = disk.error.as_ref()?;
            let (guest, vdev, target) = (guest(disk), text(&disk.vdev), text(&disk.target));
            Some(format!("{guest} {vdev} ({target}): {}", text(error)))
        };
        let story = spindle.life.story(&spindle.name, now);
        let notes = story
            .into_iter()
            .chain(spindle.disks.iter().filter_map(disk));
        notes.collect::<Vec<_>>()
    };
    spindles.iter().flat_map(of).collect()
}

/// What the next life of a kernel would take up: a line for each disk whose guest has it connected, and
/// one for each that it would find as new.
pub(crate) fn kept(spindle: &Spindle) -> Vec<String> {
    let line = |disk: &PublishedDisk| {
        let (guest, vdev, target) = (guest(disk), text(&disk.vdev), text(&disk.target));
        let rings = disk.counters.as_ref().map(|counters| counters.get("rings"));
        let what = match (disk.state, rings) {
            // Connected, or asked to close while the guest uses it on.
            (4 | 5, Some(1)) => "kept, with its ring".into(),
            (4 | 5, Some(rings @ 2..)) => format!("kept, with its {rings} rings"),
            (4 | 5, _) => "kept, with its rings".into(),
            _ => "not connected, nothing to keep".into(),
        };
        format!("{guest} {vdev} ({target}): {what}")
    };
    spindle.disks.iter().map(line).collect()
}

/// The counters of all disks, then of all cores, since they began.
pub(crate) fn stat(spindles: &[Spindle]) -> [Table; 2] {
    let mut disks = table(&[
        "domain",
        "guest",
        "disk",
        "target",
        "rings",
        "reads",
        "writes",
        "flushes",
        "MiB read",
        "MiB written",
        "errors",
        "50% within",
        "99% within",
    ]);
    let mut cores = table(&["domain", "core", "busy", "sleeps"]);
    for spindle in spindles {
        for disk in &spindle.disks {
            let counters = disk.counters.clone().unwrap_or_default();
            let count = |name: &str| counters.get(name).to_string();
            disks.add_row([
                text(&spindle.name),
                guest(disk),
                format!("{}{}", text(&disk.vdev), unsettled(disk)),
                text(&disk.target),
                count("rings"),
                count("rd_req"),
                count("wr_req"),
                count("f_req"),
                (counters.get("rd_sect") >> 11).to_string(),
                (counters.get("wr_sect") >> 11).to_string(),
                count("err"),
                time(counters.latency(0.5)),
                time(counters.latency(0.99)),
            ]);
        }
        for (number, counters) in &spindle.cores {
            let sleeps = counters.get("sleeps").to_string();
            cores.add_row([
                text(&spindle.name),
                number.to_string(),
                busy(counters),
                sleeps,
            ]);
        }
    }
    [disks, cores]
}

/// Rates between two looks, `seconds` apart by dom0's clock.
pub(crate) fn top(before: &[Spindle], now: &[Spindle], seconds: f64) -> [Table; 2] {
    let mut disks = table(&[
        "domain",
        "guest",
        "disk",
        "target",
        "reads/s",
        "writes/s",
        "MiB/s read",
        "MiB/s written",
        "50% within",
        "99% within",
        "errors",
    ]);
    let mut cores = table(&["domain", "core", "busy", "sleeps/s"]);
    for spindle in now {
        let old = before.iter().find(|old| old.id == spindle.id);
        let seconds = old.and_then(|old| between(old, spindle)).unwrap_or(seconds);
        let rate = |count: u64| count as f64 / seconds.max(0.001);
        for disk in &spindle.disks {
            let Some(counters) = &disk.counters else {
                continue;
            };
            let same = |old: &&PublishedDisk| (old.guest, old.device) == (disk.guest, disk.device);
            let old = old.and_then(|old| old.disks.iter().find(same));
            let since = match old.and_then(|old| old.counters.as_ref()) {
                Some(old) => counters.since(old),
                None => counters.clone(),
            };
            let count = |name: &str| format!("{:.0}", rate(since.get(name)));
            let mib = |name: &str| format!("{:.1}", rate(since.get(name)) / 2048.0);
            disks.add_row([
                text(&spindle.name),
                guest(disk),
                text(&disk.vdev),
                text(&disk.target),
                count("rd_req"),
                count("wr_req"),
                mib("rd_sect"),
                mib("wr_sect"),
                time(since.latency(0.5)),
                time(since.latency(0.99)),
                since.get("err").to_string(),
            ]);
        }
        for (number, counters) in &spindle.cores {
            let old = old.and_then(|old| core(old, *number));
            let since = old.map_or_else(|| counters.clone(), |old| counters.since(old));
            cores.add_row([
                text(&spindle.name),
                number.to_string(),
                busy(&since),
                format!("{:.0}", rate(since.get("sleeps"))),
            ]);
        }
    }
    [disks, cores]
}

/// Seconds between two publications, by the clock of the cores, which is what the counters go by:
/// Spindle publishes at its own times. `None` if nothing was published in between.
fn between(old: &Spindle, now: &Spindle) -> Option<f64> {
    let lived = |counters: &Counters| {
        let (busy, idle) = (counters.get("busy_ns"), counters.get("idle_ns"));
        busy.saturating_add(idle)
    };
    let spent = now.cores.iter().filter_map(|(number, counters)| {
        let spent = lived(&counters.since(core(old, *number)?));
        (spent > 0).then_some(spent as f64 / 1e9)
    });
    spent.reduce(f64::max)
}

fn core(spindle: &Spindle, number: u32) -> Option<&Counters> {
    let core = spindle.cores.iter().find(|(other, _)| *other == number)?;
    Some(&core.1)
}

fn busy(counters: &Counters) -> String {
    let (busy, idle) = (
        counters.get("busy_ns") as f64,
        counters.get("idle_ns") as f64,
    );
    if busy + idle == 0.0 {
        return "-".into();
    }
    format!("{:.1} %", 100.0 * busy / (busy + idle))
}

/// A duration in the unit that fits, `-` if it is not known.
pub(crate) fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".into(),
        Some(seconds) if seconds.is_infinite() => "> 8 s".into(),
        Some(seconds) if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

/// Who has a target, and how: `web xvda`, `web xvda (ro)`.
fn user(spindle: &Spindle, holder: &DiskHolder) -> String {
    let same = |disk: &&PublishedDisk| (disk.guest, disk.device) == (holder.guest, holder.device);
    let how = match holder.how.as_str() {
        "w" => "",
        "w!" => " (shared)",
        _ => " (ro)",
    };
    match spindle.disks.iter().find(same) {
        Some(disk) => format!(
            "{} {}{how}{}",
            guest(disk),
            text(&disk.vdev),
            unsettled(disk)
        ),
        None => format!("{}/{}{how}", holder.guest, holder.device),
    }
}

fn guest(disk: &PublishedDisk) -> String {
    match disk.guest_name.as_str() {
        "" => disk.guest.to_string(),
        name => text(name),
    }
}

/// What is to be said of a disk that is not connected.
fn unsettled(disk: &PublishedDisk) -> &'static str {
    match disk.state {
        4 => "",
        0..=3 => " (connecting)",
        5 => " (closing)",
        _ => " (closed)",
    }
}

/// What a domain has written, without what a terminal would act on, and without what would have the
/// text read as another: characters without width, and those that turn the direction of writing.
pub(crate) fn text(text: &str) -> String {
    let hidden = |c: char| {
        matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    let visible = |c: char| if c.is_control() || hidden(c) { '?' } else { c };
    text.chars().map(visible).collect()
}

fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_header(headings);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    fn rows(table: &Table) -> Vec<Vec<String>> {
        let cells = |row: &comfy_table::Row| {
            let cells = row.cell_iter().map(comfy_table::Cell::content);
            cells.collect()
        };
        table.row_iter().map(cells).collect()
    }

    fn serving() -> Vec<Spindle> {
        Spindle::all(&mut Fake::serving()).expect("xenstore")
    }

    #[test]
    fn the_list_tells_who_uses_what() {
        let who = ["spindle", "3", "serves"];
        let disk = [
            "nvme0n1",
            "1",
            "4096",
            "rw",
            "web xvda",
            "QEMU NVMe Ctrl, serial spindle0",
        ];
        let partition = [
            "nvme0n1p1",
            "0",
            "4096",
            "rw",
            "",
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
    fn readers_sharers_and_disks_that_are_not_connected_are_told_apart() {
        let mut spindles = serving();
        let mut holder = |device, how: &str| {
            spindles[0].disks[0].state = 2;
            let holder = DiskHolder {
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
        let [disks, cores] = stat(&serving());
        let expected = [
            "spindle", "web", "xvda", "nvme0n1", "2", "100", "7", "2", "0", "0", "0", "66 µs",
            "131 µs",
        ];
        assert_eq!(rows(&disks), [expected]);
        assert_eq!(rows(&cores), [["spindle", "1", "20.0 %", "4"]]);
    }

    #[test]
    fn rates_go_by_the_clock_of_the_cores() {
        let before = serving();
        let mut host = Fake::serving();
        let data = "/local/domain/3/data/spindle";
        host.store(
            &format!("{data}/stat/5-51712"),
            "rings=2 rd_req=1100 wr_req=7 rd_sect=8192800 wr_sect=56 err=3 lat_us=32:1099,64:8",
        );
        let core = "busy_ns=4500000000 idle_ns=10500000000 sleeps=14";
        host.store(&format!("{data}/core/1"), core);
        let now = Spindle::all(&mut host).expect("xenstore");
        // Five seconds by the core, whatever dom0's clock says.
        let [disks, cores] = top(&before, &now, 1.0);
        let expected = [
            "spindle", "web", "xvda", "nvme0n1", "200", "0", "800.0", "0.0", "66 µs", "66 µs", "3",
        ];
        assert_eq!(rows(&disks), [expected]);
        assert_eq!(rows(&cores), [["spindle", "1", "50.0 %", "2"]]);
        // A disk whose core has published nothing: by dom0's clock.
        let mut stopped = before.clone();
        stopped[0].disks.clone_from(&now[0].disks);
        let [disks, _] = top(&before, &stopped, 2.0);
        assert_eq!(rows(&disks)[0][4], "500");
        // Nothing was published in between: nothing has happened.
        let [disks, cores] = top(&now, &now, 1.0);
        assert_eq!(rows(&disks)[0][4..8], ["0", "0", "0.0", "0.0"]);
        assert_eq!(rows(&cores)[0][2], "-");
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
        let modes: Vec<_> = rows(&table).into_iter().map(|row| row[6].clone()).collect();
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
        let table = list(&Spindle::all(&mut host).expect("xenstore")).to_string();
        assert!(!table.contains(['\u{1b}', '\u{7}']), "{table}");
        assert_eq!(text("a\u{202e}b\u{200b}é"), "a?b?é");
    }
}
