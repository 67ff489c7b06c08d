//! `why`: the state of a guest's disk, what it waits for, why it was refused, what its guest and Spindle have
//! agreed on, and what would make it faster. All of it is read from xenstore; nothing is asked or changed.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};
use spindle_status::counter;
use spindle_status::stats::RingSnapshot;
use spindle_status::words::value;

use crate::fault::FaultKind;
use crate::host::Host;
use crate::json;
use crate::sheet::wrap;
use crate::spindle::{PublishedDisk, Spindle};
use crate::store::{self, Nodes};
use crate::sums;
use crate::tables::{busy, guest, seconds_within, text, time};

/// What a statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    /// How the connection is.
    State,
    /// What keeps it from working.
    Problem,
    /// What both sides have agreed on.
    Agreed,
    /// What would make it faster.
    Faster,
}

impl Topic {
    const ALL: [(Self, &str); 4] = [
        (Self::State, "state"),
        (Self::Problem, "problem"),
        (Self::Agreed, "agreed"),
        (Self::Faster, "faster"),
    ];

    fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(topic, _)| *topic == self)
            .map_or("", |(_, name)| name)
    }
}

/// Something to be said of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskReason {
    /// What it is about.
    pub(crate) topic: Topic,
    /// What there is to say.
    pub(crate) what: String,
    /// What to do about it; empty if there is nothing.
    pub(crate) next: String,
}

/// All that is to be said of a disk.
#[derive(Clone, Debug)]
pub(crate) struct Reasons {
    disk: PublishedDisk,
    /// The domain that serves it.
    from: String,
    /// What there is to say.
    pub(crate) reasons: Vec<DiskReason>,
}

impl Reasons {
    fn add(&mut self, topic: Topic, what: impl Into<String>, next: impl Into<String>) {
        self.reasons.push(DiskReason {
            topic,
            what: what.into(),
            next: next.into(),
        });
    }

    /// As lines of so many characters.
    pub(crate) fn text(&self, width: usize) -> String {
        let (guest, vdev) = (guest(&self.disk), text(&self.disk.vdev));
        let (target, from) = (text(&self.disk.target), text(&self.from));
        let mut out = format!("{guest} {vdev}, target {target} of {from}");
        for (topic, name) in Topic::ALL {
            for reason in self.reasons.iter().filter(|reason| reason.topic == topic) {
                let lead = format!("{name:<8} ");
                let _ = write!(out, "\n{}", wrap(&lead, &reason.what, width));
                if !reason.next.is_empty() {
                    let _ = write!(out, "\n{}", wrap("       > ", &reason.next, width));
                }
            }
        }
        out
    }

    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        let reasons = self.reasons.iter().map(|reason| {
            let (topic, next) = (reason.topic.name(), reason.next.as_str());
            json!({ "topic": topic, "what": reason.what, "next": next })
        });
        json!({
            "device": json::device(&self.disk),
            "domain": self.from,
            "reasons": reasons.collect::<Vec<_>>(),
        })
    }
}

/// Finds out.
///
/// # Errors
/// If there is no such disk, or if several could be meant; or if xenstore does not answer.
pub(crate) fn why(host: &mut impl Host, device: &str) -> Result<Reasons> {
    let all = Spindle::all(host)?;
    let (spindle, disk) = find(&all, device)?;
    let mut reasons = Reasons {
        disk: disk.clone(),
        from: spindle.name.clone(),
        reasons: Vec::new(),
    };
    let place = format!("{}/{}", disk.guest, disk.device);
    let back = format!("{}/backend/vbd/{place}", store::home(spindle.id));
    let back = Keys(store::tree(host, &back)?, format!("{back}/"));
    let front = store::home(disk.guest);
    let front = format!("{front}/device/vbd/{}", disk.device);
    let front = Keys(store::tree(host, &front)?, format!("{front}/"));
    state(&mut reasons, spindle, disk, &back, &front);
    if disk.state == 4 {
        agreed(&mut reasons, disk, &back, &front);
        faster(&mut reasons, spindle, disk, &back, &front);
    }
    Ok(reasons)
}

