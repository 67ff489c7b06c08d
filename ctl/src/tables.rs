//! `list`, `stat` and `top` as tables.

use spindle_status::counter;
use spindle_status::statistic::{Merge, StatUnit, Statistic};
use spindle_status::stats::{CoreSnapshot, DeviceLine, RingSnapshot};
use spindle_status::targets::HolderWord;

use crate::sheet::{self, Sheet};
use crate::spindle::{PublishedDisk, Spindle};
use crate::sums::{self, SumOf};

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
                size(target.sectors as f64 * StatUnit::Sectors.scale()),
                mode.into(),
                users.join(", "),
                target.block.to_string(),
                text(&target.about),
            ]));
        }
    }
    table
}

/// What is to be said below the list, `now` seconds after 1970: which kernels have died, why disks
/// were refused or closed, and which limits there are.
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
        let limited = |disk: &PublishedDisk| {
            let (guest, vdev, target) = (guest(disk), text(&disk.vdev), text(&disk.target));
            let limits = text(&disk.limits);
            (!limits.is_empty()).then(|| format!("{guest} {vdev} ({target}): {limits}"))
        };
        let group = |(name, limits): &(String, String)| {
            let (domain, name, limits) = (text(&spindle.name), text(name), text(limits));
            format!("{domain} group {name}: {limits}")
        };
        let notes = story
            .into_iter()
            .chain(spindle.disks.iter().filter_map(disk))
            .chain(spindle.disks.iter().filter_map(limited))
            .chain(spindle.groups.iter().map(group));
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

/// Statistics with their numbers, those of [`FIRST`] first, without the sums of histograms.
fn ordered<'a, const N: usize>(
    about: &'static [Statistic; N],
    readings: [&'a [u64]; N],
) -> impl Iterator<Item = (&'static Statistic, &'a [u64])> {
    let all = about.iter().zip(readings);
    let mut all: Vec<_> = all.filter(|(about, _)| !about.is_sum).collect();
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
            StatUnit::Ns1024 => time(seconds_within(reading, share)),
            _ => count_within(reading, share),
        };
        return SHARES.iter().map(|&(_, share)| bound(share)).collect();
    }
    let number = reading.iter().fold(0, |sum: u64, n| sum.saturating_add(*n)) as f64;
    let seconds = seconds.filter(|_| about.key.merge == Merge::Sum);
    let number = number / seconds.unwrap_or(1.0);
    vec![match about.unit {
        StatUnit::Sectors => size(number * about.unit.scale()),
        StatUnit::Nanoseconds => format!("{:.1}", number * about.unit.scale()),
        StatUnit::Count | StatUnit::Ns1024 => format!("{number:.0}"),
    }]
}

/// The latency that this share of the requests kept within, in seconds; infinite beyond the histogram.
pub(crate) fn seconds_within(places: &[u64], share: f64) -> Option<f64> {
    Some(match counter::bound(places, share)? {
        u64::MAX => f64::INFINITY,
        bound => bound as f64 * StatUnit::Ns1024.scale(),
    })
}

fn count_within(places: &[u64], share: f64) -> String {
    match counter::bound(places, share) {
        None => "-".into(),
        Some(u64::MAX) => "more".into(),
        Some(bound) => (bound - 1).to_string(),
    }
}

/// The counters of all guests' disks, of groups and disks with several of them, and of all cores, since they
/// began.
pub(crate) fn stat(spindles: &[Spindle]) -> [Sheet; 3] {
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
pub(crate) fn top(before: &[Spindle], now: &[Spindle], seconds: f64) -> [Sheet; 3] {
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

/// Tables of what devices, several of them together, and cores have counted, and in how many seconds; of all time without.
fn counted(
    spindles: &[Spindle],
    of_disk: impl Fn(&Spindle, &PublishedDisk) -> Option<(DeviceLine, Option<f64>)>,
    of_core: impl Fn(&Spindle, u32, &CoreSnapshot) -> (CoreSnapshot, Option<f64>),
) -> [Sheet; 3] {
    let (mut disk_rows, mut sum_rows, mut core_rows) = (Vec::new(), Vec::new(), Vec::new());
    let mut rates = false;
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
        for sum in sums::of(spindle) {
            let counted = |disk: &PublishedDisk| of_disk(spindle, disk);
            let seconds = sum.disks.iter().find_map(|disk| counted(disk)?.1);
            let total = sum.total(|disk| Some(counted(disk)?.0.counters));
            let (what, name) = sum.of.words();
            let limits = match &sum.of {
                SumOf::Group(name) => spindle.groups.iter().find(|(group, _)| group == name),
                SumOf::Disk(_) => None,
            };
            let who = [
                text(&spindle.name),
                format!("{what} {}", text(name)),
                sum.disks.len().to_string(),
                limits.map(|(_, limits)| text(limits)).unwrap_or_default(),
            ];
            let counters = ordered(&RingSnapshot::ABOUT, total.readings());
            let counters = counters.flat_map(|(about, reading)| cells(about, reading, seconds));
            sum_rows.push(who.into_iter().chain(counters).collect::<Vec<_>>());
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
    let heads = words(&["domain", "together", "disks", "limits"]);
    let mut sums = Sheet::new(heads.chain(disk.iter().map(String::as_str)), 4);
    sum_rows.into_iter().for_each(|row| sums.add(row));
    let heads = words(&["domain", "core", "busy"]);
    let mut cores = Sheet::new(heads.chain(core.iter().map(String::as_str)), 3);
    core_rows.into_iter().for_each(|row| cores.add(row));
    [disks, sums, cores]
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
mod tests;
