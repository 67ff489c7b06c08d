//! `trace`: what happened last to a guest's disk, as the flight recorders of Spindle's cores have it, also
//! from before a death of its kernel.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Value, json};
use spindle_status::path;
use spindle_status::trace::TraceEvent;

use crate::host::Host;
use crate::sheet::wrap;
use crate::spindle::{PublishedDisk, Spindle};
use crate::store::{self, Nodes};
use crate::tables::{guest, text};
use crate::why::find;

/// An event, with the core that recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recorded {
    core: u32,
    event: TraceEvent,
}

/// What is known of a disk's last events.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    disk: PublishedDisk,
    from: String,
    /// The oldest first.
    events: Vec<Recorded>,
    /// When the kernel started last: nanoseconds of the system's time, and time since 1970.
    started: Option<(u64, Duration)>,
}

/// Reads it.
///
/// # Errors
/// If there is no such disk, if several could be meant, or if xenstore does not answer.
pub(crate) fn trace(host: &mut impl Host, device: &str) -> Result<Trace> {
    let all = Spindle::all(host)?;
    let (spindle, disk) = find(&all, device)?;
    let folder = format!("{}/{}", store::home(spindle.id), path::TRACE);
    let nodes = store::tree(host, &folder)?;
    let is_of = |recorded: &Recorded| {
        let event = recorded.event;
        (u32::from(event.guest), event.device) == (disk.guest, disk.device)
    };
    let mut events = read(&nodes, &format!("{folder}/"));
    events.retain(is_of);
    let life = &spindle.life;
    Ok(Trace {
        disk: disk.clone(),
        from: spindle.name.clone(),
        events,
        started: life.system.zip(life.began.map(Duration::from_secs)),
    })
}

/// All events of these nodes, the oldest first.
fn read(nodes: &Nodes, folder: &str) -> Vec<Recorded> {
    let of_core = |(path, line): (&String, &String)| {
        let core: u32 = path.strip_prefix(folder)?.parse().ok()?;
        let events = line.split_ascii_whitespace().filter_map(TraceEvent::parse);
        Some(
            events
                .map(|event| Recorded { core, event })
                .collect::<Vec<_>>(),
        )
    };
    let mut events: Vec<_> = nodes.iter().filter_map(of_core).flatten().collect();
    events.sort_by_key(|recorded| recorded.event.at_ns);
    events
}

impl Trace {
    /// The time of day of an event by UTC, if it is known when the kernel started.
    fn time(&self, event: &TraceEvent) -> Option<SystemTime> {
        let (system, began) = self.started?;
        // The start is given in whole seconds, and so is the time of day at which the system's time began,
        // which each life takes from Xen anew: by it an event has the same time in all of them.
        let zero = began.checked_sub(Duration::from_secs(system / 1_000_000_000))?;
        UNIX_EPOCH.checked_add(zero.checked_add(Duration::from_nanos(event.at_ns))?)
    }

    /// As lines of so many characters.
    pub(crate) fn text(&self, width: usize) -> String {
        let (guest, vdev) = (guest(&self.disk), text(&self.disk.vdev));
        let (target, from) = (text(&self.disk.target), text(&self.from));
        let mut out = format!("{guest} {vdev}, target {target} of {from}");
        if self.events.is_empty() {
            out += "\nno event is recorded";
        }
        let mut life = false;
        for Recorded { core, event } in &self.events {
            let before = self.started.is_some_and(|(system, _)| event.at_ns < system);
            // Where the present life begins.
            if life && !before {
                out += "\n-- the kernel started again --";
            }
            life = before;
            let at = match self.time(event) {
                Some(time) => clock(time),
                None => format!("{:.3}", event.at_ns as f64 / 1e9),
            };
            let lead = format!("{at} core {core}: ");
            out += &format!("\n{}", wrap(&lead, &event.text(), width));
        }
        out
    }

    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        let events = self.events.iter().map(|Recorded { core, event }| {
            let at = self
                .time(event)
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            json!({
                "core": core,
                "at": at.map(|at| at.as_secs_f64()),
                "system_ns": event.at_ns,
                "kind": event.kind,
                "values": event.values,
                "text": event.text(),
            })
        });
        json!({
            "device": crate::json::device(&self.disk),
            "domain": self.from,
            "events": events.collect::<Vec<_>>(),
        })
    }
}

/// A time of day with milliseconds, by UTC.
fn clock(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() % (24 * 60 * 60);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!(
        "{hours:02}:{minutes:02}:{:02}.{:03}",
        seconds % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::fault::FaultKind;
    use spindle_status::trace::kind;

    fn event(at_ms: u64, kind: u8, device: u32, first: u64) -> String {
        let event = TraceEvent {
            at_ns: at_ms * 1_000_000,
            kind,
            operation: 1,
            guest: 5,
            device,
            values: [first, 0],
        };
        event.to_string()
    }

    fn recorded() -> Fake {
        let mut host = Fake::serving();
        let data = "/local/domain/3/data/spindle";
        let cores = [
            (
                "1",
                vec![
                    event(100_000, kind::ATTACHED, 51712, 0),
                    event(100_900, kind::FAILED, 51712, 8),
                ],
            ),
            (
                "2",
                vec![
                    event(99_500, kind::REFUSED, 51712, 7),
                    event(99_600, kind::REFUSED, 51728, 9),
                ],
            ),
        ];
        for (core, events) in cores {
            host.store(&format!("{data}/trace/{core}"), &events.join(" "));
        }
        host.store(&format!("{data}/trace/x"), "1.2.3.4");
        // The kernel started when 100 s had passed, at 01:00:00.
        host.store(
            &format!("{data}/start"),
            "at=3600 down_us=500 deaths=1 system_ns=100000000000",
        );
        host
    }

    #[test]
    fn events_of_all_cores_come_by_their_time_also_those_of_the_life_before() {
        let trace = trace(&mut recorded(), "web/xvda").expect("a disk");
        let expected = "web xvda, target nvme0n1 of spindle\n\
                        00:59:59.500 core 2: a write at sector 7 was refused\n\
                        -- the kernel started again --\n\
                        01:00:00.000 core 1: a core has the ring\n\
                        01:00:00.900 core 1: a write at sector 8 failed";
        assert_eq!(trace.text(80), expected);
        let value = trace.json();
        assert_eq!(value["events"][2]["at"], 3600.9);
        assert_eq!(value["events"][0]["core"], 2);
    }

    /// Each life starts within another part of a second.
    #[test]
    fn an_event_has_the_same_time_in_every_life() {
        let mut host = recorded();
        for start in [
            "at=3600 system_ns=100700000000",
            "at=3610 system_ns=110100000000",
        ] {
            host.store("/local/domain/3/data/spindle/start", start);
            let text = trace(&mut host, "web").expect("a disk").text(80);
            assert!(text.contains("00:59:59.500 core 2: a write at"), "{text}");
        }
    }

    #[test]
    fn without_events_or_a_clock_that_is_said() {
        let mut host = Fake::serving();
        let empty = trace(&mut host, "web").expect("a disk").text(80);
        assert!(empty.ends_with("no event is recorded"), "{empty}");
        let data = "/local/domain/3/data/spindle";
        host.store(
            &format!("{data}/trace/1"),
            &event(1500, kind::DISK_LOST, 51712, 0),
        );
        let text = trace(&mut host, "web").expect("a disk").text(80);
        assert!(
            text.ends_with("\n1.500 core 1: the disk is lost: requests fail"),
            "{text}"
        );
        let error = trace(&mut host, "db").expect_err("none");
        assert_eq!(FaultKind::of(&error), FaultKind::Absent);
    }
}
