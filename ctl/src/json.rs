//! What `--json` prints. Names stay; new ones may come. Sizes are bytes, times seconds, counters have the
//! names and units of the lines that Spindle publishes.

use serde_json::{Map, Value, json};
use spindle_status::counter;
use spindle_status::statistic::Statistic;
use spindle_status::stats::{CoreSnapshot, RingSnapshot};

use crate::spindle::{PublishedDisk, Spindle, Target};
use crate::sums::{self, DeviceSum, SumOf};

/// What `list` shows, with the notes below it.
pub(crate) fn list(spindles: &[Spindle], notes: &[String]) -> Value {
    let domains = spindles.iter().map(|spindle| {
        let life = &spindle.life;
        let last = life
            .last
            .as_ref()
            .map(|last| json!({ "cause": last.cause, "core": last.core, "message": last.message }));
        json!({
            "name": spindle.name,
            "id": Some(spindle.id).filter(|&id| id > 0),
            "version": spindle.version,
            "serves": spindle.ready,
            "silent": spindle.silent,
            "readable": spindle.readable,
            "made_by_spindlectl": spindle.ours,
            "life": life.number,
            "deaths": life.deaths,
            "began": life.began,
            "last_down_seconds": life.down.map(|down| down.as_secs_f64()),
            "last_death": last,
            "targets": spindle.targets.iter().map(target).collect::<Vec<_>>(),
            "devices": spindle.disks.iter().map(device).collect::<Vec<_>>(),
            "health": spindle.health.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        })
    });
    json!({ "domains": domains.collect::<Vec<_>>(), "notes": notes })
}

/// Some of what a Spindle serves.
pub(crate) fn targets(all: &[&Target]) -> Value {
    all.iter().copied().map(target).collect()
}

fn target(target: &Target) -> Value {
    let holders = target.holders.iter().map(
        |holder| json!({ "guest_id": holder.guest, "device": holder.device, "how": holder.how }),
    );
    json!({
        "name": target.name,
        "bytes": target.sectors.saturating_mul(512),
        "block_bytes": target.block,
        "writable": target.writable,
        "lost": target.lost,
        "about": target.about,
        "holders": holders.collect::<Vec<_>>(),
    })
}

/// A guest's disk.
pub(crate) fn device(disk: &PublishedDisk) -> Value {
    json!({
        "guest": disk.guest_name,
        "guest_id": disk.guest,
        "device": disk.device,
        "vdev": disk.vdev,
        "target": disk.target,
        "writable": disk.writable,
        "state": disk.state,
        "error": disk.error,
    })
}

/// What `stat` shows.
pub(crate) fn stat(spindles: &[Spindle]) -> Value {
    let domains = spindles.iter().map(|spindle| {
        let devices = spindle.disks.iter().map(|disk| {
            let mut value = device(disk);
            if let Some(line) = &disk.counters {
                value["rings"] = line.rings.into();
                value["counters"] = counters(&RingSnapshot::ABOUT, &line.counters.readings());
            }
            value
        });
        let cores = spindle.cores.iter().map(|(number, core)| {
            let counters = counters(&CoreSnapshot::ABOUT, &core.readings());
            json!({ "core": number, "counters": counters })
        });
        let (groups, disks): (Vec<_>, Vec<_>) = sums::of(spindle)
            .into_iter()
            .partition(|sum| matches!(sum.of, SumOf::Group(_)));
        let sums = |all: Vec<DeviceSum<'_>>| -> Vec<_> {
            all.iter().map(|one| sum(spindle, one)).collect()
        };
        json!({
            "name": spindle.name,
            "id": spindle.id,
            "devices": devices.collect::<Vec<_>>(),
            "groups": sums(groups),
            "disks": sums(disks),
            "cores": cores.collect::<Vec<_>>(),
        })
    });
    json!({ "domains": domains.collect::<Vec<_>>() })
}

/// What several devices have counted together.
fn sum(spindle: &Spindle, sum: &DeviceSum<'_>) -> Value {
    let (_, name) = sum.of.words();
    let total = sum.total(|disk| Some(disk.counters?.counters));
    let devices = sum.disks.iter();
    let devices = devices.map(|disk| format!("{}/{}", disk.guest, disk.device));
    let mut value = json!({
        "name": name,
        "devices": devices.collect::<Vec<_>>(),
        "counters": counters(&RingSnapshot::ABOUT, &total.readings()),
    });
    if let SumOf::Group(name) = &sum.of {
        let limits = spindle.groups.iter().find(|(group, _)| group == name);
        value["limits"] = limits.map_or("", |(_, limits)| limits).into();
    }
    value
}

/// Counters by their words; a histogram as how many values are below each bound, and not below the last.
fn counters(about: &[Statistic], readings: &[&[u64]]) -> Value {
    let all = about.iter().zip(readings).map(|(about, reading)| {
        let value = match reading {
            [number] => (*number).into(),
            places => {
                let bucket = |(place, count)| {
                    let end = counter::end(place, places.len());
                    let below = Some(end).filter(|&end| end != u64::MAX);
                    json!({ "below": below, "count": count })
                };
                places.iter().copied().enumerate().map(bucket).collect()
            }
        };
        (about.key.name.to_string(), value)
    });
    Value::Object(all.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    fn serving() -> Vec<Spindle> {
        Spindle::all(&mut Fake::serving()).expect("xenstore")
    }

    #[test]
    fn the_list_has_who_serves_what_to_whom() {
        let value = list(&serving(), &["a note".to_string()]);
        assert_eq!(value["notes"][0], "a note");
        let domain = &value["domains"][0];
        assert_eq!(
            (&domain["name"], &domain["id"]),
            (&"spindle".into(), &3.into())
        );
        assert_eq!(domain["serves"], true);
        let target = &domain["targets"][0];
        assert_eq!(
            (&target["name"], &target["bytes"]),
            (&"nvme0n1".into(), &1_048_576.into())
        );
        assert_eq!(target["holders"][0]["device"], 51712);
        assert_eq!(domain["devices"][0]["vdev"], "xvda");
        assert_eq!(domain["last_death"], Value::Null);
    }

    #[test]
    fn every_counter_of_a_device_and_a_core_is_there() {
        let value = stat(&serving());
        let device = &value["domains"][0]["devices"][0];
        assert_eq!(device["rings"], 2);
        for about in &RingSnapshot::ABOUT {
            assert!(
                !device["counters"][about.key.name].is_null(),
                "{}",
                about.key.name
            );
        }
        assert_eq!(device["counters"]["rd_req"], 100);
        let latency = &device["counters"]["lat_us"];
        assert_eq!(latency[6], json!({ "below": 64, "count": 99 }));
        assert_eq!(latency[23]["below"], Value::Null);
        let core = &value["domains"][0]["cores"][0];
        assert_eq!(
            (&core["core"], &core["counters"]["sleeps"]),
            (&1.into(), &4.into())
        );
        let mut without = serving();
        without[0].disks[0].counters = None;
        assert!(stat(&without)["domains"][0]["devices"][0]["counters"].is_null());
    }
}