/// The disk that a user means: guest and name with `/` or `:` between, or whichever of both says enough.
pub(crate) fn find<'a>(
    all: &'a [Spindle],
    device: &str,
) -> Result<(&'a Spindle, &'a PublishedDisk)> {
    let (first, second) = device.split_once(['/', ':']).unwrap_or((device, ""));
    let is_guest = |disk: &PublishedDisk, name: &str| {
        disk.guest_name == name || disk.guest.to_string() == name
    };
    let is_disk = |disk: &PublishedDisk, name: &str| {
        disk.vdev == name || disk.device.to_string() == name || disk.target == name
    };
    let fits = |disk: &PublishedDisk| match second {
        "" => is_guest(disk, first) || is_disk(disk, first),
        second => is_guest(disk, first) && is_disk(disk, second),
    };
    let disks = all
        .iter()
        .flat_map(|spindle| spindle.disks.iter().map(move |disk| (spindle, disk)));
    let found: Vec<_> = disks.filter(|(_, disk)| fits(disk)).collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(FaultKind::Absent.error(format!(
            "no Spindle has a disk {} for a guest\n`spindlectl stat` shows those that there are; `xl \
             block-list GUEST` those that a guest has been given",
            text(device)
        ))),
        _ => {
            let names = found
                .iter()
                .map(|(_, disk)| format!("{}/{}", guest(disk), text(&disk.vdev)));
            let names = names.collect::<Vec<_>>().join(", ");
            Err(FaultKind::Absent.error(format!(
                "{} could be each of {names}\nsay which",
                text(device)
            )))
        }
    }
}

/// The keys of one end of a connection.
struct Keys(Nodes, String);

impl Keys {
    fn text(&self, key: &str) -> &str {
        let path = format!("{}{key}", self.1);
        self.0.get(&path).map_or("", String::as_str)
    }

    fn number(&self, key: &str) -> u64 {
        self.text(key).parse().unwrap_or(0)
    }
}

/// The state, and what keeps the disk from working.
fn state(out: &mut Reasons, spindle: &Spindle, disk: &PublishedDisk, back: &Keys, front: &Keys) {
    let (name, who) = (text(&spindle.name), guest(disk));
    // XenbusState (xen/include/public/io/xenbus.h); the other end's first.
    let (what, next) = match (front.number("state"), disk.state) {
        (_, 0 | 1) => (
            format!("{name} has not opened the disk yet"),
            format!("`xl console -t pv {name}` shows what it does"),
        ),
        (0, 2..=4) => (
            format!("waits for {who}, which has no such device any more"),
            format!("`xl block-detach {who} {}` cleans up", text(&disk.vdev)),
        ),
        (1, 2 | 3) => (
            format!("waits for {who}, whose driver has not begun"),
            "is its kernel up, and does it have xen-blkfront?".into(),
        ),
        (_, 2 | 3) => (
            format!(
                "waits for {who} to set up its rings (its state is {})",
                front.text("state")
            ),
            String::new(),
        ),
        (_, 4) => ("connected".into(), String::new()),
        (_, 5) => (format!("waits for {who} to close the disk"), String::new()),
        _ => ("closed".into(), String::new()),
    };
    out.add(Topic::State, what, next);
    if !spindle.ready {
        let next = format!("`xl console -t pv {name}` shows what it does");
        out.add(Topic::Problem, format!("{name} does not serve yet"), next);
    }
    if let Some(error) = &disk.error {
        let next = "once that is mended: `xl block-detach`, then `xl block-attach`";
        out.add(Topic::Problem, text(error), next);
    }
    let target = sums::target_of(spindle, disk);
    if target.is_some_and(|target| target.lost) {
        let next = format!("`spindlectl rescan {name}` has it looked for at once, and says why");
        let what = format!("the controller of {} is lost", text(&disk.target));
        out.add(Topic::Problem, what, next);
    }
    if back.number("sectors") == 0 && disk.state == 4 {
        let next = "attach what is there now anew: `xl block-detach`, then `xl block-attach`";
        out.add(
            Topic::Problem,
            "the disk has size 0: what was behind it is gone",
            next,
        );
    }
    let counters = disk.counters.unwrap_or_default().counters;
    if counters.errors > 0 {
        let what = format!("{} requests were answered with an error", counters.errors);
        out.add(
            Topic::Problem,
            what,
            format!("`xl console -t pv {name}` says which"),
        );
    }
    if let Some(last) = &spindle.life.last {
        let when = spindle.life.down.map(|down| down.as_secs_f64());
        let what = format!(
            "{name} has died before, by {last}; it served again after {}",
            time(when)
        );
        out.add(Topic::State, what, "");
    }
}

