//! Figures of several guests' disks together: of each limit group, and of each disk that several of them
//! are on. They are sums of what is published of the devices; nothing more is asked of Spindle.

use spindle_limits::IoLimits;
use spindle_status::stats::RingSnapshot;

use crate::spindle::{PublishedDisk, Spindle, Target};

/// What devices are taken together by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SumOf {
    /// The group that their limits name.
    Group(String),
    /// The disk that they are on, or begin on.
    Disk(String),
}

impl SumOf {
    /// What it is, and its name.
    pub(crate) fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Group(name) => ("group", name),
            Self::Disk(name) => ("disk", name),
        }
    }
}

/// Devices that are taken together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceSum<'a> {
    pub(crate) of: SumOf,
    pub(crate) disks: Vec<&'a PublishedDisk>,
}

impl DeviceSum<'_> {
    /// What was counted, of each as `counters` gives it.
    pub(crate) fn total(
        &self,
        counters: impl Fn(&PublishedDisk) -> Option<RingSnapshot>,
    ) -> RingSnapshot {
        RingSnapshot::sum(self.disks.iter().filter_map(|disk| counters(disk)))
    }
}

/// The group of a device, if its limits name one.
pub(crate) fn group(disk: &PublishedDisk) -> Option<String> {
    let mut limits = IoLimits::default();
    limits.set_all(&disk.limits).ok()?;
    limits.group().map(str::to_string)
}

/// What a device has, under whatever name it was asked for; `None` if that is not published.
pub(crate) fn target_of<'a>(spindle: &'a Spindle, device: &PublishedDisk) -> Option<&'a Target> {
    let is_holder = |(guest, number): (u32, u32)| (guest, number) == (device.guest, device.device);
    let mut targets = spindle.targets.iter();
    targets.find(|target| {
        let mut holders = target.holders.iter();
        holders.any(|holder| is_holder((holder.guest, holder.device)))
    })
}

/// The disk that a device is on, or that its volume begins on; `None` if that is not published.
pub(crate) fn disk_of<'a>(spindle: &'a Spindle, device: &PublishedDisk) -> Option<&'a str> {
    target_of(spindle, device).map(|target| target.on.as_str())
}

/// All groups, and the disks that several devices are on, each by name.
pub(crate) fn of(spindle: &Spindle) -> Vec<DeviceSum<'_>> {
    let mut all: Vec<DeviceSum<'_>> = Vec::new();
    let mut add = |of: SumOf, device| match all.iter_mut().find(|sum| sum.of == of) {
        Some(sum) => sum.disks.push(device),
        None => all.push(DeviceSum {
            of,
            disks: vec![device],
        }),
    };
    for device in &spindle.disks {
        if let Some(name) = group(device) {
            add(SumOf::Group(name), device);
        }
        if let Some(name) = disk_of(spindle, device) {
            add(SumOf::Disk(name.into()), device);
        }
    }
    all.retain(|sum| matches!(sum.of, SumOf::Group(_)) || sum.disks.len() > 1);
    all.sort_by(|one, other| {
        let key = |sum: &DeviceSum<'_>| {
            let (what, name) = sum.of.words();
            (what == "disk", name.to_string())
        };
        key(one).cmp(&key(other))
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::{json, metrics, tables};

    /// Two guests on one disk, both in a group, one of which is on a partition.
    fn host() -> Fake {
        let mut host = Fake::serving();
        let home = "/local/domain/3";
        for (key, value) in [
            ("state", "4"),
            ("dev", "xvda"),
            ("params", "PARTLABEL=root"),
            ("mode", "w"),
        ] {
            host.store(&format!("{home}/backend/vbd/6/51712/{key}"), value);
        }
        host.store("/local/domain/6/name", "db");
        let data = format!("{home}/data/spindle");
        host.store(
            &format!("{data}/stat/6-51712"),
            "rings=1 rd_req=11 wr_req=3 peak=2 lat_us=64:14",
        );
        for device in ["5-51712", "6-51712"] {
            host.store(&format!("{data}/limits/{device}"), "group=gold");
        }
        host.store(&format!("{data}/limits/@gold"), "iops=500");
        host.store(
            &format!("{data}/targets/nvme0n1"),
            "nvme0n1 2048 4096 w 5/51712:w nvme-x\n\
             nvme0n1p1 1024 4096 w 6/51712:w PARTLABEL=root nvme-x-part1",
        );
        host
    }

    fn all(host: &mut Fake) -> Vec<Spindle> {
        Spindle::all(host).expect("xenstore")
    }

    #[test]
    fn devices_of_a_group_and_of_a_disk_are_taken_together() {
        let all = all(&mut host());
        let sums = of(&all[0]);
        let names: Vec<_> = sums.iter().map(|sum| sum.of.words()).collect();
        assert_eq!(names, [("group", "gold"), ("disk", "nvme0n1")]);
        for sum in &sums {
            let total = sum.total(|disk| Some(disk.counters?.counters));
            assert_eq!((total.reads, total.writes), (111, 10));
            assert_eq!(total.in_flight_peak, 9);
        }
        // A disk with one guest is that guest's row.
        let one = Spindle::all(&mut Fake::serving()).expect("xenstore");
        assert_eq!(of(&one[0]), []);
    }

    #[test]
    fn tables_json_and_metrics_show_them() {
        let all = all(&mut host());
        let [_, sums, _] = tables::stat(&all);
        let row = &sums.rows()[0];
        assert_eq!(
            row[..6],
            ["spindle", "group gold", "2", "iops=500", "111", "10"]
        );
        let [_, sums, _] = tables::top(&all, &all, 2.0);
        assert_eq!(
            sums.rows()[1][..5],
            ["spindle", "disk nvme0n1", "2", "", "0"]
        );
        let value = &json::stat(&all)["domains"][0];
        assert_eq!(value["groups"][0]["name"], "gold");
        assert_eq!(value["groups"][0]["limits"], "iops=500");
        assert_eq!(value["groups"][0]["counters"]["rd_req"], 111);
        assert_eq!(value["disks"][0]["name"], "nvme0n1");
        assert_eq!(value["disks"][0]["devices"][1], "6/51712");
        let text = metrics::text(&all);
        let labels = "domain=\"spindle\",guest=\"db\",guest_id=\"6\",disk=\"xvda\",target=\"PARTLABEL=root\"";
        let line = format!("spindle_disk_info{{{labels},group=\"gold\",on=\"nvme0n1\"}} 1");
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
}
