//! `list`, `stat` and `top` as tables.

use spindle_status::counter;
use spindle_status::statistic::{Merge, Statistic, Unit};
use spindle_status::stats::{CoreSnapshot, DeviceLine, RingSnapshot};
use spindle_status::targets::HolderWord;

use crate::sheet::{self, Sheet};
use crate::spindle::{PublishedDisk, Spindle};

/// What serves what to whom: a row for each target.
pub(crate) fn list(spindles: &[Spindle]) -> Sheet {
    let headings = [
        "domain", "id", "state", "target", "size", "mode", "used by", "block", "about",
    ];
    let mut table = Sheet::new(headings, 4);
    for spindle in spindles {
        let state = match (spindle.silent, spindle.readable, spindle.ready) {
            (Some(silent), ..) => silent,
            (None, false, _) => "cannot be read",
            (None, true, true) => "serves",
            (None, true, false) => "starts",
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
        let id = match spindle.id {
            0 => "-".to_string(),
            id => id.to_string(),
        };
        let who = [text(&spindle.name), id, state];
        if spindle.targets.is_empty() {
            table.add(who.into_iter().chain(["none".into()]));
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
            table.add(who.clone().into_iter().chain([
                text(&target.name),
                size(target.sectors as f64 * Unit::Sectors.scale()),
                mode.into(),
                users.join(", "),
                target.block.to_string(),
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
        let name = text(&spindle.name);
        let silent = spindle.silent.map(|silent| {
            format!(
                "{name} {silent}: `spindlectl log {name}` may say why, `spindlectl restart {name}` puts a \
                 new one in its place"
            )
        });
        let story = spindle.life.story(&spindle.name, now).or(silent);
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
        let rings = disk.counters.map(|line| line.rings);
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

/// What comes first of a disk's counters; all others follow as they are declared.
const FIRST: [&str; 6] = ["rd_req", "wr_req", "rd_sect", "wr_sect", "lat_us", "err"];

/// The shares of the requests that `stat` and `top` give an upper bound of the latency for.
const SHARES: [(&str, f64); 3] = [("50%", 0.5), ("99%", 0.99), ("99.9%", 0.999)];

/// Statistics with their numbers, those of [`FIRST`] first.
fn ordered<'a, const N: usize>(
    about: &'static [Statistic; N],
    readings: [&'a [u64]; N],
) -> impl Iterator<Item = (&'static Statistic, &'a [u64])> {
    let mut all: Vec<_> = about.iter().zip(readings).collect();
    let place = |about: &Statistic| FIRST.iter().position(|name| *name == about.key.name);
    all.sort_by_key(|(about, _)| place(about).unwrap_or(FIRST.len()));
    all.into_iter()
}

/// The headings of a statistic: one, or one for each share.
fn headings(about: &Statistic, rates: bool) -> Vec<String> {
    let heading = about.heading;
    if about.is_histogram() {
        let of = |(name, _): &(&str, f64)| format!("{heading} {name}");
        return SHARES.iter().map(of).collect();
    }
    let per = if rates && about.key.merge == Merge::Sum {
        "/s"
    } else {
        ""
    };
    vec![format!("{heading}{per}")]
}

/// The cells of a statistic; rates where it was counted in so many seconds.
fn cells(about: &Statistic, reading: &[u64], seconds: Option<f64>) -> Vec<String> {
    if about.is_histogram() {
        let bound = |share| match about.unit {
            Unit::Ns1024 => time(seconds_within(reading, share)),
            _ => count_within(reading, share),
        };
        return SHARES.iter().map(|&(_, share)| bound(share)).collect();
    }
    let number = reading.iter().fold(0, |sum: u64, n| sum.saturating_add(*n)) as f64;
    let seconds = seconds.filter(|_| about.key.merge == Merge::Sum);
    let number = number / seconds.unwrap_or(1.0);
    vec![match about.unit {
        Unit::Sectors => size(number * about.unit.scale()),
        Unit::Nanoseconds => format!("{:.1}", number * about.unit.scale()),
        Unit::Count | Unit::Ns1024 => format!("{number:.0}"),
    }]
}

/// The latency that this share of the requests kept within, in seconds; infinite beyond the histogram.
pub(crate) fn seconds_within(places: &[u64], share: f64) -> Option<f64> {
    Some(match counter::bound(places, share)? {
        u64::MAX => f64::INFINITY,
        bound => bound as f64 * Unit::Ns1024.scale(),
    })
}

fn count_within(places: &[u64], share: f64) -> String {
    match counter::bound(places, share) {
        None => "-".into(),
        Some(u64::MAX) => "more".into(),
        Some(bound) => (bound - 1).to_string(),
    }
}

/// The counters of all disks, then of all cores, since they began.
pub(crate) fn stat(spindles: &[Spindle]) -> [Sheet; 2] {
    counted(
        spindles,
        |spindle, disk| {
            let line = disk.counters.unwrap_or_default();
            Some((line, None)).filter(|_| spindle.readable)
        },
        |_, _, core| (*core, None),
    )
}

/// Rates between two looks, `seconds` apart by dom0's clock.
pub(crate) fn top(before: &[Spindle], now: &[Spindle], seconds: f64) -> [Sheet; 2] {
    let old = |spindle: &Spindle| before.iter().find(|old| old.id == spindle.id);
    let time = |spindle: &Spindle| {
        let between = old(spindle).and_then(|old| between(old, spindle));
        Some(between.unwrap_or(seconds).max(0.001))
    };
    counted(
        now,
        |spindle, disk| {
            let mut line = disk.counters?;
            let same = |old: &&PublishedDisk| (old.guest, old.device) == (disk.guest, disk.device);
            let old = old(spindle).and_then(|old| old.disks.iter().find(same));
            let peak = line.counters.in_flight_peak;
            if let Some(old) = old.and_then(|old| old.counters.as_ref()) {
                line.counters = line.counters.since(&old.counters);
                // No count, but a state.
                line.counters.in_flight_peak = peak;
            }
            Some((line, time(spindle)))
        },
        |spindle, number, counters| {
            let old = old(spindle).and_then(|old| core(old, number));
            let since = old.map_or(*counters, |old| counters.since(old));
            (since, time(spindle))
        },
    )
}

/// Tables of what a device and a core have counted, and in how many seconds; of all time without.
fn counted(
    spindles: &[Spindle],
    of_disk: impl Fn(&Spindle, &PublishedDisk) -> Option<(DeviceLine, Option<f64>)>,
    of_core: impl Fn(&Spindle, u32, &CoreSnapshot) -> (CoreSnapshot, Option<f64>),
) -> [Sheet; 2] {
    let (mut disk_rows, mut core_rows, mut rates) = (Vec::new(), Vec::new(), false);
    for spindle in spindles {
        for disk in &spindle.disks {
            let Some((line, seconds)) = of_disk(spindle, disk) else {
                continue;
            };
            rates |= seconds.is_some();
            let who = [
                text(&spindle.name),
                guest(disk),
                format!("{}{}", text(&disk.vdev), unsettled(disk)),
                text(&disk.target),
            ];
            let counters = ordered(&RingSnapshot::ABOUT, line.counters.readings());
            let counters = counters.flat_map(|(about, reading)| cells(about, reading, seconds));
            let rings = line.rings.to_string();
            disk_rows.push(
                who.into_iter()
                    .chain(counters)
                    .chain([rings])
                    .collect::<Vec<_>>(),
            );
        }
        for (number, counters) in &spindle.cores {
            let (counters, seconds) = of_core(spindle, *number, counters);
            rates |= seconds.is_some();
            let who = [text(&spindle.name), number.to_string(), busy(&counters)];
            let counters = ordered(&CoreSnapshot::ABOUT, counters.readings());
            let counters = counters.flat_map(|(about, reading)| cells(about, reading, seconds));
            core_rows.push(who.into_iter().chain(counters).collect::<Vec<_>>());
        }
    }
    let none = RingSnapshot::default();
    let disk = ordered(&RingSnapshot::ABOUT, none.readings());
    let disk: Vec<String> = disk.flat_map(|(about, _)| headings(about, rates)).collect();
    let none = CoreSnapshot::default();
    let core = ordered(&CoreSnapshot::ABOUT, none.readings());
    let core: Vec<String> = core.flat_map(|(about, _)| headings(about, rates)).collect();
    let words = |list: &'static [&'static str]| list.iter().copied();
    let heads = words(&["domain", "guest", "disk", "target"]);
    let heads = heads
        .chain(disk.iter().map(String::as_str))
        .chain(["rings"]);
    let mut disks = Sheet::new(heads, 4);
    disk_rows.into_iter().for_each(|row| disks.add(row));
    let heads = words(&["domain", "core", "busy"]);
    let mut cores = Sheet::new(heads.chain(core.iter().map(String::as_str)), 3);
    core_rows.into_iter().for_each(|row| cores.add(row));
    [disks, cores]
}

/// All that one has counted, a line each with what it means.
pub(crate) fn explained(spindles: &[Spindle], width: usize) -> String {
    let mut out = String::new();
    let mut block = |title: String, all: Vec<(&'static Statistic, &[u64])>| {
        out += &format!("{title}\n");
        for (about, reading) in all {
            let values = cells(about, reading, None).join(" / ");
            let lead = format!("  {:<12} {values:>12}  ", about.heading);
            out += &sheet::wrap(&lead, about.help.trim(), width);
            out.push('\n');
        }
    };
    for spindle in spindles {
        let name = text(&spindle.name);
        for disk in &spindle.disks {
            let (guest, vdev, target) = (guest(disk), text(&disk.vdev), text(&disk.target));
            let line = disk.counters.unwrap_or_default();
            let title = format!("{name}: {guest} {vdev} ({target}), rings: {}", line.rings);
            let all = ordered(&RingSnapshot::ABOUT, line.counters.readings());
            block(title, all.collect());
        }
        for (number, counters) in &spindle.cores {
            let title = format!("{name}: core {number}, busy {}", busy(counters));
            let all = ordered(&CoreSnapshot::ABOUT, counters.readings());
            block(title, all.collect());
        }
    }
    out.trim_end().to_string()
}

/// Seconds between two publications, by the clock of the cores, which is what the counters go by:
/// Spindle publishes at its own times. `None` if nothing was published in between.
fn between(old: &Spindle, now: &Spindle) -> Option<f64> {
    let lived = |counters: CoreSnapshot| counters.busy_ns.saturating_add(counters.idle_ns);
    let spent = now.cores.iter().filter_map(|(number, counters)| {
        let spent = lived(counters.since(core(old, *number)?));
        (spent > 0).then_some(spent as f64 / 1e9)
    });
    spent.reduce(f64::max)
}

fn core(spindle: &Spindle, number: u32) -> Option<&CoreSnapshot> {
    let core = spindle.cores.iter().find(|(other, _)| *other == number)?;
    Some(&core.1)
}

/// The share of time in visits that found work.
pub(crate) fn busy(counters: &CoreSnapshot) -> String {
    match (counters.busy_ns, counters.idle_ns) {
        (0, 0) => "-".into(),
        _ => {
            let busy = counters.busy_permille();
            format!("{}.{} %", busy / 10, busy % 10)
        }
    }
}

/// Bytes in the unit that fits.
pub(crate) fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut number, mut unit) = (bytes, 0);
    // What would be printed as 1024 is one of the next.
    while number >= 1023.95 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    let places = usize::from(unit > 0 && number < 99.95);
    format!("{number:.places$} {}", UNITS[unit])
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
pub(crate) fn user(spindle: &Spindle, holder: &HolderWord) -> String {
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

pub(crate) fn guest(disk: &PublishedDisk) -> String {
    match disk.guest_name.as_str() {
        "" => disk.guest.to_string(),
        name => text(name),
    }
}

/// What is to be said of a disk that is not connected.
pub(crate) fn unsettled(disk: &PublishedDisk) -> &'static str {
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

#[cfg(test)]
mod tests {
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
        let [disks, cores] = stat(&serving());
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
            let [disks, cores] = sheets.map(|sheet| sheet.render(crate::sheet::Paper::PLAIN));
            for (sheet, all) in [
                (disks, &RingSnapshot::ABOUT[..]),
                (cores, &CoreSnapshot::ABOUT[..]),
            ] {
                let heads = sheet.lines().next().unwrap_or_default();
                for about in all {
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
        let [disks, cores] = top(&before, &now, 1.0);
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
        let [disks, _] = top(&before, &stopped, 2.0);
        assert_eq!(disks.cell(0, "reads/s"), "500");
        // Nothing was published in between: nothing has happened.
        let [disks, cores] = top(&now, &now, 1.0);
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
}