/// What both ends have said that they can do.
fn agreed(out: &mut Reasons, disk: &PublishedDisk, back: &Keys, front: &Keys) {
    let line = disk.counters.unwrap_or_default();
    let queues = back.number("multi-queue-max-queues");
    out.add(
        Topic::Agreed,
        format!(
            "{} of {queues} queues, pages in a ring: {}",
            line.rings,
            1u64 << order(front)
        ),
        "",
    );
    let protocol = match front.text("protocol") {
        "" => "of its own architecture",
        protocol => protocol,
    };
    let path = match (persistent(back), persistent(front)) {
        (true, true) => "persistent grants: pages stay mapped",
        (true, false) => "no persistent grants, as the guest has none",
        (false, _) => "no persistent grants, by Spindle's option path",
    };
    out.add(
        Topic::Agreed,
        format!("protocol {}; {path}", text(protocol)),
        "",
    );
    if let Some(what) = path_of_requests(&line.counters, persistent(back) && persistent(front)) {
        out.add(Topic::Agreed, what, "");
    }
    if let Some(group) = sums::group(disk) {
        let what = format!("in the group {group}, whose limits and weight it shares");
        out.add(Topic::Agreed, text(&what), "");
    }
    let access = if disk.writable {
        "read and write"
    } else {
        "read only"
    };
    let (sector, physical) = (
        back.number("sector-size"),
        back.number("physical-sector-size"),
    );
    out.add(
        Topic::Agreed,
        format!("{access}, sectors of {sector} bytes on blocks of {physical}"),
        "",
    );
}

/// How the data of its requests went, and why so; `None` if there was none.
fn path_of_requests(counters: &RingSnapshot, persistent: bool) -> Option<String> {
    let (copied, grants) = (counters.copied_requests, counters.grants_mapped);
    let all = counters.reads.saturating_add(counters.writes);
    let mapped = all.saturating_sub(copied);
    let mut parts = Vec::new();
    if mapped > 0 {
        parts.push(match persistent {
            true => format!("{mapped} by pages that stay mapped ({grants} were mapped for that)"),
            false => format!("{mapped} by pages that were mapped for that request alone"),
        });
    }
    if copied > 0 {
        parts.push(match (persistent, mapped) {
            (true, _) => format!(
                "{copied} copied, as their pages found no place among those, or parts of blocks were written"
            ),
            (false, 0) => format!("{copied} copied, as its pages do not stay mapped"),
            (false, _) => format!("{copied} copied, as pages could not be mapped"),
        });
    }
    (all > 0).then(|| format!("data of {all} requests: {}", parts.join(", ")))
}

fn persistent(end: &Keys) -> bool {
    end.text("feature-persistent") == "1"
}

/// log2 of the pages of a ring.
fn order(front: &Keys) -> u64 {
    front.number("ring-page-order").min(4)
}

/// What would make it faster, by what was agreed on and counted.
fn faster(out: &mut Reasons, spindle: &Spindle, disk: &PublishedDisk, back: &Keys, front: &Keys) {
    let line = disk.counters.unwrap_or_default();
    let counters = line.counters;
    let requests = counters.reads.saturating_add(counters.writes);
    let often = |count: u64| requests > 0 && count.saturating_mul(20) > requests;
    let offered = back.number("multi-queue-max-queues");
    if line.rings < offered {
        out.add(
            Topic::Faster,
            format!("the guest uses {} of {offered} queues", line.rings),
            "give it as many vCPUs, or raise xen_blkfront.max_queues there",
        );
    }
    let most = back.number("max-ring-page-order");
    if order(front) < most {
        let pages = 1u64 << most.min(4);
        out.add(
            Topic::Faster,
            format!(
                "its rings have {} of {pages} pages, for fewer requests at once",
                1u64 << order(front)
            ),
            format!("xen_blkfront.max_ring_page_order={most} on the guest's command line"),
        );
    }
    if persistent(back) && !persistent(front) {
        out.add(
            Topic::Faster,
            "its pages are mapped or copied for each request",
            "a guest with persistent grants saves that (Linux: xen_blkfront.feature_persistent=1)",
        );
    } else if often(counters.copied_requests) && persistent(front) {
        out.add(
            Topic::Faster,
            format!(
                "{} of {requests} requests were copied",
                counters.copied_requests
            ),
            "more memory= for Spindle keeps more pages mapped",
        );
    }
    if often(counters.out_of_room) {
        out.add(
            Topic::Faster,
            format!("{} times a request waited for room", counters.out_of_room),
            "more memory= for Spindle, or fewer guests on one of its cores",
        );
    }
    let full = |core: &&(u32, _)| {
        let (_, counters): &(u32, spindle_status::stats::CoreSnapshot) = core;
        counters.busy_permille() > 900
    };
    for (number, counters) in spindle.cores.iter().filter(full) {
        out.add(
            Topic::Faster,
            format!(
                "ring core {number} was busy for {} of the time since it began",
                busy(counters)
            ),
            "more vcpus= for Spindle spread the rings of all guests over more cores",
        );
    }
    if back.number("sector-size") < back.number("physical-sector-size") {
        out.add(
            Topic::Faster,
            "its sectors are smaller than the disk's blocks: parts of a block are read, then written",
            "align partitions and file systems to 4,096 bytes; or attach it without 512e:",
        );
    }
    if requests > 0 {
        let within = |share| time(seconds_within(&counters.latency.0, share));
        let what = format!(
            "of its requests that reached the disk 50% took less than {}, 99% less than {}",
            within(0.5),
            within(0.99)
        );
        out.add(Topic::State, what, "");
    }
    delays(out, &counters);
    for (name, health) in &spindle.health {
        let resets: u64 = value(health, "resets").unwrap_or(0);
        if resets > 0 {
            out.add(
                Topic::Problem,
                format!(
                    "{} was reset {resets} times, since it did not do its work",
                    text(name)
                ),
                format!("`spindlectl log {}` says why", text(&spindle.name)),
            );
        }
    }
    let spurious = spindle.health.iter().filter_map(|(name, health)| {
        let count: u64 = value(health, "spurious_completions")?;
        (count > 0).then_some((name, count))
    });
    for (name, count) in spurious {
        let what = format!(
            "{} gave {count} answers that nothing was waiting for",
            text(name)
        );
        out.add(
            Topic::Problem,
            what,
            "look for a newer firmware of the disk",
        );
    }
}

/// What its requests waited for, on average and for most of them.
fn delays(out: &mut Reasons, counters: &RingSnapshot) {
    let kinds = [
        (
            &counters.tokens,
            counters.tokens_ns,
            "for tokens of its limits",
        ),
        (&counters.wait, counters.wait_ns, "for Spindle"),
        (&counters.device, counters.device_ns, "for the disk"),
    ];
    for (places, sum, of) in kinds {
        let count = counter::total(&places.0);
        if count == 0 {
            continue;
        }
        let mean = sum as f64 / count as f64 / 1e9;
        let within = |share| time(seconds_within(&places.0, share));
        let what = format!(
            "it waited {of} {} on average; 50% less than {}, 99% less than {}, 99.9% less than {}",
            time(Some(mean)),
            within(0.5),
            within(0.99),
            within(0.999)
        );
        out.add(Topic::State, what, "");
    }
}

#[cfg(test)]
mod tests;
